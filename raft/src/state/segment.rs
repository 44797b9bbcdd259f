//! Segments, and the objects that hold them.

use millrace_api::id::StreamId;
use millrace_api::position::{SeqNum, Timestamp};
use millrace_api::segment::SegmentObjectId;

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
/// * `live_runs` and `live_bytes` count the segments that name it.
/// * It is dead exactly when there are none. Nothing comes to name a dead object again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentObjectRow {
    /// Bytes.
    pub len: u64,
    pub live_runs: u64,
    /// Bytes of frames and indexes of live segments.
    pub live_bytes: u64,
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
            committed_at_ms: self.committed_at_ms,
            dead_at_ms: self.death.map(|death| death.at_ms),
        }
    }
}
