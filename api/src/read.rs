//! What a reader asks for, as the query of a read gives it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::limits::{BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX, UNARY_WAIT_MAX};
use crate::position::{SeqNum, Timestamp};
use crate::sse::LastEventId;

/// The query parameters as they arrive. A value that does not parse is the query's error, not this module's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ReadQuery {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seq_num: Option<SeqNum>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail_offset: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clamp: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub count: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
    /// Seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub wait: Option<u32>,
}

/// Where reading starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ReadStart {
    SeqNum(SeqNum),
    /// The first record at or after it.
    Timestamp(Timestamp),
    /// So many records before the tail; from the first record if there are fewer.
    TailOffset(u64),
}

/// Where reading ends. `None` does not end it; 0 delivers nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct ReadLimits {
    /// Records.
    pub count: Option<usize>,
    /// Metered bytes; never overshot.
    pub bytes: Option<usize>,
    /// Exclusive.
    pub until: Option<Timestamp>,
}

impl ReadLimits {
    pub fn is_unlimited(&self) -> bool {
        *self == Self::default()
    }
}

/// A read that makes sense: one start, and an end that is not before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ReadRequest {
    pub start: ReadStart,
    /// A start beyond the tail becomes the tail.
    pub clamp: bool,
    pub limits: ReadLimits,
    /// How long to go without a record; `None` is for as long as nothing else ends the read.
    pub wait: Option<Duration>,
}

/// A read that makes no sense; the text is meant for the client, under the code `invalid`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidRead(&'static str);

impl ReadRequest {
    /// The read that the query of a session asks for. Without a start it begins at the tail.
    pub fn session(query: &ReadQuery) -> Result<Self, InvalidRead> {
        let request = Self {
            start: start(query)?,
            clamp: query.clamp.unwrap_or(false),
            limits: ReadLimits {
                count: query.count,
                bytes: query.bytes,
                until: query.until,
            },
            wait: query.wait.map(|secs| Duration::from_secs(secs.into())),
        };
        match (request.start, request.limits.until) {
            (ReadStart::Timestamp(from), Some(until)) if until <= from => {
                Err(InvalidRead("`until` must be after `timestamp`"))
            }
            _ => Ok(request),
        }
    }

    /// The same for a single reply: at most 1000 records, 1 MiB metered, and 60 seconds of waiting.
    pub fn unary(query: &ReadQuery) -> Result<Self, InvalidRead> {
        let mut request = Self::session(query)?;
        let limits = &mut request.limits;
        limits.count = Some(
            limits
                .count
                .map_or(BATCH_RECORDS_MAX, |n| n.min(BATCH_RECORDS_MAX)),
        );
        limits.bytes = Some(
            limits
                .bytes
                .map_or(BATCH_METERED_BYTES_MAX, |n| n.min(BATCH_METERED_BYTES_MAX)),
        );
        request.wait = request.wait.map(|wait| wait.min(UNARY_WAIT_MAX));
        Ok(request)
    }

    /// Whether the read may stay at the tail for records to come: it has no limit at all, or it waits.
    /// One that may not is answered 416 when it starts at the tail.
    pub fn may_follow(&self) -> bool {
        self.limits.is_unlimited() || self.wait.is_some_and(|wait| !wait.is_zero())
    }

    /// The rest of this read after the event that a client saw last: it goes on behind that event's record, with
    /// what is left of the limits. The start of the query no longer counts.
    pub fn resume(mut self, seen: LastEventId) -> Self {
        self.start = ReadStart::SeqNum(seen.seq_num.saturating_add(1));
        let rest =
            |limit: usize, used: u64| limit.saturating_sub(usize::try_from(used).unwrap_or(usize::MAX));
        self.limits.count = self.limits.count.map(|n| rest(n, seen.count));
        self.limits.bytes = self.limits.bytes.map(|n| rest(n, seen.bytes));
        self
    }
}

