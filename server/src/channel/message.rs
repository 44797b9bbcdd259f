//! What a channel may be asked, and what it answers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use millrace_api::batch::AppendBatch;
use millrace_api::id::{StreamId, StreamletId};
use millrace_api::name::FencingToken;
use millrace_api::position::{SeqNum, StreamPosition, Timestamp};
use millrace_wal::Frame;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::log::{ChunkLog, LogPosition};
use super::writers::WriterInput;
use crate::frontend::service::types::AppendAck;

/// A request to a channel. Every answer goes through the request's own `oneshot`; a requester that went away
/// costs nothing but the answer.
pub enum Request {
    Append(Append),
    Read(Read),
    CheckTail {
        stream: StreamId,
        known_at: u64,
        reply: oneshot::Sender<Result<StreamPosition, Refusal>>,
    },
    /// The metadata of a stream changed: look again. Answers when the change is in force, which for a deletion
    /// means that nothing of the stream is sequenced or answered any more.
    Refresh {
        stream: StreamId,
        /// The state to act upon is at least as new as this log index.
        applied: u64,
        reply: oneshot::Sender<Result<(), Refusal>>,
    },
}

impl ReadReply {
    pub fn view(&self) -> ReadView {
        match self {
            Self::Frames { view, .. }
            | Self::Chunks { view, .. }
            | Self::Segments { view, .. }
            | Self::AtTail { view } => *view,
        }
    }
}

impl Request {
    pub fn stream(&self) -> StreamId {
        match self {
            Self::Append(append) => append.stream,
            Self::Read(read) => read.stream,
            Self::CheckTail { stream, .. } | Self::Refresh { stream, .. } => *stream,
        }
    }

    /// The log index of the state by which the asker found the stream.
    pub fn known_at(&self) -> u64 {
        match self {
            Self::Append(append) => append.known_at,
            Self::Read(read) => read.known_at,
            Self::CheckTail { known_at, .. } => *known_at,
            Self::Refresh { applied, .. } => *applied,
        }
    }

    /// Answers that the request was not carried out. What the same session sent later is refused too.
    pub fn refuse(self, refusal: Refusal) {
        match self {
            Self::Append(append) => {
                append.source.end();
                drop(append.reply.send(Err(refusal)));
            }
            Self::Read(read) => drop(read.reply.send(Err(refusal))),
            Self::CheckTail { reply, .. } => drop(reply.send(Err(refusal))),
            Self::Refresh { reply, .. } => drop(reply.send(Err(refusal))),
        }
    }
}

pub struct Append {
    pub stream: StreamId,
    /// The log index of the state by which the asker found the stream; 0 where that is this node's.
    pub known_at: u64,
    pub batch: AppendBatch,
    pub source: Source,
    /// Accounts for the batch's memory until its outcome is known.
    pub permit: OwnedSemaphorePermit,
    pub reply: oneshot::Sender<Result<AppendAck, Refusal>>,
}

/// Where an append comes from.
#[derive(Clone, Default)]
pub enum Source {
    /// A request of its own.
    #[default]
    Unary,
    /// An input of a session.
    Session(SessionGate),
    /// An input of a session that numbers them: sequenced once, however often it is sent.
    Writer(SessionGate, WriterInput),
}

impl Source {
    fn gate(&self) -> Option<&SessionGate> {
        match self {
            Self::Unary => None,
            Self::Session(gate) | Self::Writer(gate, _) => Some(gate),
        }
    }

    /// Whether an earlier input of the session was refused.
    pub fn has_ended(&self) -> bool {
        self.gate().is_some_and(SessionGate::is_closed)
    }

    /// Refuses what the session sends from now on.
    pub fn end(&self) {
        if let Some(gate) = self.gate() {
            gate.close();
        }
    }

    pub fn writer(&self) -> Option<&WriterInput> {
        match self {
            Self::Writer(_, input) => Some(input),
            _ => None,
        }
    }
}

/// One append session as a channel sees it: after its first refused input every later one is refused too.
#[derive(Clone, Default)]
pub struct SessionGate(Arc<AtomicBool>);

impl SessionGate {
    pub fn is_closed(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }

    pub fn close(&self) {
        self.0.store(true, Ordering::Release);
    }
}

pub struct Read {
    pub stream: StreamId,
    pub known_at: u64,
    pub seek: Seek,
    /// Stop adding frames once these are reached; the last frame may go beyond.
    pub records_max: usize,
    pub metered_bytes_max: usize,
    /// At the tail, answer when there is more instead of at once.
    pub wait: bool,
    pub reply: oneshot::Sender<Result<ReadReply, Refusal>>,
}

