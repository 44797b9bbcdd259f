//! Building an object out of frames, without touching their bytes.

use std::sync::Arc;

use bytes::Bytes;

use super::header::{CHUNK_HEADER_LEN, ChunkHeader, ChunkKind, ChunkMeta};
use super::{CHUNK_LEN_MAX, Footer, FooterEntry, Frame, crc};
use crate::zone::Payload;

/// Collects the frames of one object.
#[derive(Debug, Default)]
pub struct ChunkBuilder {
    entries: Vec<FooterEntry>,
    parts: Vec<Bytes>,
    frames_len: u64,
    crc: u32,
}

impl ChunkBuilder {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a frame behind the others. Its bytes are shared, not copied.
    pub fn push(&mut self, frame: Frame) {
        if self.parts.is_empty() {
            // Room for the header's part, so that `finish` moves nothing.
            self.parts.push(Bytes::new());
        }
        self.crc = crc::append_frame(self.crc, &frame.header, &frame.bytes);
        self.entries.push(FooterEntry {
            offset: CHUNK_HEADER_LEN as u64 + self.frames_len,
            header: frame.header,
        });
        self.frames_len += frame.bytes.len() as u64;
        self.parts.push(frame.bytes);
    }

    /// Bytes of the object if it were finished now.
    pub fn encoded_len(&self) -> u64 {
        CHUNK_HEADER_LEN as u64 + self.frames_len + Footer::encoded_len(self.entries.len()) as u64
    }

    /// Frames so far.
    pub fn frame_count(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Puts header and footer around the frames.
    ///
    /// # Panics
    /// If the object would be longer than [`CHUNK_LEN_MAX`], if a seal was given frames, or if an adopted chunk
    /// names another channel: errors of the caller.
    pub fn finish(mut self, meta: ChunkMeta) -> Chunk {
        let len = self.encoded_len();
        assert!(
            len <= CHUNK_LEN_MAX,
            "a chunk is closed long before {CHUNK_LEN_MAX} bytes"
        );
        assert!(!meta.kind.is_seal() || self.is_empty(), "a seal holds no frames");
        let index = Footer {
            meta,
            len,
            entries: self.entries,
        };
        let footer = index.encode();
        let header = ChunkHeader {
            meta,
            len,
            crc: crc32c::crc32c_append(self.crc, &footer),
        };
        let encoded = Bytes::copy_from_slice(&header.encode());
        match self.parts.first_mut() {
            Some(room) => *room = encoded,
            None => self.parts.push(encoded),
        }
        self.parts.push(footer);
        Chunk {
            header,
            payload: Payload::new(self.parts),
            index: Arc::new(index),
        }
    }
}

/// An object ready to be created: its parts one after the other are its bytes. Cloning shares all of them.
#[derive(Debug, Clone)]
pub struct Chunk {
    pub header: ChunkHeader,
    /// Header, frames, footer: one part each.
    pub payload: Payload,
    pub index: Arc<Footer>,
}

impl Chunk {
    /// A seal for the slot that `meta` names.
    pub fn seal(meta: ChunkMeta) -> Self {
        debug_assert!(matches!(meta.kind, ChunkKind::Seal { .. }));
        ChunkBuilder::new().finish(meta)
    }

    pub fn meta(&self) -> &ChunkMeta {
        &self.header.meta
    }

    /// Length of the object in bytes.
    pub fn encoded_len(&self) -> u64 {
        self.header.len
    }

    /// The frames in order, sharing the chunk's memory.
    pub fn frames(&self) -> impl Iterator<Item = Frame> + '_ {
        let bodies = &self.payload.parts()[1..];
        self.index.entries.iter().zip(bodies).map(|(entry, bytes)| Frame {
            header: entry.header.clone(),
            bytes: bytes.clone(),
        })
    }
}
