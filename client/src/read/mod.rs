//! Reading: what to read, what comes, and the session that goes on.

mod batch;
mod session;

use std::time::Duration;

use millrace_api::position::{SeqNum, Timestamp};
use millrace_api::read::{ReadLimits, ReadRequest, ReadStart};

pub use self::batch::ReadBatch;
pub use self::session::ReadSession;

/// Where a read starts and where it ends.
///
/// Without a limit a read session follows the stream for ever. With one, it ends at the limit, or when
/// [`wait`](Self::wait) has passed without a record; without a wait, at the tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadOptions(ReadRequest);

impl ReadOptions {
    /// From this sequence number, or the first one after it that is still there.
    pub fn from_seq_num(seq_num: SeqNum) -> Self {
        Self::from(ReadStart::SeqNum(seq_num))
    }

    /// From the first record with this timestamp or a later one.
    pub fn from_timestamp(timestamp: Timestamp) -> Self {
        Self::from(ReadStart::Timestamp(timestamp))
    }

    /// From so many records before the tail; from the first one if there are fewer.
    pub fn from_tail_offset(records: u64) -> Self {
        Self::from(ReadStart::TailOffset(records))
    }

    /// Only what is appended from now on.
    pub fn from_tail() -> Self {
        Self::from_tail_offset(0)
    }

    /// A start beyond the tail becomes the tail, instead of an error.
    #[must_use]
    pub fn clamp(mut self) -> Self {
        self.0.clamp = true;
        self
    }

    /// Ends after so many records; 0 reads nothing.
    #[must_use]
    pub fn count(mut self, records: usize) -> Self {
        self.0.limits.count = Some(records);
        self
    }

    /// Ends before the record that would exceed so many metered bytes.
    #[must_use]
    pub fn bytes(mut self, metered_bytes: usize) -> Self {
        self.0.limits.bytes = Some(metered_bytes);
        self
    }

    /// Ends before the first record with this timestamp or a later one.
    #[must_use]
    pub fn until(mut self, timestamp: Timestamp) -> Self {
        self.0.limits.until = Some(timestamp);
        self
    }

    /// How long to wait at the tail for the next record.
    #[must_use]
    pub fn wait(mut self, wait: Duration) -> Self {
        self.0.wait = Some(wait);
        self
    }

    pub(crate) fn request(self) -> ReadRequest {
        self.0
    }
}

impl From<ReadStart> for ReadOptions {
    fn from(start: ReadStart) -> Self {
        Self(ReadRequest {
            start,
            clamp: false,
            limits: ReadLimits::default(),
            wait: None,
        })
    }
}
