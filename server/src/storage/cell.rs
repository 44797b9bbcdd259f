//! A cell as those see it who look after all of it: its metadata, and the stores that hold what they name.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millrace_api::config::StorageClass;
use millrace_api::id::ChannelId;
use millrace_api::segment::{SEGMENT_PREFIX, SegmentObjectId};
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_wal::{ChunkId, StoreError, ZoneStore};
use tokio::time::timeout;

use crate::wals::{NoWal, Wals};
use crate::zones::{standard, zone_numbers};

/// Attempts at a request to a store that may work the next time, and the pause after the first of them.
const ATTEMPTS: u32 = 6;
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// An attempt that takes longer has failed. Whole chunks and pages of keys are asked for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// Between two attempts to find a leader.
const LEADER_PAUSE: Duration = Duration::from_secs(1);

const WAL_PREFIX: &str = "wal/";

#[derive(Clone)]
pub struct Cell {
    pub meta: Meta,
    /// Where segment objects are: the standard store, or all Express zones together.
    pub segments: Arc<dyn ZoneStore>,
    /// Where chunks are.
    pub wals: Wals,
}

/// A part of a store that has one kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    /// Of the zone with this number; 0 is the standard store.
    Segments {
        zone: u32,
    },
    Wal {
        zone: u32,
    },
}

/// Where an object stands.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub area: Area,
    pub key: String,
}

impl Cell {
    pub fn areas(&self) -> impl Iterator<Item = Area> + use<> {
        let zones: Vec<u32> = self.zones().map(|(zone, _)| zone).collect();
        let zones = zones.into_iter().map(|zone| Area::Wal { zone });
        self.segment_copies().0.into_iter().chain(zones)
    }

    /// Where copies of segment objects are, and how many there are at least of each.
    pub fn segment_copies(&self) -> (Vec<Area>, usize) {
        let class = match self.wals.has_standard() {
            true => StorageClass::Standard,
            false => StorageClass::Express,
        };
        let zones = zone_numbers(class).map(|zone| Area::Segments { zone });
        let quorum = self.wals.of_class(class).map_or(1, |wal| wal.quorum());
        (zones.collect(), quorum)
    }

    /// Where copies of the channel's chunks are, and how many there are at least of each in its history.
    pub fn copies(&self, channel: ChannelId) -> Result<(Vec<Area>, usize), NoWal> {
        let wal = self.wals.of_channel(channel)?;
        let zones = zone_numbers(self.wals.class(channel)?).start..;
        let zones = zones.zip(wal.stores()).map(|(zone, _)| Area::Wal { zone });
        Ok((zones.collect(), wal.quorum()))
    }

    fn zones(&self) -> impl Iterator<Item = (u32, Arc<dyn ZoneStore>)> {
        let classes = self.wals.all();
        classes.flat_map(|(class, wal)| (zone_numbers(class).start..).zip(wal.stores()))
    }

    /// Waits until this node's state has everything that was committed when this was called, as long as a change of
    /// leader may take.
    pub async fn linearize(&self) -> Result<(), MetaError> {
        for _ in 1..ATTEMPTS {
            match self.meta.linearize().await {
                Err(error) if error.retryable() => tokio::time::sleep(LEADER_PAUSE).await,
                done => return done.map(drop),
            }
        }
        self.meta.linearize().await.map(drop)
    }

    /// An error for a zone that this node does not know (any more).
    pub fn store(&self, area: Area) -> Result<Arc<dyn ZoneStore>, StoreError> {
        let zone = match area {
            Area::Segments { zone: standard::ZONE } => return Ok(self.segments.clone()),
            Area::Segments { zone } | Area::Wal { zone } => zone,
        };
        let found = self.zones().find(|(number, _)| *number == zone);
        found
            .map(|(_, store)| store)
            .ok_or_else(|| StoreError::Invalid(format!("zone {zone} is not known on this node")))
    }
}

impl Area {
    /// Whether the cell goes on when this one does not answer.
    pub fn is_one_of_several(self) -> bool {
        let (Area::Segments { zone } | Area::Wal { zone }) = self;
        zone_numbers(StorageClass::Express).contains(&zone)
    }

    /// Where its keys are, with its closing slash.
    pub fn prefix(self) -> &'static str {
        match self {
            Area::Segments { .. } => SEGMENT_PREFIX,
            Area::Wal { .. } => WAL_PREFIX,
        }
    }

    /// The channel that a key says it belongs to, whether or not the rest of it makes sense.
    pub fn channel_of(self, key: &str) -> Option<ChannelId> {
        let (channel, _) = key.strip_prefix(self.prefix())?.split_once('/')?;
        let channel = u32::from_str_radix(channel, 16).ok().map(ChannelId)?;
        // One channel, one spelling.
        key.starts_with(&self.channel_prefix(channel)).then_some(channel)
    }

    fn channel_prefix(self, channel: ChannelId) -> String {
        match self {
            Area::Segments { .. } => SegmentObjectId::prefix(channel),
            Area::Wal { .. } => ChunkId::channel_prefix(channel),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.area {
            Area::Segments { zone } | Area::Wal { zone } if zone > 0 => {
                write!(f, "{} (zone {zone})", self.key)
            }
            _ => f.write_str(&self.key),
        }
    }
}

/// Asks a store until it answers, or has not often enough.
pub async fn insist<T, F>(ask: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
    let ask = async || {
        let unanswered = |_| StoreError::Retry(format!("no answer within {ANSWER_TIMEOUT:?}"));
        timeout(ANSWER_TIMEOUT, ask()).await.map_err(unanswered)?
    };
    let mut pause = PAUSE_MIN;
    for _ in 1..ATTEMPTS {
        match ask().await {
            Err(error) if error.retryable() => tokio::time::sleep(pause).await,
            done => return done,
        }
        pause *= 2;
    }
    ask().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_belongs_to_a_channel_even_if_the_rest_of_it_is_nonsense() {
        let wal = Area::Wal { zone: 0 };
        assert_eq!(wal.channel_of("wal/0000000a/what"), Some(ChannelId(10)));
        assert_eq!(
            Area::Segments { zone: 0 }.channel_of("segments/0000000a/b/c"),
            Some(ChannelId(10))
        );
        for stray in ["wal/a/b", "wal/0000000A/b", "wal/0000000a", "segments/0000000a/b"] {
            assert_eq!(wal.channel_of(stray), None, "{stray}");
        }
    }
}
