//! The writer of one epoch.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_api::id::{ChannelId, ChunkSeq, Epoch, Nonce};
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::metrics::count;
use super::slot::run_slot;
use super::{AckPrefix, Wal};
use crate::format::{Chunk, ChunkBuilder, ChunkHeader, ChunkId, ChunkKind, ChunkMeta};
use crate::zone::StoreError;

/// What the writer found where its own chunk should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FencedBy {
    /// Another's object: a seal tells by which epoch.
    Object(ChunkHeader),
    /// Something that cannot be read as a WAL object of this release.
    Unreadable(String),
}

impl FencedBy {
    /// The epoch that sealed this one, if a seal was found.
    pub fn sealed_by(&self) -> Option<Epoch> {
        match self {
            Self::Object(ChunkHeader {
                meta:
                    ChunkMeta {
                        kind: ChunkKind::Seal { by },
                        ..
                    },
                ..
            }) => Some(*by),
            _ => None,
        }
    }
}

/// What became of a submitted chunk. Slots are reported in the order in which they happen, not in slot order: feed
/// `Durable` to [`AckPrefix`](super::AckPrefix) before acknowledging anything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WriteEvent {
    /// `quorum` zones answered `Created`. Said once per slot.
    Durable { slot: ChunkSeq, took: Duration },
    /// Another took the slot: the epoch is over for this writer. Said once, and nothing after it. Chunks not
    /// reported durable may have happened.
    Fenced { slot: ChunkSeq, by: FencedBy },
    /// A try failed and another follows. `since` is how long ago the chunk was submitted.
    Retrying {
        slot: ChunkSeq,
        error: StoreError,
        since: Duration,
    },
}

/// Writes the chunks of one epoch.
///
/// - Slots are handed out densely and in order, each once, and never again with other bytes.
/// - At most `inflight_chunks` chunks are on their way, and at most `window_factor` times as many slots lie between the
///   first that is not durable and the next to be handed out.
///
/// Creates run in tasks of their own. Dropping the writer stops them: what was under way may still land.
#[derive(Debug)]
pub struct EpochWriter {
    nonce: Nonce,
    shared: Arc<EpochShared>,
    next: ChunkSeq,
}

/// How far an epoch is durable, for others than its writer.
#[derive(Debug, Clone)]
pub struct EpochProgress {
    shared: Arc<EpochShared>,
}

impl EpochProgress {
    /// The end of the acknowledgeable prefix, exclusive: every slot below is durable. Stays when the writer is closed.
    pub fn durable_end(&self) -> ChunkSeq {
        self.shared.locked(|progress| progress.durable.end())
    }
}

/// What a writer and the tasks of its slots share.
#[derive(Debug)]
pub(super) struct EpochShared {
    pub(super) wal: Wal,
    pub(super) channel: ChannelId,
    pub(super) epoch: Epoch,
    events: mpsc::UnboundedSender<WriteEvent>,
    closed: watch::Sender<bool>,
    progress: Mutex<Progress>,
    rng: Mutex<SmallRng>,
}

#[derive(Debug)]
struct Progress {
    durable: AckPrefix,
    inflight: usize,
}

impl Wal {
    /// A writer for `(channel, epoch)`, which must be the caller's own: `nonce` is random per process, channel and
    /// epoch. `first_slot` is 0, or what [`recover`](crate::recover) returned. Tasks are spawned on the runtime that
    /// [`submit`](EpochWriter::submit) is called on.
    ///
    /// The receiver holds at most a few events per chunk in flight.
    pub fn writer(
        &self,
        channel: ChannelId,
        epoch: Epoch,
        nonce: Nonce,
        first_slot: ChunkSeq,
    ) -> (EpochWriter, mpsc::UnboundedReceiver<WriteEvent>) {
        let (events, receiver) = mpsc::unbounded_channel();
        let shared = EpochShared {
            wal: self.clone(),
            channel,
            epoch,
            events,
            closed: watch::Sender::new(false),
            progress: Mutex::new(Progress {
                durable: AckPrefix::new(first_slot),
                inflight: 0,
            }),
            rng: Mutex::new(self.rng(channel, epoch)),
        };
        (
            EpochWriter {
                shared: Arc::new(shared),
                next: first_slot,
                nonce,
            },
            receiver,
        )
    }

    /// Jitter for one epoch: the same seed gives the same waits.
    pub(crate) fn rng(&self, channel: ChannelId, epoch: Epoch) -> SmallRng {
        SmallRng::seed_from_u64(self.inner.options.seed ^ u64::from(channel.0).rotate_left(32) ^ epoch.0)
    }
}

