//! The bytes of a WAL object, version 1.
//!
//! ```text
//! chunk  = header (80) | frame … | footer
//! frame  = frame header (92) | body
//! footer = entry (100) per frame | copy of the header's first 72 bytes | trailer (20)
//! ```
//!
//! All integers are little-endian; ids of 128 bits are big-endian, as elsewhere in Millrace. Everything behind the
//! header is covered by one CRC32C in the header, each frame's header and body by their own, and the footer by its
//! own, so that a chunk, a footer and a single frame can each be checked without the rest.
//!
//! Versions, kinds and flag bits are never given a second meaning, not even after they fall out of use. A reader
//! accepts every version that was ever released and refuses the ones it does not know.

mod build;
mod chunk;
pub(crate) mod crc;
mod error;
pub(crate) mod field;
mod footer;
mod frame;
mod header;
mod id;

#[cfg(test)]
mod tests;

pub use build::{Chunk, ChunkBuilder};
pub use chunk::{DecodedChunk, decode_chunk};
pub use error::FormatError;
pub use footer::{FOOTER_ENTRY_LEN, FOOTER_TRAILER_LEN, Footer, FooterEntry, FooterSuffix};
pub use frame::{FRAME_HEADER_LEN, Frame, FrameFlags, FrameHeader, FrameKind, FrameWriter};
pub use header::{CHUNK_HEADER_LEN, ChunkHeader, ChunkKind, ChunkMeta, FORMAT_VERSION, decode_header};
pub use id::ChunkId;

/// No chunk is longer than this, in bytes; a length above it is refused before anything is allocated for it.
pub const CHUNK_LEN_MAX: u64 = 256 << 20;
