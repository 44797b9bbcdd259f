//! What of a channel is durable but not in segments yet, and when it is due to be flushed.
//!
//! - One flush is under way at a time. It takes everything that is durable when it begins.
//! - The frames of chunks behind `buffered_from` are kept here until a flush takes them; those of earlier chunks are
//!   read back. So a flush seldom reads, and what it keeps in memory is bounded.

use std::sync::Arc;
use std::time::Duration;

use millrace_api::id::{FlushSeq, StreamId, StreamletId};
use millrace_api::position::{SeqNum, StreamPosition};
use millrace_raft::query::Fencing;
use millrace_wal::Frame;
use tokio::time::Instant;

use super::log::{ChunkLog, LogPosition};

/// When a channel flushes, and how much may wait for it.
#[derive(Debug, Clone)]
pub struct FlushLimits {
    /// A flush begins when so many bytes of frames are durable since the last one began.
    pub bytes: u64,
    /// A flush begins when the oldest durable frame has waited for so long.
    pub interval: Duration,
    /// Appends are refused while so many bytes of frames wait for a flush, the one under way included. Also bounds what
    /// the channel's next owner has to replay.
    pub unflushed_bytes_max: u64,
}

impl Default for FlushLimits {
    fn default() -> Self {
        Self {
            bytes: 64 << 20,
            interval: Duration::from_secs(20),
            unflushed_bytes_max: 256 << 20,
        }
    }
}

/// The part of a flush that concerns one stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamCut {
    pub stream: StreamId,
    pub streamlet: StreamletId,
    /// The first record that is in no segment.
    pub first_seq: SeqNum,
    /// Behind the last record of the flush; what follows is as of there.
    pub tail: StreamPosition,
    pub fencing: Fencing,
    pub trim: SeqNum,
    pub forgotten: SeqNum,
}

/// One flush.
pub struct FlushPlan {
    pub seq: FlushSeq,
    /// The chunks that it flushes: from here on,
    pub from: LogPosition,
    /// up to here (exclusive).
    pub through: LogPosition,
    /// In no order.
    pub streams: Vec<StreamCut>,
    /// Tells which chunks there are between the two.
    pub log: Arc<ChunkLog>,
    /// Chunks before it have to be read back.
    pub buffered_from: LogPosition,
    /// The frames of the chunks behind it, in their order.
    pub frames: Vec<Frame>,
}

/// Where flushing stands when a channel is taken over.
#[derive(Debug, Clone, Copy)]
pub struct FlushStart {
    pub checkpoint: LogPosition,
    /// The last flush in metadata.
    pub seq: FlushSeq,
    /// A log index at which metadata have it.
    pub log_index: u64,
    /// Of frames behind the checkpoint.
    pub bytes: u64,
    /// Some of them are in zones that were replaced since: fewer copies are left than there should be.
    pub at_once: bool,
}

pub struct Unflushed {
    limits: FlushLimits,
    checkpoint: LogPosition,
    seq: FlushSeq,
    log_index: u64,
    under_way: Option<UnderWay>,
    /// Durable since the last flush began.
    bytes: u64,
    /// The next flush waits for nothing.
    at_once: bool,
    /// Since when a flush has something to do.
    since: Option<Instant>,
    /// Streams with frames since the last flush began.
    streams: Vec<StreamId>,
    frames: Vec<Frame>,
    frames_bytes: u64,
    buffered_from: LogPosition,
}

struct UnderWay {
    through: LogPosition,
    bytes: u64,
    streams: Vec<StreamId>,
}

/// A flush that is in metadata.
pub struct Flushed {
    /// Chunks from here on,
    pub from: LogPosition,
    /// up to here (exclusive), are not needed any more.
    pub through: LogPosition,
    pub streams: Vec<StreamId>,
}

impl Unflushed {
    /// `streams` have frames in the chunks between the checkpoint and `end`.
    pub fn new(start: FlushStart, end: LogPosition, streams: Vec<StreamId>, limits: FlushLimits) -> Self {
        Self {
            limits,
            checkpoint: start.checkpoint,
            seq: start.seq,
            log_index: start.log_index,
            under_way: None,
            bytes: start.bytes,
            at_once: start.at_once,
            since: None,
            streams,
            frames: Vec::new(),
            frames_bytes: 0,
            buffered_from: end,
        }
    }

    /// A log index at which metadata have every flush that was reported so far.
    pub fn log_index(&self) -> u64 {
        self.log_index
    }

    /// A frame is durable; `first` if it is the stream's first since the last flush began.
    pub fn push(&mut self, frame: &Frame, first: bool) {
        let bytes = frame.bytes.len() as u64;
        self.bytes += bytes;
        self.frames_bytes += bytes;
        self.frames.push(frame.clone());
        if first {
            self.streams.push(frame.header.stream);
        }
    }

    /// All frames of the chunks before `end` were pushed.
    pub fn end_of_chunk(&mut self, end: LogPosition) {
        if self.frames_bytes > 2 * self.limits.bytes {
            self.frames = Vec::new();
            self.frames_bytes = 0;
            self.buffered_from = end;
        }
    }

    /// Whether so much waits that appends have to be refused.
    pub fn is_full(&self) -> bool {
        let under_way = self.under_way.as_ref().map_or(0, |flush| flush.bytes);
        self.bytes + under_way >= self.limits.unflushed_bytes_max
    }

    /// When the next flush has to begin; `None` while one is under way, or when there is nothing to do.
    pub fn deadline(&mut self, log: &ChunkLog, now: Instant) -> Option<Instant> {
        let idle = self.streams.is_empty() && !log.spans_epochs();
        if idle || self.under_way.is_some() {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        match self.at_once || self.bytes >= self.limits.bytes {
            true => Some(since),
            false => Some(since + self.limits.interval),
        }
    }

    /// The streams that the next flush has something of.
    pub fn take_streams(&mut self) -> Vec<StreamId> {
        std::mem::take(&mut self.streams)
    }

    /// Begins a flush of everything durable, which is what `cuts` say.
    pub fn begin(&mut self, log: &Arc<ChunkLog>, cuts: Vec<StreamCut>) -> FlushPlan {
        let through = log.end();
        self.under_way = Some(UnderWay {
            through,
            bytes: std::mem::take(&mut self.bytes),
            streams: cuts.iter().map(|cut| cut.stream).collect(),
        });
        self.since = None;
        self.at_once = false;
        self.frames_bytes = 0;
        FlushPlan {
            seq: FlushSeq(self.seq.0 + 1),
            from: self.checkpoint,
            through,
            streams: cuts,
            log: log.clone(),
            buffered_from: std::mem::replace(&mut self.buffered_from, through),
            frames: std::mem::take(&mut self.frames),
        }
    }

    /// The flush that was under way is in metadata, as its commits up to `seq`, at `log_index`.
    pub fn done(&mut self, seq: FlushSeq, log_index: u64) -> Option<Flushed> {
        let flush = self.under_way.take()?;
        let from = std::mem::replace(&mut self.checkpoint, flush.through);
        self.seq = seq;
        self.log_index = self.log_index.max(log_index);
        Some(Flushed {
            from,
            through: flush.through,
            streams: flush.streams,
        })
    }
}
