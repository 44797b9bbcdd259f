//! The handle of an append session.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, watch};
use tracing::Instrument;

use super::outbox::Pending;
use super::task::{Submitted, Task};
use super::ticket::{Ticket, Waiter, runtime_gone};
use crate::error::Error;
use crate::record::Batch;
use crate::stream::Stream;

/// What an input costs besides its bytes.
const OVERHEAD_BYTES: usize = 256;

/// Bounds of an [`AppendSession`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppendSessionOptions {
    /// Encoded bytes that may be submitted and not acknowledged. A batch that is larger by itself waits until it is
    /// alone.
    pub bytes_inflight_max: usize,
    /// Batches that may be submitted and not acknowledged; 0 is taken as 1. What the server takes at once may be less:
    /// then the rest waits here.
    pub batches_inflight_max: usize,
}

impl Default for AppendSessionOptions {
    fn default() -> Self {
        Self {
            bytes_inflight_max: 16 << 20,
            batches_inflight_max: 1024,
        }
    }
}

/// Appends batches in the order in which they are submitted, with many on their way at once.
///
/// # Exactly once
///
/// The session opens a *writer* at the server and numbers its batches. When the connection breaks, or the server that
/// has the stream dies, the session connects again, to any endpoint, and sends again what was not acknowledged, under
/// the same numbers; the server applies each number once. So a ticket that resolves to `Ok` stands for one batch,
/// once, at that place, and after all that were submitted before it.
///
/// In rare cases nobody can tell any more: the server that comes after may not know the writer. Then the session ends,
/// and every batch that may have been applied gets [`Error::Unknown`], which says just that. The session never sends
/// such a batch under another number.
///
/// # How it ends
///
/// By [`close`](Self::close), by dropping it, or by its first failure: a condition that did not hold, a refusal, a
/// writer that is not known any more, or no progress for as long as the policy's
/// [`patience`](crate::RetryPolicy::patience). After a failure all tickets that are open, and all later ones, get an
/// error. The one that failed gets its own; the others say whether they may have happened, and a batch behind a
/// condition that failed did not.
///
/// Dropping the session does not undo: what was submitted is still sent, and its tickets resolve.
///
/// # Bounds
///
/// Memory is bounded by the options, whatever the server does: [`submit`](Self::submit) waits for a permit, which is
/// given back with the ack.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc.rs"));
/// # #[tokio::main] async fn main() { with_node(|client, basin| async move {
/// # use millrace_client::*;
/// # let stream = basin.stream("s")?;
/// let session = stream.append_session(AppendSessionOptions::default())?;
/// let first = session.submit(Batch::new(["a", "b"])?).await?;
/// let second = session.submit(Batch::new(["c"])?).await?;
/// session.close().await?;
/// assert_eq!(first.await?.start.seq_num, 0);
/// assert_eq!(second.await?.start.seq_num, 2);
/// # drop((client, basin)); Ok(()) }).await }
/// ```
#[derive(Debug)]
pub struct AppendSession {
    inbox: Mutex<Inbox>,
    bytes: Arc<Semaphore>,
    batches: Arc<Semaphore>,
    bytes_max: u32,
    progress: watch::Receiver<Progress>,
}

#[derive(Debug)]
struct Inbox {
    /// Bounded by the permits that every message holds.
    sender: mpsc::UnboundedSender<Submitted>,
    submitted: u64,
}

/// How far the session's task is.
#[derive(Debug, Default)]
pub(crate) struct Progress {
    /// Batches that were acknowledged.
    pub(crate) acked: u64,
    pub(crate) ended: Option<Result<(), Error>>,
}

/// A place in the session's memory, for one batch.
#[derive(Debug)]
#[must_use = "a permit holds a place in the session until it is used or dropped"]
pub struct Permit<'a> {
    session: &'a AppendSession,
    batch: Batch,
    held: Held,
}

/// Given back when it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    _bytes: OwnedSemaphorePermit,
    _batch: Option<OwnedSemaphorePermit>,
}

impl Held {
    pub(crate) fn bytes(bytes: OwnedSemaphorePermit) -> Self {
        Self {
            _bytes: bytes,
            _batch: None,
        }
    }
}

impl AppendSession {
    pub(crate) fn new(stream: Stream, options: AppendSessionOptions) -> Result<Self, Error> {
        let runtime = Handle::try_current()
            .map_err(|_| Error::invalid("an append session needs a Tokio runtime to live on"))?;
        let (sender, receiver) = mpsc::unbounded_channel();
        let (progress_sender, progress) = watch::channel(Progress::default());
        let task = Task::new(stream, receiver, progress_sender).run();
        runtime.spawn(task.in_current_span());
        let bytes_max = u32::try_from(options.bytes_inflight_max)
            .unwrap_or(u32::MAX)
            .max(1);
        let bytes_max = bytes_max.min(u32::try_from(Semaphore::MAX_PERMITS).unwrap_or(u32::MAX));
        Ok(Self {
            inbox: Mutex::new(Inbox { sender, submitted: 0 }),
            bytes: Arc::new(Semaphore::new(bytes_max as usize)),
            batches: Arc::new(Semaphore::new(
                options.batches_inflight_max.clamp(1, Semaphore::MAX_PERMITS),
            )),
            bytes_max,
            progress,
        })
    }

