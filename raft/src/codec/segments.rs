//! Segments, their objects, and the commands about them.

use millrace_api::id::{ChannelId, ChunkSeq, Epoch, FlushSeq, StreamId, StreamletId};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};

use super::common::{fencing, fencing_message, id, id_bytes, position, position_message};
use super::{DecodeError, required};
use crate::command::*;
use crate::pb;
use crate::state::record::Slot;
use crate::state::segment::{
    ChainIndexRow, ChainRow, Death, IndexRow, PackedSegment, SegmentObjectRow, SegmentRow,
};

pub fn slot_message(slot: Slot) -> pb::Slot {
    pb::Slot {
        epoch: slot.epoch.0,
        slot: slot.slot.0,
    }
}

pub fn slot(message: pb::Slot) -> Slot {
    Slot {
        epoch: Epoch(message.epoch),
        slot: ChunkSeq(message.slot),
    }
}

pub fn object_message(object: &SegmentObjectId) -> pb::SegmentObjectId {
    let origin = match object.origin {
        SegmentOrigin::Flush => pb::SegmentOrigin::Flush,
        SegmentOrigin::Merge => pb::SegmentOrigin::Merge,
        SegmentOrigin::Index => pb::SegmentOrigin::Index,
    };
    pb::SegmentObjectId {
        channel: object.channel.0,
        epoch: object.epoch.0,
        origin: origin.into(),
        seq: object.seq.0,
        part: object.part,
    }
}

pub fn object(message: pb::SegmentObjectId) -> Result<SegmentObjectId, DecodeError> {
    let origin = match pb::SegmentOrigin::try_from(message.origin) {
        Ok(pb::SegmentOrigin::Flush) => SegmentOrigin::Flush,
        Ok(pb::SegmentOrigin::Merge) => SegmentOrigin::Merge,
        Ok(pb::SegmentOrigin::Index) => SegmentOrigin::Index,
        Ok(pb::SegmentOrigin::Unspecified) | Err(_) => {
            return Err(DecodeError::unknown("segment origin", message.origin));
        }
    };
    Ok(SegmentObjectId {
        channel: ChannelId(message.channel),
        epoch: Epoch(message.epoch),
        origin,
        seq: FlushSeq(message.seq),
        part: message.part,
    })
}

fn objects_of(messages: Vec<pb::SegmentObjectId>) -> Result<Vec<SegmentObjectId>, DecodeError> {
    messages.into_iter().map(object).collect()
}

pub fn chain_row_message(row: &ChainRow) -> pb::Segment {
    match row {
        ChainRow::Segment(row) => segment_message(row),
        ChainRow::Index(row) => index_message(row),
    }
}

pub fn chain_row(message: pb::Segment) -> Result<ChainRow, DecodeError> {
    Ok(match message.index {
        Some(index) => ChainRow::Index(index_row(message, index)?),
        None => ChainRow::Segment(segment(message)?),
    })
}

fn index_message(row: &IndexRow) -> pb::Segment {
    pb::Segment {
        first_seq: row.first_seq,
        first_timestamp: row.first_timestamp,
        last_timestamp: row.last_timestamp,
        object: Some(object_message(&row.object)),
        metered_bytes: row.metered_bytes,
        appended_before_ms: row.appended_before_ms,
        index: Some(pb::segment::Index {
            segments: row.segments,
            bytes: row.bytes,
            first_end: row.first_end,
            first_appended_before_ms: row.first_appended_before_ms,
            checksum: row.checksum,
        }),
        ..pb::Segment::default()
    }
}

fn index_row(message: pb::Segment, index: pb::segment::Index) -> Result<IndexRow, DecodeError> {
    Ok(IndexRow {
        first_seq: message.first_seq,
        first_timestamp: message.first_timestamp,
        last_timestamp: message.last_timestamp,
        object: object(required(message.object, "index object")?)?,
        metered_bytes: message.metered_bytes,
        appended_before_ms: message.appended_before_ms,
        segments: index.segments,
        bytes: index.bytes,
        first_end: index.first_end,
        first_appended_before_ms: index.first_appended_before_ms,
        checksum: index.checksum,
    })
}

fn segment_message(row: &SegmentRow) -> pb::Segment {
    pb::Segment {
        first_seq: row.first_seq,
        first_timestamp: row.first_timestamp,
        last_timestamp: row.last_timestamp,
        object: Some(object_message(&row.object)),
        offset: row.offset,
        frames_len: row.frames_len,
        index_len: row.index_len,
        metered_bytes: row.metered_bytes,
        appended_before_ms: row.appended_before_ms,
        index: None,
    }
}

fn segment(message: pb::Segment) -> Result<SegmentRow, DecodeError> {
    Ok(SegmentRow {
        first_seq: message.first_seq,
        first_timestamp: message.first_timestamp,
        last_timestamp: message.last_timestamp,
        object: object(required(message.object, "segment object")?)?,
        offset: message.offset,
        frames_len: message.frames_len,
        index_len: message.index_len,
        metered_bytes: message.metered_bytes,
        appended_before_ms: message.appended_before_ms,
    })
}

