//! Showing slots that are known to be part of the history.

use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use millrace_api::id::Epoch;

use super::RecoveryError;
use super::run::Recovery;
use crate::format::{ChunkId, DecodedChunk, Footer};
use crate::quorum::ReadError;

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
        let mut attempt = 0;
        loop {
            match self.wal.footer(id).await {
                Ok(Some(footer)) => return footer,
                Ok(None) => self.missing(id, &mut attempt, None).await,
                Err(error) => self.missing(id, &mut attempt, Some(error)).await,
            }
        }
    }

    pub(super) async fn wait_for_chunk(&self, id: ChunkId) -> DecodedChunk {
        let mut attempt = 0;
        loop {
            match self.wal.chunk(id).await {
                Ok(Some(chunk)) => return chunk,
                Ok(None) => self.missing(id, &mut attempt, None).await,
                Err(error) => self.missing(id, &mut attempt, Some(error)).await,
            }
        }
    }

    /// Waits before the next try. `None`: the zones say that there is no such chunk.
    async fn missing(&self, id: ChunkId, attempt: &mut u32, error: Option<ReadError>) {
        *attempt = attempt.saturating_add(1);
        if *attempt >= WARN_AFTER && attempt.is_power_of_two() {
            tracing::warn!(chunk = %id, attempt, ?error, "a chunk of the history is missing; waiting for it");
        }
        self.pause(*attempt).await;
    }
}
