//! Requests to channels and their answers, as they travel between nodes.
//!
//! What comes from a peer is input: it is checked, and what does not decode is refused.

use std::sync::Arc;

use millrace_api::batch::AppendBatch;
use millrace_api::id::{ChannelId, ChunkSeq, Epoch, StreamId, StreamletId, WriterId};
use millrace_api::name::FencingToken;
use millrace_api::position::StreamPosition;
use millrace_wal::Frame;

use super::pb::{self, link_reply::Reply, read, refusal};
use crate::channel::handle::ReadBounds;
use crate::channel::log::{ChunkLog, Extent, LogPosition};
use crate::channel::message::{ReadReply, ReadView, Refusal, Seek, Source};
use crate::channel::writers::WriterInput;
use crate::frontend::service::types::AppendAck;

/// What came does not decode.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message between nodes is malformed: {0}")]
pub struct Malformed(pub &'static str);

pub fn append(batch: &AppendBatch, source: &Source) -> pb::Append {
    pb::Append {
        input: batch.input().clone(),
        writer: source.writer().map(|input| pb::WriterInput {
            writer: input.writer.0,
            opened_at: input.opened_at,
            number: input.number,
            acked_through: input.acked_through,
        }),
    }
}

pub fn writer_input(input: pb::WriterInput) -> WriterInput {
    WriterInput {
        writer: WriterId(input.writer),
        opened_at: input.opened_at,
        number: input.number,
        acked_through: input.acked_through,
    }
}

pub fn read(seek: Seek, bounds: ReadBounds) -> pb::Read {
    pb::Read {
        seek: Some(match seek {
            Seek::SeqNum(seq_num) => read::Seek::SeqNum(seq_num),
            Seek::Timestamp(timestamp) => read::Seek::Timestamp(timestamp),
        }),
        records_max: bounds.records_max as u64,
        metered_bytes_max: bounds.metered_bytes_max as u64,
        wait: bounds.wait,
    }
}

pub fn seek_and_bounds(read: &pb::Read) -> Result<(Seek, ReadBounds), Malformed> {
    let seek = match read.seek {
        Some(read::Seek::SeqNum(seq_num)) => Seek::SeqNum(seq_num),
        Some(read::Seek::Timestamp(timestamp)) => Seek::Timestamp(timestamp),
        None => return Err(Malformed("a read without a start")),
    };
    let bounds = ReadBounds {
        records_max: usize::try_from(read.records_max).unwrap_or(usize::MAX),
        metered_bytes_max: usize::try_from(read.metered_bytes_max).unwrap_or(usize::MAX),
        wait: read.wait,
    };
    Ok((seek, bounds))
}

pub fn stream_id(bytes: &[u8]) -> Result<StreamId, Malformed> {
    let id = bytes
        .try_into()
        .map_err(|_| Malformed("a stream id has 16 bytes"))?;
    Ok(StreamId::from_bytes(id))
}

pub fn ack_reply(answer: Result<AppendAck, Refusal>, applied: u64) -> Reply {
    match answer {
        Ok(ack) => Reply::Ack(pb::Ack {
            start: Some(position(ack.start)),
            end: Some(position(ack.end)),
            tail: Some(position(ack.tail)),
        }),
        Err(refused) => refusal_reply(refused, applied),
    }
}

pub fn ack(ack: pb::Ack) -> Result<AppendAck, Malformed> {
    Ok(AppendAck {
        start: from_position(ack.start)?,
        end: from_position(ack.end)?,
        tail: from_position(ack.tail)?,
    })
}

pub fn read_reply(answer: Result<ReadReply, Refusal>, applied: u64) -> Reply {
    match answer {
        Ok(ReadReply::Frames { frames, view }) => Reply::Frames(pb::Frames {
            view: Some(from_view(view)),
            frames: frames.iter().map(|frame| frame.bytes.clone()).collect(),
        }),
        Ok(ReadReply::Chunks {
            start,
            streamlet,
            end,
            log,
            view,
        }) => Reply::Chunks(pb::Chunks {
            view: Some(from_view(view)),
            start_epoch: start.epoch.0,
            start_slot: start.slot.0,
            streamlet: streamlet.0,
            end,
            log: log.extents_from(start).map(extent).collect(),
        }),
        Ok(ReadReply::Segments { end, known_at, view }) => Reply::Segments(pb::Segments {
            view: Some(from_view(view)),
            end,
            known_at,
        }),
        Ok(ReadReply::AtTail { view }) => Reply::AtTail(from_view(view)),
        Err(refused) => refusal_reply(refused, applied),
    }
}

fn extent(extent: Extent) -> pb::Extent {
    pb::Extent {
        epoch: extent.epoch.0,
        first: extent.first.0,
        end: extent.end.0,
    }
}

/// The answer to a read of `channel`.
pub fn from_read_reply(reply: Reply, channel: ChannelId) -> Result<Result<ReadReply, Refusal>, Malformed> {
    Ok(Ok(match reply {
        Reply::Frames(answer) => {
            let frames = answer.frames.iter().map(Frame::decode);
            ReadReply::Frames {
                frames: frames
                    .collect::<Result<Arc<[_]>, _>>()
                    .map_err(|_| Malformed("a frame"))?,
                view: view(answer.view)?,
            }
        }
        Reply::Chunks(answer) => {
            let extents = answer.log.iter().map(|extent| Extent {
                epoch: Epoch(extent.epoch),
                first: ChunkSeq(extent.first),
                end: ChunkSeq(extent.end),
            });
            ReadReply::Chunks {
                start: LogPosition {
                    epoch: Epoch(answer.start_epoch),
                    slot: ChunkSeq(answer.start_slot),
                },
                streamlet: StreamletId(answer.streamlet),
                end: answer.end,
                log: Arc::new(
                    ChunkLog::from_extents(channel, extents.collect())
                        .ok_or(Malformed("extents that are not in order"))?,
                ),
                view: view(answer.view)?,
            }
        }
        Reply::Segments(answer) => ReadReply::Segments {
            end: answer.end,
            known_at: answer.known_at,
            view: view(answer.view)?,
        },
        Reply::AtTail(at) => ReadReply::AtTail {
            view: view(Some(at))?,
        },
        Reply::Refusal(refused) => return from_refusal(refused).map(Err),
        _ => return Err(Malformed("an answer to something else")),
    }))
}

fn from_view(view: ReadView) -> pb::View {
    pb::View {
        tail: Some(position(view.tail)),
        trim: view.trim,
    }
}

fn view(view: Option<pb::View>) -> Result<ReadView, Malformed> {
    let view = view.ok_or(Malformed("an answer without the stream's state"))?;
    Ok(ReadView {
        tail: from_position(view.tail)?,
        trim: view.trim,
    })
}

pub fn position(at: StreamPosition) -> pb::Position {
    pb::Position {
        seq_num: at.seq_num,
        timestamp: at.timestamp,
    }
}

pub fn from_position(at: Option<pb::Position>) -> Result<StreamPosition, Malformed> {
    let at = at.ok_or(Malformed("a position is missing"))?;
    Ok(StreamPosition::new(at.seq_num, at.timestamp))
}

/// `applied` is the index of the state by which the channel was found not to be here.
pub fn refusal_reply(refused: Refusal, applied: u64) -> Reply {
    use refusal::Refusal as Kind;
    let kind = match refused {
        Refusal::NotHere { .. } => Kind::NotHere(applied),
        Refusal::Deleting => Kind::Deleting(true),
        Refusal::NotFound => Kind::NotFound(true),
        Refusal::FencingTokenMismatch { actual } => Kind::FencingTokenMismatch(actual.to_string()),
        Refusal::SeqNumMismatch { next } => Kind::SeqNumMismatch(next),
        Refusal::Invalid(why) => Kind::Invalid(why),
        Refusal::SessionEnded => Kind::SessionEnded(true),
        Refusal::WriterUnknown => Kind::WriterUnknown(true),
        Refusal::Stopped | Refusal::Unreachable => Kind::Stopped(true),
        Refusal::Unknown => Kind::Unknown(true),
        Refusal::NoLease => Kind::NoLease(true),
        Refusal::Metadata(why) => Kind::Metadata(why),
        Refusal::Full => Kind::Full(true),
    };
    Reply::Refusal(pb::Refusal { refusal: Some(kind) })
}

pub fn from_refusal(refused: pb::Refusal) -> Result<Refusal, Malformed> {
    use refusal::Refusal as Kind;
    Ok(
        match refused.refusal.ok_or(Malformed("a refusal of a later release"))? {
            Kind::NotHere(applied) => Refusal::NotHere { applied },
            Kind::Deleting(_) => Refusal::Deleting,
            Kind::NotFound(_) => Refusal::NotFound,
            Kind::FencingTokenMismatch(actual) => Refusal::FencingTokenMismatch {
                actual: FencingToken::new(actual).map_err(|_| Malformed("a fencing token"))?,
            },
            Kind::SeqNumMismatch(next) => Refusal::SeqNumMismatch { next },
            Kind::Invalid(why) => Refusal::Invalid(why),
            Kind::SessionEnded(_) => Refusal::SessionEnded,
            Kind::WriterUnknown(_) => Refusal::WriterUnknown,
            Kind::Stopped(_) => Refusal::Stopped,
            Kind::Unknown(_) => Refusal::Unknown,
            Kind::Metadata(why) => Refusal::Metadata(why),
            Kind::NoLease(_) => Refusal::NoLease,
            Kind::Busy(_) => Refusal::Stopped,
            Kind::Full(_) => Refusal::Full,
        },
    )
}
