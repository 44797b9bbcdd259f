//! CRC32C of a frame without a second pass over its body.

use super::frame::{FRAME_HEADER_LEN, FrameHeader};

/// Joining two CRCs costs about as much as summing this many bytes.
const COMBINE_ABOVE: usize = 16 << 10;

/// Continues `crc` over a frame as stored. `header.body_crc` must be the CRC of the body that `bytes` holds.
pub(super) fn append_frame(crc: u32, header: &FrameHeader, bytes: &[u8]) -> u32 {
    let (head, body) = bytes.split_at(FRAME_HEADER_LEN);
    let crc = crc32c::crc32c_append(crc, head);
    if body.len() > COMBINE_ABOVE {
        crc32c::crc32c_combine(crc, header.body_crc, body.len())
    } else {
        crc32c::crc32c_append(crc, body)
    }
}
