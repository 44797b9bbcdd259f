//! Frames to a byte stream, as parts that a transport can write one after the other.

use std::io::{self, Write};

use bytes::{BufMut, Bytes, BytesMut};
use flate2::write::GzEncoder;
use prost::Message;

use super::{Compression, FLAGS_LEN, LENGTH_LEN, RECONNECT, TERMINAL};
use crate::limits::{S2S_COMPRESS_MIN, S2S_FRAME_LEN_MAX};

/// zstd's fastest ordinary level: frames are compressed on the way out, once per reader.
const ZSTD_LEVEL: i32 = 1;

/// Whether the client should finish what is in flight and open another connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Reconnect {
    #[default]
    NotAdvised,
    Advised,
}

/// The body does not fit in a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a body of {0} bytes does not fit in a frame")]
pub struct FrameTooLong(pub usize);

/// A message frame: its head, then its body, which is `body` one part after the other.
///
/// Bodies of 1 KiB or more are compressed if that makes them smaller. Otherwise the parts are passed on as they
/// are. The bound applies to the body before compression, for the receiver has the same.
pub fn encode_message(
    body: &[Bytes],
    compression: Compression,
    reconnect: Reconnect,
) -> Result<Vec<Bytes>, FrameTooLong> {
    let len = body.iter().map(Bytes::len).sum();
    if len > S2S_FRAME_LEN_MAX - FLAGS_LEN {
        return Err(FrameTooLong(len));
    }
    let flags = match reconnect {
        Reconnect::NotAdvised => 0,
        Reconnect::Advised => RECONNECT,
    };
    if let Some(compressed) = compress(body, len, compression) {
        return Ok(vec![
            Bytes::copy_from_slice(&head(flags | compression.to_bits(), compressed.len())),
            compressed,
        ]);
    }
    let mut parts = Vec::with_capacity(1 + body.len());
    parts.push(Bytes::copy_from_slice(&head(flags, len)));
    parts.extend(body.iter().filter(|part| !part.is_empty()).cloned());
    Ok(parts)
}

/// Appends a message frame to `out`: of a message that is too short to be worth compressing, in one allocation at most.
pub fn put_message(message: &impl Message, out: &mut BytesMut) -> Result<(), FrameTooLong> {
    let len = message.encoded_len();
    if len > S2S_FRAME_LEN_MAX - FLAGS_LEN {
        return Err(FrameTooLong(len));
    }
    out.reserve(LENGTH_LEN + FLAGS_LEN + len);
    out.put_slice(&head(0, len));
    message.encode(out).expect("the buffer grows");
    Ok(())
}

/// The frame that ends a failed session: the status and body that a unary reply would have had.
pub fn encode_terminal(status: u16, json: &[u8]) -> Result<Bytes, FrameTooLong> {
    let len = size_of::<u16>() + json.len();
    if len > S2S_FRAME_LEN_MAX - FLAGS_LEN {
        return Err(FrameTooLong(len));
    }
    let mut frame = BytesMut::with_capacity(LENGTH_LEN + FLAGS_LEN + len);
    frame.put_slice(&head(TERMINAL, len));
    frame.put_u16(status);
    frame.put_slice(json);
    Ok(frame.freeze())
}

fn head(flags: u8, body_len: usize) -> [u8; LENGTH_LEN + FLAGS_LEN] {
    let len = u32::try_from(FLAGS_LEN + body_len)
        .expect("bounded by the caller")
        .to_be_bytes();
    [len[1], len[2], len[3], flags]
}

/// `None` where the body had better stay as it is.
fn compress(body: &[Bytes], len: usize, compression: Compression) -> Option<Bytes> {
    if len < S2S_COMPRESS_MIN {
        return None;
    }
    let compressed = match compression {
        Compression::None => return None,
        Compression::Zstd => compress_zstd(body, len),
        Compression::Gzip => compress_gzip(body, len),
    };
    compressed
        .ok()
        .filter(|compressed| compressed.len() < len)
        .map(Bytes::from)
}

fn compress_zstd(body: &[Bytes], len: usize) -> io::Result<Vec<u8>> {
    let mut encoder = zstd::stream::write::Encoder::new(Vec::with_capacity(len / 2), ZSTD_LEVEL)?;
    encoder.set_pledged_src_size(Some(len as u64))?;
    body.iter().try_for_each(|part| encoder.write_all(part))?;
    encoder.finish()
}

fn compress_gzip(body: &[Bytes], len: usize) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::with_capacity(len / 2), flate2::Compression::fast());
    body.iter().try_for_each(|part| encoder.write_all(part))?;
    encoder.finish()
}
