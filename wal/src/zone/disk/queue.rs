//! Requests that wait for the next commit.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::format::{Kind, record_len};
use crate::zone::{CreateOutcome, Payload, StoreError};

pub(super) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What the log is asked for. Requests take effect in the order in which they were handed over.
#[derive(Debug)]
pub(super) enum Request {
    Create {
        key: Box<str>,
        payload: Payload,
        body_crc: u32,
        reply: Reply<CreateOutcome>,
        permit: OwnedSemaphorePermit,
    },
    Delete {
        key: Box<str>,
        reply: Reply<()>,
        permit: OwnedSemaphorePermit,
    },
    /// Writes records of a file again, those that are still needed.
    Copy { records: Vec<Copied>, reply: Reply<()> },
}

/// A record to be written again, as the same one.
#[derive(Debug)]
pub(super) struct Copied {
    pub kind: Kind,
    pub key: Box<str>,
    pub seq: u64,
    pub target: u64,
    /// Where it lies.
    pub file: u64,
    pub offset: u64,
    pub body: Bytes,
    pub body_crc: u32,
}

impl Request {
    /// Bytes of log that it takes at most.
    pub(super) fn len(&self) -> u64 {
        match self {
            Self::Create { key, payload, .. } => record_len(key, payload.len()),
            Self::Delete { key, .. } => record_len(key, 0),
            Self::Copy { records, .. } => {
                let len = |copied: &Copied| record_len(&copied.key, copied.body.len() as u64);
                records.iter().map(len).sum()
            }
        }
    }

    /// Nothing was done.
    pub(super) fn refuse(self, error: StoreError) {
        match self {
            Self::Create { reply, .. } => drop(reply.send(Err(error))),
            Self::Delete { reply, .. } | Self::Copy { reply, .. } => drop(reply.send(Err(error))),
        }
    }
}

/// Requests of any number of callers, for one writer. What they hold together is bounded by whoever gives out permits.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    requests: VecDeque<Request>,
    closed: bool,
}

impl Queue {
    /// Gives the request back if the queue is closed.
    pub(super) fn push(&self, request: Request) -> Result<(), Request> {
        let mut state = self.state();
        if state.closed {
            return Err(request);
        }
        state.requests.push_back(request);
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Everything that waits; perhaps nothing.
    pub(super) fn take(&self) -> VecDeque<Request> {
        std::mem::take(&mut self.state().requests)
    }

    /// Waits for requests and takes them all; `None` when the queue is closed and empty.
    pub(super) fn wait(&self) -> Option<VecDeque<Request>> {
        let idle = |state: &mut State| state.requests.is_empty() && !state.closed;
        let waited = self.changed.wait_while(self.state(), idle);
        let mut state = waited.unwrap_or_else(PoisonError::into_inner);
        match state.requests.is_empty() {
            true => None,
            false => Some(std::mem::take(&mut state.requests)),
        }
    }

    /// No more is taken; what waits is still served.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