pub fn object_row_message(row: &SegmentObjectRow) -> pb::SegmentObject {
    pb::SegmentObject {
        len: row.len,
        live_runs: row.live_runs,
        live_bytes: row.live_bytes,
        committed_at_ms: row.committed_at_ms,
        death: row.death.map(|death| pb::segment_object::Death {
            at_ms: death.at_ms,
            log_index: death.log_index,
        }),
        packed_runs: row.packed_runs,
        packed_bytes: row.packed_bytes,
    }
}

pub fn object_row(message: pb::SegmentObject) -> SegmentObjectRow {
    SegmentObjectRow {
        len: message.len,
        live_runs: message.live_runs,
        live_bytes: message.live_bytes,
        committed_at_ms: message.committed_at_ms,
        death: message.death.map(|death| Death {
            at_ms: death.at_ms,
            log_index: death.log_index,
        }),
        packed_runs: message.packed_runs,
        packed_bytes: message.packed_bytes,
    }
}

fn written_message(objects: &[FlushedObject]) -> Vec<pb::FlushedObject> {
    let message = |object: &FlushedObject| pb::FlushedObject {
        part: object.part,
        len: object.len,
    };
    objects.iter().map(message).collect()
}

fn written(messages: Vec<pb::FlushedObject>) -> Vec<FlushedObject> {
    let object = |message: pb::FlushedObject| FlushedObject {
        part: message.part,
        len: message.len,
    };
    messages.into_iter().map(object).collect()
}

pub fn flush_message(c: &CommitFlush) -> pb::CommitFlush {
    pb::CommitFlush {
        channel: c.channel.0,
        epoch: c.epoch.0,
        flush_seq: c.flush_seq.0,
        from: Some(slot_message(c.from)),
        through: Some(slot_message(c.through)),
        objects: written_message(&c.objects),
        streams: c.streams.iter().map(flushed_stream_message).collect(),
        now_ms: c.now_ms,
    }
}

pub fn flush(m: pb::CommitFlush) -> Result<CommitFlush, DecodeError> {
    let streams = m.streams.into_iter().map(flushed_stream);
    Ok(CommitFlush {
        channel: ChannelId(m.channel),
        epoch: Epoch(m.epoch),
        flush_seq: FlushSeq(m.flush_seq),
        from: slot(required(m.from, "from")?),
        through: slot(required(m.through, "through")?),
        objects: written(m.objects),
        streams: streams.collect::<Result<_, _>>()?,
        now_ms: m.now_ms,
    })
}

fn flushed_stream_message(stream: &FlushedStream) -> pb::commit_flush::Stream {
    pb::commit_flush::Stream {
        stream: id_bytes(stream.stream.0),
        streamlet: stream.streamlet.0,
        tail: position_message(stream.tail),
        fencing: fencing_message(&stream.fencing),
        trim: stream.trim,
        forgotten: stream.forgotten,
        run: stream.run.map(|run| pb::commit_flush::Run {
            part: run.part,
            offset: run.offset,
            frames_len: run.frames_len,
            index_len: run.index_len,
            first_seq: run.first_seq,
            first_timestamp: run.first_timestamp,
            metered_bytes: run.metered_bytes,
        }),
    }
}

fn flushed_stream(m: pb::commit_flush::Stream) -> Result<FlushedStream, DecodeError> {
    Ok(FlushedStream {
        stream: StreamId(id(&m.stream, "stream id")?),
        streamlet: StreamletId(m.streamlet),
        tail: position(m.tail)?,
        fencing: fencing(m.fencing)?,
        trim: m.trim,
        forgotten: m.forgotten,
        run: m.run.map(|run| FlushedRun {
            part: run.part,
            offset: run.offset,
            frames_len: run.frames_len,
            index_len: run.index_len,
            first_seq: run.first_seq,
            first_timestamp: run.first_timestamp,
            metered_bytes: run.metered_bytes,
        }),
    })
}

pub fn merge_message(c: &CommitMerge) -> pb::CommitMerge {
    pb::CommitMerge {
        channel: c.channel.0,
        epoch: c.epoch.0,
        merge_seq: c.merge_seq.0,
        objects: written_message(&c.objects),
        runs: c.runs.iter().map(merged_run_message).collect(),
        now_ms: c.now_ms,
    }
}

pub fn merge(m: pb::CommitMerge) -> Result<CommitMerge, DecodeError> {
    Ok(CommitMerge {
        channel: ChannelId(m.channel),
        epoch: Epoch(m.epoch),
        merge_seq: FlushSeq(m.merge_seq),
        objects: written(m.objects),
        runs: m.runs.into_iter().map(merged_run).collect::<Result<_, _>>()?,
        now_ms: m.now_ms,
    })
}

fn merged_run_message(run: &MergedRun) -> pb::commit_merge::Run {
    pb::commit_merge::Run {
        stream: id_bytes(run.stream.0),
        part: run.part,
        offset: run.offset,
        frames_len: run.frames_len,
        index_len: run.index_len,
        first_seq: run.first_seq,
        first_timestamp: run.first_timestamp,
        end_seq: run.end_seq,
        last_timestamp: run.last_timestamp,
        metered_bytes: run.metered_bytes,
        appended_before_ms: run.appended_before_ms,
        sources: run.sources.iter().map(object_message).collect(),
    }
}

