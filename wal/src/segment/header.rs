//! The header of a segment object: its name, so that an object under another's key is found out.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `MRWSEGMT` |
//! | 8 | 2 | format version: 1 |
//! | 10 | 1 | origin: 1 flush, 2 merge |
//! | 11 | 1 | zero |
//! | 12 | 4 | channel |
//! | 16 | 8 | epoch |
//! | 24 | 8 | number of the flush or merge |
//! | 32 | 4 | part |
//! | 36 | 4 | CRC32C of bytes 0 to 36 |

use millrace_api::id::{ChannelId, Epoch, FlushSeq};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};

use crate::format::FormatError;
use crate::format::field::{put, u16_at, u32_at, u64_at};

/// Bytes of an object's header.
pub const SEGMENT_HEADER_LEN: usize = 40;
/// The part of the header that the footer repeats: all but the CRC.
pub(super) const HEADER_COPY_LEN: usize = 36;
const MAGIC: [u8; 8] = *b"MRWSEGMT";
const VERSION: u16 = 1;

pub(super) fn encode(id: &SegmentObjectId) -> [u8; SEGMENT_HEADER_LEN] {
    let mut out = [0; SEGMENT_HEADER_LEN];
    out[..HEADER_COPY_LEN].copy_from_slice(&encode_copy(id));
    let crc = crc32c::crc32c(&out[..HEADER_COPY_LEN]);
    put(&mut out, HEADER_COPY_LEN, crc.to_le_bytes());
    out
}

/// The name that the header at the start of `bytes` says. Magic is judged first, then the version, then the CRC, so that
/// bytes of a later version are reported as such. [`verify_object`](super::verify_object) does all that and more.
pub fn decode(bytes: &[u8]) -> Result<SegmentObjectId, FormatError> {
    let Some(header) = bytes.first_chunk::<SEGMENT_HEADER_LEN>() else {
        return Err(FormatError::Truncated {
            need: SEGMENT_HEADER_LEN as u64,
            have: bytes.len() as u64,
        });
    };
    check_magic_and_version(header)?;
    if crc32c::crc32c(&header[..HEADER_COPY_LEN]) != u32_at(header, HEADER_COPY_LEN) {
        return Err(FormatError::BadCrc {
            what: "segment object header",
        });
    }
    decode_copy(header)
}

pub(super) fn encode_copy(id: &SegmentObjectId) -> [u8; HEADER_COPY_LEN] {
    let mut out = [0; HEADER_COPY_LEN];
    put(&mut out, 0, MAGIC);
    put(&mut out, 8, VERSION.to_le_bytes());
    out[10] = match id.origin {
        SegmentOrigin::Flush => 1,
        SegmentOrigin::Merge => 2,
        // It holds no records and begins with another magic.
        SegmentOrigin::Index => unreachable!("an index is no segment object"),
    };
    put(&mut out, 12, id.channel.0.to_le_bytes());
    put(&mut out, 16, id.epoch.0.to_le_bytes());
    put(&mut out, 24, id.seq.0.to_le_bytes());
    put(&mut out, 32, id.part.to_le_bytes());
    out
}

/// Reads what header and footer share. The caller has checked a CRC over it and passes at least [`HEADER_COPY_LEN`]
/// bytes.
pub(super) fn decode_copy(bytes: &[u8]) -> Result<SegmentObjectId, FormatError> {
    check_magic_and_version(bytes)?;
    let origin = match bytes[10] {
        1 => SegmentOrigin::Flush,
        2 => SegmentOrigin::Merge,
        value => {
            return Err(FormatError::UnknownKind {
                what: "segment object",
                value,
            });
        }
    };
    if bytes[11] != 0 {
        return Err(FormatError::BadField {
            what: "segment object reserved",
        });
    }
    Ok(SegmentObjectId {
        channel: ChannelId(u32_at(bytes, 12)),
        epoch: Epoch(u64_at(bytes, 16)),
        origin,
        seq: FlushSeq(u64_at(bytes, 24)),
        part: u32_at(bytes, 32),
    })
}

fn check_magic_and_version(bytes: &[u8]) -> Result<(), FormatError> {
    if bytes[..MAGIC.len()] != MAGIC {
        return Err(FormatError::BadMagic {
            what: "segment object",
        });
    }
    match u16_at(bytes, 8) {
        VERSION => Ok(()),
        version => Err(FormatError::UnknownVersion(version)),
    }
}
