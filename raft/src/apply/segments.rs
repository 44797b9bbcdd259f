//! Segments go: with their stream, below its trim point, or by age.

use millrace_api::config::RetentionPolicy;
use millrace_api::id::StreamId;
use millrace_api::position::SeqNum;

use super::objects::{At, release};
use super::{Outcome, purge};
use crate::command::{DROP_LIMIT_MAX, DropSegments, ExpireSegments, Response, SegmentsDropped};
use crate::error::StoreError;
use crate::refused::Refused;
use crate::state::record::StreamRecord;
use crate::state::segment::SegmentRow;
use crate::state::table::{ReadTable, Segments, Streams, TrimmedStreams};
use crate::state::txn::Txn;

pub fn drop_some(txn: &mut Txn<'_>, c: &DropSegments, index: u64) -> Outcome<Response> {
    let Some(stream) = txn.row::<Streams>(&c.stream)? else {
        return Ok(nothing());
    };
    let all = stream.deletion.is_some() && purge::answering(txn, &stream)?.is_none();
    let at = At {
        now_ms: c.now_ms,
        index,
    };
    let trim = stream.trim;
    let dropped = drop_while(txn, stream.id, c.limit, at, |end, _| all || end <= trim)?;
    finish(txn, stream, &dropped, at)
}

pub fn expire(txn: &mut Txn<'_>, c: &ExpireSegments, index: u64) -> Outcome<Response> {
    let Some(mut stream) = txn.row::<Streams>(&c.stream)? else {
        return Ok(nothing());
    };
    if stream.deletion.is_some() {
        return Err(Refused::StreamDeletionPending(stream.name).into());
    }
    must_be_let_go(stream.config.retention, c)?;
    let at = At {
        now_ms: c.now_ms,
        index,
    };
    let old = |_, segment: &SegmentRow| segment.appended_before_ms <= c.appended_before_ms;
    let dropped = drop_while(txn, stream.id, c.limit, at, old)?;
    if let Some(end) = dropped.end {
        stream.trim = stream.trim.max(end);
    }
    finish(txn, stream, &dropped, at)
}

fn must_be_let_go(retention: RetentionPolicy, c: &ExpireSegments) -> Outcome<()> {
    let due = match retention {
        RetentionPolicy::Infinite => None,
        RetentionPolicy::Age(secs) => secs
            .checked_mul(1000)
            .and_then(|age| c.appended_before_ms.checked_add(age)),
    };
    match due.is_some_and(|due| due <= c.now_ms) {
        true => Ok(()),
        false => Err(Refused::Retained.into()),
    }
}

/// What one step dropped.
struct Dropped {
    count: u32,
    /// Where the last of them ended.
    end: Option<SeqNum>,
    done: bool,
}

/// Drops segments, oldest first, up to the first that does not go. The test is given their ends.
fn drop_while(
    txn: &mut Txn<'_>,
    stream: StreamId,
    limit: u32,
    at: At,
    goes: impl Fn(SeqNum, &SegmentRow) -> bool,
) -> Result<Dropped, StoreError> {
    let limit = match limit {
        0 => DROP_LIMIT_MAX,
        limit => limit.min(DROP_LIMIT_MAX),
    };
    let mut dropped = Dropped {
        count: 0,
        end: None,
        done: true,
    };
    // One more, to know whether there is more.
    for (key, segment) in txn.rows::<Segments>(&stream.to_bytes(), None, limit as usize + 1)? {
        let end = key.1 + 1;
        if !goes(end, &segment) {
            break;
        }
        if dropped.count == limit {
            dropped.done = false;
            break;
        }
        txn.remove::<Segments>(&key);
        release(txn, &segment, at)?;
        dropped.count += 1;
        dropped.end = Some(end);
    }
    Ok(dropped)
}

fn finish(txn: &mut Txn<'_>, mut stream: StreamRecord, dropped: &Dropped, at: At) -> Outcome<Response> {
    if stream.open.is_none() {
        note_empty(&mut stream, at.now_ms);
    }
    txn.write::<Streams>(&stream.id, &stream);
    note_trimmed(txn, &stream)?;
    Ok(Response::SegmentsDropped(SegmentsDropped {
        dropped: dropped.count,
        done: dropped.done,
    }))
}

fn nothing() -> Response {
    Response::SegmentsDropped(SegmentsDropped {
        dropped: 0,
        done: true,
    })
}

/// Says since when a stream is empty that rests, if it is. 0 is no time.
pub fn note_empty(stream: &mut StreamRecord, now_ms: u64) {
    if stream.trim < stream.tail.seq_num {
        stream.empty_since_ms = None;
    } else if now_ms > 0 {
        stream.empty_since_ms.get_or_insert(now_ms);
    }
}

/// Keeps the list of streams whose first segment is wholly below the trim point. To be called after whatever changed
/// one of both.
pub fn note_trimmed(txn: &mut Txn<'_>, stream: &StreamRecord) -> Result<(), StoreError> {
    // The trim point never moves back: a stream without one was never on the list.
    if stream.trim == 0 {
        return Ok(());
    }
    let below = first_end(txn, stream.id)?.is_some_and(|end| end <= stream.trim);
    let noted = txn.row::<TrimmedStreams>(&stream.id)?.is_some();
    match (below, noted) {
        (true, false) => txn.write::<TrimmedStreams>(&stream.id, &()),
        (false, true) => txn.remove::<TrimmedStreams>(&stream.id),
        _ => {}
    }
    Ok(())
}

/// Where the oldest segment of a stream ends; `None` if it has none.
pub fn first_end(txn: &Txn<'_>, stream: StreamId) -> Result<Option<SeqNum>, StoreError> {
    let first = txn.rows::<Segments>(&stream.to_bytes(), None, 1)?;
    Ok(first.first().map(|((_, last), _)| last + 1))
}
