//! Histories: what clients asked of one stream and what they were told, in the order in which it happened.
//!
//! One JSON object per line, a line for the start and a line for the finish of each operation, told apart by `op_id`:
//!
//! ```text
//! {"event":{"Start":{"Append":{"num_records":1,"record_hashes":[9],…}}},"client_id":2,"op_id":4984}
//! {"event":{"Finish":{"AppendSuccess":{"tail":2738}}},"client_id":2,"op_id":4984}
//! ```
//!
//! A history is about one stream that was empty when it began. Other checkers read this form too, so that nothing is
//! added to it: what else is known of a run stands in other files.

use std::io::{self, BufRead, Write};

use serde::{Deserialize, Serialize};
use twox_hash::XxHash3_64;

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// What happened.
    pub event: Phase,
    /// A client has one operation at a time.
    pub client_id: u64,
    /// The same at the start and at the finish, and different for each operation.
    pub op_id: u64,
}

/// An operation begins or ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The request is about to be sent.
    Start(Start),
    /// Its answer is there, or is not waited for any more.
    Finish(Finish),
}

/// What is asked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Start {
    /// Append a batch.
    Append(Append),
    /// Read all records from the first to the tail.
    Read,
    /// Ask for the tail.
    CheckTail,
}

/// A batch and its conditions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Append {
    /// Never 0.
    pub num_records: u64,
    /// [`record_hash`] of each record's body, in order.
    pub record_hashes: Vec<u64>,
    /// The token that the batch puts in force, if it is a fence.
    #[serde(default)]
    pub set_fencing_token: Option<String>,
    /// Appended only if this token is in force.
    #[serde(default)]
    pub fencing_token: Option<String>,
    /// Appended only if the first record gets this sequence number.
    #[serde(default)]
    pub match_seq_num: Option<u64>,
}

/// What is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Finish {
    /// Appended.
    AppendSuccess {
        /// One past the last record of the batch.
        tail: u64,
    },
    /// Nothing was appended, nor ever will be.
    AppendDefiniteFailure,
    /// Nobody knows; it may be appended at any time after the start, also later than this line.
    AppendIndefiniteFailure,
    /// Read to the end.
    ReadSuccess {
        /// One past the last record.
        tail: u64,
        /// [`stream_hash`] of all records.
        stream_hash: u64,
    },
    /// Nothing learned.
    ReadFailure,
    /// The tail is known.
    CheckTailSuccess {
        /// The next sequence number.
        tail: u64,
    },
    /// Nothing learned.
    CheckTailFailure,
}

impl Append {
    /// A batch of records with these hashes and no conditions.
    pub fn of(record_hashes: Vec<u64>) -> Self {
        Self {
            num_records: record_hashes.len() as u64,
            record_hashes,
            ..Self::default()
        }
    }
}

impl Finish {
    /// Whether something was learned by it.
    pub fn is_success(&self) -> bool {
        matches!(
            self,
            Self::AppendSuccess { .. } | Self::ReadSuccess { .. } | Self::CheckTailSuccess { .. }
        )
    }
}

/// XXH3-64 of a record's body, with the default seed.
pub fn record_hash(body: &[u8]) -> u64 {
    XxHash3_64::oneshot(body)
}

/// The hash of a stream, with one more record behind those that it stands for. That of an empty stream is 0.
pub fn chain_hash(stream_hash: u64, record_hash: u64) -> u64 {
    XxHash3_64::oneshot_with_seed(stream_hash, &record_hash.to_le_bytes())
}

/// [`chain_hash`] over records from the first one on.
pub fn stream_hash(record_hashes: impl IntoIterator<Item = u64>) -> u64 {
    record_hashes.into_iter().fold(0, chain_hash)
}

/// Why a history could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// A line is not an event.
    #[error("line {line}: {error}")]
    Line {
        /// Counted from 1.
        line: usize,
        /// What is wrong with it.
        error: serde_json::Error,
    },
}

/// Reads to the end. Empty lines are passed over; anything else that is not an event is an error, also a last line
/// that was cut off: who cut it may have cut more.
pub fn read(input: impl BufRead) -> Result<Vec<Event>, ReadError> {
    let mut events = Vec::new();
    for (index, line) in input.lines().enumerate() {
        let line = line?;
        if line.trim().is_empty() {
            continue;
        }
        let event = serde_json::from_str(&line).map_err(|error| ReadError::Line {
            line: index + 1,
            error,
        })?;
        events.push(event);
    }
    Ok(events)
}

