//! Which lives of the zones an epoch is written under.

use std::fmt::Debug;

use millrace_api::id::{ChannelId, Epoch, ZoneGen};

use super::WalInner;
use crate::format::ChunkId;

/// Tells what was recorded when an epoch began.
pub trait EpochGens: Debug + Send + Sync {
    /// `None` if nothing is known of the epoch any more: then nothing of it is needed either.
    fn gens(&self, channel: ChannelId, epoch: Epoch) -> Option<Vec<ZoneGen>>;
}

impl WalInner {
    /// Whether the chunk is not durable, when these lives of zones have nothing at its slot. A zone that was replaced
    /// says nothing about epochs before: it has never had what the former life had.
    pub(super) fn proves_absence(&self, id: ChunkId, absent: &[ZoneGen]) -> bool {
        let known = match (&self.options.epoch_gens, absent) {
            (_, []) | (None, _) => None,
            (Some(epochs), _) => epochs.gens(id.channel, id.epoch),
        };
        match known {
            None => absent.len() > self.zones.len() - self.quorum,
            Some(gens) => {
                let counted = absent.iter().filter(|zone_gen| gens.contains(zone_gen)).count();
                counted > 0 && counted > gens.len().saturating_sub(self.quorum)
            }
        }
    }
}
