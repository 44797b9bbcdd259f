//! Checking a whole object by itself.

use bytes::Bytes;

use super::header::{self, SEGMENT_HEADER_LEN};
use super::{Run, RunIndex, SegmentFooter, SegmentSuffix};
use crate::format::{FormatError, Frame, FrameKind};

/// Checks a whole object: every CRC, and header, frames, indexes and footer against each other. `Ok` means that these
/// are the bytes that [`SegmentObjectBuilder`](super::SegmentObjectBuilder) made for the object that the footer names;
/// whether it is the one that was asked for is the caller's to compare.
pub fn verify_object(bytes: &Bytes) -> Result<SegmentFooter, FormatError> {
    let id = header::decode(bytes)?;
    let have = bytes.len() as u64;
    let footer = match SegmentFooter::decode(&bytes[SEGMENT_HEADER_LEN..])? {
        SegmentSuffix::Whole(footer) => footer,
        SegmentSuffix::Longer { suffix_len } => {
            return Err(FormatError::Truncated {
                need: suffix_len + SEGMENT_HEADER_LEN as u64,
                have,
            });
        }
    };
    if footer.len != have {
        return Err(FormatError::Length {
            expected: footer.len,
            have,
        });
    }
    if footer.id != id {
        return Err(FormatError::Mismatch { what: "header" });
    }
    for run in &footer.runs {
        verify_run(bytes, run)?;
    }
    Ok(footer)
}

/// The footer's own checks bound the run by the object's length.
fn verify_run(bytes: &Bytes, run: &Run) -> Result<(), FormatError> {
    let (start, index_start) = (run.offset as usize, run.index_offset() as usize);
    let frames = bytes.slice(start..index_start);
    let index = RunIndex::decode(&bytes[index_start..run.end() as usize])?;
    let (mut offset, mut seq, mut timestamp, mut metered) = (0, run.first_seq, run.first_timestamp, 0u64);
    for (position, entry) in index.entries().iter().enumerate() {
        if entry.offset != offset as u64 {
            return Err(FormatError::Mismatch { what: "frame offset" });
        }
        let frame = Frame::decode(&frames.slice(offset..))?;
        let header = &frame.header;
        // Of the first frame the footer names the timestamp; each that follows begins no earlier than the last ended.
        let in_time = header.first_timestamp >= timestamp
            && (position > 0 || header.first_timestamp == timestamp)
            && header.last_timestamp >= header.first_timestamp;
        let expected = header.kind == FrameKind::Records
            && header.stream == run.stream
            && header.first_seq == seq
            && entry.first_seq == seq
            && entry.first_timestamp == header.first_timestamp
            && header.record_count > 0
            && in_time;
        if !expected {
            return Err(FormatError::Mismatch { what: "frame header" });
        }
        seq = header.end_seq();
        timestamp = header.last_timestamp;
        metered = metered.saturating_add(header.metered_bytes);
        offset += frame.bytes.len();
    }
    let summed = seq == run.end_seq && timestamp == run.last_timestamp && metered == run.metered_bytes;
    if offset != frames.len() || !summed {
        return Err(FormatError::Mismatch { what: "run" });
    }
    Ok(())
}
