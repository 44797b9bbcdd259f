//! Why a command was refused. A refusal is an answer: it was decided by the log, the same on every replica, and
//! nothing was changed.

use millrace_api::error::ErrorCode;
use millrace_api::id::{ChannelId, ChunkSeq, Epoch, FlushSeq, Incarnation, NodeId, StreamletId, ZoneGen};
use millrace_api::name::{BasinName, StreamName};
use millrace_api::segment::SegmentObjectId;

use crate::state::record::Slot;

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    #[error("basin {0:?} does not exist")]
    BasinNotFound(BasinName),
    #[error("basin {0:?} is being deleted")]
    BasinDeletionPending(BasinName),
    #[error("basin {0:?} exists already")]
    BasinExists(BasinName),
    #[error("stream {0:?} does not exist")]
    StreamNotFound(StreamName),
    #[error("stream {0:?} is being deleted")]
    StreamDeletionPending(StreamName),
    #[error("stream {0:?} exists already")]
    StreamExists(StreamName),
    /// The id leads to nothing: the stream was purged, or never was.
    #[error("the stream is gone")]
    StreamGone,
    #[error("{0}")]
    Invalid(String),
    /// A random id is in use already: ask again with another.
    #[error("the id is in use: ask again")]
    IdTaken,

    #[error("the cell is {cell_id:032x}")]
    CellInitialized { cell_id: u128 },
    #[error("zone {zone} is registered with gen {registered}")]
    ZoneRegistered { zone: u32, registered: ZoneGen },
    /// Only the leader of a term knows what it granted in it.
    #[error("the term in which this was judged is over")]
    TermOver,
    #[error("node {0} is not registered")]
    NodeUnknown(NodeId),
    #[error("incarnation {incarnation} of node {node} has ended")]
    IncarnationEnded { node: NodeId, incarnation: Incarnation },
    #[error("channel {0} does not exist")]
    ChannelUnknown(ChannelId),
    #[error("channel {0} exists with another class")]
    ChannelClass(ChannelId),
    #[error("channel {channel} belongs to incarnation {incarnation} of node {node} in epoch {epoch}")]
    ChannelOwned {
        channel: ChannelId,
        node: NodeId,
        incarnation: Incarnation,
        epoch: Epoch,
    },
    #[error("channel {channel} is in epoch {epoch}")]
    EpochMoved { channel: ChannelId, epoch: Epoch },
    #[error("channel {0} takes no streams: it has no owner, or its epoch is not activated")]
    ChannelInactive(ChannelId),
    #[error("the oldest unsealed epoch of channel {channel} is {oldest}")]
    SealOutOfOrder { channel: ChannelId, oldest: Epoch },
    #[error("epoch {epoch} of channel {channel} was sealed at {end} by {by}")]
    AlreadySealed {
        channel: ChannelId,
        epoch: Epoch,
        end: ChunkSeq,
        by: Epoch,
        adopted: u64,
    },
    #[error("epoch {oldest} of channel {channel} is not sealed")]
    EarlierEpochUnsealed { channel: ChannelId, oldest: Epoch },

    #[error("streamlet {0} is not open there")]
    StreamletNotOpen(StreamletId),
    #[error("the stream has records that are not flushed")]
    NotFlushed,
    /// Somebody may still answer for the stream.
    #[error("streamlet {streamlet} is open on channel {channel}, whose epoch {epoch} is not sealed")]
    StreamletOpen {
        channel: ChannelId,
        streamlet: StreamletId,
        epoch: Epoch,
    },
    #[error("basin {0:?} still has streams")]
    BasinNotEmpty(BasinName),
    #[error("it is not being deleted")]
    NotDeleting,

    /// It does not begin where the last one ended.
    #[error("the last flush of channel {channel} is {last}, up to slot {} of epoch {}", checkpoint.slot, checkpoint.epoch)]
    FlushOutOfOrder {
        channel: ChannelId,
        last: FlushSeq,
        checkpoint: Slot,
    },
    #[error("the last merge of channel {channel} is {last}")]
    MergeOutOfOrder { channel: ChannelId, last: FlushSeq },
    #[error("the last chain index of channel {channel} is {last}")]
    PackOutOfOrder { channel: ChannelId, last: FlushSeq },
    #[error("the stream still has segments")]
    SegmentsLeft,
    #[error("the stream's retention keeps what was appended then")]
    Retained,
    /// Or not for long enough, or empty streams are not deleted.
    #[error("the stream is not to be deleted as an empty one")]
    NotEmpty,
    #[error("object {0} holds live segments")]
    ObjectLive(SegmentObjectId),
}

impl Refused {
    /// What a client is told. Every refusal promises that nothing was applied; codes between nodes that no client
    /// should see are the safe one to retry.
    pub fn code(&self) -> ErrorCode {
        match self {
            Refused::BasinNotFound(_) => ErrorCode::BasinNotFound,
            Refused::BasinDeletionPending(_) => ErrorCode::BasinDeletionPending,
            Refused::BasinExists(_) | Refused::StreamExists(_) => ErrorCode::ResourceAlreadyExists,
            Refused::StreamNotFound(_) | Refused::StreamGone => ErrorCode::StreamNotFound,
            Refused::StreamDeletionPending(_) => ErrorCode::StreamDeletionPending,
            Refused::Invalid(_) => ErrorCode::Invalid,
            Refused::IdTaken => ErrorCode::TransactionConflict,
            Refused::CellInitialized { .. }
            | Refused::ZoneRegistered { .. }
            | Refused::NodeUnknown(_)
            | Refused::IncarnationEnded { .. }
            | Refused::ChannelUnknown(_)
            | Refused::ChannelClass(_)
            | Refused::ChannelOwned { .. }
            | Refused::EpochMoved { .. }
            | Refused::ChannelInactive(_)
            | Refused::SealOutOfOrder { .. }
            | Refused::AlreadySealed { .. }
            | Refused::EarlierEpochUnsealed { .. }
            | Refused::StreamletNotOpen(_)
            | Refused::NotFlushed
            | Refused::StreamletOpen { .. }
            | Refused::BasinNotEmpty(_)
            | Refused::NotDeleting
            | Refused::FlushOutOfOrder { .. }
            | Refused::MergeOutOfOrder { .. }
            | Refused::PackOutOfOrder { .. }
            | Refused::SegmentsLeft
            | Refused::Retained
            | Refused::NotEmpty
            | Refused::ObjectLive(_)
            | Refused::TermOver => ErrorCode::HotServer,
        }
    }
}
