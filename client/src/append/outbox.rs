//! What an append session has to send, has sent, and knows of it. Decides; does nothing.
//!
//! - Inputs are numbered from 1 under one writer, in the order of submission. Only acks move `acked_through`.
//! - An input keeps its number for as long as it may have been applied: it is sent again under it, to the same writer.
//! - A new writer is opened only while nothing can have been applied under the one before, except what is
//!   acknowledged. So no input is ever applied under two numbers.
//! - When the session fails, each input is told what is known of it: refused, not applied, or unknown.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use millrace_api::grpc::Writer;
use millrace_api::proto;

use super::AppendAck;
use crate::error::Error;

/// An input with whoever waits for it.
#[derive(Debug)]
pub(crate) struct Pending<T> {
    pub(crate) input: Bytes,
    pub(crate) records: usize,
    pub(crate) waiter: T,
}

/// An input as it is sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) number: u64,
    pub(crate) acked_through: u64,
    pub(crate) input: Bytes,
}

#[derive(Debug)]
pub(crate) struct Outbox<T> {
    writer: Option<Writer>,
    /// Number of the last input that was acknowledged; `pending` begins with the next.
    acked_through: u64,
    pending: VecDeque<Pending<T>>,
    /// How many of `pending`, from the front, were sent on this call.
    sent: usize,
    /// How many of `pending`, from the front, may have been applied on an earlier call.
    exposed: usize,
    /// How many may be sent and not acknowledged.
    window: usize,
    /// One past the last sequence number that was acknowledged.
    end: u64,
}

impl<T> Outbox<T> {
    pub(crate) fn new() -> Self {
        Self {
            writer: None,
            acked_through: 0,
            pending: VecDeque::new(),
            sent: 0,
            exposed: 0,
            window: 1,
            end: 0,
        }
    }

    pub(crate) fn push(&mut self, pending: Pending<T>) {
        self.pending.push_back(pending);
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// Whether an ack is due on this call.
    pub(crate) fn awaits_ack(&self) -> bool {
        self.sent > 0
    }

    /// The writer to go on with; `None` opens a new one.
    pub(crate) fn resumes(&self) -> Option<Writer> {
        self.writer.clone().filter(|_| self.exposed > 0)
    }

    /// A call was opened, and this is what it was answered with.
    pub(crate) fn opened(&mut self, writer: Writer, window: u32) -> Result<(), Error> {
        match self.resumes() {
            Some(resumed) if resumed != writer => {
                return Err(Error::corrupt("the session goes on under another writer"));
            }
            Some(_) => {}
            None => {
                if writer.id == 0 {
                    return Err(Error::corrupt("a writer with the id 0"));
                }
                self.writer = Some(writer);
                self.acked_through = 0;
            }
        }
        self.sent = 0;
        self.window = (window as usize).max(1);
        Ok(())
    }

    pub(crate) fn has_next(&self) -> bool {
        self.sent < self.pending.len().min(self.window)
    }

    /// The next input to send, which counts as sent from now on.
    pub(crate) fn next(&mut self) -> Option<Outgoing> {
        if !self.has_next() {
            return None;
        }
        let pending = self.pending.get(self.sent)?;
        let outgoing = Outgoing {
            number: self.acked_through + 1 + self.sent as u64,
            acked_through: self.acked_through,
            input: pending.input.clone(),
        };
        self.sent += 1;
        Some(outgoing)
    }

    /// The first input that waits is acknowledged.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if the ack is for another one, or cannot be this one's.
    pub(crate) fn acked(&mut self, number: u64, ack: proto::AppendAck) -> Result<(T, AppendAck), Error> {
        let due = self.acked_through + 1;
        let first = match self.pending.front() {
            Some(first) if self.sent > 0 && number == due => first,
            _ => return Err(Error::corrupt(format!("an ack of input {number}, not of {due}"))),
        };
        let ack = AppendAck::checked(ack, first.records)?;
        if ack.start.seq_num < self.end {
            return Err(Error::corrupt(format!(
                "an ack that starts at {}, inside of what was acknowledged before",
                ack.start.seq_num
            )));
        }
        let Some(first) = self.pending.pop_front() else {
            return Err(Error::corrupt("an ack of nothing"));
        };
        self.acked_through = number;
        self.sent -= 1;
        self.exposed = self.exposed.saturating_sub(1);
        self.end = ack.end.seq_num;
        Ok((first.waiter, ack))
    }

    /// The call is over. `true`: what it sent may have been applied. `false`: the server promised that nothing of what
    /// it did not acknowledge was.
    pub(crate) fn call_over(&mut self, may_have_happened: bool) {
        if may_have_happened {
            self.exposed = self.exposed.max(self.sent);
        }
        self.sent = 0;
    }

    /// The server does not know the writer any more. True if the session can go on under a new one, because nothing
    /// is left that the old one may have applied.
    pub(crate) fn writer_lost(&mut self, may_have_happened: bool) -> bool {
        let lost = self.exposed > 0 || (self.sent > 0 && may_have_happened);
        if !lost {
            self.sent = 0;
            self.writer = None;
        }
        !lost
    }

    /// The session is over. Gives each input that waits what is known of it, in order.
    pub(crate) fn failed(mut self, cause: Error) -> Vec<(T, Error)> {
        let shared = Arc::new(cause.clone());
        let pending = std::mem::take(&mut self.pending);
        let outcome = |index: usize| match () {
            // The owner looked at this input as the writer's next, so neither it nor a later one had been applied.
            () if cause.is_condition() && index == 0 => cause.clone(),
            () if cause.is_condition() => Error::NotApplied(shared.clone()),
            () if index == 0 && index < self.sent && index >= self.exposed => cause.clone(),
            () if index < self.exposed => Error::Unknown(shared.clone()),
            () if index < self.sent && cause.may_have_happened() => Error::Unknown(shared.clone()),
            () => Error::NotApplied(shared.clone()),
        };
        pending
            .into_iter()
            .enumerate()
            .map(|(index, pending)| (pending.waiter, outcome(index)))
            .collect()
    }
}

#[cfg(test)]
#[path = "outbox_tests.rs"]
mod tests;
