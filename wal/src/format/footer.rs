//! The footer: an index of the frames, readable from the end of the object.
//!
//! Entries (each: 8 bytes of offset, then the frame header as stored), the header's first 72 bytes, then the trailer:
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 4 | number of entries |
//! | 4 | 4 | length of the footer, trailer included |
//! | 8 | 4 | CRC32C of the footer up to here |
//! | 12 | 8 | magic `MRWFOOT1` |

use bytes::{BufMut, Bytes, BytesMut};

use super::field::{u32_at, u64_at};
use super::header::{CHUNK_HEADER_LEN, ChunkMeta, HEADER_COPY_LEN, decode_copy, encode_copy};
use super::{CHUNK_LEN_MAX, FRAME_HEADER_LEN, FormatError, FrameHeader};

/// Bytes of one entry.
pub const FOOTER_ENTRY_LEN: usize = 8 + FRAME_HEADER_LEN;
/// Bytes at the very end of an object that tell how long its footer is.
pub const FOOTER_TRAILER_LEN: usize = 20;
const MAGIC: [u8; 8] = *b"MRWFOOT1";
const CRC_IN_TRAILER: usize = 8;

/// Where a frame stands, and all that its header says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FooterEntry {
    /// From the start of the object, in bytes.
    pub offset: u64,
    pub header: FrameHeader,
}

impl FooterEntry {
    /// The offset behind the frame.
    pub fn end(&self) -> u64 {
        self.offset.saturating_add(self.header.frame_len())
    }
}

/// The index of an object.
///
/// - Frames follow each other without gaps from the end of the header to the start of the footer.
/// - A seal has none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Footer {
    pub meta: ChunkMeta,
    /// Length of the whole object in bytes.
    pub len: u64,
    pub entries: Vec<FooterEntry>,
}

/// What the last bytes of an object gave.
#[derive(Debug)]
pub enum FooterSuffix {
    Whole(Footer),
    /// The footer is longer than what was read: read this many bytes from the end.
    Longer {
        suffix_len: u64,
    },
}

impl Footer {
    /// Bytes of a footer with `entries` entries.
    pub const fn encoded_len(entries: usize) -> usize {
        entries * FOOTER_ENTRY_LEN + HEADER_COPY_LEN + FOOTER_TRAILER_LEN
    }

    pub(super) fn encode(&self) -> Bytes {
        let len = Self::encoded_len(self.entries.len());
        let mut out = BytesMut::with_capacity(len);
        for entry in &self.entries {
            out.put_u64_le(entry.offset);
            out.put_slice(&entry.header.encode());
        }
        out.put_slice(&encode_copy(&self.meta, self.len));
        out.put_u32_le(self.entries.len() as u32);
        out.put_u32_le(len as u32);
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.put_slice(&MAGIC);
        out.freeze()
    }

    /// Reads a footer from the last bytes of an object, as many of them as `suffix` has. Bytes before the footer
    /// are ignored. Memory use is bounded by the length of `suffix`.
    pub fn decode(suffix: &[u8]) -> Result<FooterSuffix, FormatError> {
        let Some(trailer) = suffix.last_chunk::<FOOTER_TRAILER_LEN>() else {
            return Err(FormatError::Truncated {
                need: FOOTER_TRAILER_LEN as u64,
                have: suffix.len() as u64,
            });
        };
        if trailer[12..] != MAGIC {
            return Err(FormatError::BadMagic { what: "footer" });
        }
        let count = u64::from(u32_at(trailer, 0));
        let len = u64::from(u32_at(trailer, 4));
        if len > CHUNK_LEN_MAX {
            return Err(FormatError::TooLarge {
                len,
                max: CHUNK_LEN_MAX,
            });
        }
        if len != count * FOOTER_ENTRY_LEN as u64 + (HEADER_COPY_LEN + FOOTER_TRAILER_LEN) as u64 {
            return Err(FormatError::BadField {
                what: "footer length",
            });
        }
        if len > suffix.len() as u64 {
            return Ok(FooterSuffix::Longer { suffix_len: len });
        }
        let footer = &suffix[suffix.len() - len as usize..];
        let crc_at = footer.len() - FOOTER_TRAILER_LEN + CRC_IN_TRAILER;
        if crc32c::crc32c(&footer[..crc_at]) != u32_at(footer, crc_at) {
            return Err(FormatError::BadCrc { what: "footer" });
        }
        Self::decode_checked(footer, count as usize).map(FooterSuffix::Whole)
    }

    /// `footer` is a whole footer with a good CRC and `count` entries.
    fn decode_checked(footer: &[u8], count: usize) -> Result<Self, FormatError> {
        let (encoded, rest) = footer.split_at(count * FOOTER_ENTRY_LEN);
        let (meta, len) = decode_copy(rest)?;
        if meta.kind.is_seal() && count != 0 {
            return Err(FormatError::BadField {
                what: "frames of a seal",
            });
        }
        let mut entries = Vec::with_capacity(count);
        let mut next = CHUNK_HEADER_LEN as u64;
        for encoded in encoded.chunks_exact(FOOTER_ENTRY_LEN) {
            let entry = FooterEntry {
                offset: u64_at(encoded, 0),
                header: FrameHeader::decode(&encoded[8..])?,
            };
            if entry.offset != next {
                return Err(FormatError::BadField { what: "frame offset" });
            }
            next = entry.end();
            entries.push(entry);
        }
        if next.checked_add(footer.len() as u64) != Some(len) {
            return Err(FormatError::BadField { what: "chunk length" });
        }
        Ok(Self { meta, len, entries })
    }
}