/// Writes a line for each event. `output` is best buffered.
pub fn write(events: &[Event], mut output: impl Write) -> io::Result<()> {
    for event in events {
        serde_json::to_writer(&mut output, event)?;
        output.write_all(b"\n")?;
    }
    output.flush()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reads_as(line: &str, phase: Phase) {
        let event = Event {
            event: phase,
            client_id: 2,
            op_id: 4984,
        };
        assert_eq!(read(line.as_bytes()).unwrap(), std::slice::from_ref(&event));
        let mut written = Vec::new();
        write(&[event], &mut written).unwrap();
        assert_eq!(String::from_utf8(written).unwrap(), format!("{line}\n"));
    }

    #[test]
    fn each_kind_of_line_has_its_form() {
        let append = Append {
            num_records: 2,
            record_hashes: vec![1, u64::MAX],
            set_fencing_token: None,
            fencing_token: Some("t".into()),
            match_seq_num: Some(7),
        };
        let line = |event: &str| format!(r#"{{"event":{event},"client_id":2,"op_id":4984}}"#);
        reads_as(
            &line(
                r#"{"Start":{"Append":{"num_records":2,"record_hashes":[1,18446744073709551615],"set_fencing_token":null,"fencing_token":"t","match_seq_num":7}}}"#,
            ),
            Phase::Start(Start::Append(append)),
        );
        reads_as(&line(r#"{"Start":"Read"}"#), Phase::Start(Start::Read));
        reads_as(&line(r#"{"Start":"CheckTail"}"#), Phase::Start(Start::CheckTail));
        for (text, finish) in [
            (
                r#"{"AppendSuccess":{"tail":2738}}"#,
                Finish::AppendSuccess { tail: 2738 },
            ),
            (r#""AppendDefiniteFailure""#, Finish::AppendDefiniteFailure),
            (r#""AppendIndefiniteFailure""#, Finish::AppendIndefiniteFailure),
            (
                r#"{"ReadSuccess":{"tail":5,"stream_hash":6}}"#,
                Finish::ReadSuccess {
                    tail: 5,
                    stream_hash: 6,
                },
            ),
            (r#""ReadFailure""#, Finish::ReadFailure),
            (
                r#"{"CheckTailSuccess":{"tail":5}}"#,
                Finish::CheckTailSuccess { tail: 5 },
            ),
            (r#""CheckTailFailure""#, Finish::CheckTailFailure),
        ] {
            reads_as(&line(&format!(r#"{{"Finish":{text}}}"#)), Phase::Finish(finish));
        }
    }

    /// The published values of XXH3-64 for the empty input, and for the seed 0 that a fold begins with.
    #[test]
    fn hashes_are_xxh3() {
        assert_eq!(record_hash(b""), 0x2d06_8005_38d3_94c2);
        assert_eq!(chain_hash(0, 0), record_hash(&[0; 8]));
        assert_ne!(chain_hash(1, 0), chain_hash(0, 0));
        assert_eq!(stream_hash([]), 0);
        assert_eq!(stream_hash([3, 4]), chain_hash(chain_hash(0, 3), 4));
    }

    #[test]
    fn what_is_no_event_is_named_by_its_line() {
        let good = r#"{"event":{"Start":"Read"},"client_id":1,"op_id":1}"#;
        for bad in [
            "{",
            "[]",
            r#"{"event":{"Start":"Write"},"client_id":1,"op_id":1}"#,
            &good[..30],
        ] {
            let error = read(format!("{good}\n\n{bad}").as_bytes()).unwrap_err();
            assert!(error.to_string().starts_with("line 3: "), "{error}");
        }
    }

    fn starts() -> impl Strategy<Value = Start> {
        let token = || prop::option::of("\\PC{0,9}");
        let append = (
            prop::collection::vec(any::<u64>(), 1..5),
            token(),
            token(),
            any::<Option<u64>>(),
        );
        prop_oneof![
            Just(Start::Read),
            Just(Start::CheckTail),
            append.prop_map(|(hashes, set, token, matched)| Start::Append(Append {
                set_fencing_token: set,
                fencing_token: token,
                match_seq_num: matched,
                ..Append::of(hashes)
            })),
        ]
    }

    fn finishes() -> impl Strategy<Value = Finish> {
        prop_oneof![
            any::<u64>().prop_map(|tail| Finish::AppendSuccess { tail }),
            Just(Finish::AppendDefiniteFailure),
            Just(Finish::AppendIndefiniteFailure),
            any::<(u64, u64)>().prop_map(|(tail, stream_hash)| Finish::ReadSuccess { tail, stream_hash }),
            Just(Finish::ReadFailure),
            any::<u64>().prop_map(|tail| Finish::CheckTailSuccess { tail }),
            Just(Finish::CheckTailFailure),
        ]
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(
            phases in prop::collection::vec(
                prop_oneof![starts().prop_map(Phase::Start), finishes().prop_map(Phase::Finish)], 0..20),
            ids: (u64, u64),
        ) {
            let events: Vec<_> = phases
                .into_iter()
                .map(|event| Event { event, client_id: ids.0, op_id: ids.1 })
                .collect();
            let mut written = Vec::new();
            write(&events, &mut written).unwrap();
            prop_assert_eq!(read(&written[..]).unwrap(), events);
        }
    }
}
