//! Values of the state database. What a key says already is not in the value.

use millrace_api::id::{
    BasinId, ChannelId, ChunkSeq, Epoch, FlushSeq, Incarnation, NodeId, StreamId, StreamletId, ZoneGen,
};
use millrace_api::name::{BasinName, StreamName};

use super::common::*;
use super::log::{log_position, log_position_message, members, members_message};
use super::segments::{slot, slot_message};
use super::{DecodeError, required};
use crate::pb;
use crate::state::record::*;

pub fn applied_message(applied: &Applied) -> pb::Applied {
    pb::Applied {
        log_id: applied.last.map(log_position_message),
        membership_log_id: applied.membership_at.map(log_position_message),
        membership: Some(members_message(&applied.membership)),
    }
}

pub fn applied(message: pb::Applied) -> Result<Applied, DecodeError> {
    Ok(Applied {
        last: message.log_id.map(log_position),
        membership_at: message.membership_log_id.map(log_position),
        membership: members(required(message.membership, "membership")?)?,
    })
}

pub fn node_message(node: &NodeRecord) -> pb::Node {
    pb::Node {
        incarnation: id_bytes(node.incarnation.0),
        zone: node.zone.clone(),
        address: node.address.clone(),
        registered_at_ms: node.registered_at_ms,
        expired: node.expired,
        former: node.former.iter().map(|i| id_bytes(i.0)).collect(),
    }
}

pub fn node(key: NodeId, message: pb::Node) -> Result<NodeRecord, DecodeError> {
    Ok(NodeRecord {
        node: key,
        incarnation: Incarnation(id(&message.incarnation, "incarnation")?),
        zone: message.zone,
        address: message.address,
        registered_at_ms: message.registered_at_ms,
        expired: message.expired,
        former: message
            .former
            .iter()
            .map(|i| Ok(Incarnation(id(i, "incarnation")?)))
            .collect::<Result<_, DecodeError>>()?,
    })
}

pub fn channel_message(channel: &ChannelRow) -> pb::Channel {
    pb::Channel {
        class: storage_class_number(Some(channel.class)),
        owner: channel.owner.map(owner_message),
        epoch: channel.epoch.0,
        sealed_through: channel.sealed_through.0,
        checkpoint: Some(slot_message(channel.checkpoint)),
        flush_seq: channel.flush_seq.0,
        merge_seq: channel.merge_seq.0,
        pack_seq: channel.pack_seq.0,
    }
}

pub fn channel(message: pb::Channel) -> Result<ChannelRow, DecodeError> {
    Ok(ChannelRow {
        class: required(storage_class(message.class)?, "storage class")?,
        owner: message.owner.map(owner).transpose()?,
        epoch: Epoch(message.epoch),
        sealed_through: Epoch(message.sealed_through),
        checkpoint: slot(required(message.checkpoint, "checkpoint")?),
        flush_seq: FlushSeq(message.flush_seq),
        merge_seq: FlushSeq(message.merge_seq),
        pack_seq: FlushSeq(message.pack_seq),
    })
}

pub fn epoch_message(epoch: &EpochState) -> pb::EpochState {
    pb::EpochState {
        owner: Some(owner_message(epoch.owner)),
        gens: epoch.gens.iter().map(|g| id_bytes(g.0)).collect(),
        activated: epoch.activated,
        adopted: epoch.adopted,
        seal: epoch.seal.map(|seal| pb::Seal {
            end: seal.end.0,
            by: seal.by.0,
            adopted: seal.adopted,
            log_index: seal.log_index,
        }),
    }
}

pub fn epoch(message: pb::EpochState) -> Result<EpochState, DecodeError> {
    Ok(EpochState {
        owner: owner(required(message.owner, "owner")?)?,
        gens: message
            .gens
            .iter()
            .map(|g| Ok(ZoneGen(id(g, "zone gen")?)))
            .collect::<Result<_, DecodeError>>()?,
        activated: message.activated,
        adopted: message.adopted,
        seal: message.seal.map(|seal| Seal {
            end: ChunkSeq(seal.end),
            by: Epoch(seal.by),
            adopted: seal.adopted,
            log_index: seal.log_index,
        }),
    })
}