fn merged_run(m: pb::commit_merge::Run) -> Result<MergedRun, DecodeError> {
    Ok(MergedRun {
        stream: StreamId(id(&m.stream, "stream id")?),
        part: m.part,
        offset: m.offset,
        frames_len: m.frames_len,
        index_len: m.index_len,
        first_seq: m.first_seq,
        first_timestamp: m.first_timestamp,
        end_seq: m.end_seq,
        last_timestamp: m.last_timestamp,
        metered_bytes: m.metered_bytes,
        appended_before_ms: m.appended_before_ms,
        sources: objects_of(m.sources)?,
    })
}

pub fn forget_message(c: &ForgetObjects) -> pb::ForgetObjects {
    pb::ForgetObjects {
        objects: c.objects.iter().map(object_message).collect(),
    }
}

pub fn forget(m: pb::ForgetObjects) -> Result<ForgetObjects, DecodeError> {
    Ok(ForgetObjects {
        objects: objects_of(m.objects)?,
    })
}

pub fn pack_message(c: &PackChain) -> pb::PackChain {
    pb::PackChain {
        channel: c.channel.0,
        epoch: c.epoch.0,
        pack_seq: c.pack_seq.0,
        object: Some(pb::FlushedObject {
            part: c.object.part,
            len: c.object.len,
        }),
        stream: id_bytes(c.stream.0),
        first_seq: c.first_seq,
        end_seq: c.end_seq,
        segments: c.segments,
        checksum: c.checksum,
        now_ms: c.now_ms,
    }
}

pub fn pack(m: pb::PackChain) -> Result<PackChain, DecodeError> {
    let object = required(m.object, "index object")?;
    Ok(PackChain {
        channel: ChannelId(m.channel),
        epoch: Epoch(m.epoch),
        pack_seq: FlushSeq(m.pack_seq),
        object: FlushedObject {
            part: object.part,
            len: object.len,
        },
        stream: StreamId(id(&m.stream, "stream id")?),
        first_seq: m.first_seq,
        end_seq: m.end_seq,
        segments: m.segments,
        checksum: m.checksum,
        now_ms: m.now_ms,
    })
}

pub fn unpack_message(c: &UnpackChain) -> pb::UnpackChain {
    pb::UnpackChain {
        stream: id_bytes(c.stream.0),
        index: Some(object_message(&c.index)),
        segments: c.segments.iter().map(packed_message).collect(),
        now_ms: c.now_ms,
    }
}

pub fn unpack(m: pb::UnpackChain) -> Result<UnpackChain, DecodeError> {
    Ok(UnpackChain {
        stream: StreamId(id(&m.stream, "stream id")?),
        index: object(required(m.index, "index object")?)?,
        segments: m.segments.into_iter().map(packed).collect::<Result<_, _>>()?,
        now_ms: m.now_ms,
    })
}

pub fn packed_message(packed: &PackedSegment) -> pb::unpack_chain::Segment {
    let row = &packed.row;
    pb::unpack_chain::Segment {
        first_seq: row.first_seq,
        end_seq: packed.end_seq,
        first_timestamp: row.first_timestamp,
        last_timestamp: row.last_timestamp,
        object: Some(object_message(&row.object)),
        offset: row.offset,
        frames_len: row.frames_len,
        index_len: row.index_len,
        metered_bytes: row.metered_bytes,
        appended_before_ms: row.appended_before_ms,
        object_len: packed.object_len,
        committed_at_ms: packed.committed_at_ms,
        alone: packed.alone,
    }
}

fn packed(m: pb::unpack_chain::Segment) -> Result<PackedSegment, DecodeError> {
    Ok(PackedSegment {
        end_seq: m.end_seq,
        row: SegmentRow {
            first_seq: m.first_seq,
            first_timestamp: m.first_timestamp,
            last_timestamp: m.last_timestamp,
            object: object(required(m.object, "segment object")?)?,
            offset: m.offset,
            frames_len: m.frames_len,
            index_len: m.index_len,
            metered_bytes: m.metered_bytes,
            appended_before_ms: m.appended_before_ms,
        },
        object_len: m.object_len,
        committed_at_ms: m.committed_at_ms,
        alone: m.alone,
    })
}

pub fn chain_index_message(row: &ChainIndexRow) -> pb::ChainIndex {
    let names = row.names.iter().map(|(first, last)| pb::chain_index::Names {
        first: Some(object_message(first)),
        last: Some(object_message(last)),
    });
    pb::ChainIndex {
        stream: id_bytes(row.stream.0),
        names: names.collect(),
    }
}

pub fn chain_index(m: pb::ChainIndex) -> Result<ChainIndexRow, DecodeError> {
    let names = m.names.into_iter().map(|names| {
        let first = object(required(names.first, "first name")?)?;
        Ok((first, object(required(names.last, "last name")?)?))
    });
    Ok(ChainIndexRow {
        stream: StreamId(id(&m.stream, "stream id")?),
        names: names.collect::<Result<_, DecodeError>>()?,
    })
}
