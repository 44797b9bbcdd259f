//! Reading a whole object.

use std::sync::Arc;

use bytes::Bytes;

use super::footer::FooterSuffix;
use super::header::{CHUNK_HEADER_LEN, ChunkHeader, ChunkMeta, decode_header};
use super::{Footer, FormatError, Frame, crc};

/// An object all of whose checks passed.
#[derive(Debug, Clone)]
pub struct DecodedChunk {
    pub header: ChunkHeader,
    /// In order, sharing the memory of the bytes that were decoded.
    pub frames: Vec<Frame>,
    pub index: Arc<Footer>,
}

impl DecodedChunk {
    pub fn meta(&self) -> &ChunkMeta {
        &self.header.meta
    }
}

/// Decodes a whole object: lengths before any allocation, every CRC, and the index against header and frames.
/// `Ok` means that these are the bytes that [`ChunkBuilder::finish`](super::ChunkBuilder::finish) made.
pub fn decode_chunk(bytes: Bytes) -> Result<DecodedChunk, FormatError> {
    let header = decode_header(&bytes)?;
    let have = bytes.len() as u64;
    if have < header.len {
        return Err(FormatError::Truncated {
            need: header.len,
            have,
        });
    }
    if have > header.len {
        return Err(FormatError::Length {
            expected: header.len,
            have,
        });
    }
    let index = match Footer::decode(&bytes[CHUNK_HEADER_LEN..])? {
        FooterSuffix::Whole(footer) => footer,
        FooterSuffix::Longer { suffix_len } => {
            return Err(FormatError::Truncated {
                need: suffix_len + CHUNK_HEADER_LEN as u64,
                have,
            });
        }
    };
    if index.meta != header.meta || index.len != header.len {
        return Err(FormatError::Mismatch { what: "header" });
    }
    let mut frames = Vec::with_capacity(index.entries.len());
    let mut crc = 0;
    let mut end = CHUNK_HEADER_LEN;
    for entry in &index.entries {
        // The footer's own checks bound every offset by the object's length.
        let frame = Frame::decode(&bytes.slice(end..entry.end() as usize))?;
        if frame.header != entry.header {
            return Err(FormatError::Mismatch { what: "frame header" });
        }
        crc = crc::append_frame(crc, &frame.header, &frame.bytes);
        end = entry.end() as usize;
        frames.push(frame);
    }
    if crc32c::crc32c_append(crc, &bytes[end..]) != header.crc {
        return Err(FormatError::BadCrc { what: "chunk" });
    }
    Ok(DecodedChunk {
        header,
        frames,
        index: Arc::new(index),
    })
}
