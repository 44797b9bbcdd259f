//! The answers that callers wait for.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures::FutureExt;
use tokio::sync::oneshot;

use super::AppendAck;
use super::producer::RecordAck;
use crate::error::Error;

/// Resolves to the ack of one submitted batch; `Ok` means that it is durable.
///
/// Cancel safe, and need not be awaited at all: dropping it gives up the answer and not the batch.
#[derive(Debug)]
#[must_use = "the batch is durable when its ticket resolves, and not before"]
pub struct Ticket(oneshot::Receiver<Result<AppendAck, Error>>);

impl Future for Ticket {
    type Output = Result<AppendAck, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(self.0.poll_unpin(cx)).unwrap_or_else(|_| Err(runtime_gone())))
    }
}

/// The session's task ended without an answer, as it does when its runtime is shut down.
pub(crate) fn runtime_gone() -> Error {
    Error::Unknown(Arc::new(Error::Closed))
}

/// Who waits for the outcome of one input.
#[derive(Debug)]
pub(crate) enum Waiter {
    Batch(oneshot::Sender<Result<AppendAck, Error>>),
    /// One for each record, in order.
    Records(Vec<oneshot::Sender<Result<RecordAck, Error>>>),
}

impl Waiter {
    pub(crate) fn batch() -> (Self, Ticket) {
        let (sender, receiver) = oneshot::channel();
        (Self::Batch(sender), Ticket(receiver))
    }

    /// Whoever does not wait any more is passed over.
    pub(crate) fn resolve(self, outcome: Result<AppendAck, Error>) {
        match self {
            Self::Batch(sender) => {
                let _ = sender.send(outcome);
            }
            Self::Records(senders) => {
                for (seq_num, sender) in (0u64..).zip(senders) {
                    let outcome = outcome.clone().map(|batch| RecordAck {
                        seq_num: batch.start.seq_num + seq_num,
                        batch,
                    });
                    let _ = sender.send(outcome);
                }
            }
        }
    }
}
