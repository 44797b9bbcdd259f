//! The metadata group, as a recovery sees it.

use async_trait::async_trait;
use millrace_api::id::{ChannelId, ChunkSeq, Epoch};

use super::SealedEpoch;

/// Why the judge did not say what was recorded.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JudgeError {
    /// Nothing is known: a proposal that ended like this may have been recorded, or may yet be.
    #[error("no verdict: {0}")]
    Retry(String),
    /// Refused: the epoch is not the channel's current one, or the other is not its oldest unsealed one.
    #[error("refused: {0}")]
    Refused(String),
}

/// Records the ends of epochs; the only judge of them.
#[async_trait]
pub trait Judge: Send + Sync {
    /// Records `end` as the end of `epoch`, continued by slots `[0, adopted)` of `by`. `Ok` holds the recorded end.
    async fn seal_epoch(
        &self,
        channel: ChannelId,
        epoch: Epoch,
        end: ChunkSeq,
        by: Epoch,
        adopted: u64,
    ) -> Result<ChunkSeq, JudgeError>;

    /// What is recorded about `epoch`, by a linearizable read; `None` if it has no recorded end.
    async fn verdict(&self, channel: ChannelId, epoch: Epoch) -> Result<Option<SealedEpoch>, JudgeError>;
}
