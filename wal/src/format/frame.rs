//! A frame: one batch of one stream, as it stands in a chunk.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 1 | kind: 1 records, 2 open |
//! | 1 | 1 | zero |
//! | 2 | 2 | flags: bit 0 has commands |
//! | 4 | 4 | record count |
//! | 8 | 16 | stream id, big-endian |
//! | 24 | 8 | streamlet id |
//! | 32 | 8 | first sequence number |
//! | 40 | 8 | metered bytes |
//! | 48 | 8 | first timestamp |
//! | 56 | 8 | last timestamp |
//! | 64 | 8 | writer id, 0 for none |
//! | 72 | 8 | number of the input, 0 for none |
//! | 80 | 4 | body length |
//! | 84 | 4 | CRC32C of the body |
//! | 88 | 4 | CRC32C of bytes 0 to 88 |

use std::fmt;

use bytes::{BufMut, Bytes, BytesMut};
use millrace_api::id::{StreamId, StreamletId, WriterId};
use millrace_api::position::{SeqNum, Timestamp};

use super::FormatError;
use super::field::{array, put, u16_at, u32_at, u64_at};

/// Bytes of a frame's header.
pub const FRAME_HEADER_LEN: usize = 92;
const CRC_AT: usize = 88;

/// What a frame holds. The numbers are stored and never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// The concatenation of encoded `ReadBatch.records` fields.
    Records = 1,
    /// The writer table with which a streamlet begins.
    Open = 2,
}

/// Facts about a frame's body that readers want without decoding it.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct FrameFlags(u16);

impl FrameFlags {
    pub const NONE: Self = Self(0);
    /// At least one record is a command.
    pub const HAS_COMMANDS: Self = Self(1);
    const KNOWN: u16 = Self::HAS_COMMANDS.0;

    pub const fn contains(self, other: Self) -> bool {
        self.0 & other.0 == other.0
    }

    pub const fn has_commands(self) -> bool {
        self.contains(Self::HAS_COMMANDS)
    }

    pub const fn bits(self) -> u16 {
        self.0
    }

    /// `None` if a bit is set that this release does not know.
    pub const fn from_bits(bits: u16) -> Option<Self> {
        if bits & !Self::KNOWN == 0 {
            Some(Self(bits))
        } else {
            None
        }
    }
}

impl std::ops::BitOr for FrameFlags {
    type Output = Self;

    fn bitor(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }
}

impl fmt::Debug for FrameFlags {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FrameFlags({:#06x})", self.0)
    }
}

/// Everything that is known of a batch without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: FrameKind,
    pub flags: FrameFlags,
    pub stream: StreamId,
    pub streamlet: StreamletId,
    pub first_seq: SeqNum,
    pub record_count: u32,
    pub metered_bytes: u64,
    pub first_timestamp: Timestamp,
    pub last_timestamp: Timestamp,
    /// `WriterId(0)` when the batch came outside a resumable session.
    pub writer: WriterId,
    /// Number of the input in its session, from 1; 0 without a writer.
    pub number: u64,
    pub body_len: u32,
    /// CRC32C of the body.
    pub body_crc: u32,
}

impl FrameHeader {
    /// The sequence number behind the last record of the frame. Saturates: a decoded header is input.
    pub fn end_seq(&self) -> SeqNum {
        self.first_seq.saturating_add(u64::from(self.record_count))
    }

    /// Bytes of the frame as stored: header and body.
    pub fn frame_len(&self) -> u64 {
        FRAME_HEADER_LEN as u64 + u64::from(self.body_len)
    }

    pub fn encode(&self) -> [u8; FRAME_HEADER_LEN] {
        let mut out = [0; FRAME_HEADER_LEN];
        out[0] = self.kind as u8;
        put(&mut out, 2, self.flags.0.to_le_bytes());
        put(&mut out, 4, self.record_count.to_le_bytes());
        put(&mut out, 8, self.stream.to_bytes());
        put(&mut out, 24, self.streamlet.0.to_le_bytes());
        put(&mut out, 32, self.first_seq.to_le_bytes());
        put(&mut out, 40, self.metered_bytes.to_le_bytes());
        put(&mut out, 48, self.first_timestamp.to_le_bytes());
        put(&mut out, 56, self.last_timestamp.to_le_bytes());
        put(&mut out, 64, self.writer.0.to_le_bytes());
        put(&mut out, 72, self.number.to_le_bytes());
        put(&mut out, 80, self.body_len.to_le_bytes());
        put(&mut out, 84, self.body_crc.to_le_bytes());
        let crc = crc32c::crc32c(&out[..CRC_AT]);
        put(&mut out, CRC_AT, crc.to_le_bytes());
        out
    }

