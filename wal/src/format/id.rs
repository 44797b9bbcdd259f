//! The name of a WAL object.

use std::fmt;

use millrace_api::id::{ChannelId, ChunkSeq, Epoch};

/// A slot: the place of one WAL object. Ordered as the channel's history is, within one channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId {
    pub channel: ChannelId,
    pub epoch: Epoch,
    pub slot: ChunkSeq,
}

impl ChunkId {
    pub const fn new(channel: ChannelId, epoch: Epoch, slot: ChunkSeq) -> Self {
        Self { channel, epoch, slot }
    }

    /// The object's key. Every number has a fixed width, so that keys sort as ids do.
    pub fn key(&self) -> String {
        format!(
            "wal/{:08x}/{:016x}/{:016x}",
            self.channel.0, self.epoch.0, self.slot.0
        )
    }

    /// The directory of all slots of an epoch, with its closing slash.
    pub fn epoch_prefix(channel: ChannelId, epoch: Epoch) -> String {
        format!("wal/{:08x}/{:016x}/", channel.0, epoch.0)
    }

    /// The directory of all epochs of a channel, with its closing slash.
    pub fn channel_prefix(channel: ChannelId) -> String {
        format!("wal/{:08x}/", channel.0)
    }

    /// The inverse of [`key`](Self::key); `None` for any other string, other spellings of the same numbers included.
    pub fn parse(key: &str) -> Option<Self> {
        let mut parts = key.strip_prefix("wal/")?.split('/');
        let channel = hex(parts.next()?, 8)?;
        let epoch = hex(parts.next()?, 16)?;
        let slot = hex(parts.next()?, 16)?;
        if parts.next().is_some() {
            return None;
        }
        Some(Self::new(
            ChannelId(u32::try_from(channel).ok()?),
            Epoch(epoch),
            ChunkSeq(slot),
        ))
    }
}

fn hex(text: &str, width: usize) -> Option<u64> {
    let lower = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
    if text.len() != width || !text.bytes().all(lower) {
        return None;
    }
    u64::from_str_radix(text, 16).ok()
}

impl fmt::Display for ChunkId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.channel, self.epoch, self.slot)
    }
}
