//! The footer: all runs of an object, readable from its end.
//!
//! An [entry](super::Run) per run, the header's first 36 bytes, 8 bytes with the length of the whole object, then the
//! trailer:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | number of runs |
//! | 4 | 4 | length of the footer, trailer included |
//! | 8 | 4 | CRC32C of the footer up to here |
//! | 12 | 8 | magic `MRWSEGF1` |

use bytes::{BufMut, BytesMut};
use millrace_api::segment::SegmentObjectId;

use super::header::{HEADER_COPY_LEN, decode_copy, encode_copy};
use super::run::{RUN_ENTRY_LEN, Run};
use super::{SEGMENT_FOOTER_LEN_MAX, SEGMENT_HEADER_LEN, SEGMENT_OBJECT_LEN_MAX};
use crate::format::FormatError;
use crate::format::field::{u32_at, u64_at};

/// Bytes at the very end of an object that tell how long its footer is.
const TRAILER_LEN: usize = 20;
const CRC_IN_TRAILER: usize = 8;
const MAGIC: [u8; 8] = *b"MRWSEGF1";

/// What an object says about itself.
///
/// - Runs follow each other without gaps from the end of the header to the start of the footer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentFooter {
    pub id: SegmentObjectId,
    /// Length of the whole object in bytes.
    pub len: u64,
    /// In the order in which they stand. A stream may have more than one.
    pub runs: Vec<Run>,
}

/// What the last bytes of an object gave.
#[derive(Debug)]
pub enum SegmentSuffix {
    Whole(SegmentFooter),
    /// The footer is longer than what was read: read this many bytes from the end.
    Longer {
        suffix_len: u64,
    },
}

impl SegmentFooter {
    /// Bytes of a footer with so many runs.
    pub const fn encoded_len(runs: usize) -> usize {
        runs * RUN_ENTRY_LEN + HEADER_COPY_LEN + size_of::<u64>() + TRAILER_LEN
    }

    pub(super) fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        let footer_len = Self::encoded_len(self.runs.len());
        out.reserve(footer_len);
        for run in &self.runs {
            out.put_slice(&run.encode());
        }
        out.put_slice(&encode_copy(&self.id));
        out.put_u64_le(self.len);
        out.put_u32_le(self.runs.len() as u32);
        out.put_u32_le(footer_len as u32);
        let crc = crc32c::crc32c(&out[start..]);
        out.put_u32_le(crc);
        out.put_slice(&MAGIC);
    }

    /// Reads a footer from the last bytes of an object, as many of them as `suffix` has. Bytes before the footer are
    /// ignored. Memory use is bounded by the length of `suffix`.
    pub fn decode(suffix: &[u8]) -> Result<SegmentSuffix, FormatError> {
        let Some(trailer) = suffix.last_chunk::<TRAILER_LEN>() else {
            return Err(FormatError::Truncated {
                need: TRAILER_LEN as u64,
                have: suffix.len() as u64,
            });
        };
        if trailer[12..] != MAGIC {
            return Err(FormatError::BadMagic {
                what: "segment object footer",
            });
        }
        let count = u64::from(u32_at(trailer, 0));
        let len = u64::from(u32_at(trailer, 4));
        if len > SEGMENT_FOOTER_LEN_MAX {
            return Err(FormatError::TooLarge {
                len,
                max: SEGMENT_FOOTER_LEN_MAX,
            });
        }
        if len != count * RUN_ENTRY_LEN as u64 + Self::encoded_len(0) as u64 {
            return Err(FormatError::BadField {
                what: "footer length",
            });
        }
        if len > suffix.len() as u64 {
            return Ok(SegmentSuffix::Longer { suffix_len: len });
        }
        let footer = &suffix[suffix.len() - len as usize..];
        let crc_at = footer.len() - TRAILER_LEN + CRC_IN_TRAILER;
        if crc32c::crc32c(&footer[..crc_at]) != u32_at(footer, crc_at) {
            return Err(FormatError::BadCrc {
                what: "segment object footer",
            });
        }
        Self::decode_checked(footer, count as usize).map(SegmentSuffix::Whole)
    }

    /// `footer` is a whole footer with a good CRC and `count` runs.
    fn decode_checked(footer: &[u8], count: usize) -> Result<Self, FormatError> {
        let (entries, rest) = footer.split_at(count * RUN_ENTRY_LEN);
        let id = decode_copy(rest)?;
        let len = u64_at(rest, HEADER_COPY_LEN);
        if len > SEGMENT_OBJECT_LEN_MAX {
            return Err(FormatError::TooLarge {
                len,
                max: SEGMENT_OBJECT_LEN_MAX,
            });
        }
        let mut runs = Vec::with_capacity(count);
        let mut next = SEGMENT_HEADER_LEN as u64;
        for entry in entries.chunks_exact(RUN_ENTRY_LEN) {
            let run = Run::decode(entry)?;
            if run.offset != next {
                return Err(FormatError::BadField { what: "run offset" });
            }
            next = run.end();
            runs.push(run);
        }
        if next.checked_add(footer.len() as u64) != Some(len) {
            return Err(FormatError::BadField {
                what: "segment object length",
            });
        }
        Ok(Self { id, len, runs })
    }
}
