//! A merge: segments of several objects stand in new ones.
//!
//! What was merged may have changed while it was copied. A run takes the place of its sources only if they stand there
//! exactly as they were read; what it says of their records must then be what they say.

use millrace_api::position::SeqNum;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};

use super::objects::{At, NewObjects, invalid, release};
use super::{Outcome, channel, segments};
use crate::command::{CommitMerge, FLUSH_STREAMS_MAX, Merged, MergedRun, Response};
use crate::refused::Refused;
use crate::state::segment::{ChainRow, SegmentRow};
use crate::state::table::{Channels, ReadTable, Segments, Streams};
use crate::state::txn::Txn;

pub fn commit(txn: &mut Txn<'_>, c: &CommitMerge, index: u64) -> Outcome<Response> {
    let mut row = channel::current(txn, c.channel, c.epoch)?;
    if c.merge_seq.0 == 0 {
        return invalid("merges are counted from 1".into());
    }
    if c.merge_seq == row.merge_seq {
        return answer(index, 0);
    }
    if row.merge_seq.0.checked_add(1) != Some(c.merge_seq.0) {
        return Err(Refused::MergeOutOfOrder {
            channel: c.channel,
            last: row.merge_seq,
        }
        .into());
    }
    let name = SegmentObjectId {
        channel: c.channel,
        epoch: c.epoch,
        origin: SegmentOrigin::Merge,
        seq: c.merge_seq,
        part: 0,
    };
    let mut objects = NewObjects::new(name, &c.objects)?;
    must_be_bounded(c)?;
    let at = At {
        now_ms: c.now_ms,
        index,
    };
    let mut replaced = 0;
    for run in &c.runs {
        must_be_whole(run, &objects)?;
        replaced += replace(txn, run, &mut objects, at)?;
    }
    objects.write(txn, at);
    row.merge_seq = c.merge_seq;
    txn.write::<Channels>(&c.channel, &row);
    answer(index, replaced)
}

fn answer(log_index: u64, replaced: u32) -> Outcome<Response> {
    Ok(Response::Merged(Merged { log_index, replaced }))
}

fn must_be_bounded(c: &CommitMerge) -> Outcome<()> {
    let sources: usize = c.runs.iter().map(|run| run.sources.len()).sum();
    match c.runs.len() <= FLUSH_STREAMS_MAX && sources <= FLUSH_STREAMS_MAX {
        true => Ok(()),
        false => invalid(format!(
            "{} runs of {sources} sources; at most {FLUSH_STREAMS_MAX} of each",
            c.runs.len()
        )),
    }
}

fn must_be_whole(run: &MergedRun, objects: &NewObjects) -> Outcome<()> {
    objects.must_hold(run.part, run.offset, run.frames_len, run.index_len)?;
    if run.sources.is_empty() || run.first_seq >= run.end_seq {
        return invalid("a merged run has records, and sources".into());
    }
    match run.sources.iter().any(|source| objects.would_name(source)) {
        true => invalid("a merge does not take from itself".into()),
        false => Ok(()),
    }
}

/// Puts a run in the place of its sources; answers how many segments that replaced.
fn replace(txn: &mut Txn<'_>, run: &MergedRun, objects: &mut NewObjects, at: At) -> Outcome<u32> {
    let Some(mut stream) = txn.row::<Streams>(&run.stream)? else {
        return Ok(0);
    };
    let Some(found) = found(txn, run)? else {
        return Ok(0);
    };
    must_say_the_same(run, &found)?;
    for (last, segment) in &found {
        txn.remove::<Segments>(&(run.stream, *last));
        release(txn, segment.object, segment.bytes(), at)?;
    }
    let bytes = run.frames_len.saturating_add(run.index_len.into());
    let merged = SegmentRow {
        first_seq: run.first_seq,
        first_timestamp: run.first_timestamp,
        last_timestamp: run.last_timestamp,
        object: objects.take(run.part, bytes),
        offset: run.offset,
        frames_len: run.frames_len,
        index_len: run.index_len,
        metered_bytes: run.metered_bytes,
        appended_before_ms: run.appended_before_ms,
    };
    txn.write::<Segments>(&(run.stream, run.end_seq - 1), &ChainRow::Segment(merged));
    segments::count(txn, &mut stream, 1, found.len() as u64)?;
    txn.write::<Streams>(&stream.id, &stream);
    segments::note_trimmed(txn, &stream)?;
    Ok(u32::try_from(found.len()).unwrap_or(u32::MAX))
}

/// The segments that stand between the run's ends, each with its last record, if they are its sources. The chain of a
/// stream tiles: the first and the last say what is between.
fn found(txn: &Txn<'_>, run: &MergedRun) -> Outcome<Option<Vec<(SeqNum, SegmentRow)>>> {
    let links = segments::links(txn, run.stream, run.first_seq, run.sources.len())?;
    let starts = links
        .first()
        .is_some_and(|(_, row)| row.first_seq() == run.first_seq);
    let ends = links.last().is_some_and(|((_, last), _)| last + 1 == run.end_seq);
    // None of them may be an index.
    let rows = links
        .into_iter()
        .map(|((_, last), row)| Some((last, *row.segment()?)));
    let rows: Option<Vec<_>> = rows.collect();
    let is_sources = |rows: &Vec<(SeqNum, SegmentRow)>| {
        let objects = rows.iter().map(|(_, segment)| segment.object);
        starts && ends && objects.eq(run.sources.iter().copied())
    };
    Ok(rows.filter(is_sources))
}

fn must_say_the_same(run: &MergedRun, found: &[(SeqNum, SegmentRow)]) -> Outcome<()> {
    let segments = || found.iter().map(|(_, segment)| segment);
    let metered = segments().fold(0, |sum: u64, segment| sum.saturating_add(segment.metered_bytes));
    let appended_before_ms = segments().map(|segment| segment.appended_before_ms).max();
    let same = segments().next().map(|first| first.first_timestamp) == Some(run.first_timestamp)
        && segments().next_back().map(|last| last.last_timestamp) == Some(run.last_timestamp)
        && metered == run.metered_bytes
        && appended_before_ms == Some(run.appended_before_ms);
    match same {
        true => Ok(()),
        false => invalid(format!(
            "a merged run of stream {} is not its sources",
            run.stream
        )),
    }
}
