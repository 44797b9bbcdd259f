//! Where a record stands in its stream.

use serde::{Deserialize, Serialize};

/// Sequence number of a record: dense from 0 within one incarnation of a stream.
pub type SeqNum = u64;
/// Milliseconds since the Unix epoch whenever the server supplies or caps it; else as the client gave it.
pub type Timestamp = u64;

/// A record's place, or a stream's tail: then `seq_num` is the next to be assigned and `timestamp` that of the
/// last record. A new stream's tail is `{0, 0}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct StreamPosition {
    pub seq_num: SeqNum,
    pub timestamp: Timestamp,
}

impl StreamPosition {
    pub const fn new(seq_num: SeqNum, timestamp: Timestamp) -> Self {
        Self { seq_num, timestamp }
    }
}
