//! Refusals, as one member tells them to another.

use millrace_api::id::{ChannelId, ChunkSeq, Epoch, FlushSeq, Incarnation, NodeId, StreamletId, ZoneGen};

use super::common::{basin_name, id, id_bytes, stream_name};
use super::segments::{object, object_message, slot, slot_message};
use super::{DecodeError, required};
use crate::pb;
use crate::refused::Refused;
use pb::refusal::Reason;

pub fn encode(refused: &Refused) -> pb::Refusal {
    let mut m = pb::Refusal::default();
    let reason = fill(refused, &mut m);
    m.set_reason(reason);
    m
}

fn fill(refused: &Refused, m: &mut pb::Refusal) -> Reason {
    match refused {
        Refused::BasinNotFound(name) => {
            m.text = name.to_string();
            Reason::BasinNotFound
        }
        Refused::BasinDeletionPending(name) => {
            m.text = name.to_string();
            Reason::BasinDeletionPending
        }
        Refused::BasinExists(name) => {
            m.text = name.to_string();
            Reason::BasinExists
        }
        Refused::BasinNotEmpty(name) => {
            m.text = name.to_string();
            Reason::BasinNotEmpty
        }
        Refused::StreamNotFound(name) => {
            m.text = name.to_string();
            Reason::StreamNotFound
        }
        Refused::StreamDeletionPending(name) => {
            m.text = name.to_string();
            Reason::StreamDeletionPending
        }
        Refused::StreamExists(name) => {
            m.text = name.to_string();
            Reason::StreamExists
        }
        Refused::Invalid(why) => {
            m.text = why.clone();
            Reason::Invalid
        }
        Refused::StreamGone => Reason::StreamGone,
        Refused::IdTaken => Reason::IdTaken,
        Refused::NotFlushed => Reason::NotFlushed,
        Refused::NotDeleting => Reason::NotDeleting,
        Refused::TermOver => Reason::TermOver,
        Refused::CellInitialized { cell_id } => {
            m.id = id_bytes(*cell_id);
            Reason::CellInitialized
        }
        Refused::ZoneRegistered { zone, registered } => {
            m.zone = *zone;
            m.id = id_bytes(registered.0);
            Reason::ZoneRegistered
        }
        Refused::NodeUnknown(node) => {
            m.node = node.0;
            Reason::NodeUnknown
        }
        Refused::IncarnationEnded { node, incarnation } => {
            m.node = node.0;
            m.id = id_bytes(incarnation.0);
            Reason::IncarnationEnded
        }
        Refused::ChannelUnknown(channel) => {
            m.channel = channel.0;
            Reason::ChannelUnknown
        }
        Refused::ChannelClass(channel) => {
            m.channel = channel.0;
            Reason::ChannelClass
        }
        Refused::ChannelInactive(channel) => {
            m.channel = channel.0;
            Reason::ChannelInactive
        }
        Refused::ChannelOwned {
            channel,
            node,
            incarnation,
            epoch,
        } => {
            m.channel = channel.0;
            m.node = node.0;
            m.id = id_bytes(incarnation.0);
            m.epoch = epoch.0;
            Reason::ChannelOwned
        }
        Refused::EpochMoved { channel, epoch } => {
            m.channel = channel.0;
            m.epoch = epoch.0;
            Reason::EpochMoved
        }
        Refused::SealOutOfOrder { channel, oldest } => {
            m.channel = channel.0;
            m.epoch = oldest.0;
            Reason::SealOutOfOrder
        }
        Refused::EarlierEpochUnsealed { channel, oldest } => {
            m.channel = channel.0;
            m.epoch = oldest.0;
            Reason::EarlierEpochUnsealed
        }
        Refused::AlreadySealed {
            channel,
            epoch,
            end,
            by,
            adopted,
        } => {
            m.channel = channel.0;
            m.epoch = epoch.0;
            m.end = end.0;
            m.by = by.0;
            m.adopted = *adopted;
            Reason::AlreadySealed
        }
        Refused::StreamletNotOpen(streamlet) => {
            m.streamlet = streamlet.0;
            Reason::StreamletNotOpen
        }
        Refused::StreamletOpen {
            channel,
            streamlet,
            epoch,
        } => {
            m.channel = channel.0;
            m.streamlet = streamlet.0;
            m.epoch = epoch.0;
            Reason::StreamletOpen
        }
        Refused::FlushOutOfOrder {
            channel,
            last,
            checkpoint,
        } => {
            m.channel = channel.0;
            m.last = last.0;
            m.checkpoint = Some(slot_message(*checkpoint));
            Reason::FlushOutOfOrder
        }
        Refused::MergeOutOfOrder { channel, last } => {
            m.channel = channel.0;
            m.last = last.0;
            Reason::MergeOutOfOrder
        }
        Refused::PackOutOfOrder { channel, last } => {
            m.channel = channel.0;
            m.last = last.0;
            Reason::PackOutOfOrder
        }
        Refused::ObjectLive(object) => {
            m.object = Some(object_message(object));
            Reason::ObjectLive
        }
        Refused::SegmentsLeft => Reason::SegmentsLeft,
        Refused::Retained => Reason::Retained,
        Refused::NotEmpty => Reason::NotEmpty,
    }
}

