//! Names of the objects that hold segments.

use std::fmt;
use std::str::FromStr;

use crate::id::{ChannelId, Epoch, FlushSeq};

/// What made a segment object. The letters are part of its name and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SegmentOrigin {
    /// Records of a channel's WAL.
    Flush,
    /// Runs of other segment objects, put together.
    Merge,
    /// No records: it says where segments of a stream are.
    Index,
}

/// One segment object. The owner of a channel counts flushes, merges and indexes, each from 1 and each in its own
/// count, so that a name tells whether metadata can still come to name the object.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SegmentObjectId {
    pub channel: ChannelId,
    pub epoch: Epoch,
    pub origin: SegmentOrigin,
    pub seq: FlushSeq,
    /// Distinguishes the objects of one flush; from 0.
    pub part: u32,
}

/// Where all segment objects are, with its closing slash.
pub const SEGMENT_PREFIX: &str = "segments/";

impl SegmentObjectId {
    /// Where the segment objects of a channel are, with its closing slash.
    pub fn prefix(channel: ChannelId) -> String {
        format!("{SEGMENT_PREFIX}{:08x}/", channel.0)
    }
}

/// The key in a store: `segments/{channel}/{epoch}/{f|m|i}{seq}-{part}`, all numbers in hex of a fixed width.
impl fmt::Display for SegmentObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let origin = match self.origin {
            SegmentOrigin::Flush => 'f',
            SegmentOrigin::Merge => 'm',
            SegmentOrigin::Index => 'i',
        };
        write!(
            f,
            "{SEGMENT_PREFIX}{:08x}/{:016x}/{origin}{:016x}-{:08x}",
            self.channel.0, self.epoch.0, self.seq.0, self.part
        )
    }
}

impl fmt::Debug for SegmentObjectId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The key is not that of a segment object.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the key of a segment object")]
pub struct NotASegmentObject(pub String);

impl FromStr for SegmentObjectId {
    type Err = NotASegmentObject;

    fn from_str(key: &str) -> Result<Self, NotASegmentObject> {
        let parsed = || {
            let mut parts = key.strip_prefix(SEGMENT_PREFIX)?.split('/');
            let (channel, epoch, name) = (parts.next()?, parts.next()?, parts.next()?);
            let origin = match name.chars().next()? {
                'f' => SegmentOrigin::Flush,
                'm' => SegmentOrigin::Merge,
                'i' => SegmentOrigin::Index,
                _ => return None,
            };
            let (seq, part) = name.get(1..)?.split_once('-')?;
            Some(Self {
                channel: ChannelId(u32::from_str_radix(channel, 16).ok()?),
                epoch: Epoch(u64::from_str_radix(epoch, 16).ok()?),
                origin,
                seq: FlushSeq(u64::from_str_radix(seq, 16).ok()?),
                part: u32::from_str_radix(part, 16).ok()?,
            })
        };
        parsed()
            // One object, one key.
            .filter(|id| id.to_string() == key)
            .ok_or_else(|| NotASegmentObject(key.chars().take(200).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_is_read_back_and_nothing_else_is() {
        let id = SegmentObjectId {
            channel: ChannelId(7),
            epoch: Epoch(0x1234),
            origin: SegmentOrigin::Merge,
            seq: FlushSeq(9),
            part: 3,
        };
        let key = id.to_string();
        assert_eq!(
            key,
            "segments/00000007/0000000000001234/m0000000000000009-00000003"
        );
        assert_eq!(key.parse(), Ok(id));
        let index = SegmentObjectId {
            origin: SegmentOrigin::Index,
            ..id
        };
        assert_eq!(index.to_string().parse(), Ok(index));
        for other in [
            "segments/7/1234/m9-3",
            "segments/00000007/0000000000001234/x0000000000000009-00000003",
            "segments/00000007/0000000000001234/m0000000000000009-00000003/",
            "segments/00000007/0000000000001234/m0000000000000009",
            "segments/00000007/000000000000ABCD/m0000000000000009-00000003",
            "wal/00000007/0000000000001234/0000000000000009",
            "segments/é",
            "",
        ] {
            assert!(other.parse::<SegmentObjectId>().is_err(), "{other}");
        }
    }
}
