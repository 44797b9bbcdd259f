//! Column families of the state database, and the layout of their keys.
//!
//! Numbers are big-endian, so that byte order is number order. A name stands last in a key, as it is, so that names
//! are in byte order and need no escape. Family names are stored: one that was used once is never given to anything
//! else.

/// One kind of key.
///
/// | family | key | value |
/// |---|---|---|
/// | `system` | text | `applied`: `Applied`; `cell`: `Cell` |
/// | `zones` | zone u32 | `Zone` |
/// | `nodes` | node u64 | `Node` |
/// | `channels` | channel u32 | `Channel` |
/// | `epochs` | channel u32, epoch u64 | `EpochState`: every epoch from the checkpoint's on |
/// | `basins` | basin name | `Basin` |
/// | `basin_ids` | basin id u128 | `BasinId`: the name |
/// | `deleting_basins` | basin id u128 | `DeletingBasin` |
/// | `stream_names` | basin id u128, stream name | `StreamName`: what a listing shows |
/// | `streams` | stream id u128 | `Stream` |
/// | `channel_streamlets` | channel u32, stream id u128 | `ChannelStreamlet`: open there |
/// | `deleting_streams` | log index of the mark u64, stream id u128 | `DeletingStream` |
/// | `segments` | stream id u128, last seq_num u64 | `Segment`: the first key from a seq_num on is the segment with it, or the index that has it |
/// | `segment_objects` | object | `SegmentObject` |
/// | `dead_objects` | log index of the death u64, object | `DeadObject`: its bytes are to be deleted |
/// | `trimmed_streams` | stream id u128 | `TrimmedStream`: its first segment is wholly below its trim point |
/// | `chain_indexes` | object | `ChainIndex`: a row of `segments` names it |
///
/// An object is: channel u32, epoch u64, origin u8 (1 flush, 2 merge, 3 index), seq u64, part u32.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    System,
    Zones,
    Nodes,
    Channels,
    Epochs,
    Basins,
    BasinIds,
    DeletingBasins,
    StreamNames,
    Streams,
    ChannelStreamlets,
    DeletingStreams,
    Segments,
    SegmentObjects,
    DeadObjects,
    TrimmedStreams,
    ChainIndexes,
}

impl Family {
    pub const ALL: [Family; 17] = [
        Family::System,
        Family::Zones,
        Family::Nodes,
        Family::Channels,
        Family::Epochs,
        Family::Basins,
        Family::BasinIds,
        Family::DeletingBasins,
        Family::StreamNames,
        Family::Streams,
        Family::ChannelStreamlets,
        Family::DeletingStreams,
        Family::Segments,
        Family::SegmentObjects,
        Family::DeadObjects,
        Family::TrimmedStreams,
        Family::ChainIndexes,
    ];

    /// The name under which the family is stored.
    pub const fn name(self) -> &'static str {
        match self {
            Family::System => "system",
            Family::Zones => "zones",
            Family::Nodes => "nodes",
            Family::Channels => "channels",
            Family::Epochs => "epochs",
            Family::Basins => "basins",
            Family::BasinIds => "basin_ids",
            Family::DeletingBasins => "deleting_basins",
            Family::StreamNames => "stream_names",
            Family::Streams => "streams",
            Family::ChannelStreamlets => "channel_streamlets",
            Family::DeletingStreams => "deleting_streams",
            Family::Segments => "segments",
            Family::SegmentObjects => "segment_objects",
            Family::DeadObjects => "dead_objects",
            Family::TrimmedStreams => "trimmed_streams",
            Family::ChainIndexes => "chain_indexes",
        }
    }
}

/// The least key that is greater than every key with this prefix; `None` if there is none.
pub fn prefix_end(prefix: &[u8]) -> Option<Vec<u8>> {
    let keep = prefix.iter().rposition(|b| *b != u8::MAX)?;
    let mut end = prefix[..=keep].to_vec();
    end[keep] += 1;
    Some(end)
}

/// The least key that is greater than this one.
pub fn key_after(key: &[u8]) -> Vec<u8> {
    let mut after = Vec::with_capacity(key.len() + 1);
    after.extend_from_slice(key);
    after.push(0);
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefix_end_is_the_first_key_outside() {
        assert_eq!(prefix_end(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(prefix_end(&[1, 255]), Some(vec![2]));
        assert_eq!(prefix_end(&[255, 255]), None);
        assert_eq!(prefix_end(b""), None);
    }

    #[test]
    fn family_names_are_distinct() {
        let names: std::collections::BTreeSet<_> = Family::ALL.iter().map(|f| f.name()).collect();
        assert_eq!(names.len(), Family::ALL.len());
    }
}