pub fn decode(m: pb::Refusal) -> Result<Refused, DecodeError> {
    let reason = Reason::try_from(m.reason).unwrap_or(Reason::Unspecified);
    let channel = ChannelId(m.channel);
    let epoch = Epoch(m.epoch);
    Ok(match reason {
        Reason::Unspecified => return Err(DecodeError::unknown("refusal", m.reason)),
        Reason::BasinNotFound => Refused::BasinNotFound(basin_name(&m.text)?),
        Reason::BasinDeletionPending => Refused::BasinDeletionPending(basin_name(&m.text)?),
        Reason::BasinExists => Refused::BasinExists(basin_name(&m.text)?),
        Reason::BasinNotEmpty => Refused::BasinNotEmpty(basin_name(&m.text)?),
        Reason::StreamNotFound => Refused::StreamNotFound(stream_name(&m.text)?),
        Reason::StreamDeletionPending => Refused::StreamDeletionPending(stream_name(&m.text)?),
        Reason::StreamExists => Refused::StreamExists(stream_name(&m.text)?),
        Reason::StreamGone => Refused::StreamGone,
        Reason::Invalid => Refused::Invalid(m.text),
        Reason::IdTaken => Refused::IdTaken,
        Reason::CellInitialized => Refused::CellInitialized {
            cell_id: id(&m.id, "cell id")?,
        },
        Reason::ZoneRegistered => Refused::ZoneRegistered {
            zone: m.zone,
            registered: ZoneGen(id(&m.id, "zone gen")?),
        },
        Reason::NodeUnknown => Refused::NodeUnknown(NodeId(m.node)),
        Reason::IncarnationEnded => Refused::IncarnationEnded {
            node: NodeId(m.node),
            incarnation: Incarnation(id(&m.id, "incarnation")?),
        },
        Reason::ChannelUnknown => Refused::ChannelUnknown(channel),
        Reason::ChannelClass => Refused::ChannelClass(channel),
        Reason::ChannelOwned => Refused::ChannelOwned {
            channel,
            node: NodeId(m.node),
            incarnation: Incarnation(id(&m.id, "incarnation")?),
            epoch,
        },
        Reason::EpochMoved => Refused::EpochMoved { channel, epoch },
        Reason::ChannelInactive => Refused::ChannelInactive(channel),
        Reason::SealOutOfOrder => Refused::SealOutOfOrder {
            channel,
            oldest: epoch,
        },
        Reason::AlreadySealed => Refused::AlreadySealed {
            channel,
            epoch,
            end: ChunkSeq(m.end),
            by: Epoch(m.by),
            adopted: m.adopted,
        },
        Reason::EarlierEpochUnsealed => Refused::EarlierEpochUnsealed {
            channel,
            oldest: epoch,
        },
        Reason::StreamletNotOpen => Refused::StreamletNotOpen(StreamletId(m.streamlet)),
        Reason::NotFlushed => Refused::NotFlushed,
        Reason::StreamletOpen => Refused::StreamletOpen {
            channel,
            streamlet: StreamletId(m.streamlet),
            epoch,
        },
        Reason::NotDeleting => Refused::NotDeleting,
        Reason::TermOver => Refused::TermOver,
        Reason::FlushOutOfOrder => Refused::FlushOutOfOrder {
            channel,
            last: FlushSeq(m.last),
            checkpoint: slot(required(m.checkpoint, "checkpoint")?),
        },
        Reason::MergeOutOfOrder => Refused::MergeOutOfOrder {
            channel,
            last: FlushSeq(m.last),
        },
        Reason::PackOutOfOrder => Refused::PackOutOfOrder {
            channel,
            last: FlushSeq(m.last),
        },
        Reason::SegmentsLeft => Refused::SegmentsLeft,
        Reason::Retained => Refused::Retained,
        Reason::NotEmpty => Refused::NotEmpty,
        Reason::ObjectLive => Refused::ObjectLive(object(required(m.object, "segment object")?)?),
    })
}