    /// Waits for a place in the session, and submits the batch; the ticket resolves to its ack.
    ///
    /// Batches are appended in the order in which calls to this return. Cancel safe: until this returns, nothing was
    /// submitted.
    pub async fn submit(&self, batch: Batch) -> Result<Ticket, Error> {
        self.reserve(batch).await?.submit()
    }

    /// Waits for a place in the session and leaves it to the caller when to submit. Cancel safe: a place is given back
    /// when the future or the permit is dropped.
    ///
    /// # Errors
    /// [`Error::NotApplied`] with the reason, if the session has ended.
    pub async fn reserve(&self, batch: Batch) -> Result<Permit<'_>, Error> {
        let weight = u32::try_from(batch.encoded_len() + OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let weight = weight.min(self.bytes_max);
        let place = async {
            let one = self.batches.clone().acquire_owned().await;
            let bytes = self.bytes.clone().acquire_many_owned(weight).await;
            one.ok().zip(bytes.ok())
        };
        let held = tokio::select! {
            biased;
            error = self.ended() => return Err(error),
            place = place => place.ok_or(Error::Closed)?,
        };
        Ok(Permit {
            session: self,
            batch,
            held: Held {
                _bytes: held.1,
                _batch: Some(held.0),
            },
        })
    }

    /// Waits until every batch that was submitted before this call is acknowledged. Cancel safe.
    ///
    /// # Errors
    /// The reason why the session ended, if it did before that.
    pub async fn flush(&self) -> Result<(), Error> {
        let target = self
            .inbox
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .submitted;
        let mut progress = self.progress.clone();
        let settled = |progress: &Progress| progress.ended.is_some() || progress.acked >= target;
        match progress.wait_for(settled).await {
            Err(_) => Err(runtime_gone()),
            Ok(progress) => match &progress.ended {
                Some(Err(error)) if progress.acked < target => Err(error.clone()),
                _ => Ok(()),
            },
        }
    }

    /// Waits until the session has ended, and says what that means for an input that was not submitted.
    pub(crate) async fn ended(&self) -> Error {
        let mut progress = self.progress.clone();
        match progress.wait_for(|progress| progress.ended.is_some()).await {
            Ok(progress) => not_applied(&progress),
            Err(_) => Error::Closed,
        }
    }

    /// Waits until every batch is acknowledged, and ends the session.
    ///
    /// Cancel safety: like dropping the session, which sends what was submitted all the same.
    ///
    /// # Errors
    /// The reason why the session ended before; the tickets say what that means for each batch.
    pub async fn close(self) -> Result<(), Error> {
        let Self {
            inbox, mut progress, ..
        } = self;
        drop(inbox);
        match progress.wait_for(|progress| progress.ended.is_some()).await {
            Err(_) => Err(runtime_gone()),
            Ok(progress) => progress.ended.clone().unwrap_or(Ok(())),
        }
    }

    /// Hands an input over, with the permits that bound it.
    pub(crate) fn send(&self, batch: &Batch, waiter: Waiter, held: Held) -> Result<(), Error> {
        let submitted = Submitted {
            pending: Pending {
                input: batch.encode(),
                records: batch.records(),
                waiter: (waiter, held),
            },
        };
        let mut inbox = self.inbox.lock().unwrap_or_else(PoisonError::into_inner);
        inbox.submitted += 1;
        match inbox.sender.send(submitted) {
            Ok(()) => Ok(()),
            Err(refused) => {
                inbox.submitted -= 1;
                drop(inbox);
                let error = not_applied(&self.progress.borrow());
                let (waiter, _) = refused.0.pending.waiter;
                waiter.resolve(Err(error.clone()));
                Err(error)
            }
        }
    }
}

impl Permit<'_> {
    /// Submits the batch; the ticket resolves to its ack. Does not wait.
    ///
    /// # Errors
    /// [`Error::NotApplied`] with the reason, if the session has ended.
    pub fn submit(self) -> Result<Ticket, Error> {
        let (waiter, ticket) = Waiter::batch();
        self.session.send(&self.batch, waiter, self.held)?;
        Ok(ticket)
    }
}

fn not_applied(progress: &Progress) -> Error {
    match &progress.ended {
        Some(Err(cause)) => Error::NotApplied(Arc::new(cause.clone())),
        _ => Error::Closed,
    }
}
