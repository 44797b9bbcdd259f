//! The channel's flushes, one at a time, beside everything else that it does.

use millrace_wal::ChunkId;
use tokio::task::{JoinError, JoinSet};
use tokio::time::Instant;

use super::task::{ChannelTask, Ended};
use crate::flusher::{Done, FlushError, Flusher};
use crate::reaper::Reaper;

/// Who carries flushes out, and the one under way.
pub struct Flushing {
    flusher: Flusher,
    reaper: Reaper,
    under_way: JoinSet<Result<Done, FlushError>>,
}

pub type Outcome = Result<Result<Done, FlushError>, JoinError>;

impl Flushing {
    pub fn new(flusher: Flusher, reaper: Reaper) -> Self {
        Self {
            flusher,
            reaper,
            under_way: JoinSet::new(),
        }
    }

    /// How the flush that is under way has ended; `None` at once if none is. Cancel safe.
    pub async fn next(&mut self) -> Option<Outcome> {
        self.under_way.join_next().await
    }

    /// Chunks before the checkpoint may be left from an owner that ended before it had deleted them.
    pub fn release_before(&self, checkpoint: ChunkId) {
        self.reaper.release_before(checkpoint);
    }
}

impl ChannelTask {
    /// Begins a flush if one is due.
    pub(super) fn flush_if_due(&mut self, now: Instant) {
        if self.state.flush_deadline(now).is_none_or(|due| due > now) {
            return;
        }
        let plan = self.state.begin_flush(now);
        let (flusher, channel, epoch) = (self.flushing.flusher.clone(), self.id, self.epoch);
        self.flushing
            .under_way
            .spawn(async move { flusher.flush(channel, epoch, plan).await });
    }

    /// A flush has ended; so does the channel if it cannot flush any more.
    pub(super) fn flushed(&mut self, outcome: Outcome) -> Option<Ended> {
        match outcome {
            Ok(Ok(Done { seq, log_index })) => {
                let released = self.state.flushed(seq, log_index);
                self.stats.flushed(released.len());
                self.flushing.reaper.release(released);
                None
            }
            Ok(Err(error)) => match self.later_epoch() {
                Some(later) => Some(Ended::Replaced(later)),
                None => Some(Ended::Unflushable(error.to_string())),
            },
            Err(panic) => Some(Ended::Unflushable(panic.to_string())),
        }
    }
}
