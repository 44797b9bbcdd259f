//! Deletes chunks that are in segments, once nobody who held a pointer to them reads them any more.

use std::collections::VecDeque;
use std::time::Duration;

use millrace_wal::{ChunkId, StoreError, Wal};
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::deadline::sleep_until;

/// Chunks that are deleted in one step.
const STEP: usize = 256;
const RETRY_PAUSE: Duration = Duration::from_secs(2);

/// A way to the reaper. What is not deleted before the node ends is found by whoever takes the channel over.
#[derive(Clone)]
pub struct Reaper(mpsc::UnboundedSender<Due>);

struct Due {
    at: Instant,
    what: What,
}

enum What {
    Chunks(Vec<ChunkId>),
    /// Whatever an earlier owner has left of the checkpoint's epoch.
    Before(ChunkId),
}

/// Carries out what its [`Reaper`]s were told, in order.
pub struct Reaping {
    wal: Wal,
    grace: Duration,
    told: mpsc::UnboundedReceiver<Due>,
}

impl Reaper {
    /// Readers have `grace` to finish what they began.
    pub fn new(wal: Wal, grace: Duration) -> (Self, Reaping) {
        let (reaper, told) = mpsc::unbounded_channel();
        (Self(reaper), Reaping { wal, grace, told })
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
        let _ = self.0.send(Due { at, what });
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
                    if let Some(Due { what, .. }) = waiting.pop_front() {
                        tokio::select! {
                            () = stop.cancelled() => return,
                            () = self.reap(what) => {}
                        }
                    }
                }
            }
        }
    }

    async fn reap(&self, what: What) {
        let done = async || match &what {
            What::Chunks(chunks) => self.delete(chunks).await,
            What::Before(checkpoint) => self.delete_before(*checkpoint).await,
        };
        while let Err(error) = done().await {
            tracing::info!(%error, "chunks that are in segments could not be deleted yet");
            tokio::time::sleep(RETRY_PAUSE).await;
        }
    }

    async fn delete(&self, chunks: &[ChunkId]) -> Result<(), StoreError> {
        for step in chunks.chunks(STEP) {
            self.wal.delete(step).await?;
        }
        Ok(())
    }

    /// Slots below the checkpoint are chunks: what ended the epoch, if it ended, stands behind.
    async fn delete_before(&self, checkpoint: ChunkId) -> Result<(), StoreError> {
        loop {
            let left = self.wal.objects_before(checkpoint, STEP).await?;
            if left.is_empty() {
                return Ok(());
            }
            self.wal.delete(&left).await?;
        }
    }
}
