//! Batches that become one frame.

use bytes::Bytes;
use millrace_api::id::WriterId;

use super::RunIndexEntry;
use crate::format::{Frame, FrameHeader, crc};

/// Batches are joined while their bodies together are at most this long, in bytes. A single batch may be longer.
pub const JOINED_BODY_LEN_MAX: u32 = 64 << 10;

/// A frame in the making. Its body is a list of the batches' bodies, so that none of them is moved.
#[derive(Debug)]
pub(super) struct JoinedFrame {
    header: FrameHeader,
    bodies: Vec<Bytes>,
}

impl JoinedFrame {
    pub(super) fn new(frame: &Frame) -> Self {
        Self {
            header: FrameHeader {
                // Only the recovery of a channel asks who wrote a batch, and it reads chunks.
                writer: WriterId(0),
                number: 0,
                ..frame.header.clone()
            },
            bodies: vec![frame.body()],
        }
    }

    /// Joins the stream's next batch, or says that the frame is complete without it.
    pub(super) fn join(&mut self, frame: &Frame) -> bool {
        let (ours, next) = (&mut self.header, &frame.header);
        let counts = ours.record_count.checked_add(next.record_count);
        let lens = ours.body_len.checked_add(next.body_len);
        let (Some(record_count), Some(body_len)) = (counts, lens) else {
            return false;
        };
        if body_len > JOINED_BODY_LEN_MAX || ours.streamlet != next.streamlet {
            return false;
        }
        let body = frame.body();
        ours.flags = ours.flags | next.flags;
        ours.record_count = record_count;
        ours.metered_bytes = ours.metered_bytes.saturating_add(next.metered_bytes);
        ours.last_timestamp = next.last_timestamp;
        ours.body_len = body_len;
        ours.body_crc = crc::append_body(ours.body_crc, next.body_crc, &body);
        self.bodies.push(body);
        true
    }

    pub(super) fn header(&self) -> &FrameHeader {
        &self.header
    }

    /// The frame's place in its run's index, if it begins at `offset` of the run.
    pub(super) fn entry(&self, offset: u64) -> RunIndexEntry {
        RunIndexEntry {
            offset,
            first_seq: self.header.first_seq,
            first_timestamp: self.header.first_timestamp,
        }
    }

    pub(super) fn into_bodies(self) -> Vec<Bytes> {
        self.bodies
    }
}
