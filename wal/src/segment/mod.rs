//! The bytes of a segment object, version 1.
//!
//! ```text
//! object    = header (40) | run … | footer
//! run       = frame … | run index
//! frame     = frame header (92) | body, as in a chunk
//! run index = entry (24) per frame | trailer (8)
//! footer    = entry (76) per run | copy of the header's first 36 bytes | length of the object (8) | trailer (20)
//! ```
//!
//! A run holds contiguous records of one stream, so that a reader of the stream finds them in one piece. Its frames are
//! those of the WAL, with small ones [joined](SegmentObjectBuilder) and without the numbers that say which session
//! wrote them. The run index says where to begin; the footer tells all runs of an object that nothing else describes.
//!
//! Where the segments of a long stream are stands in objects of another form: [`ChainIndex`].
//!
//! Every byte is covered by one CRC32C: of the header, of a frame's header, of its body, of a run index, or of the
//! footer. Integers are little-endian, ids of 128 bits big-endian. Versions, kinds and flag bits are never given a
//! second meaning.

mod build;
mod chain;
mod footer;
mod header;
mod index;
mod joined;
mod run;
mod verify;

#[cfg(test)]
mod tests;

pub use build::{SegmentObject, SegmentObjectBuilder};
pub use chain::{CHAIN_ENTRIES_MAX, ChainEntry, ChainIndex};
pub use footer::{SegmentFooter, SegmentSuffix};
pub use header::{SEGMENT_HEADER_LEN, decode as decode_segment_header};
pub use index::{RunIndex, RunIndexEntry};
pub use joined::JOINED_BODY_LEN_MAX;
pub use run::Run;
pub use verify::verify_object;

/// No segment object is longer than this, in bytes. A longer one is neither built nor believed.
pub const SEGMENT_OBJECT_LEN_MAX: u64 = 4 << 30;
/// No footer is longer than this, in bytes; that is enough for three million runs.
pub const SEGMENT_FOOTER_LEN_MAX: u64 = 256 << 20;
