//! Commands that move the oldest segments of a long chain into an index in the object store, and back.

use millrace_api::id::{ChannelId, Epoch, FlushSeq, StreamId};
use millrace_api::position::SeqNum;
use millrace_api::segment::SegmentObjectId;

use super::FlushedObject;
use crate::state::segment::PackedSegment;

/// Segments of one [`PackChain`] or [`UnpackChain`].
pub const PACK_SEGMENTS_MAX: u32 = 4096;

/// Puts one row in the place of those of segments that follow each other: from its commit on, what they say stands in
/// the index alone, which was written before this is proposed. Epoch and `pack_seq` are judged like those of
/// [`super::CommitFlush`].
///
/// Passed over, and the index dead from the start, if the rows are not what the checksum was computed over: some of
/// them may have been trimmed, expired or merged meanwhile. So are rows that were in an index before, and those of a
/// stream that is deleting or gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackChain {
    pub channel: ChannelId,
    pub epoch: Epoch,
    /// From 1, in a count of its own.
    pub pack_seq: FlushSeq,
    pub object: FlushedObject,
    pub stream: StreamId,
    pub first_seq: SeqNum,
    /// Exclusive.
    pub end_seq: SeqNum,
    /// At least 1 and at most [`PACK_SEGMENTS_MAX`].
    pub segments: u32,
    /// [`PackedSegment::checksum`] of them.
    pub checksum: u32,
    pub now_ms: u64,
}

/// Brings back the rows of segments that are in an index, if it comes first in its stream's chain; the index is dead
/// then. Whatever lets go of segments works on their rows.
///
/// Refused if the segments are not those that were packed. Passed over if another row comes first: somebody else was
/// quicker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UnpackChain {
    pub stream: StreamId,
    /// The index that they were in.
    pub index: SegmentObjectId,
    /// All of them, in order.
    pub segments: Vec<PackedSegment>,
    pub now_ms: u64,
}

/// What packing came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainPacked {
    /// A state that has applied this entry has the index.
    pub log_index: u64,
    /// Segments that are in the index now; 0 if they were passed over, or committed before.
    pub segments: u32,
}

/// What unpacking came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainUnpacked {
    /// Segments that have rows again; 0 if the index did not come first.
    pub segments: u32,
}