fn start(query: &ReadQuery) -> Result<ReadStart, InvalidRead> {
    let starts = [
        query.seq_num.map(ReadStart::SeqNum),
        query.timestamp.map(ReadStart::Timestamp),
        query.tail_offset.map(ReadStart::TailOffset),
    ];
    let mut given = starts.into_iter().flatten();
    match (given.next(), given.next()) {
        (None, _) => Ok(ReadStart::TailOffset(0)),
        (Some(start), None) => Ok(start),
        (Some(_), Some(_)) => Err(InvalidRead(
            "only one of `seq_num`, `timestamp` and `tail_offset` may be given",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_119_two_starts_are_invalid_and_none_is_the_tail() {
        let query = ReadQuery {
            seq_num: Some(0),
            tail_offset: Some(0),
            ..ReadQuery::default()
        };
        assert!(ReadRequest::session(&query).is_err());
        let request = ReadRequest::session(&ReadQuery::default()).unwrap();
        assert_eq!(request.start, ReadStart::TailOffset(0));
        assert!(!request.clamp);
    }

    #[test]
    fn api_118_until_is_after_a_timestamp_start() {
        let query = |timestamp, until| ReadQuery {
            timestamp: Some(timestamp),
            until: Some(until),
            ..ReadQuery::default()
        };
        assert!(ReadRequest::session(&query(5, 5)).is_err());
        assert!(ReadRequest::unary(&query(5, 4)).is_err());
        assert!(ReadRequest::session(&query(5, 6)).is_ok());
        let no_timestamp = ReadQuery {
            until: Some(0),
            seq_num: Some(9),
            ..ReadQuery::default()
        };
        assert!(ReadRequest::session(&no_timestamp).is_ok());
    }

    #[test]
    fn api_109_110_120_unary_reads_are_capped_and_smaller_limits_kept() {
        let query = ReadQuery {
            count: Some(5000),
            wait: Some(3600),
            ..ReadQuery::default()
        };
        let request = ReadRequest::unary(&query).unwrap();
        assert_eq!(request.limits.count, Some(BATCH_RECORDS_MAX));
        assert_eq!(request.limits.bytes, Some(BATCH_METERED_BYTES_MAX));
        assert_eq!(request.wait, Some(UNARY_WAIT_MAX));
        let query = ReadQuery {
            count: Some(0),
            bytes: Some(7),
            ..ReadQuery::default()
        };
        let limits = ReadRequest::unary(&query).unwrap().limits;
        assert_eq!((limits.count, limits.bytes), (Some(0), Some(7)));
        let session = ReadRequest::session(&ReadQuery {
            wait: Some(3600),
            ..ReadQuery::default()
        })
        .unwrap();
        assert_eq!(session.wait, Some(Duration::from_secs(3600)));
    }

    #[test]
    fn only_unlimited_or_waiting_reads_may_follow() {
        let follows = |query: ReadQuery| ReadRequest::session(&query).unwrap().may_follow();
        let none = ReadQuery::default();
        assert!(follows(none));
        assert!(follows(ReadQuery {
            wait: Some(0),
            ..none
        }));
        assert!(!follows(ReadQuery {
            count: Some(1),
            ..none
        }));
        assert!(!follows(ReadQuery {
            bytes: Some(1),
            wait: Some(0),
            ..none
        }));
        assert!(!follows(ReadQuery {
            until: Some(1),
            ..none
        }));
        assert!(follows(ReadQuery {
            count: Some(1),
            wait: Some(1),
            ..none
        }));
        assert!(!ReadRequest::unary(&none).unwrap().may_follow());
    }

    #[test]
    fn api_138_resumed_read_has_the_rest_of_its_limits() {
        let query = ReadQuery {
            timestamp: Some(3),
            count: Some(10),
            bytes: Some(100),
            ..ReadQuery::default()
        };
        let request = ReadRequest::session(&query).unwrap();
        let resumed = request.resume(LastEventId {
            seq_num: 41,
            count: 4,
            bytes: 200,
        });
        assert_eq!(resumed.start, ReadStart::SeqNum(42));
        assert_eq!((resumed.limits.count, resumed.limits.bytes), (Some(6), Some(0)));
        let far = request.resume(LastEventId {
            seq_num: u64::MAX,
            count: u64::MAX,
            bytes: u64::MAX,
        });
        assert_eq!(far.start, ReadStart::SeqNum(u64::MAX));
        assert_eq!((far.limits.count, far.limits.bytes), (Some(0), Some(0)));
    }
}
