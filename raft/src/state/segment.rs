//! Segments, the indexes that stand for many of them, and the objects that hold both.

use millrace_api::id::StreamId;
use millrace_api::position::{SeqNum, Timestamp};
use millrace_api::segment::SegmentObjectId;
use prost::Message;

use crate::codec::segments::packed_message;

/// One link of a stream's chain. Links tile the stream; their keys say where they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainRow {
    Segment(SegmentRow),
    Index(IndexRow),
}

impl ChainRow {
    pub fn first_seq(&self) -> SeqNum {
        match self {
            Self::Segment(row) => row.first_seq,
            Self::Index(row) => row.first_seq,
        }
    }

    /// The row of a segment; `None` for an index.
    pub fn segment(&self) -> Option<&SegmentRow> {
        match self {
            Self::Segment(row) => Some(row),
            Self::Index(_) => None,
        }
    }
}

/// Segments of a stream that follow each other, and whose rows are in an object. Its key says where they end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexRow {
    pub first_seq: SeqNum,
    pub first_timestamp: Timestamp,
    pub last_timestamp: Timestamp,
    /// The index. All of its bytes are alive.
    pub object: SegmentObjectId,
    pub segments: u32,
    /// The sum over the segments, in their objects.
    pub bytes: u64,
    pub metered_bytes: u64,
    /// The latest of the segments.
    pub appended_before_ms: u64,
    /// Where its first segment ends; exclusive.
    pub first_end: SeqNum,
    /// Of its first segment.
    pub first_appended_before_ms: u64,
    /// [`PackedSegment::checksum`] of the segments.
    pub checksum: u32,
}

/// A segment as it stands in an index: all that its row says and what is to be known of its object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PackedSegment {
    /// Exclusive.
    pub end_seq: SeqNum,
    pub row: SegmentRow,
    /// Bytes of the whole object.
    pub object_len: u64,
    pub committed_at_ms: u64,
    /// Nothing else in the object was alive when the segment was packed: then the object has no row.
    pub alone: bool,
}

impl PackedSegment {
    /// CRC32C over the encoding of segments, each with its length.
    pub fn checksum(segments: &[Self]) -> u32 {
        segments.iter().fold(0, |crc, packed| {
            crc32c::crc32c_append(crc, &packed_message(packed).encode_length_delimited_to_vec())
        })
    }
}

/// What an index took from metadata besides rows of segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainIndexRow {
    pub stream: StreamId,
    /// First and last of the objects, channel by channel, that have no row because of it.
    pub names: Vec<(SegmentObjectId, SegmentObjectId)>,
}

/// An index with where it ends, and how long it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainIndexRecord {
    pub stream: StreamId,
    /// Exclusive.
    pub end_seq: SeqNum,
    pub row: IndexRow,
    /// Bytes of the index itself.
    pub object_len: u64,
}

/// One segment of a stream. Its key says where it ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRow {
    pub first_seq: SeqNum,
    pub first_timestamp: Timestamp,
    pub last_timestamp: Timestamp,
    pub object: SegmentObjectId,
    /// Where its frames begin in the object. Their index stands right behind them.
    pub offset: u64,
    pub frames_len: u64,
    pub index_len: u32,
    pub metered_bytes: u64,
    /// No record of it was appended later, by the clock of the node that flushed it.
    pub appended_before_ms: u64,
}

impl SegmentRow {
    /// Bytes that it takes in its object.
    pub fn bytes(&self) -> u64 {
        self.frames_len.saturating_add(self.index_len.into())
    }
}

/// A segment with where it ends, and how long its object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentRecord {
    pub stream: StreamId,
    /// Exclusive.
    pub end_seq: SeqNum,
    pub row: SegmentRow,
    /// Bytes of the whole object.
    pub object_len: u64,
}

/// The row of an object that holds segments.
///
/// * `live_runs` and `live_bytes` count the segments that name it; those of an index, the index. `packed_runs` and
///   `packed_bytes` are what of these is in an index.
/// * It is dead exactly when there are none. Nothing comes to name a dead object again.
/// * An object whose live runs are in an index without another beside them has no row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentObjectRow {
    /// Bytes.
    pub len: u64,
    pub live_runs: u64,
    /// Bytes of frames and indexes of live segments.
    pub live_bytes: u64,
    pub packed_runs: u64,
    pub packed_bytes: u64,
    pub committed_at_ms: u64,
    pub death: Option<Death>,
}

/// Since when no segment names an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Death {
    pub at_ms: u64,
    /// Where the log says so.
    pub log_index: u64,
}

/// An object that holds segments, or held some.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentObjectRecord {
    pub object: SegmentObjectId,
    /// Bytes.
    pub len: u64,
    pub live_runs: u64,
    /// Bytes of frames and indexes of live segments.
    pub live_bytes: u64,
    /// Of these: named by an index only.
    pub packed_runs: u64,
    pub packed_bytes: u64,
    pub committed_at_ms: u64,
    /// Since when no segment names it, and its bytes are to be deleted.
    pub dead_at_ms: Option<u64>,
}

impl SegmentObjectRow {
    pub(crate) fn record(self, object: SegmentObjectId) -> SegmentObjectRecord {
        SegmentObjectRecord {
            object,
            len: self.len,
            live_runs: self.live_runs,
            live_bytes: self.live_bytes,
            packed_runs: self.packed_runs,
            packed_bytes: self.packed_bytes,
            committed_at_ms: self.committed_at_ms,
            dead_at_ms: self.death.map(|death| death.at_ms),
        }
    }
}
