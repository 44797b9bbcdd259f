//! The header of a WAL object.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `MRWCHUNK` |
//! | 8 | 2 | format version: 1 |
//! | 10 | 1 | kind: 1 chunk, 2 adopted, 3 seal |
//! | 11 | 1 | zero |
//! | 12 | 4 | channel |
//! | 16 | 8 | epoch |
//! | 24 | 8 | slot |
//! | 32 | 16 | writer's nonce, big-endian |
//! | 48 | 8 | adopted: epoch of the source; seal: epoch that sealed; else zero |
//! | 56 | 8 | adopted: slot of the source; else zero |
//! | 64 | 8 | length of the whole object |
//! | 72 | 4 | CRC32C of everything behind the header |
//! | 76 | 4 | CRC32C of bytes 0 to 76 |

use millrace_api::id::{ChannelId, ChunkSeq, Epoch, Nonce};

use super::field::{array, put, u16_at, u32_at, u64_at};
use super::{CHUNK_LEN_MAX, ChunkId, FormatError};

/// Bytes of an object's header.
pub const CHUNK_HEADER_LEN: usize = 80;
/// The version that this release writes.
pub const FORMAT_VERSION: u16 = 1;
/// The part of the header that the footer repeats: all but the CRCs.
pub(super) const HEADER_COPY_LEN: usize = 72;
const MAGIC: [u8; 8] = *b"MRWCHUNK";
const HEADER_CRC_AT: usize = 76;

/// What a WAL object is. The stored numbers (1, 2, 3) are never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChunkKind {
    /// Batches that the epoch's owner sequenced.
    Chunk,
    /// A chunk of an earlier epoch of the same channel, frames byte for byte.
    Adopted { source: ChunkId },
    /// No chunk may become durable here: the epoch ends at this slot or before it. Holds no frames.
    Seal {
        /// The epoch whose owner wrote the seal.
        by: Epoch,
    },
}

impl ChunkKind {
    pub const fn is_seal(&self) -> bool {
        matches!(self, Self::Seal { .. })
    }
}

/// Whose object this is, and what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChunkMeta {
    pub id: ChunkId,
    pub kind: ChunkKind,
    pub nonce: Nonce,
}

/// A decoded header. Two objects with equal headers have equal bytes, as far as a CRC can tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkHeader {
    pub meta: ChunkMeta,
    /// Length of the whole object in bytes.
    pub len: u64,
    /// CRC32C of everything behind the header.
    pub crc: u32,
}

impl ChunkHeader {
    pub fn encode(&self) -> [u8; CHUNK_HEADER_LEN] {
        let mut out = [0; CHUNK_HEADER_LEN];
        out[..HEADER_COPY_LEN].copy_from_slice(&encode_copy(&self.meta, self.len));
        put(&mut out, 72, self.crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..HEADER_CRC_AT]);
        put(&mut out, HEADER_CRC_AT, crc.to_le_bytes());
        out
    }
}

/// Reads the header at the start of `bytes`. The magic is judged first, then the version, then the CRC, so that
/// bytes of a later version are reported as such.
pub fn decode_header(bytes: &[u8]) -> Result<ChunkHeader, FormatError> {
    let Some(bytes) = bytes.first_chunk::<CHUNK_HEADER_LEN>() else {
        return Err(FormatError::Truncated {
            need: CHUNK_HEADER_LEN as u64,
            have: bytes.len() as u64,
        });
    };
    check_magic_and_version(bytes)?;
    if crc32c::crc32c(&bytes[..HEADER_CRC_AT]) != u32_at(bytes, HEADER_CRC_AT) {
        return Err(FormatError::BadCrc { what: "chunk header" });
    }
    let (meta, len) = decode_copy(bytes)?;
    Ok(ChunkHeader {
        meta,
        len,
        crc: u32_at(bytes, 72),
    })
}

fn check_magic_and_version(bytes: &[u8]) -> Result<(), FormatError> {
    if bytes[..8] != MAGIC {
        return Err(FormatError::BadMagic { what: "chunk" });
    }
    match u16_at(bytes, 8) {
        FORMAT_VERSION => Ok(()),
        version => Err(FormatError::UnknownVersion(version)),
    }
}

pub(super) fn encode_copy(meta: &ChunkMeta, len: u64) -> [u8; HEADER_COPY_LEN] {
    let (kind, ref_epoch, ref_slot) = match meta.kind {
        ChunkKind::Chunk => (1, 0, 0),
        ChunkKind::Adopted { source } => {
            assert_eq!(
                source.channel, meta.id.channel,
                "a chunk is adopted within its channel"
            );
            (2, source.epoch.0, source.slot.0)
        }
        ChunkKind::Seal { by } => (3, by.0, 0),
    };
    let mut out = [0; HEADER_COPY_LEN];
    put(&mut out, 0, MAGIC);
    put(&mut out, 8, FORMAT_VERSION.to_le_bytes());
    out[10] = kind;
    put(&mut out, 12, meta.id.channel.0.to_le_bytes());
    put(&mut out, 16, meta.id.epoch.0.to_le_bytes());
    put(&mut out, 24, meta.id.slot.0.to_le_bytes());
    put(&mut out, 32, meta.nonce.to_bytes());
    put(&mut out, 48, u64::to_le_bytes(ref_epoch));
    put(&mut out, 56, u64::to_le_bytes(ref_slot));
    put(&mut out, 64, len.to_le_bytes());
    out
}

/// Reads the fields that header and footer share. The caller has checked a CRC over them and passes at least
/// [`HEADER_COPY_LEN`] bytes.
pub(super) fn decode_copy(bytes: &[u8]) -> Result<(ChunkMeta, u64), FormatError> {
    check_magic_and_version(bytes)?;
    let id = ChunkId {
        channel: ChannelId(u32_at(bytes, 12)),
        epoch: Epoch(u64_at(bytes, 16)),
        slot: ChunkSeq(u64_at(bytes, 24)),
    };
    let (ref_epoch, ref_slot) = (Epoch(u64_at(bytes, 48)), ChunkSeq(u64_at(bytes, 56)));
    let kind = match bytes[10] {
        1 if ref_epoch.0 == 0 && ref_slot.0 == 0 => ChunkKind::Chunk,
        2 => ChunkKind::Adopted {
            source: ChunkId {
                epoch: ref_epoch,
                slot: ref_slot,
                ..id
            },
        },
        3 if ref_slot.0 == 0 => ChunkKind::Seal { by: ref_epoch },
        1 | 3 => return Err(FormatError::BadField { what: "chunk source" }),
        value => return Err(FormatError::UnknownKind { what: "chunk", value }),
    };
    if bytes[11] != 0 {
        return Err(FormatError::BadField {
            what: "chunk reserved",
        });
    }
    let len = u64_at(bytes, 64);
    if len > CHUNK_LEN_MAX {
        return Err(FormatError::TooLarge {
            len,
            max: CHUNK_LEN_MAX,
        });
    }
    Ok((
        ChunkMeta {
            id,
            kind,
            nonce: Nonce::from_bytes(array(bytes, 32)),
        },
        len,
    ))
}
