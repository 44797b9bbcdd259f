//! One stream's part of a segment object, as the footer tells it.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 16 | stream id, big-endian |
//! | 16 | 8 | first sequence number |
//! | 24 | 8 | sequence number behind the last |
//! | 32 | 8 | first timestamp |
//! | 40 | 8 | last timestamp |
//! | 48 | 8 | metered bytes |
//! | 56 | 8 | offset in the object |
//! | 64 | 8 | length of the frames |
//! | 72 | 4 | length of the index behind them |

use millrace_api::id::StreamId;
use millrace_api::position::{SeqNum, Timestamp};

use crate::format::FormatError;
use crate::format::field::{array, put, u32_at, u64_at};

/// Bytes of a run's entry in the footer.
pub(super) const RUN_ENTRY_LEN: usize = 76;

/// Contiguous records of one stream within an object.
///
/// - At least one record: `first_seq < end_seq`. Timestamps never decrease along it.
/// - The frames are at `offset` and `frames_len` bytes long; the index follows them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Run {
    pub stream: StreamId,
    pub first_seq: SeqNum,
    /// Exclusive.
    pub end_seq: SeqNum,
    /// Of the first record.
    pub first_timestamp: Timestamp,
    /// Of the last record.
    pub last_timestamp: Timestamp,
    pub metered_bytes: u64,
    /// From the start of the object, in bytes.
    pub offset: u64,
    /// Bytes of all frames, headers included.
    pub frames_len: u64,
    /// Bytes of the run index.
    pub index_len: u32,
}

impl Run {
    /// Where the index begins, from the start of the object.
    pub fn index_offset(&self) -> u64 {
        self.offset.saturating_add(self.frames_len)
    }

    /// The offset behind the run and its index.
    pub fn end(&self) -> u64 {
        self.index_offset().saturating_add(u64::from(self.index_len))
    }

    pub(super) fn encode(&self) -> [u8; RUN_ENTRY_LEN] {
        let mut out = [0; RUN_ENTRY_LEN];
        put(&mut out, 0, self.stream.to_bytes());
        put(&mut out, 16, self.first_seq.to_le_bytes());
        put(&mut out, 24, self.end_seq.to_le_bytes());
        put(&mut out, 32, self.first_timestamp.to_le_bytes());
        put(&mut out, 40, self.last_timestamp.to_le_bytes());
        put(&mut out, 48, self.metered_bytes.to_le_bytes());
        put(&mut out, 56, self.offset.to_le_bytes());
        put(&mut out, 64, self.frames_len.to_le_bytes());
        put(&mut out, 72, self.index_len.to_le_bytes());
        out
    }

    /// `bytes` is an entry under a good CRC, at least [`RUN_ENTRY_LEN`] of it.
    pub(super) fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let run = Self {
            stream: StreamId::from_bytes(array(bytes, 0)),
            first_seq: u64_at(bytes, 16),
            end_seq: u64_at(bytes, 24),
            first_timestamp: u64_at(bytes, 32),
            last_timestamp: u64_at(bytes, 40),
            metered_bytes: u64_at(bytes, 48),
            offset: u64_at(bytes, 56),
            frames_len: u64_at(bytes, 64),
            index_len: u32_at(bytes, 72),
        };
        if run.first_seq >= run.end_seq || run.first_timestamp > run.last_timestamp {
            return Err(FormatError::BadField { what: "run bounds" });
        }
        Ok(run)
    }
}
