//! Starts and finishes put together.

use std::collections::{BTreeMap, HashSet};

use crate::history::{Event, Finish, Phase, Start};
use crate::model::{Batch, Tokens};

/// An operation that says something about the stream. Those that failed for certain do not.
#[derive(Debug, Clone)]
pub struct Operation {
    /// As in the history.
    pub op_id: u64,
    /// As in the history.
    pub client_id: u64,
    /// Index of the event that began it.
    pub began: usize,
    /// Index of the event that ended it; `None` if it may take effect at any time after it began.
    pub ended: Option<usize>,
    /// What it did, or may have done.
    pub kind: Kind,
}

/// What an operation did.
#[derive(Debug, Clone)]
pub enum Kind {
    /// Appended; `tail` is what the answer said.
    Append {
        /// The batch.
        batch: Batch,
        /// One past its last record; `None` while the outcome is not known.
        tail: Option<u64>,
    },
    /// Read it all.
    Read {
        /// One past the last record.
        tail: u64,
        /// Of all records.
        stream_hash: u64,
    },
    /// Asked for the tail.
    CheckTail {
        /// The next sequence number.
        tail: u64,
    },
}

/// A history that no clients can have made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("event {event}: {reason}")]
pub struct Malformed {
    /// Counted from 1, empty lines not counted.
    pub event: usize,
    /// What is wrong.
    pub reason: String,
}

/// The operations of `events`, in the order in which they began.
///
/// `events` may be the beginning of a longer history: what has not ended is open.
pub fn operations(events: &[Event], tokens: &mut Tokens) -> Result<Vec<Operation>, Malformed> {
    let mut open = BTreeMap::new();
    let mut busy = BTreeMap::new();
    let mut seen = HashSet::new();
    let mut operations = Vec::new();
    for (index, event) in events.iter().enumerate() {
        let malformed = |reason: String| Malformed {
            event: index + 1,
            reason,
        };
        match &event.event {
            Phase::Start(start) => {
                if !seen.insert(event.op_id) {
                    return Err(malformed(format!("operation {} begins twice", event.op_id)));
                }
                if let Some(other) = busy.insert(event.client_id, event.op_id) {
                    let client = event.client_id;
                    return Err(malformed(format!(
                        "client {client} is still at operation {other}"
                    )));
                }
                check_start(start).map_err(malformed)?;
                open.insert(event.op_id, (index, event.client_id, start));
            }
            Phase::Finish(finish) => {
                let Some((began, client_id, start)) = open.remove(&event.op_id) else {
                    return Err(malformed(format!("operation {} has not begun", event.op_id)));
                };
                if client_id != event.client_id {
                    return Err(malformed(format!(
                        "operation {} is another client's",
                        event.op_id
                    )));
                }
                busy.remove(&client_id);
                let outcome = kind(start, finish, tokens).map_err(malformed)?;
                operations.extend(outcome.map(|(kind, known)| Operation {
                    op_id: event.op_id,
                    client_id,
                    began,
                    ended: known.then_some(index),
                    kind,
                }));
            }
        }
    }
    for (op_id, (began, client_id, start)) in open {
        if let Start::Append(append) = start {
            operations.push(Operation {
                op_id,
                client_id,
                began,
                ended: None,
                kind: Kind::Append {
                    batch: Batch::of(append, tokens),
                    tail: None,
                },
            });
        }
    }
    operations.sort_by_key(|operation| operation.began);
    Ok(operations)
}

fn check_start(start: &Start) -> Result<(), String> {
    let Start::Append(append) = start else {
        return Ok(());
    };
    match append.record_hashes.len() as u64 {
        0 => Err("an append of no records".into()),
        hashes if hashes != append.num_records => Err(format!(
            "an append of {} records with {hashes} hashes",
            append.num_records
        )),
        _ => Ok(()),
    }
}

/// What is known after the finish, and whether it is known that it happened; `None` if there is nothing to know.
fn kind(start: &Start, finish: &Finish, tokens: &mut Tokens) -> Result<Option<(Kind, bool)>, String> {
    Ok(match (start, *finish) {
        (Start::Append(append), Finish::AppendSuccess { tail }) => {
            let batch = Batch::of(append, tokens);
            Some((
                Kind::Append {
                    batch,
                    tail: Some(tail),
                },
                true,
            ))
        }
        (Start::Append(append), Finish::AppendIndefiniteFailure) => {
            let batch = Batch::of(append, tokens);
            Some((Kind::Append { batch, tail: None }, false))
        }
        (Start::Read, Finish::ReadSuccess { tail, stream_hash }) => {
            Some((Kind::Read { tail, stream_hash }, true))
        }
        (Start::CheckTail, Finish::CheckTailSuccess { tail }) => Some((Kind::CheckTail { tail }, true)),
        (Start::Append(_), Finish::AppendDefiniteFailure)
        | (Start::Read, Finish::ReadFailure)
        | (Start::CheckTail, Finish::CheckTailFailure) => None,
        (_, finish) => return Err(format!("{finish:?} does not answer this operation")),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Append;

    fn event(client_id: u64, op_id: u64, event: Phase) -> Event {
        Event {
            event,
            client_id,
            op_id,
        }
    }

    fn refused(events: &[Event]) -> String {
        operations(events, &mut Tokens::default())
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn histories_that_no_clients_can_have_made_are_refused() {
        let read = |op| event(1, op, Phase::Start(Start::Read));
        let failed = |client, op| event(client, op, Phase::Finish(Finish::ReadFailure));
        assert_eq!(
            refused(&[read(1), failed(1, 1), read(1)]),
            "event 3: operation 1 begins twice"
        );
        assert_eq!(
            refused(&[read(1), read(2)]),
            "event 2: client 1 is still at operation 1"
        );
        assert_eq!(refused(&[failed(1, 1)]), "event 1: operation 1 has not begun");
        assert!(refused(&[read(1), failed(2, 1)]).contains("another client's"));
        let tail = event(1, 1, Phase::Finish(Finish::CheckTailFailure));
        assert!(refused(&[read(1), tail]).contains("does not answer"));
        let mut append = Append::of(vec![]);
        let start = |append: &Append| event(1, 1, Phase::Start(Start::Append(append.clone())));
        assert!(refused(&[start(&append)]).contains("no records"));
        append.num_records = 1;
        append.record_hashes = vec![1, 2];
        assert!(refused(&[start(&append)]).contains("with 2 hashes"));
    }

    #[test]
    fn an_unknown_outcome_stays_open_wherever_its_finish_stands() {
        let events = [
            event(1, 1, Phase::Start(Start::Append(Append::of(vec![1])))),
            event(1, 1, Phase::Finish(Finish::AppendIndefiniteFailure)),
            event(2, 2, Phase::Start(Start::Append(Append::of(vec![2])))),
        ];
        let operations = operations(&events, &mut Tokens::default()).unwrap();
        assert!(operations.iter().all(|operation| operation.ended.is_none()));
        assert_eq!(operations.len(), 2);
    }
}