/// The first record wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seek {
    /// The first record with at least this sequence number.
    SeqNum(SeqNum),
    /// The first record with at least this timestamp.
    Timestamp(Timestamp),
}

/// The state of the stream as of a read; the answer is the read's linearization point.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadView {
    pub tail: StreamPosition,
    /// Records below are gone.
    pub trim: SeqNum,
}

#[derive(Clone)]
pub enum ReadReply {
    /// Durable frames in order, without gap; the first holds the record sought, perhaps behind others.
    Frames { frames: Arc<[Frame]>, view: ReadView },
    /// The record sought is no longer in memory: it is in the chunk at `start` or a later one, and all that is
    /// below `end` can be read from chunks.
    Chunks {
        start: LogPosition,
        streamlet: StreamletId,
        end: SeqNum,
        log: Arc<ChunkLog>,
        view: ReadView,
    },
    /// The record sought is in segments, or gone: everything below `end` that is left is in the segments that
    /// metadata name at the log index `known_at`.
    Segments {
        end: SeqNum,
        known_at: u64,
        view: ReadView,
    },
    /// Nothing there is at or behind the place sought.
    AtTail { view: ReadView },
}

/// Why a channel did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing was applied. The state by which the stream was looked for is as of the log index `applied`; 0 where
    /// that is the asker's own.
    #[error("the stream is not served here")]
    NotHere { applied: u64 },
    #[error("the stream is being deleted")]
    Deleting,
    #[error("no such stream")]
    NotFound,
    #[error("the fencing token in force is {actual:?}")]
    FencingTokenMismatch { actual: FencingToken },
    #[error("the next sequence number is {next}")]
    SeqNumMismatch { next: SeqNum },
    #[error("{0}")]
    Invalid(String),
    #[error("an earlier input of the session was refused")]
    SessionEnded,
    /// The input, if it was sent before, may have been applied then.
    #[error(
        "the session's writer is not known any more; what it has no acknowledgement for may have been applied"
    )]
    WriterUnknown,
    /// So much waits to be flushed that nothing more is taken; nothing was applied.
    #[error("the channel takes nothing until what it holds is flushed")]
    Full,
    /// The channel stopped before the request was carried out; nothing was applied.
    #[error("the channel has stopped")]
    Stopped,
    /// The channel stopped after it had sent the batch to storage.
    #[error("the channel stopped while the append was on its way to storage; it may or may not be applied")]
    Unknown,
    /// The node has no right to answer at the moment; nothing was applied.
    #[error("the node that serves the stream has no right to answer at the moment")]
    NoLease,
    /// The node that serves the stream could not be asked; nothing was applied.
    #[error("the node that serves the stream cannot be reached")]
    Unreachable,
    /// The metadata group could not be asked; nothing was applied.
    #[error("metadata is unavailable: {0}")]
    Metadata(String),
}

impl Refusal {
    /// Whether it tells what the stream's state is.
    pub fn is_condition(&self) -> bool {
        matches!(
            self,
            Self::FencingTokenMismatch { .. } | Self::SeqNumMismatch { .. }
        )
    }

    /// Nothing was applied, and whoever serves the stream, now or soon, may carry the request out.
    pub fn is_elsewhere(&self) -> bool {
        matches!(
            self,
            Self::NotHere { .. } | Self::Stopped | Self::Unreachable | Self::NoLease
        )
    }
}

#[cfg(test)]
mod tests {
    use millrace_api::proto;
    use tokio::sync::Semaphore;

    use super::*;

    #[test]
    fn refusing_an_input_ends_its_session() {
        let (reply, mut answer) = oneshot::channel();
        let gate = SessionGate::default();
        let records = vec![proto::AppendRecord::default()];
        let input = proto::AppendInput {
            records,
            ..Default::default()
        };
        let append = Append {
            stream: StreamId(1),
            known_at: 0,
            batch: AppendBatch::from_proto(input).unwrap(),
            source: Source::Session(gate.clone()),
            permit: Arc::new(Semaphore::new(1)).try_acquire_owned().unwrap(),
            reply,
        };
        Request::Append(append).refuse(Refusal::Metadata("no leader".into()));
        assert!(
            gate.is_closed(),
            "what the session sent later must not be applied"
        );
        assert_eq!(
            answer.try_recv().unwrap(),
            Err(Refusal::Metadata("no leader".into()))
        );
    }
}