    /// Reads the header at the start of `bytes`; what follows is not looked at.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let Some(bytes) = bytes.first_chunk::<FRAME_HEADER_LEN>() else {
            return Err(FormatError::Truncated {
                need: FRAME_HEADER_LEN as u64,
                have: bytes.len() as u64,
            });
        };
        if crc32c::crc32c(&bytes[..CRC_AT]) != u32_at(bytes, CRC_AT) {
            return Err(FormatError::BadCrc { what: "frame header" });
        }
        let kind = match bytes[0] {
            1 => FrameKind::Records,
            2 => FrameKind::Open,
            value => return Err(FormatError::UnknownKind { what: "frame", value }),
        };
        if bytes[1] != 0 {
            return Err(FormatError::BadField {
                what: "frame reserved",
            });
        }
        let flags =
            FrameFlags::from_bits(u16_at(bytes, 2)).ok_or(FormatError::BadField { what: "frame flags" })?;
        Ok(Self {
            kind,
            flags,
            record_count: u32_at(bytes, 4),
            stream: StreamId::from_bytes(array(bytes, 8)),
            streamlet: StreamletId(u64_at(bytes, 24)),
            first_seq: u64_at(bytes, 32),
            metered_bytes: u64_at(bytes, 40),
            first_timestamp: u64_at(bytes, 48),
            last_timestamp: u64_at(bytes, 56),
            writer: WriterId(u64_at(bytes, 64)),
            number: u64_at(bytes, 72),
            body_len: u32_at(bytes, 80),
            body_crc: u32_at(bytes, 84),
        })
    }
}

/// A frame and its bytes.
///
/// - `bytes` is the encoded `header` followed by `header.body_len` bytes whose CRC32C is `header.body_crc`: every
///   way to make a `Frame` in this crate sees to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub header: FrameHeader,
    /// Header and body, exactly as stored.
    pub bytes: Bytes,
}

impl Frame {
    /// The body, sharing the frame's memory.
    pub fn body(&self) -> Bytes {
        self.bytes.slice(FRAME_HEADER_LEN..)
    }

    /// Takes the frame at the start of `bytes`, sharing its memory, and checks both of its CRCs.
    pub fn decode(bytes: &Bytes) -> Result<Self, FormatError> {
        let header = FrameHeader::decode(bytes)?;
        let len = header.frame_len();
        if len > bytes.len() as u64 {
            return Err(FormatError::Truncated {
                need: len,
                have: bytes.len() as u64,
            });
        }
        let bytes = bytes.slice(..len as usize);
        if crc32c::crc32c(&bytes[FRAME_HEADER_LEN..]) != header.body_crc {
            return Err(FormatError::BadCrc { what: "frame body" });
        }
        Ok(Self { header, bytes })
    }
}

/// Writes a frame in place: room for the header, then the body, then the header into its room. The body is written
/// once and never moved.
///
/// The frame takes its memory out of the caller's buffer, and what capacity is left stays there for the next one. A
/// frame keeps the whole allocation alive, so one buffer should serve frames that die together.
#[derive(Debug)]
pub struct FrameWriter<'a> {
    buffer: &'a mut BytesMut,
}

impl<'a> FrameWriter<'a> {
    /// Begins a frame in an empty buffer. Enough room for `body_len_max` avoids a move; more may be written.
    ///
    /// # Panics
    /// If the buffer is not empty.
    pub fn begin(buffer: &'a mut BytesMut, body_len_max: usize) -> Self {
        assert!(buffer.is_empty(), "a frame begins in an empty buffer");
        buffer.reserve(FRAME_HEADER_LEN + body_len_max);
        buffer.put_bytes(0, FRAME_HEADER_LEN);
        Self { buffer }
    }

    /// Where to append the body. Only append: what stands there already is the frame's.
    pub fn body(&mut self) -> &mut BytesMut {
        self.buffer
    }

    pub fn body_len(&self) -> usize {
        self.buffer.len() - FRAME_HEADER_LEN
    }

    /// Completes the frame. `body_len` and `body_crc` of `header` are filled in here, whatever they were.
    ///
    /// # Panics
    /// If the body is as long as [`CHUNK_LEN_MAX`](super::CHUNK_LEN_MAX), which the size limit of a batch excludes.
    pub fn finish(self, mut header: FrameHeader) -> Frame {
        let mut bytes = self.buffer.split();
        let body = &bytes[FRAME_HEADER_LEN..];
        assert!(
            (body.len() as u64) < super::CHUNK_LEN_MAX,
            "a batch is far smaller than a chunk"
        );
        header.body_len = body.len() as u32;
        header.body_crc = crc32c::crc32c(body);
        bytes[..FRAME_HEADER_LEN].copy_from_slice(&header.encode());
        Frame {
            header,
            bytes: bytes.freeze(),
        }
    }
}
