//! Which acknowledged frames are still in memory, oldest first.

use std::collections::VecDeque;

use millrace_api::id::StreamId;
use millrace_wal::Frame;

/// Memory that a frame in memory costs beside its bytes: its header and places in two queues.
const FRAME_OVERHEAD_BYTES: usize = 256;

/// The owners of the frames in memory, in the order in which they became durable. The frames themselves are with
/// their streams.
pub struct Recent {
    frames: VecDeque<(StreamId, usize)>,
    bytes: usize,
    bytes_max: usize,
}

impl Recent {
    pub fn new(bytes_max: usize) -> Self {
        Self {
            frames: VecDeque::new(),
            bytes: 0,
            bytes_max,
        }
    }

    pub fn push(&mut self, stream: StreamId, frame: &Frame) {
        let bytes = frame.bytes.len() + FRAME_OVERHEAD_BYTES;
        self.bytes += bytes;
        self.frames.push_back((stream, bytes));
    }

    /// The stream whose oldest frame has to go, as long as there is more than the bound.
    pub fn pop_excess(&mut self) -> Option<StreamId> {
        if self.bytes <= self.bytes_max {
            return None;
        }
        let (stream, bytes) = self.frames.pop_front()?;
        self.bytes -= bytes;
        Some(stream)
    }
}
