//! What a command answers, as one member tells it to another.

use millrace_api::id::{ChannelId, ChunkSeq, Epoch, Incarnation, StreamId, StreamletId};

use super::common::*;
use super::{DecodeError, record, required};
use crate::command::*;
use crate::pb;
use pb::response::Kind;

pub fn encode(response: &Response) -> pb::Response {
    pb::Response {
        kind: Some(kind(response)),
    }
}

fn kind(response: &Response) -> Kind {
    use pb::response as m;
    match response {
        Response::Done => Kind::Done(m::Done {}),
        Response::NodeRegistered(r) => Kind::NodeRegistered(m::NodeRegistered {
            replaced: r.replaced.map(|incarnation| id_bytes(incarnation.0)),
            freed: numbers(&r.freed),
        }),
        Response::NodeExpired(r) => Kind::NodeExpired(m::Channels {
            channels: numbers(&r.freed),
        }),
        Response::Assigned(epoch) => Kind::Assigned(epoch.0),
        Response::ChannelsReleased(r) => Kind::ChannelsReleased(m::Channels {
            channels: numbers(&r.released),
        }),
        Response::EpochSealed(r) => Kind::EpochSealed(m::EpochSealed {
            end: r.end.0,
            by: r.by.0,
            adopted: r.adopted,
        }),
        Response::Basin(r) => Kind::Basin(m::Provisioned {
            outcome: outcome_number(r.outcome),
            name: r.basin.name.to_string(),
            basin: Some(record::basin_message(&r.basin)),
        }),
        Response::StreamsMarked(r) => Kind::StreamsMarked(m::StreamsMarked {
            marked: r
                .marked
                .iter()
                .map(|(stream, open)| m::streams_marked::Marked {
                    stream: id_bytes(stream.0),
                    channel: open.map(|(channel, _)| channel.0),
                    streamlet: open.map(|(_, streamlet)| streamlet.0),
                })
                .collect(),
            done: r.done,
        }),
        Response::Stream(r) => Kind::Stream(m::StreamProvisioned {
            outcome: outcome_number(r.outcome),
            id: id_bytes(r.stream.id.0),
            stream: Some(record::stream_message(&r.stream)),
        }),
        Response::Activation(r) => Kind::Activation(m::Activation {
            outcome: outcome_number(r.outcome),
            channel: r.channel.0,
            streamlet: r.streamlet.0,
            epoch: r.epoch.0,
            owner: r
                .owner
                .map(|(node, incarnation)| owner_message(crate::state::record::Owner { node, incarnation })),
            start: position_message(r.start),
            fencing: fencing_message(&r.fencing),
            trim: r.trim,
            forgotten: r.forgotten,
            config: Some(stream_config_message(&r.config.into())),
            cipher: cipher_number(r.cipher),
        }),
        Response::StateChecksum(r) => Kind::StateChecksum(m::StateChecksum {
            index: r.index,
            checksum: r.checksum,
        }),
        Response::Flushed(r) => Kind::Flushed(m::Flushed {
            log_index: r.log_index,
        }),
        Response::SegmentsDropped(r) => Kind::SegmentsDropped(m::SegmentsDropped {
            dropped: r.dropped,
            done: r.done,
            packed: r.packed,
        }),
        Response::Merged(r) => Kind::Merged(m::Merged {
            log_index: r.log_index,
            replaced: r.replaced,
        }),
        Response::ChainPacked(r) => Kind::ChainPacked(m::ChainPacked {
            log_index: r.log_index,
            segments: r.segments,
        }),
        Response::ChainUnpacked(r) => Kind::ChainUnpacked(r.segments),
    }
}

