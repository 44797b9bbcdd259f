//! Frames out of a byte stream, at any split.

use std::io::Read;

use bytes::{Buf, Bytes};

use super::{COMPRESSION, Compression, FLAGS_LEN, LENGTH_LEN, RECONNECT, TERMINAL};
use crate::assembler::Assembler;
use crate::error::ErrorCode;
use crate::limits::{S2S_BODY_DECOMPRESSED_MAX, S2S_FRAME_LEN_MAX};

const STATUS_LEN: usize = 2;
/// Room for a frame that arrives in pieces is made as it arrives, beginning with this.
const PARTIAL_RESERVE: usize = 64 * 1024;

/// What the peer sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Frame {
    /// A protobuf message, decompressed; at most 2 MiB - 1.
    Message(Bytes),
    /// The last frame of a session that failed. Only servers send it: from a client it is a bad frame.
    Terminal { status: u16, body: Bytes },
}

/// The byte stream is not a sequence of frames. Nothing after the error can be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    #[error("frame of length 0")]
    Empty,
    #[error("frame of {0} bytes exceeds {S2S_FRAME_LEN_MAX}")]
    TooLong(usize),
    #[error("unknown compression in frame flags {0:#04x}")]
    UnknownCompression(u8),
    #[error("frame body does not decompress: {0}")]
    Decompress(String),
    #[error("frame body exceeds {S2S_BODY_DECOMPRESSED_MAX} bytes after decompression")]
    BodyTooLong,
    #[error("malformed terminal frame")]
    BadTerminal,
    #[error("the stream ended inside a frame")]
    Truncated,
}

impl FrameError {
    /// All of them are the sender's fault.
    pub fn code(&self) -> ErrorCode {
        ErrorCode::BadFrame
    }
}

/// Reads frames from chunks of any size. Holds at most one frame that is not complete yet, and never more memory
/// for it than twice what has arrived, or 64 KiB.
#[derive(Debug)]
pub struct FrameDecoder {
    pub(super) partial: Assembler,
    reconnect_advised: bool,
    failed: Option<FrameError>,
}

impl Default for FrameDecoder {
    fn default() -> Self {
        Self {
            partial: Assembler::new(PARTIAL_RESERVE),
            reconnect_advised: false,
            failed: None,
        }
    }
}

impl FrameDecoder {
    pub fn new() -> Self {
        Self::default()
    }

    /// The next complete frame, taken from the front of `input`. `None` means that all of `input` was consumed and
    /// more is needed: call again with the next chunk. After an error every call gives it again.
    ///
    /// A frame that lies within one chunk shares its memory.
    pub fn decode(&mut self, input: &mut Bytes) -> Result<Option<Frame>, FrameError> {
        if let Some(error) = &self.failed {
            return Err(error.clone());
        }
        let result = self.next(input);
        if let Err(error) = &result {
            self.failed = Some(error.clone());
            self.partial.clear();
        }
        result
    }

    /// Whether the stream may end here: `Ok` unless it was cut inside a frame or failed before.
    pub fn finish(&self) -> Result<(), FrameError> {
        match &self.failed {
            Some(error) => Err(error.clone()),
            None if self.partial.is_empty() => Ok(()),
            None => Err(FrameError::Truncated),
        }
    }

    /// Whether any frame so far carried the advice to open another connection.
    pub fn reconnect_advised(&self) -> bool {
        self.reconnect_advised
    }

    fn next(&mut self, input: &mut Bytes) -> Result<Option<Frame>, FrameError> {
        let Some(mut frame) = self.partial.take(input, frame_len)? else {
            return Ok(None);
        };
        frame.advance(LENGTH_LEN);
        self.read_frame(frame).map(Some)
    }

    fn read_frame(&mut self, mut frame: Bytes) -> Result<Frame, FrameError> {
        let flags = frame.split_to(FLAGS_LEN)[0];
        let compression = Compression::from_bits(flags).ok_or(FrameError::UnknownCompression(flags))?;
        self.reconnect_advised |= flags & RECONNECT != 0;
        if flags & TERMINAL == 0 {
            return decompress(compression, frame).map(Frame::Message);
        }
        if flags & COMPRESSION != 0 || frame.len() < STATUS_LEN {
            return Err(FrameError::BadTerminal);
        }
        Ok(Frame::Terminal {
            status: frame.get_u16(),
            body: frame,
        })
    }
}

/// Length of the frame that starts like this, within bounds.
fn frame_len(&[high, middle, low]: &[u8; LENGTH_LEN]) -> Result<usize, FrameError> {
    match u32::from_be_bytes([0, high, middle, low]) as usize {
        0 => Err(FrameError::Empty),
        len if len > S2S_FRAME_LEN_MAX => Err(FrameError::TooLong(len)),
        len => Ok(len),
    }
}

fn decompress(compression: Compression, body: Bytes) -> Result<Bytes, FrameError> {
    match compression {
        Compression::None => Ok(body),
        Compression::Zstd => decompress_zstd(&body),
        Compression::Gzip => decompress_gzip(&body),
    }
}

/// In one shot into a buffer of the largest allowed size: the frame's own claims about its window and its content
/// allocate nothing.
fn decompress_zstd(body: &[u8]) -> Result<Bytes, FrameError> {
    let mut decompressor =
        zstd::bulk::Decompressor::new().map_err(|error| FrameError::Decompress(error.to_string()))?;
    let mut out = Vec::with_capacity(S2S_BODY_DECOMPRESSED_MAX);
    match decompressor.decompress_to_buffer(body, &mut out) {
        Ok(_) => {
            out.shrink_to_fit();
            Ok(Bytes::from(out))
        }
        Err(_) if announces_too_much(body) => Err(FrameError::BodyTooLong),
        Err(error) => Err(FrameError::Decompress(error.to_string())),
    }
}

fn announces_too_much(body: &[u8]) -> bool {
    matches!(zstd::zstd_safe::get_frame_content_size(body),
        Ok(Some(len)) if len > S2S_BODY_DECOMPRESSED_MAX as u64)
}

fn decompress_gzip(body: &[u8]) -> Result<Bytes, FrameError> {
    let mut out = Vec::new();
    flate2::read::MultiGzDecoder::new(body)
        .take(S2S_BODY_DECOMPRESSED_MAX as u64 + 1)
        .read_to_end(&mut out)
        .map_err(|error| FrameError::Decompress(error.to_string()))?;
    if out.len() > S2S_BODY_DECOMPRESSED_MAX {
        return Err(FrameError::BodyTooLong);
    }
    out.shrink_to_fit();
    Ok(Bytes::from(out))
}
