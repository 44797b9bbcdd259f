//! What metadata prove about an object.
//!
//! The key was listed first and the state is at least as new as the listing: what metadata came to name meanwhile, they
//! name here. Epochs, counts and checkpoints only grow, so an orphan is one for ever.

use std::collections::BTreeMap;
use std::fmt;

use millrace_api::id::ChannelId;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_raft::error::StoreError;
use millrace_raft::query::{ChannelRecord, View};
use millrace_wal::ChunkId;

/// What is said of an object that is not simply in use, or may yet be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remark {
    /// Nothing names it, and nothing ever can.
    Orphan(Orphan),
    /// Nothing is proved: it stays.
    Unknown(Unknown),
}

/// The proof that nothing can come to name an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Orphan {
    /// Only the owner in that epoch could have named it, and its epoch is over.
    EpochOver,
    /// The flush, merge or index of that number was committed without it.
    NumberTaken,
    /// A chunk before the channel's checkpoint: what of it was valid is in segments, and every recovery begins behind
    /// it.
    Flushed,
}

/// Why nothing is proved.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unknown {
    NotAName,
    NoChannel,
    /// Metadata have not got to that epoch: they are older than the object.
    EpochAhead,
    /// It is not what its key says, or cannot be understood.
    Unreadable(String),
}

/// What a key alone says.
pub enum ByKey {
    Said(Option<Remark>),
    /// A chunk of an earlier epoch: an orphan unless its header says that it is a seal.
    UnlessSeal(ChunkId),
    /// A segment object: an orphan unless an index names it.
    UnlessPacked(SegmentObjectId, Orphan),
}

/// Judges keys by one state.
pub struct Judge<'a> {
    view: View<'a>,
    channels: BTreeMap<ChannelId, Option<ChannelRecord>>,
}

impl<'a> Judge<'a> {
    pub fn new(view: View<'a>) -> Self {
        Self {
            view,
            channels: BTreeMap::new(),
        }
    }

    pub fn segment_object(&mut self, key: &str) -> Result<ByKey, StoreError> {
        let Ok(id) = key.parse::<SegmentObjectId>() else {
            return Ok(ByKey::Said(Some(Remark::Unknown(Unknown::NotAName))));
        };
        // Dead ones too: they are deleted by the task that forgets them afterwards.
        if self.view.segment_object(id)?.is_some() {
            return Ok(ByKey::Said(None));
        }
        let Some(channel) = self.channel(id.channel)? else {
            return Ok(ByKey::Said(Some(Remark::Unknown(Unknown::NoChannel))));
        };
        let counted = match id.origin {
            SegmentOrigin::Flush => channel.flush_seq,
            SegmentOrigin::Merge => channel.merge_seq,
            SegmentOrigin::Index => channel.pack_seq,
        };
        Ok(if id.epoch > channel.epoch {
            ByKey::Said(Some(Remark::Unknown(Unknown::EpochAhead)))
        } else if id.epoch < channel.epoch {
            ByKey::UnlessPacked(id, Orphan::EpochOver)
        } else if id.seq <= counted {
            ByKey::UnlessPacked(id, Orphan::NumberTaken)
        } else {
            ByKey::Said(None)
        })
    }

    pub fn chunk(&mut self, key: &str) -> Result<ByKey, StoreError> {
        let Some(id) = ChunkId::parse(key) else {
            return Ok(ByKey::Said(Some(Remark::Unknown(Unknown::NotAName))));
        };
        let Some(channel) = self.channel(id.channel)? else {
            return Ok(ByKey::Said(Some(Remark::Unknown(Unknown::NoChannel))));
        };
        let checkpoint = channel.checkpoint;
        Ok(if id.epoch > channel.epoch {
            ByKey::Said(Some(Remark::Unknown(Unknown::EpochAhead)))
        } else if id.epoch < checkpoint.epoch {
            ByKey::UnlessSeal(id)
        } else if id.epoch == checkpoint.epoch && id.slot < checkpoint.slot {
            // Slots below the checkpoint are in the history, and a history has no seals.
            ByKey::Said(Some(Remark::Orphan(Orphan::Flushed)))
        } else {
            ByKey::Said(None)
        })
    }

    fn channel(&mut self, id: ChannelId) -> Result<Option<&ChannelRecord>, StoreError> {
        if !self.channels.contains_key(&id) {
            let channel = self.view.channel(id)?;
            self.channels.insert(id, channel);
        }
        Ok(self.channels.get(&id).and_then(Option::as_ref))
    }
}

impl Remark {
    pub fn is_orphan(&self) -> bool {
        matches!(self, Self::Orphan(_))
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Orphan(Orphan::EpochOver) => f.write_str("not named, and its epoch is over"),
            Self::Orphan(Orphan::NumberTaken) => {
                f.write_str("not named, and its number was committed without it")
            }
            Self::Orphan(Orphan::Flushed) => f.write_str("every recovery begins behind it"),
            Self::Unknown(Unknown::NotAName) => f.write_str("its key is not one of ours"),
            Self::Unknown(Unknown::NoChannel) => f.write_str("its channel is not known"),
            Self::Unknown(Unknown::EpochAhead) => f.write_str("its epoch has not begun in the metadata"),
            Self::Unknown(Unknown::Unreadable(why)) => write!(f, "it cannot be read: {why}"),
        }
    }
}
