//! Commands.

use millrace_api::config::{BasinReconfiguration, Patch, StreamReconfiguration};
use millrace_api::id::{
    BasinId, ChannelId, ChunkSeq, Epoch, Incarnation, NodeId, StreamId, StreamletId, ZoneGen,
};

use super::common::*;
use super::{DecodeError, required, segments};
use crate::command::*;
use crate::pb;
use pb::command::Kind;

pub fn encode(command: &Command) -> pb::Command {
    pb::Command {
        kind: Some(encode_kind(command)),
    }
}

/// Bytes of the encoded command.
pub fn encoded_len(command: &Command) -> usize {
    prost::Message::encoded_len(&encode(command))
}

fn encode_kind(command: &Command) -> Kind {
    match command {
        Command::InitCell(c) => Kind::InitCell(pb::InitCell {
            cell_id: id_bytes(c.cell_id),
        }),
        Command::RegisterZone(c) => Kind::RegisterZone(pb::RegisterZone {
            zone: c.zone,
            r#gen: id_bytes(c.gen_id.0),
            replaces: c.replaces.map(|replaced| id_bytes(replaced.0)),
        }),
        Command::RegisterNode(c) => Kind::RegisterNode(pb::RegisterNode {
            node: c.node.0,
            incarnation: id_bytes(c.incarnation.0),
            zone: c.zone.clone(),
            address: c.address.clone(),
            proves_old_dead: c.proves_old_dead,
            now_ms: c.now_ms,
        }),
        Command::ExpireNode(c) => Kind::ExpireNode(pb::ExpireNode {
            node: c.node.0,
            incarnation: id_bytes(c.incarnation.0),
            term: c.term,
        }),
        Command::CreateChannel(c) => Kind::CreateChannel(pb::CreateChannel {
            channel: c.channel.0,
            class: storage_class_number(Some(c.class)),
        }),
        Command::AssignChannel(c) => Kind::AssignChannel(pb::AssignChannel {
            channel: c.channel.0,
            node: c.node.0,
            incarnation: id_bytes(c.incarnation.0),
            gens: c.gens.iter().map(|g| id_bytes(g.0)).collect(),
        }),
        Command::ReleaseChannels(c) => Kind::ReleaseChannels(pb::ReleaseChannels {
            node: c.node.0,
            incarnation: id_bytes(c.incarnation.0),
            channels: c
                .channels
                .iter()
                .map(|r| pb::release_channels::Channel {
                    channel: r.channel.0,
                    epoch: r.epoch.0,
                    sealed_end: r.sealed_end.map(|end| end.0),
                })
                .collect(),
        }),
        Command::SealEpoch(c) => Kind::SealEpoch(pb::SealEpoch {
            channel: c.channel.0,
            epoch: c.epoch.0,
            end: c.end.0,
            by: c.by.0,
            adopted: c.adopted,
        }),
        Command::ActivateChannel(c) => Kind::ActivateChannel(pb::ActivateChannel {
            channel: c.channel.0,
            epoch: c.epoch.0,
        }),
        Command::CreateBasin(c) => Kind::CreateBasin(pb::CreateBasin {
            name: c.name.to_string(),
            id: id_bytes(c.id.0),
            config: Some(basin_config_message(&c.config)),
            location: c.location.clone(),
            mode: Some(mode_message(&c.mode)),
            now_ms: c.now_ms,
        }),
        Command::ReconfigureBasin(c) => Kind::ReconfigureBasin(pb::ReconfigureBasin {
            name: c.name.to_string(),
            change: Some(basin_change_message(&c.change)),
        }),
        Command::DeleteBasin(c) => Kind::DeleteBasin(pb::DeleteBasin {
            name: c.name.to_string(),
            now_ms: c.now_ms,
        }),
        Command::MarkBasinStreams(c) => Kind::MarkBasinStreams(pb::MarkBasinStreams {
            basin: id_bytes(c.basin.0),
            limit: c.limit,
            now_ms: c.now_ms,
        }),
        Command::PurgeBasin(c) => Kind::PurgeBasin(pb::PurgeBasin {
            basin: id_bytes(c.basin.0),
        }),
        Command::CreateStream(c) => Kind::CreateStream(pb::CreateStream {
            basin: c.basin.to_string(),
            name: c.name.to_string(),
            id: id_bytes(c.id.0),
            config: Some(stream_config_message(&c.config)),
            mode: Some(mode_message(&c.mode)),
            now_ms: c.now_ms,
        }),
        Command::ReconfigureStream(c) => Kind::ReconfigureStream(pb::ReconfigureStream {
            basin: c.basin.to_string(),
            name: c.name.to_string(),
            change: Some(stream_change_message(&c.change)),
        }),
        Command::DeleteStream(c) => Kind::DeleteStream(pb::DeleteStream {
            basin: c.basin.to_string(),
            name: c.name.to_string(),
            now_ms: c.now_ms,
        }),
        Command::CloseStreamlet(c) => Kind::CloseStreamlet(pb::CloseStreamlet {
            stream: id_bytes(c.stream.0),
            streamlet: c.streamlet.0,
            channel: c.channel.0,
            epoch: c.epoch.0,
        }),
        Command::PurgeStream(c) => Kind::PurgeStream(pb::PurgeStream {
            stream: id_bytes(c.stream.0),
        }),
        Command::ActivateStream(c) => Kind::ActivateStream(pb::ActivateStream {
            stream: id_bytes(c.stream.0),
            channel: c.channel.0,
        }),
        Command::DeactivateStream(c) => Kind::DeactivateStream(pb::DeactivateStream {
            stream: id_bytes(c.stream.0),
            streamlet: c.streamlet.0,
            channel: c.channel.0,
            epoch: c.epoch.0,
            tail: position_message(c.tail),
            flushed: c.flushed,
            fencing: fencing_message(&c.fencing),
            trim: c.trim,
            forgotten: c.forgotten,
            now_ms: c.now_ms,
        }),
        Command::CommitFlush(c) => Kind::CommitFlush(segments::flush_message(c)),
        Command::DropSegments(c) => Kind::DropSegments(pb::DropSegments {
            stream: id_bytes(c.stream.0),
            limit: c.limit,
            now_ms: c.now_ms,
        }),
        Command::ExpireSegments(c) => Kind::ExpireSegments(pb::ExpireSegments {
            stream: id_bytes(c.stream.0),
            appended_before_ms: c.appended_before_ms,
            limit: c.limit,
            now_ms: c.now_ms,
        }),
        Command::ForgetObjects(c) => Kind::ForgetObjects(segments::forget_message(c)),
        Command::DeleteEmptyStream(c) => Kind::DeleteEmptyStream(pb::DeleteEmptyStream {
            stream: id_bytes(c.stream.0),
            now_ms: c.now_ms,
        }),
        Command::CommitMerge(c) => Kind::CommitMerge(segments::merge_message(c)),
        Command::PackChain(c) => Kind::PackChain(segments::pack_message(c)),
        Command::UnpackChain(c) => Kind::UnpackChain(segments::unpack_message(c)),
        Command::CompareState(_) => Kind::CompareState(pb::CompareState {}),
        Command::CheckState(c) => Kind::CheckState(pb::CheckState {
            index: c.computed.index,
            checksum: c.computed.checksum,
        }),
    }
}

