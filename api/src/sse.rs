//! Server-sent events of a read, and the id from which an interrupted read goes on.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::ErrorCode;
use crate::json::{self, Format};
use crate::position::{SeqNum, StreamPosition, Timestamp};
use crate::scan::ScanError;

/// What a client has seen after a batch event: the event's id, and the `Last-Event-ID` of the next attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct LastEventId {
    /// Of the last record delivered.
    pub seq_num: SeqNum,
    /// Records delivered since the read began, over all attempts.
    pub count: u64,
    /// Metered bytes delivered since the read began, over all attempts.
    pub bytes: u64,
}

/// Not three numbers with commas between them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Last-Event-ID must be `seq_num,count,bytes`")]
pub struct InvalidEventId;

impl InvalidEventId {
    pub fn code(&self) -> ErrorCode {
        ErrorCode::BadHeader
    }
}

impl fmt::Display for LastEventId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{},{},{}", self.seq_num, self.count, self.bytes)
    }
}

impl FromStr for LastEventId {
    type Err = InvalidEventId;

    fn from_str(text: &str) -> Result<Self, InvalidEventId> {
        let mut fields = text
            .split(',')
            .map(|field| field.trim().parse::<u64>().map_err(|_| InvalidEventId));
        let mut next = || fields.next().unwrap_or(Err(InvalidEventId));
        let id = Self {
            seq_num: next()?,
            count: next()?,
            bytes: next()?,
        };
        match fields.next() {
            None => Ok(id),
            Some(_) => Err(InvalidEventId),
        }
    }
}

/// Data of a `ping`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ping {
    /// The server's clock, milliseconds since the Unix epoch.
    pub timestamp: Timestamp,
    pub tail: StreamPosition,
}

/// Appends a `batch` event with the records in `encoded`, see [`json::write_read_batch`]; on an error `out` is as
/// it was.
pub fn write_batch<'a>(
    out: &mut Vec<u8>,
    id: LastEventId,
    encoded: impl IntoIterator<Item = &'a [u8]>,
    tail: Option<StreamPosition>,
    format: Format,
) -> Result<(), ScanError> {
    let start = out.len();
    out.extend_from_slice(format!("event: batch\nid: {id}\ndata: ").as_bytes());
    if let Err(error) = json::write_read_batch(out, encoded, tail, format) {
        out.truncate(start);
        return Err(error);
    }
    out.extend_from_slice(b"\n\n");
    Ok(())
}

/// Appends a `ping` event.
pub fn write_ping(out: &mut Vec<u8>, ping: &Ping) {
    write_event(out, "ping", &json::to_vec(ping));
}

/// Appends an `error` event, the last of a read that failed. `json` is the body that a unary reply would have
/// had; line breaks in it become further data lines, which the client joins again.
pub fn write_error(out: &mut Vec<u8>, json: &[u8]) {
    write_event(out, "error", json);
}

/// Appends the unnamed event that ends a read which came to its end.
pub fn write_done(out: &mut Vec<u8>) {
    out.extend_from_slice(b"data: [DONE]\n\n");
}

fn write_event(out: &mut Vec<u8>, name: &str, data: &[u8]) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    for line in data.split(|byte| matches!(byte, b'\n' | b'\r')) {
        out.extend_from_slice(b"\ndata: ");
        out.extend_from_slice(line);
    }
    out.extend_from_slice(b"\n\n");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn api_138_last_event_id_has_three_numbers() {
        let id = LastEventId {
            seq_num: u64::MAX,
            count: 2,
            bytes: 3,
        };
        assert_eq!("18446744073709551615,2,3".parse(), Ok(id));
        for bad in [
            "",
            "1",
            "1,2",
            "1,2,",
            "1,2,3,",
            "1,2,3,4",
            "-1,2,3",
            "a,2,3",
            "18446744073709551616,2,3",
        ] {
            assert_eq!(bad.parse::<LastEventId>(), Err(InvalidEventId), "{bad}");
        }
    }

    #[test]
    fn events_are_named_and_end_with_an_empty_line() {
        let mut out = Vec::new();
        let id = LastEventId {
            seq_num: 7,
            count: 1,
            bytes: 8,
        };
        write_batch(&mut out, id, [], Some(StreamPosition::new(8, 9)), Format::Raw).unwrap();
        write_ping(
            &mut out,
            &Ping {
                timestamp: 5,
                tail: StreamPosition::new(8, 9),
            },
        );
        write_error(&mut out, b"{\"code\":\"storage\"}");
        write_done(&mut out);
        let expected = "event: batch\nid: 7,1,8\ndata: {\"records\":[],\"tail\":{\"seq_num\":8,\"timestamp\":9}}\n\n\
             event: ping\ndata: {\"timestamp\":5,\"tail\":{\"seq_num\":8,\"timestamp\":9}}\n\n\
             event: error\ndata: {\"code\":\"storage\"}\n\n\
             data: [DONE]\n\n";
        assert_eq!(str::from_utf8(&out).unwrap(), expected);
    }

    #[test]
    fn failed_batch_leaves_nothing_behind() {
        let mut out = b"before".to_vec();
        let garbage: &[u8] = &[0x0a, 0xff];
        assert!(write_batch(&mut out, LastEventId::default(), [garbage], None, Format::Raw).is_err());
        assert_eq!(out, b"before");
    }

    proptest! {
        #[test]
        fn event_ids_survive_their_text(seq_num: u64, count: u64, bytes: u64) {
            let id = LastEventId { seq_num, count, bytes };
            prop_assert_eq!(id.to_string().parse(), Ok(id));
        }

        #[test]
        fn event_ids_parse_or_fail_without_panic(text in "[0-9, x-]{0,24}") {
            let _ = text.parse::<LastEventId>();
        }
    }
}
