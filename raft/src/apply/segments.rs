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
use crate::state::segment::ChainRow;
use crate::state::table::{ReadTable, Rows, Segments, Streams, Table, TrimmedStreams};
use crate::state::txn::Txn;

/// Rows that one step of counting reads.
const COUNTED_AT_A_TIME: usize = 1024;

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
    let old = |_, appended_before_ms| appended_before_ms <= c.appended_before_ms;
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
    /// The next one is in an index.
    packed: bool,
}

/// Drops segments, oldest first, up to the first that does not go or is in an index. The test is given where one ends
/// and before when it was appended.
fn drop_while(
    txn: &mut Txn<'_>,
    stream: StreamId,
    limit: u32,
    at: At,
    goes: impl Fn(SeqNum, u64) -> bool,
) -> Result<Dropped, StoreError> {
    let limit = match limit {
        0 => DROP_LIMIT_MAX,
        limit => limit.min(DROP_LIMIT_MAX),
    };
    let mut dropped = Dropped {
        count: 0,
        end: None,
        done: true,
        packed: false,
    };
    // One more, to know whether there is more.
    for (key, row) in links(txn, stream, 0, limit as usize + 1)? {
        let (segment, end) = match &row {
            ChainRow::Segment(segment) => (segment, key.1 + 1),
            ChainRow::Index(index) => {
                dropped.packed = goes(index.first_end, index.first_appended_before_ms);
                dropped.done = !dropped.packed;
                break;
            }
        };
        if !goes(end, segment.appended_before_ms) {
            break;
        }
        if dropped.count == limit {
            dropped.done = false;
            break;
        }
        txn.remove::<Segments>(&key);
        release(txn, segment.object, segment.bytes(), at)?;
        dropped.count += 1;
        dropped.end = Some(end);
    }
    Ok(dropped)
}

fn finish(txn: &mut Txn<'_>, mut stream: StreamRecord, dropped: &Dropped, at: At) -> Outcome<Response> {
    if stream.open.is_none() {
        note_empty(&mut stream, at.now_ms);
    }
    count(txn, &mut stream, 0, u64::from(dropped.count))?;
    txn.write::<Streams>(&stream.id, &stream);
    note_trimmed(txn, &stream)?;
    Ok(Response::SegmentsDropped(SegmentsDropped {
        dropped: dropped.count,
        done: dropped.done,
        packed: dropped.packed,
    }))
}

fn nothing() -> Response {
    Response::SegmentsDropped(SegmentsDropped {
        dropped: 0,
        done: true,
        packed: false,
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
    let first = links(txn, stream, 0, 1)?;
    Ok(first.first().map(|((_, last), row)| match row {
        ChainRow::Segment(_) => last + 1,
        ChainRow::Index(index) => index.first_end,
    }))
}

/// The first `limit` links of a stream's chain that end behind `from_seq`.
pub fn links(
    txn: &Txn<'_>,
    stream: StreamId,
    from_seq: SeqNum,
    limit: usize,
) -> Result<Rows<Segments>, StoreError> {
    let before = from_seq.checked_sub(1).map(|seq| Segments::key(&(stream, seq)));
    txn.rows::<Segments>(&stream.to_bytes(), before.as_deref(), limit)
}

/// Keeps the number of rows that the stream's segments have. To be called after they came and went.
pub fn count(txn: &Txn<'_>, stream: &mut StreamRecord, came: u64, gone: u64) -> Result<(), StoreError> {
    let counted = match stream.segments {
        Some(before) => before
            .checked_add(came)
            .and_then(|rows| rows.checked_sub(gone))
            .ok_or_else(|| {
                let why = format_args!("stream {} counts {before} segments, and {gone} go", stream.id);
                StoreError::corrupt("streams", why)
            })?,
        None => count_rows(txn, stream.id)?,
    };
    stream.segments = Some(counted);
    Ok(())
}

/// One by one: the stream is of an earlier release.
fn count_rows(txn: &Txn<'_>, stream: StreamId) -> Result<u64, StoreError> {
    let (mut rows, mut from_seq) = (0, 0);
    loop {
        let page = links(txn, stream, from_seq, COUNTED_AT_A_TIME)?;
        rows += page.iter().filter(|(_, row)| row.segment().is_some()).count() as u64;
        match page.last() {
            Some(((_, last), _)) if page.len() == COUNTED_AT_A_TIME => from_seq = last + 1,
            _ => return Ok(rows),
        }
    }
}