pub fn decode(command: pb::Command) -> Result<Command, DecodeError> {
    let kind = command
        .kind
        .ok_or_else(|| DecodeError::unknown("command", "a kind of a later release"))?;
    Ok(match kind {
        Kind::InitCell(c) => InitCell {
            cell_id: id(&c.cell_id, "cell id")?,
        }
        .into(),
        Kind::RegisterZone(c) => RegisterZone {
            zone: c.zone,
            gen_id: ZoneGen(id(&c.r#gen, "zone gen")?),
            replaces: match c.replaces {
                Some(replaced) => Some(ZoneGen(id(&replaced, "replaced zone gen")?)),
                None => None,
            },
        }
        .into(),
        Kind::RegisterNode(c) => RegisterNode {
            node: NodeId(c.node),
            incarnation: incarnation(&c.incarnation)?,
            zone: c.zone,
            address: c.address,
            proves_old_dead: c.proves_old_dead,
            now_ms: c.now_ms,
        }
        .into(),
        Kind::ExpireNode(c) => ExpireNode {
            node: NodeId(c.node),
            incarnation: incarnation(&c.incarnation)?,
            term: c.term,
        }
        .into(),
        Kind::CreateChannel(c) => CreateChannel {
            channel: ChannelId(c.channel),
            class: required(storage_class(c.class)?, "storage class")?,
        }
        .into(),
        Kind::AssignChannel(c) => AssignChannel {
            channel: ChannelId(c.channel),
            node: NodeId(c.node),
            incarnation: incarnation(&c.incarnation)?,
            gens: c
                .gens
                .iter()
                .map(|g| Ok(ZoneGen(id(g, "zone gen")?)))
                .collect::<Result<_, DecodeError>>()?,
        }
        .into(),
        Kind::ReleaseChannels(c) => ReleaseChannels {
            node: NodeId(c.node),
            incarnation: incarnation(&c.incarnation)?,
            channels: c
                .channels
                .into_iter()
                .map(|r| ReleasedChannel {
                    channel: ChannelId(r.channel),
                    epoch: Epoch(r.epoch),
                    sealed_end: r.sealed_end.map(ChunkSeq),
                })
                .collect(),
        }
        .into(),
        Kind::SealEpoch(c) => SealEpoch {
            channel: ChannelId(c.channel),
            epoch: Epoch(c.epoch),
            end: ChunkSeq(c.end),
            by: Epoch(c.by),
            adopted: c.adopted,
        }
        .into(),
        Kind::ActivateChannel(c) => ActivateChannel {
            channel: ChannelId(c.channel),
            epoch: Epoch(c.epoch),
        }
        .into(),
        Kind::CreateBasin(c) => CreateBasin {
            name: basin_name(&c.name)?,
            id: basin_id(&c.id)?,
            config: basin_config(c.config)?,
            location: c.location,
            mode: mode(c.mode)?,
            now_ms: c.now_ms,
        }
        .into(),
        Kind::ReconfigureBasin(c) => ReconfigureBasin {
            name: basin_name(&c.name)?,
            change: basin_change(required(c.change, "change")?)?,
        }
        .into(),
        Kind::DeleteBasin(c) => DeleteBasin {
            name: basin_name(&c.name)?,
            now_ms: c.now_ms,
        }
        .into(),
        Kind::MarkBasinStreams(c) => MarkBasinStreams {
            basin: basin_id(&c.basin)?,
            limit: c.limit,
            now_ms: c.now_ms,
        }
        .into(),
        Kind::PurgeBasin(c) => PurgeBasin {
            basin: basin_id(&c.basin)?,
        }
        .into(),
        Kind::CreateStream(c) => CreateStream {
            basin: basin_name(&c.basin)?,
            name: stream_name(&c.name)?,
            id: stream_id(&c.id)?,
            config: stream_config(required(c.config, "stream config")?)?,
            mode: mode(c.mode)?,
            now_ms: c.now_ms,
        }
        .into(),
        Kind::ReconfigureStream(c) => ReconfigureStream {
            basin: basin_name(&c.basin)?,
            name: stream_name(&c.name)?,
            change: stream_change(required(c.change, "change")?)?,
        }
        .into(),
        Kind::DeleteStream(c) => DeleteStream {
            basin: basin_name(&c.basin)?,
            name: stream_name(&c.name)?,
            now_ms: c.now_ms,
        }
        .into(),
        Kind::CloseStreamlet(c) => CloseStreamlet {
            stream: stream_id(&c.stream)?,
            streamlet: StreamletId(c.streamlet),
            channel: ChannelId(c.channel),
            epoch: Epoch(c.epoch),
        }
        .into(),
        Kind::PurgeStream(c) => PurgeStream {
            stream: stream_id(&c.stream)?,
        }
        .into(),
        Kind::ActivateStream(c) => ActivateStream {
            stream: stream_id(&c.stream)?,
            channel: ChannelId(c.channel),
        }
        .into(),
        Kind::DeactivateStream(c) => DeactivateStream {
            stream: stream_id(&c.stream)?,
            streamlet: StreamletId(c.streamlet),
            channel: ChannelId(c.channel),
            epoch: Epoch(c.epoch),
            tail: position(c.tail)?,
            flushed: c.flushed,
            fencing: fencing(c.fencing)?,
            trim: c.trim,
            forgotten: c.forgotten,
            now_ms: c.now_ms,
        }
        .into(),
        Kind::CommitFlush(c) => segments::flush(c)?.into(),
        Kind::DropSegments(c) => DropSegments {
            stream: stream_id(&c.stream)?,
            limit: c.limit,
            now_ms: c.now_ms,
        }
        .into(),
        Kind::ExpireSegments(c) => ExpireSegments {
            stream: stream_id(&c.stream)?,
            appended_before_ms: c.appended_before_ms,
            limit: c.limit,
            now_ms: c.now_ms,
        }
        .into(),
        Kind::ForgetObjects(c) => segments::forget(c)?.into(),
        Kind::DeleteEmptyStream(c) => DeleteEmptyStream {
            stream: stream_id(&c.stream)?,
            now_ms: c.now_ms,
        }
        .into(),
        Kind::CommitMerge(c) => segments::merge(c)?.into(),
        Kind::PackChain(c) => segments::pack(c)?.into(),
        Kind::UnpackChain(c) => segments::unpack(c)?.into(),
        Kind::CompareState(_) => CompareState {}.into(),
        Kind::CheckState(c) => CheckState {
            computed: StateChecksum {
                index: c.index,
                checksum: c.checksum,
            },
        }
        .into(),
    })
}

fn incarnation(bytes: &[u8]) -> Result<Incarnation, DecodeError> {
    Ok(Incarnation(id(bytes, "incarnation")?))
}

fn basin_id(bytes: &[u8]) -> Result<BasinId, DecodeError> {
    Ok(BasinId(id(bytes, "basin id")?))
}

fn stream_id(bytes: &[u8]) -> Result<StreamId, DecodeError> {
    Ok(StreamId(id(bytes, "stream id")?))
}

fn mode_message(mode: &CreateMode) -> pb::CreateMode {
    use pb::create_mode::{Auto, CreateOnly, Ensure, Kind};
    let kind = match mode {
        CreateMode::CreateOnly { request_key } => Kind::CreateOnly(CreateOnly {
            request_key: request_key_bytes(*request_key),
        }),
        CreateMode::Ensure => Kind::Ensure(Ensure {}),
        CreateMode::Auto => Kind::Auto(Auto {}),
    };
    pb::CreateMode { kind: Some(kind) }
}

fn mode(message: Option<pb::CreateMode>) -> Result<CreateMode, DecodeError> {
    use pb::create_mode::Kind;
    Ok(match required(message.and_then(|m| m.kind), "create mode")? {
        Kind::CreateOnly(m) => CreateMode::CreateOnly {
            request_key: request_key(m.request_key)?,
        },
        Kind::Ensure(_) => CreateMode::Ensure,
        Kind::Auto(_) => CreateMode::Auto,
    })
}

/// Between `Patch<T>` and an optional message with the fields `clear` and `value`.
macro_rules! patch_message {
    ($message:ident, $patch:expr, $value:ident => $encode:expr) => {
        match $patch {
            Patch::Keep => None,
            Patch::Clear => Some(pb::$message {
                clear: true,
                ..Default::default()
            }),
            Patch::Set($value) => Some(pb::$message {
                clear: false,
                value: $encode,
            }),
        }
    };
}
macro_rules! patch {
    ($message:expr, $value:ident => $decode:expr) => {
        match $message {
            None => Patch::Keep,
            Some(m) if m.clear => Patch::Clear,
            Some(m) => {
                let $value = m.value;
                Patch::Set($decode)
            }
        }
    };
}

fn stream_change_message(change: &StreamReconfiguration) -> pb::StreamChange {
    pb::StreamChange {
        storage_class: patch_message!(StorageClassPatch, change.storage_class, v => storage_class_number(Some(v))),
        retention: patch_message!(RetentionPatch, change.retention, v => Some(retention_message(v))),
        timestamping_mode: patch_message!(
            TimestampingModePatch, change.timestamping_mode, v => timestamping_mode_number(Some(v))
        ),
        timestamping_uncapped: patch_message!(BoolPatch, change.timestamping_uncapped, v => v),
        delete_on_empty_min_age_secs: patch_message!(Uint64Patch, change.delete_on_empty_min_age_secs, v => v),
    }
}

fn stream_change(message: pb::StreamChange) -> Result<StreamReconfiguration, DecodeError> {
    Ok(StreamReconfiguration {
        storage_class: patch!(message.storage_class, v => required(storage_class(v)?, "storage class")?),
        retention: patch!(message.retention, v => retention(required(v, "retention")?)),
        timestamping_mode: patch!(
            message.timestamping_mode, v => required(timestamping_mode(v)?, "timestamping mode")?
        ),
        timestamping_uncapped: patch!(message.timestamping_uncapped, v => v),
        delete_on_empty_min_age_secs: patch!(message.delete_on_empty_min_age_secs, v => v),
    })
}

fn basin_change_message(change: &BasinReconfiguration) -> pb::BasinChange {
    pb::BasinChange {
        default_stream_config: patch_message!(
            StreamChangePatch, &change.default_stream_config, v => Some(stream_change_message(v))
        ),
        stream_cipher: patch_message!(CipherPatch, change.stream_cipher, v => cipher_number(Some(v))),
        create_stream_on_append: change.create_stream_on_append,
        create_stream_on_read: change.create_stream_on_read,
    }
}

fn basin_change(message: pb::BasinChange) -> Result<BasinReconfiguration, DecodeError> {
    Ok(BasinReconfiguration {
        default_stream_config: patch!(
            message.default_stream_config, v => stream_change(required(v, "stream change")?)?
        ),
        stream_cipher: patch!(message.stream_cipher, v => required(cipher(v)?, "cipher")?),
        create_stream_on_append: message.create_stream_on_append,
        create_stream_on_read: message.create_stream_on_read,
    })
}