pub fn decode(message: pb::Response) -> Result<Response, DecodeError> {
    let kind = message
        .kind
        .ok_or_else(|| DecodeError::unknown("response", "a kind of a later release"))?;
    Ok(match kind {
        Kind::Done(_) => Response::Done,
        Kind::NodeRegistered(m) => Response::NodeRegistered(NodeRegistered {
            replaced: m
                .replaced
                .map(|bytes| id(&bytes, "incarnation").map(Incarnation))
                .transpose()?,
            freed: channels(m.freed),
        }),
        Kind::NodeExpired(m) => Response::NodeExpired(NodeExpired {
            freed: channels(m.channels),
        }),
        Kind::Assigned(epoch) => Response::Assigned(Epoch(epoch)),
        Kind::ChannelsReleased(m) => Response::ChannelsReleased(ChannelsReleased {
            released: channels(m.channels),
        }),
        Kind::EpochSealed(m) => Response::EpochSealed(EpochSealed {
            end: ChunkSeq(m.end),
            by: Epoch(m.by),
            adopted: m.adopted,
        }),
        Kind::Basin(m) => Response::Basin(BasinProvisioned {
            outcome: outcome(m.outcome)?,
            basin: record::basin(basin_name(&m.name)?, required(m.basin, "basin")?)?,
        }),
        Kind::StreamsMarked(m) => Response::StreamsMarked(StreamsMarked {
            marked: m
                .marked
                .into_iter()
                .map(|marked| {
                    let open = marked
                        .channel
                        .map(ChannelId)
                        .zip(marked.streamlet.map(StreamletId));
                    Ok((StreamId(id(&marked.stream, "stream id")?), open))
                })
                .collect::<Result<_, DecodeError>>()?,
            done: m.done,
        }),
        Kind::Stream(m) => Response::Stream(Box::new(StreamProvisioned {
            outcome: outcome(m.outcome)?,
            stream: record::stream(StreamId(id(&m.id, "stream id")?), required(m.stream, "stream")?)?,
        })),
        Kind::Activation(m) => Response::Activation(Box::new(Activation {
            outcome: outcome(m.outcome)?,
            channel: ChannelId(m.channel),
            streamlet: StreamletId(m.streamlet),
            epoch: Epoch(m.epoch),
            owner: m
                .owner
                .map(|m| owner(m).map(|owner| (owner.node, owner.incarnation)))
                .transpose()?,
            start: position(m.start)?,
            fencing: fencing(m.fencing)?,
            trim: m.trim,
            forgotten: m.forgotten,
            config: resolved_config(m.config)?,
            cipher: cipher(m.cipher)?,
        })),
        Kind::StateChecksum(m) => Response::StateChecksum(StateChecksum {
            index: m.index,
            checksum: m.checksum,
        }),
        Kind::Flushed(m) => Response::Flushed(Flushed {
            log_index: m.log_index,
        }),
        Kind::SegmentsDropped(m) => Response::SegmentsDropped(SegmentsDropped {
            dropped: m.dropped,
            done: m.done,
            packed: m.packed,
        }),
        Kind::Merged(m) => Response::Merged(Merged {
            log_index: m.log_index,
            replaced: m.replaced,
        }),
        Kind::ChainPacked(m) => Response::ChainPacked(ChainPacked {
            log_index: m.log_index,
            segments: m.segments,
        }),
        Kind::ChainUnpacked(segments) => Response::ChainUnpacked(ChainUnpacked { segments }),
    })
}

fn numbers(channels: &[ChannelId]) -> Vec<u32> {
    channels.iter().map(|channel| channel.0).collect()
}

fn channels(numbers: Vec<u32>) -> Vec<ChannelId> {
    numbers.into_iter().map(ChannelId).collect()
}

fn outcome_number(outcome: Outcome) -> i32 {
    match outcome {
        Outcome::Created => pb::Outcome::Created,
        Outcome::Updated => pb::Outcome::Updated,
        Outcome::Noop => pb::Outcome::Noop,
    }
    .into()
}

fn outcome(value: i32) -> Result<Outcome, DecodeError> {
    match pb::Outcome::try_from(value) {
        Ok(pb::Outcome::Created) => Ok(Outcome::Created),
        Ok(pb::Outcome::Updated) => Ok(Outcome::Updated),
        Ok(pb::Outcome::Noop) => Ok(Outcome::Noop),
        Ok(pb::Outcome::Unspecified) | Err(_) => Err(DecodeError::unknown("outcome", value)),
    }
}
