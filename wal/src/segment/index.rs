//! The index of a run: where its frames begin, and with which record.
//!
//! An entry per frame, in order, then the trailer:
//!
//! | offset in the entry | bytes | field |
//! |---|---|---|
//! | 0 | 8 | offset of the frame from the start of the run |
//! | 8 | 8 | first sequence number |
//! | 16 | 8 | first timestamp |
//!
//! | offset in the trailer | bytes | field |
//! |---|---|---|
//! | 0 | 4 | number of entries, at least 1 |
//! | 4 | 4 | CRC32C of the index up to here |

use bytes::{BufMut, BytesMut};
use millrace_api::position::{SeqNum, Timestamp};

use crate::format::FormatError;
use crate::format::field::{u32_at, u64_at};

const ENTRY_LEN: usize = 24;
const TRAILER_LEN: usize = 8;

/// Where a frame of a run begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RunIndexEntry {
    /// From the start of the run, in bytes.
    pub offset: u64,
    pub first_seq: SeqNum,
    pub first_timestamp: Timestamp,
}

/// All frames of a run, in order.
///
/// - At least one entry, the first at offset 0.
/// - Offsets and sequence numbers grow from entry to entry; timestamps never decrease.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RunIndex {
    entries: Vec<RunIndexEntry>,
}

impl RunIndex {
    /// Bytes of the index of so many frames.
    pub const fn encoded_len(frames: usize) -> usize {
        frames * ENTRY_LEN + TRAILER_LEN
    }

    pub fn entries(&self) -> &[RunIndexEntry] {
        &self.entries
    }

    /// The frame that holds the record, if the run does: the last that does not begin behind it. The first frame for
    /// a record before the run.
    pub fn seek_seq_num(&self, seq_num: SeqNum) -> RunIndexEntry {
        self.last_where(|entry| entry.first_seq <= seq_num)
    }

    /// The frame from which the first record with at least this timestamp is looked for; it is there or in the next
    /// one. A frame that begins with the timestamp does not count, because the one before may end with it.
    pub fn seek_timestamp(&self, timestamp: Timestamp) -> RunIndexEntry {
        self.last_where(|entry| entry.first_timestamp < timestamp)
    }

    /// The last of the leading entries for which the predicate holds, or the first entry.
    fn last_where(&self, holds: impl Fn(&RunIndexEntry) -> bool) -> RunIndexEntry {
        let behind = self.entries.partition_point(holds);
        self.entries[behind.saturating_sub(1)]
    }

    pub(super) fn encode(entries: &[RunIndexEntry], out: &mut BytesMut) {
        let start = out.len();
        for entry in entries {
            out.put_u64_le(entry.offset);
            out.put_u64_le(entry.first_seq);
            out.put_u64_le(entry.first_timestamp);
        }
        out.put_u32_le(entries.len() as u32);
        let crc = crc32c::crc32c(&out[start..]);
        out.put_u32_le(crc);
    }

    /// Reads an index, exactly as long as `bytes`. Memory use is bounded by that length.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let Some(trailer) = bytes.last_chunk::<TRAILER_LEN>() else {
            return Err(FormatError::Truncated {
                need: TRAILER_LEN as u64,
                have: bytes.len() as u64,
            });
        };
        let count = u64::from(u32_at(trailer, 0));
        let expected = count * ENTRY_LEN as u64 + TRAILER_LEN as u64;
        if expected != bytes.len() as u64 {
            return Err(FormatError::Length {
                expected,
                have: bytes.len() as u64,
            });
        }
        let crc_at = bytes.len() - size_of::<u32>();
        if crc32c::crc32c(&bytes[..crc_at]) != u32_at(bytes, crc_at) {
            return Err(FormatError::BadCrc { what: "run index" });
        }
        let entries = bytes[..bytes.len() - TRAILER_LEN].chunks_exact(ENTRY_LEN);
        let entries = entries.map(|entry| RunIndexEntry {
            offset: u64_at(entry, 0),
            first_seq: u64_at(entry, 8),
            first_timestamp: u64_at(entry, 16),
        });
        let index = Self {
            entries: entries.collect(),
        };
        index.check()?;
        Ok(index)
    }

    fn check(&self) -> Result<(), FormatError> {
        let begins = self.entries.first().is_some_and(|first| first.offset == 0);
        let ordered = self.entries.windows(2).all(|pair| {
            pair[0].offset < pair[1].offset
                && pair[0].first_seq < pair[1].first_seq
                && pair[0].first_timestamp <= pair[1].first_timestamp
        });
        if begins && ordered {
            Ok(())
        } else {
            Err(FormatError::BadField {
                what: "run index entry",
            })
        }
    }
}
