//! Showing slots that are known to be part of the history.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use millrace_api::id::Epoch;

use super::RecoveryError;
use super::run::Recovery;
use crate::format::{ChunkId, DecodedChunk, Footer};
use crate::quorum::Wal;

/// Tries after which a missing slot is worth a warning; then again whenever the number doubles.
const WARN_AFTER: u32 = 4;

impl<V: FnMut(ChunkId, &Arc<Footer>) + Send> Recovery<'_, V> {
    /// Visits `[start, end)` of an epoch, in order. Slots that no zone shows are waited for.
    pub(super) async fn replay(&mut self, epoch: Epoch, start: u64, end: u64) -> Result<(), RecoveryError> {
        let this = &*self;
        let ids: Vec<ChunkId> = (start..end).map(|slot| this.id(epoch, slot)).collect();
        // Footers are small; all of them together are what the caller is about to hold anyway, but not twice.
        for ids in ids.chunks(1024) {
            let this = &*self;
            let footers: Vec<(ChunkId, Arc<Footer>)> = futures::stream::iter(ids.iter().copied())
                .map(|id| async move { Ok::<_, RecoveryError>((id, this.wait_for_footer(id).await)) })
                .buffered(this.wal.options().recovery_parallel)
                .try_collect()
                .await?;
            for (id, index) in &footers {
                self.visit(*id, index);
            }
        }
        Ok(())
    }
}

impl<V> Recovery<'_, V> {
    pub(super) async fn wait_for_footer(&self, id: ChunkId) -> Arc<Footer> {
        self.wait_for(id, async |wal: &Wal| {
            wal.footer(id).await.map_err(|error| error.to_string())
        })
        .await
    }

    pub(super) async fn wait_for_chunk(&self, id: ChunkId) -> DecodedChunk {
        self.wait_for(id, async |wal: &Wal| {
            wal.chunk(id).await.map_err(|error| error.to_string())
        })
        .await
    }

    async fn wait_for<T>(&self, id: ChunkId, read: impl AsyncFn(&Wal) -> Result<Option<T>, String>) -> T {
        let mut attempt = 0u32;
        loop {
            let why = match read(self.wal).await {
                Ok(Some(found)) => return found,
                Ok(None) => "no zone has it".to_owned(),
                Err(why) => why,
            };
            attempt = attempt.saturating_add(1);
            if attempt >= WARN_AFTER && attempt.is_power_of_two() {
                tracing::warn!(chunk = %id, attempt, why, "a chunk of the history is missing; waiting for it");
            }
            self.pause(attempt).await;
        }
    }
}