impl EpochWriter {
    /// How many chunks may be submitted now. Grows when chunks become durable; zero once closed.
    pub fn free_slots(&self) -> usize {
        if self.is_closed() {
            return 0;
        }
        let options = self.shared.wal.options();
        self.shared.locked(|progress| {
            let ahead = (self.next.0 - progress.durable.end().0) as usize;
            let window = options.inflight_chunks * options.window_factor;
            (options.inflight_chunks.saturating_sub(progress.inflight)).min(window.saturating_sub(ahead))
        })
    }

    /// The slot that the next chunk gets.
    pub fn next_slot(&self) -> ChunkSeq {
        self.next
    }

    /// The end of the acknowledgeable prefix, exclusive. May be ahead of the events that were received.
    pub fn durable_end(&self) -> ChunkSeq {
        self.shared.locked(|progress| progress.durable.end())
    }

    pub fn progress(&self) -> EpochProgress {
        EpochProgress {
            shared: Arc::clone(&self.shared),
        }
    }

    /// Closed, or fenced.
    pub fn is_closed(&self) -> bool {
        self.shared.is_closed()
    }

    /// Gives the chunk the next slot and starts to create it in all zones. Returning says nothing about durability:
    /// wait for the event. On a closed writer nothing is started, and nothing will be reported.
    ///
    /// # Panics
    /// If [`free_slots`](Self::free_slots) is zero on a writer that is not closed.
    pub fn submit(&mut self, builder: ChunkBuilder) -> Arc<Chunk> {
        self.submit_as(builder, ChunkKind::Chunk)
    }

    pub(crate) fn submit_as(&mut self, builder: ChunkBuilder, kind: ChunkKind) -> Arc<Chunk> {
        // In this order: another task may close the writer in between, and then there is no free slot either.
        assert!(
            self.free_slots() > 0 || self.is_closed(),
            "submit needs a free slot"
        );
        let closed = self.is_closed();
        let id = ChunkId::new(self.shared.channel, self.shared.epoch, self.next);
        let chunk = Arc::new(builder.finish(ChunkMeta {
            id,
            kind,
            nonce: self.nonce,
        }));
        self.next.0 += 1;
        if !closed {
            self.shared.locked(|progress| progress.inflight += 1);
            tokio::spawn(run_slot(Arc::clone(&self.shared), Arc::clone(&chunk)));
        }
        chunk
    }

    /// Stops all retries and laggards. What is under way may still land; nothing more is reported.
    pub fn close(&mut self) {
        self.shared.close();
    }
}

impl Drop for EpochWriter {
    fn drop(&mut self) {
        self.close();
    }
}

impl EpochShared {
    pub(super) fn is_closed(&self) -> bool {
        *self.closed.borrow()
    }

    /// Ends when the writer is closed, fenced or dropped.
    pub(super) async fn closed(&self) {
        let mut closed = self.closed.subscribe();
        // The sender lives in `self`.
        closed
            .wait_for(|closed| *closed)
            .await
            .expect("the sender is alive");
    }

    fn close(&self) {
        self.closed.send_replace(true);
    }

    /// Reports a slot as durable, unless the writer is closed.
    pub(super) fn durable(&self, chunk: &Chunk, submitted: Instant) {
        let slot = chunk.meta().id.slot;
        let took = submitted.elapsed();
        self.locked(|progress| {
            progress.inflight -= 1;
            progress.durable.durable(slot);
        });
        let metrics = self.wal.metrics();
        metrics.durable.observe(took);
        count(&metrics.chunks_durable_total, 1);
        count(&metrics.bytes_durable_total, chunk.encoded_len());
        self.report(WriteEvent::Durable { slot, took });
    }

    /// Ends the epoch for this writer.
    pub(super) fn fence(&self, slot: ChunkSeq, by: FencedBy) {
        // Of several slots that find out at once, one says so.
        self.locked(|_| {
            if self
                .closed
                .send_if_modified(|closed| !std::mem::replace(closed, true))
            {
                count(&self.wal.metrics().fenced_total, 1);
                let _ = self.events.send(WriteEvent::Fenced { slot, by });
            }
        });
    }

    /// Under the lock, so that nothing follows `Fenced`.
    pub(super) fn report(&self, event: WriteEvent) {
        self.locked(|_| {
            if !self.is_closed() {
                // Without a receiver nobody wants to know.
                let _ = self.events.send(event);
            }
        });
    }

    /// The wait before try number `attempt` (from 1): doubling, capped, with the upper half drawn at random.
    pub(super) fn backoff(&self, attempt: u32) -> Duration {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        self.wal.options().backoff(attempt, &mut *rng)
    }

    fn locked<T>(&self, f: impl FnOnce(&mut Progress) -> T) -> T {
        f(&mut self.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