pub fn basin_message(basin: &BasinRecord) -> pb::Basin {
    pb::Basin {
        id: id_bytes(basin.id.0),
        config: Some(basin_config_message(&basin.config)),
        location: basin.location.clone(),
        created_at_ms: basin.created_at_ms,
        deleted_at_ms: basin.deleted_at_ms,
        request_key: request_key_bytes(basin.request_key),
    }
}

pub fn basin(name: BasinName, message: pb::Basin) -> Result<BasinRecord, DecodeError> {
    Ok(BasinRecord {
        name,
        id: BasinId(id(&message.id, "basin id")?),
        config: basin_config(message.config)?,
        location: message.location,
        created_at_ms: message.created_at_ms,
        deleted_at_ms: message.deleted_at_ms,
        request_key: request_key(message.request_key)?,
    })
}

pub fn deleting_basin_message(work: &DeletingBasin) -> pb::DeletingBasin {
    pb::DeletingBasin {
        cursor: work.cursor.as_ref().map(|name| name.to_string()),
        marked: work.marked,
    }
}

pub fn deleting_basin(message: pb::DeletingBasin) -> Result<DeletingBasin, DecodeError> {
    Ok(DeletingBasin {
        cursor: message.cursor.as_deref().map(stream_name).transpose()?,
        marked: message.marked,
    })
}

pub fn entry_message(entry: &StreamEntry) -> pb::StreamName {
    pb::StreamName {
        id: id_bytes(entry.id.0),
        created_at_ms: entry.created_at_ms,
        deleted_at_ms: entry.deleted_at_ms,
        cipher: cipher_number(entry.cipher),
    }
}

pub fn entry(name: StreamName, message: pb::StreamName) -> Result<StreamEntry, DecodeError> {
    Ok(StreamEntry {
        name,
        id: StreamId(id(&message.id, "stream id")?),
        created_at_ms: message.created_at_ms,
        deleted_at_ms: message.deleted_at_ms,
        cipher: cipher(message.cipher)?,
    })
}

pub fn stream_message(stream: &StreamRecord) -> pb::Stream {
    pb::Stream {
        basin: id_bytes(stream.basin.0),
        name: stream.name.to_string(),
        config: Some(stream_config_message(&stream.config.into())),
        cipher: cipher_number(stream.cipher),
        created_at_ms: stream.created_at_ms,
        request_key: request_key_bytes(stream.request_key),
        tail: position_message(stream.tail),
        fencing: fencing_message(&stream.fencing),
        trim: stream.trim,
        forgotten: stream.forgotten,
        open: stream.open.map(|open| pb::OpenStreamlet {
            channel: open.channel.0,
            streamlet: open.streamlet.0,
            start: position_message(open.start),
        }),
        last_closed: stream.last_closed.0,
        deletion: stream.deletion.map(|deletion| pb::Deletion {
            at_ms: deletion.at_ms,
            log_index: deletion.log_index,
            channel_epoch: deletion.channel_epoch.0,
        }),
        empty_since_ms: stream.empty_since_ms,
        segments: stream.segments,
        unpacked_through: stream.unpacked_through,
    }
}

pub fn stream(key: StreamId, message: pb::Stream) -> Result<StreamRecord, DecodeError> {
    let open = |open: pb::OpenStreamlet| {
        Ok::<_, DecodeError>(OpenStreamlet {
            channel: ChannelId(open.channel),
            streamlet: StreamletId(open.streamlet),
            start: position(open.start)?,
        })
    };
    Ok(StreamRecord {
        id: key,
        basin: BasinId(id(&message.basin, "basin id")?),
        name: stream_name(&message.name)?,
        config: resolved_config(message.config)?,
        cipher: cipher(message.cipher)?,
        created_at_ms: message.created_at_ms,
        request_key: request_key(message.request_key)?,
        tail: position(message.tail)?,
        fencing: fencing(message.fencing)?,
        trim: message.trim,
        forgotten: message.forgotten,
        open: message.open.map(open).transpose()?,
        last_closed: StreamletId(message.last_closed),
        deletion: message.deletion.map(|deletion| Deletion {
            at_ms: deletion.at_ms,
            log_index: deletion.log_index,
            channel_epoch: Epoch(deletion.channel_epoch),
        }),
        empty_since_ms: message.empty_since_ms,
        segments: message.segments,
        unpacked_through: message.unpacked_through,
    })
}
