//! Commands that bring segments, put them together, and let them go.

use millrace_api::id::{ChannelId, Epoch, FlushSeq, StreamId, StreamletId};
use millrace_api::position::{SeqNum, StreamPosition, Timestamp};
use millrace_api::segment::SegmentObjectId;

use crate::state::record::{Fencing, Slot};

/// Entries of [`CommitFlush::streams`]; also [`CommitMerge::runs`], and the sources of all of them together.
pub const FLUSH_STREAMS_MAX: usize = 65_536;

/// Objects of one [`CommitFlush`], [`CommitMerge`] or [`ForgetObjects`].
pub const FLUSH_OBJECTS_MAX: usize = 4096;

/// Segments that one [`DropSegments`] or [`ExpireSegments`] may drop. Zero and larger limits mean this.
pub const DROP_LIMIT_MAX: u32 = 1000;

/// The records of a channel between two slots are in segments: moves the channel's checkpoint, and the flushed
/// position of every stream that it names.
///
/// Refused unless `epoch` is the current one of the channel, with an owner, activated and not sealed; `flush_seq`
/// is one more than the last; `from` is the checkpoint. The flush that was committed last is answered again. Its owner
/// took `flush_seq` from the channel as it stood after the activation of its own epoch.
///
/// A stream that is gone, or whose open streamlet is another, is passed over; what it has in the objects is dead from
/// the start. A deleting stream takes its segments like any other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitFlush {
    pub channel: ChannelId,
    pub epoch: Epoch,
    /// From 1.
    pub flush_seq: FlushSeq,
    pub from: Slot,
    /// Where a replay starts afterwards: the first slot that is not flushed. In an earlier epoch, at most its end.
    pub through: Slot,
    /// At most [`FLUSH_OBJECTS_MAX`]; durable before this is proposed, under the names of `channel`, `epoch`,
    /// `flush_seq` and their parts.
    pub objects: Vec<FlushedObject>,
    /// At most [`FLUSH_STREAMS_MAX`]. A stream may stand there several times, its runs in the order of their records.
    pub streams: Vec<FlushedStream>,
    pub now_ms: u64,
}

/// An object as it was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushedObject {
    pub part: u32,
    /// Bytes; at least 1.
    pub len: u64,
}

/// A streamlet as it is at the end of a flush. Nothing in it speaks of records from `tail` on: what they changed
/// comes with the flush that holds them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlushedStream {
    pub stream: StreamId,
    pub streamlet: StreamletId,
    /// The end of the run; without one the position that was flushed before.
    pub tail: StreamPosition,
    /// The token that was set last below `tail`.
    pub fencing: Fencing,
    /// Earliest sequence number to keep; at most `tail`.
    pub trim: SeqNum,
    /// As in [`super::DeactivateStream`]; at most `tail`.
    pub forgotten: SeqNum,
    /// Every record from the position that was flushed before.
    pub run: Option<FlushedRun>,
}

/// A run of records of one stream in an object: frames, and their index right behind them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushedRun {
    pub part: u32,
    /// Where the frames begin.
    pub offset: u64,
    /// Bytes; at least 1.
    pub frames_len: u64,
    /// Bytes.
    pub index_len: u32,
    pub first_seq: SeqNum,
    pub first_timestamp: Timestamp,
    pub metered_bytes: u64,
}

/// One bounded step of dropping segments that nobody may read any more, oldest first: every one of a deleting stream
/// for which nobody can answer, those wholly below the trim point of any other. To be proposed again until it answers
/// that it is done, and where it answers that they are packed, after an [`UnpackChain`](super::UnpackChain). A stream
/// that is gone has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DropSegments {
    pub stream: StreamId,
    /// See [`DROP_LIMIT_MAX`].
    pub limit: u32,
    pub now_ms: u64,
}

/// One bounded step of retention: drops segments, oldest first, up to the first with a record that was appended
/// later than `appended_before_ms`, and raises the trim point to where the rest begins. To be proposed again like
/// [`DropSegments`]. Refused unless the retention that is in force lets go of all that was appended until
/// then. A stream that is gone has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExpireSegments {
    pub stream: StreamId,
    /// Inclusive.
    pub appended_before_ms: u64,
    /// See [`DROP_LIMIT_MAX`].
    pub limit: u32,
    pub now_ms: u64,
}

/// The bytes of dead objects were deleted from every store. Refused, as a whole, if one of them is live. An unknown
/// one was forgotten before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ForgetObjects {
    /// At most [`FLUSH_OBJECTS_MAX`].
    pub objects: Vec<SegmentObjectId>,
}

/// Marks a stream as deleting if delete-on-empty says so: it rests, every record is trimmed and dropped, and that for
/// as long as its configuration in force asks. A stream that is deleting already keeps its first mark.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeleteEmptyStream {
    pub stream: StreamId,
    pub now_ms: u64,
}

/// Puts runs of several objects in their place together into new objects. Epoch and `merge_seq` are judged like those
/// of [`CommitFlush`].
///
/// A run takes the place of its sources if they stand there exactly so. Otherwise it is passed over, and dead from
/// the start: some of them may have been trimmed, expired or merged meanwhile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommitMerge {
    pub channel: ChannelId,
    pub epoch: Epoch,
    /// From 1, in a count of its own.
    pub merge_seq: FlushSeq,
    /// As in [`CommitFlush::objects`].
    pub objects: Vec<FlushedObject>,
    /// At most [`FLUSH_STREAMS_MAX`].
    pub runs: Vec<MergedRun>,
    pub now_ms: u64,
}

/// A run of records of one stream that was copied from other objects. Its place in the new object is said as in
/// [`FlushedRun`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MergedRun {
    pub stream: StreamId,
    pub part: u32,
    pub offset: u64,
    pub frames_len: u64,
    pub index_len: u32,
    pub first_seq: SeqNum,
    pub first_timestamp: Timestamp,
    /// Exclusive.
    pub end_seq: SeqNum,
    pub last_timestamp: Timestamp,
    /// The sum over the sources.
    pub metered_bytes: u64,
    /// The latest of the sources.
    pub appended_before_ms: u64,
    /// Of the segments that it takes the place of, in order; at least one.
    pub sources: Vec<SegmentObjectId>,
}

/// What a flush came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Flushed {
    /// A state that has applied this entry has the flush.
    pub log_index: u64,
}

/// What one step of dropping came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentsDropped {
    pub dropped: u32,
    /// There is no other to drop now.
    pub done: bool,
    /// The next one to drop is in an index, which comes first in the chain.
    pub packed: bool,
}

/// What a merge came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Merged {
    /// A state that has applied this entry has the merge.
    pub log_index: u64,
    /// Segments in whose place others stand now; 0 if the merge had been committed before.
    pub replaced: u32,
}
