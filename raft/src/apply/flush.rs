//! A flush: what is in segments from here on, and where a replay starts.
//!
//! Runs continue what was flushed before, without gap or overlap. A flush in which one does not is refused as a whole:
//! its owner and the group disagree about what is in segments, and neither guess would be safe.

use millrace_api::id::Epoch;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};

use super::objects::{At, NewObjects, invalid};
use super::{Outcome, channel, segments};
use crate::command::{CommitFlush, FLUSH_STREAMS_MAX, Flushed, FlushedStream, Response};
use crate::refused::Refused;
use crate::state::record::{ChannelRow, StreamRecord};
use crate::state::segment::{ChainRow, SegmentRow};
use crate::state::table::{Channels, Epochs, ReadTable, Segments, Streams};
use crate::state::txn::Txn;

pub fn commit(txn: &mut Txn<'_>, c: &CommitFlush, index: u64) -> Outcome<Response> {
    let mut row = channel::current(txn, c.channel, c.epoch)?;
    if c.flush_seq.0 == 0 {
        return invalid("flushes are counted from 1".into());
    }
    if c.flush_seq == row.flush_seq && c.through == row.checkpoint {
        return Ok(Response::Flushed(Flushed { log_index: index }));
    }
    must_be_next(&row, c)?;
    must_end_in_history(txn, &row, c)?;
    if c.streams.len() > FLUSH_STREAMS_MAX {
        return invalid(format!(
            "{} streams; at most {FLUSH_STREAMS_MAX}",
            c.streams.len()
        ));
    }
    let name = SegmentObjectId {
        channel: c.channel,
        epoch: c.epoch,
        origin: SegmentOrigin::Flush,
        seq: c.flush_seq,
        part: 0,
    };
    let mut objects = NewObjects::new(name, &c.objects)?;
    for flushed in &c.streams {
        if let Some(run) = &flushed.run {
            objects.must_hold(run.part, run.offset, run.frames_len, run.index_len)?;
        }
        take(txn, c, flushed, &mut objects)?;
    }
    let at = At {
        now_ms: c.now_ms,
        index,
    };
    objects.write(txn, at);
    // What a replay does not read any more.
    for epoch in row.checkpoint.epoch.0..c.through.epoch.0 {
        txn.remove::<Epochs>(&(c.channel, Epoch(epoch)));
    }
    row.checkpoint = c.through;
    row.flush_seq = c.flush_seq;
    txn.write::<Channels>(&c.channel, &row);
    Ok(Response::Flushed(Flushed { log_index: index }))
}

fn must_be_next(row: &ChannelRow, c: &CommitFlush) -> Outcome<()> {
    let next = row.flush_seq.0.checked_add(1) == Some(c.flush_seq.0);
    match next && c.from == row.checkpoint {
        true => Ok(()),
        false => Err(Refused::FlushOutOfOrder {
            channel: c.channel,
            last: row.flush_seq,
            checkpoint: row.checkpoint,
        }
        .into()),
    }
}

/// The checkpoint moves forward, and to a slot that the channel's history has.
fn must_end_in_history(txn: &Txn<'_>, row: &ChannelRow, c: &CommitFlush) -> Outcome<()> {
    if c.through < c.from || c.through.epoch > row.epoch {
        return invalid(format!("a flush of epoch {} does not go through there", c.epoch));
    }
    let state = channel::epoch(txn, c.channel, c.through.epoch)?;
    match state.seal.is_some_and(|seal| c.through.slot > seal.end) {
        true => invalid(format!("epoch {} ended earlier", c.through.epoch)),
        false => Ok(()),
    }
}

/// Takes over what a flush says of one stream, unless it speaks of another streamlet than the stream has open.
fn take(
    txn: &mut Txn<'_>,
    c: &CommitFlush,
    flushed: &FlushedStream,
    objects: &mut NewObjects,
) -> Outcome<()> {
    let Some(mut stream) = txn.row::<Streams>(&flushed.stream)? else {
        return Ok(());
    };
    let open_here = stream
        .open
        .is_some_and(|open| open.channel == c.channel && open.streamlet == flushed.streamlet);
    if !open_here {
        return Ok(());
    }
    must_continue(&stream, flushed)?;
    if let Some(run) = &flushed.run {
        let bytes = run.frames_len.saturating_add(run.index_len.into());
        let segment = SegmentRow {
            first_seq: run.first_seq,
            first_timestamp: run.first_timestamp,
            last_timestamp: flushed.tail.timestamp,
            object: objects.take(run.part, bytes),
            offset: run.offset,
            frames_len: run.frames_len,
            index_len: run.index_len,
            metered_bytes: run.metered_bytes,
            appended_before_ms: c.now_ms,
        };
        txn.write::<Segments>(
            &(stream.id, flushed.tail.seq_num - 1),
            &ChainRow::Segment(segment),
        );
        segments::count(txn, &mut stream, 1, 0)?;
        stream.empty_since_ms = None;
    }
    stream.tail = flushed.tail;
    stream.fencing = stream.fencing.merge(flushed.fencing.clone());
    stream.trim = stream.trim.max(flushed.trim);
    stream.forgotten = stream.forgotten.max(flushed.forgotten);
    txn.write::<Streams>(&stream.id, &stream);
    Ok(segments::note_trimmed(txn, &stream)?)
}

fn must_continue(stream: &StreamRecord, flushed: &FlushedStream) -> Outcome<()> {
    let (was, tail) = (stream.tail, flushed.tail);
    let continues = match &flushed.run {
        Some(run) => {
            run.first_seq == was.seq_num
                && tail.seq_num > run.first_seq
                && run.first_timestamp >= was.timestamp
                && tail.timestamp >= run.first_timestamp
        }
        None => tail == was,
    };
    if !continues {
        return invalid(format!(
            "a flush to {} of stream {} does not continue what ended at {}",
            tail.seq_num, stream.id, was.seq_num
        ));
    }
    let fits = flushed.trim <= tail.seq_num
        && flushed.forgotten <= tail.seq_num
        && flushed.fencing.seq_num.is_none_or(|seq| seq < tail.seq_num);
    match fits {
        true => Ok(()),
        false => invalid(format!("the state of stream {} does not fit its tail", stream.id)),
    }
}
