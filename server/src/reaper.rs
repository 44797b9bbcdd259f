//! Deletes chunks that are in segments, once nobody who held a pointer to them reads them any more.

use std::collections::VecDeque;
use std::time::Duration;

use millrace_api::id::ChannelId;
use millrace_wal::{ChunkId, StoreError, Wal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::deadline::sleep_until;
use crate::wals::Wals;

/// Chunks that are deleted in one step.
const STEP: usize = 256;
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Attempts at deleting from several zones. What one of them keeps, because it does not answer, the sweeper finds.
const ATTEMPTS_AT_SEVERAL: u32 = 2;

/// A way to the reaper. What is not deleted before the node ends is found by whoever takes the channel over.
#[derive(Clone)]
pub struct Reaper(mpsc::UnboundedSender<Due>);

struct Due {
    at: Instant,
    what: What,
    attempts: u32,
}

enum What {
    Chunks(Vec<ChunkId>),
    /// Whatever an earlier owner has left of the checkpoint's epoch.
    Before(ChunkId),
}

impl What {
    fn channel(&self) -> Option<ChannelId> {
        match self {
            Self::Chunks(chunks) => chunks.first().map(|chunk| chunk.channel),
            Self::Before(checkpoint) => Some(checkpoint.channel),
        }
    }
}

/// Carries out what its [`Reaper`]s were told, in order.
pub struct Reaping {
    wals: Wals,
    grace: Duration,
    told: mpsc::UnboundedReceiver<Due>,
}

impl Reaper {
    /// Readers have `grace` to finish what they began.
    pub fn new(wals: Wals, grace: Duration) -> (Self, Reaping) {
        let (reaper, told) = mpsc::unbounded_channel();
        (Self(reaper), Reaping { wals, grace, told })
    }

    /// Metadata do not point to these chunks any more.
    pub fn release(&self, chunks: Vec<ChunkId>) {
        if !chunks.is_empty() {
            self.tell(What::Chunks(chunks));
        }
    }

    /// A replay of the channel begins with the checkpoint: nothing before it is needed.
    pub fn release_before(&self, checkpoint: ChunkId) {
        self.tell(What::Before(checkpoint));
    }

    fn tell(&self, what: What) {
        let at = Instant::now();
        // Nobody reaps any more: the node is stopping.
        let _ = self.0.send(Due {
            at,
            what,
            attempts: 0,
        });
    }
}

impl Reaping {
    pub async fn run(mut self, stop: CancellationToken) {
        let mut waiting: VecDeque<Due> = VecDeque::new();
        loop {
            let due = waiting.front().map(|due| due.at + self.grace);
            tokio::select! {
                () = stop.cancelled() => return,
                told = self.told.recv() => match told {
                    Some(due) => waiting.push_back(due),
                    None => return,
                },
                () = sleep_until(due), if due.is_some() => {
                    if let Some(due) = waiting.pop_front() {
                        tokio::select! {
                            () = stop.cancelled() => return,
                            left = self.reap(due) => waiting.extend(left),
                        }
                    }
                }
            }
        }
    }

    /// What is to be tried again, behind everything else: a zone that does not answer is no reason to leave other chunks
    /// in those that do.
    async fn reap(&self, due: Due) -> Option<Due> {
        let channel = due.what.channel()?;
        let (zones, error) = match self.wals.of_channel(channel) {
            Ok(wal) => match self.delete_from(&wal, &due.what).await {
                Ok(()) => return None,
                Err(error) => (wal.gens().len(), error.to_string()),
            },
            Err(error) => (0, error.to_string()),
        };
        let attempts = due.attempts + 1;
        if zones > 1 && attempts == ATTEMPTS_AT_SEVERAL {
            tracing::info!(%channel, error, "chunks that are in segments are left to the sweeper in a zone");
            return None;
        }
        tracing::info!(%channel, error, "chunks that are in segments could not be deleted yet");
        if zones <= 1 {
            tokio::time::sleep(RETRY_PAUSE).await;
        }
        let at = Instant::now();
        Some(Due { at, attempts, ..due })
    }

    async fn delete_from(&self, wal: &Wal, what: &What) -> Result<(), StoreError> {
        match what {
            What::Chunks(chunks) => {
                let mut deleted = Ok(());
                // A zone that does not answer is no reason to leave the rest in the others.
                for step in chunks.chunks(STEP) {
                    deleted = deleted.and(wal.delete(step).await);
                }
                deleted
            }
            What::Before(checkpoint) => self.delete_before(wal, *checkpoint).await,
        }
    }

    /// Slots below the checkpoint are chunks: what ended the epoch, if it ended, stands behind.
    async fn delete_before(&self, wal: &Wal, checkpoint: ChunkId) -> Result<(), StoreError> {
        loop {
            let left = wal.objects_before(checkpoint, STEP).await?;
            if left.is_empty() {
                return Ok(());
            }
            wal.delete(&left).await?;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_api::id::{ChunkSeq, Epoch, ZoneGen};
    use millrace_wal::fault::{Cut, FaultStore, Faults};
    use millrace_wal::{MemoryStore, Payload, WalOptions, Zone, ZoneStore};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_silent_zone_keeps_no_chunks_in_the_others() {
        const GRACE: Duration = Duration::from_secs(1);
        let zones: [_; 3] = std::array::from_fn(|_| (Arc::new(MemoryStore::new()), Faults::new(1)));
        let stores = zones.iter().enumerate().map(|(at, (memory, faults))| {
            let store = FaultStore::new(memory.clone(), faults.clone());
            Zone::new(Arc::new(store), ZoneGen(at as u128))
        });
        let wal = Wal::new(stores.collect(), 2, WalOptions::default()).unwrap();
        let chunks = (0..100).map(|slot| ChunkId::new(ChannelId(1), Epoch(1), ChunkSeq(slot)));
        let (reaper, reaping) = Reaper::new(Wals::only(wal), GRACE);
        for chunk in chunks {
            for (memory, _) in &zones {
                let created = memory.create(&chunk.key(), &Payload::from(vec![])).await;
                created.expect("memory takes it");
            }
            reaper.release(vec![chunk]);
        }
        zones[1].1.cut(Cut::Silent);
        let stop = CancellationToken::new();
        let running = tokio::spawn(reaping.run(stop.clone()));
        let counts = || zones.each_ref().map(|(memory, _)| memory.object_count());
        tokio::time::sleep(2 * GRACE + WalOptions::default().create_timeout).await;
        assert_eq!(counts(), [0, 100, 0], "while the zone is silent");
        stop.cancel();
        running.await.unwrap();
    }
}
