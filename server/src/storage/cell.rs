//! A cell as those see it who look after all of it: its metadata, and the stores that hold what they name.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use millrace_api::id::ChannelId;
use millrace_api::segment::{SEGMENT_PREFIX, SegmentObjectId};
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_wal::{ChunkId, StoreError, ZoneStore};

/// Attempts at a request to a store that may work the next time, and the pause after the first of them.
const ATTEMPTS: u32 = 6;
const PAUSE_MIN: Duration = Duration::from_millis(100);

/// Between two attempts to find a leader.
const LEADER_PAUSE: Duration = Duration::from_secs(1);

const WAL_PREFIX: &str = "wal/";

#[derive(Clone)]
pub struct Cell {
    pub meta: Meta,
    /// Where segment objects are.
    pub segments: Arc<dyn ZoneStore>,
    /// Where chunks are.
    pub zones: Vec<Arc<dyn ZoneStore>>,
    /// So many zones have each chunk of a channel's history.
    pub quorum: usize,
}

/// A part of a store that has one kind of object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Area {
    Segments,
    /// The zone's place in [`Cell::zones`].
    Wal {
        zone: usize,
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
        let zones = (0..self.zones.len()).map(|zone| Area::Wal { zone });
        [Area::Segments].into_iter().chain(zones)
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

    pub fn store(&self, area: Area) -> &Arc<dyn ZoneStore> {
        match area {
            Area::Segments => &self.segments,
            Area::Wal { zone } => &self.zones[zone],
        }
    }
}

impl Area {
    /// Where its keys are, with its closing slash.
    pub fn prefix(self) -> &'static str {
        match self {
            Area::Segments => SEGMENT_PREFIX,
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
            Area::Segments => SegmentObjectId::prefix(channel),
            Area::Wal { .. } => ChunkId::channel_prefix(channel),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.area {
            Area::Wal { zone } if zone > 0 => write!(f, "{} (zone {zone})", self.key),
            _ => f.write_str(&self.key),
        }
    }
}

/// Asks a store until it answers, or has not often enough.
pub async fn insist<T, F>(ask: impl Fn() -> F) -> Result<T, StoreError>
where
    F: Future<Output = Result<T, StoreError>>,
{
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
            Area::Segments.channel_of("segments/0000000a/b/c"),
            Some(ChannelId(10))
        );
        for stray in ["wal/a/b", "wal/0000000A/b", "wal/0000000a", "segments/0000000a/b"] {
            assert_eq!(wal.channel_of(stray), None, "{stray}");
        }
    }
}
