//! Where clients write down what they do while they do it.
//!
//! - The order of lines is the order of events: a start is written before its request is sent, a finish after its
//!   answer is there, both under one lock.
//! - An append of unknown outcome never ends. Its finish comes behind all others, and the client that made it goes on
//!   under another number.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::history::{Append, Event, Finish, Phase, Start};

/// The history of one stream as it grows; clones write into the same one.
#[derive(Debug, Clone, Default)]
pub struct Recorder(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    events: Vec<Event>,
    next_client: u64,
    next_op: u64,
}

/// One client, with one operation at a time.
#[derive(Debug)]
pub struct Client {
    recorder: Recorder,
    id: u64,
}

/// An operation that has begun. Dropped without a finish it stays open, which says that nobody knows.
#[derive(Debug)]
#[must_use = "an operation ends with `finish`"]
pub struct Open {
    client_id: u64,
    op_id: u64,
}

impl Recorder {
    /// Of a stream that is empty.
    pub fn new() -> Self {
        Self::default()
    }

    /// Another client.
    pub fn client(&self) -> Client {
        let id = self.lock().client();
        Client {
            recorder: self.clone(),
            id,
        }
    }

    /// Puts in what others asked of an earlier stream of the same name and never had an answer to: it may be appended
    /// here.
    pub fn inherit(&self, appends: impl IntoIterator<Item = Append>) {
        let mut inner = self.lock();
        for append in appends {
            let client_id = inner.client();
            inner.start(client_id, Start::Append(append));
        }
    }

    /// The appends whose outcome is not known, also those that are still open.
    pub fn unknown(&self) -> Vec<Append> {
        let events = self.events();
        let mut starts = Vec::new();
        let mut indefinite = Vec::new();
        for event in &events {
            match &event.event {
                Phase::Start(Start::Append(append)) => starts.push((event.op_id, append)),
                Phase::Finish(Finish::AppendIndefiniteFailure) => indefinite.push(event.op_id),
                _ => {}
            }
        }
        starts
            .into_iter()
            .filter(|(op_id, _)| indefinite.binary_search(op_id).is_ok())
            .map(|(_, append)| append.clone())
            .collect()
    }

    /// How many operations have begun.
    pub fn len(&self) -> u64 {
        self.lock().next_op
    }

    /// Whether none has.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The history so far, complete: what is open is of unknown outcome if it is an append, and has failed if not.
    pub fn events(&self) -> Vec<Event> {
        let mut events = self.lock().events.clone();
        let mut open: std::collections::BTreeMap<u64, (u64, Finish)> = Default::default();
        for event in &events {
            match &event.event {
                Phase::Start(start) => {
                    let finish = match start {
                        Start::Append(_) => Finish::AppendIndefiniteFailure,
                        Start::Read => Finish::ReadFailure,
                        Start::CheckTail => Finish::CheckTailFailure,
                    };
                    open.insert(event.op_id, (event.client_id, finish));
                }
                Phase::Finish(_) => {
                    open.remove(&event.op_id);
                }
            }
        }
        events.extend(open.into_iter().map(|(op_id, (client_id, finish))| Event {
            event: Phase::Finish(finish),
            client_id,
            op_id,
        }));
        events
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Client {
    /// Writes down that an operation begins; to be called before its request is sent.
    pub fn start(&mut self, start: Start) -> Open {
        let op_id = self.recorder.lock().start(self.id, start);
        Open {
            client_id: self.id,
            op_id,
        }
    }

    /// Writes down how it ended; to be called after the answer came.
    pub fn finish(&mut self, open: Open, finish: Finish) {
        debug_assert_eq!(open.client_id, self.id, "an operation ends with its client");
        let mut inner = self.recorder.lock();
        if finish == Finish::AppendIndefiniteFailure {
            // Left open: `events` ends it behind all others.
            self.id = inner.client();
            return;
        }
        inner.events.push(Event {
            event: Phase::Finish(finish),
            client_id: open.client_id,
            op_id: open.op_id,
        });
    }
}

impl Inner {
    fn client(&mut self) -> u64 {
        self.next_client += 1;
        self.next_client
    }

    fn start(&mut self, client_id: u64, start: Start) -> u64 {
        self.next_op += 1;
        self.events.push(Event {
            event: Phase::Start(start),
            client_id,
            op_id: self.next_op,
        });
        self.next_op
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_outcome_ends_behind_all_others_under_a_client_of_its_own() {
        let recorder = Recorder::new();
        let mut client = recorder.client();
        let lost = client.start(Start::Append(Append::of(vec![1])));
        client.finish(lost, Finish::AppendIndefiniteFailure);
        let tail = client.start(Start::CheckTail);
        client.finish(tail, Finish::CheckTailSuccess { tail: 0 });
        let events = recorder.events();
        let order: Vec<_> = events.iter().map(|event| event.op_id).collect();
        assert_eq!(order, [1, 2, 2, 1]);
        assert_ne!(events[0].client_id, events[1].client_id);
        assert_eq!(events[3].event, Phase::Finish(Finish::AppendIndefiniteFailure));
        assert_eq!(recorder.unknown(), [Append::of(vec![1])]);
    }

    #[test]
    fn what_is_open_at_the_end_is_unknown_or_failed() {
        let recorder = Recorder::new();
        let _append = recorder.client().start(Start::Append(Append::of(vec![1])));
        let _read = recorder.client().start(Start::Read);
        let finishes: Vec<_> = recorder.events().split_off(2);
        assert_eq!(finishes[0].event, Phase::Finish(Finish::AppendIndefiniteFailure));
        assert_eq!(finishes[1].event, Phase::Finish(Finish::ReadFailure));
    }
}
