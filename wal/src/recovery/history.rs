//! What the metadata knows of a channel when an owner begins.

use millrace_api::id::{ChannelId, ChunkSeq, Epoch, ZoneGen};

use super::RecoveryError;

/// An epoch whose end is recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedEpoch {
    pub epoch: Epoch,
    /// Exclusive: slots from here on are garbage even where they hold chunks.
    pub end: ChunkSeq,
    /// The epoch whose owner sealed it.
    pub by: Epoch,
    /// Slots `[0, adopted)` of `by` continue this epoch.
    pub adopted: u64,
}

/// An epoch without a recorded end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnsealedEpoch {
    pub epoch: Epoch,
    /// Its owner may have sequenced and acknowledged.
    pub activated: bool,
    /// A recorded end names this epoch as holding this many adopted slots, more than zero.
    pub adopted: Option<u64>,
    /// Generations of the zones it is written under.
    pub gens: Vec<ZoneGen>,
}

/// The history of a channel, as of one linearizable read made when `current` was already the channel's epoch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChannelHistory {
    pub channel: ChannelId,
    /// The first slot that is not flushed.
    pub checkpoint: (Epoch, ChunkSeq),
    /// Oldest first. Epochs before the checkpoint's are ignored.
    pub sealed: Vec<SealedEpoch>,
    /// Oldest first, all later than the sealed ones, without the current one.
    pub unsealed: Vec<UnsealedEpoch>,
    pub current: Epoch,
    /// Generations of the zones that the current epoch is written under: those of the WAL.
    pub gens: Vec<ZoneGen>,
}

impl ChannelHistory {
    /// A history that breaks the rules is refused before anything is read or sealed.
    pub(super) fn check(&self) -> Result<(), RecoveryError> {
        let invalid = |why: &str| Err(RecoveryError::Invalid(format!("channel {}: {why}", self.channel)));
        let epochs: Vec<Epoch> = (self.sealed.iter().map(|sealed| sealed.epoch))
            .chain(self.unsealed.iter().map(|unsealed| unsealed.epoch))
            .chain([self.current])
            .collect();
        if !epochs.is_sorted_by(|a, b| a < b) {
            return invalid("epochs are not in order");
        }
        if self.checkpoint.0 > self.current {
            return invalid("the checkpoint is ahead of the current epoch");
        }
        let sealed = self
            .sealed
            .iter()
            .filter(|sealed| sealed.epoch == self.checkpoint.0);
        if sealed.clone().any(|sealed| sealed.end < self.checkpoint.1) {
            return invalid("the checkpoint is behind the end of its epoch");
        }
        for sealed in self.sealed.iter().filter(|sealed| sealed.adopted > 0) {
            if !self.names(sealed.by, sealed.adopted) {
                return invalid("an epoch that adopted slots does not hold them");
            }
        }
        Ok(())
    }

    /// `epoch` is known to hold `adopted` slots at its start.
    fn names(&self, epoch: Epoch, adopted: u64) -> bool {
        if epoch < self.checkpoint.0 || epoch == self.current {
            return true;
        }
        self.sealed
            .iter()
            .any(|sealed| sealed.epoch == epoch && sealed.end.0 >= adopted)
            || self
                .unsealed
                .iter()
                .any(|u| u.epoch == epoch && u.adopted == Some(adopted))
    }

    /// The first slot of an epoch that is to be replayed.
    pub(super) fn start(&self, epoch: Epoch) -> u64 {
        if epoch == self.checkpoint.0 {
            self.checkpoint.1.0
        } else {
            0
        }
    }

    /// Slots that the current epoch already adopted by a recorded end.
    pub(super) fn adopted_by_current(&self) -> u64 {
        self.sealed
            .iter()
            .filter(|sealed| sealed.by == self.current)
            .map(|sealed| sealed.adopted)
            .max()
            .unwrap_or(0)
    }
}
