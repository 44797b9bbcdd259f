//! Packing the oldest segments of a long chain into an index, and unpacking them.
//!
//! * Segments that are packed stay alive: their objects count them on. An object in which nothing else is alive gives
//!   up its row until they are unpacked.
//! * The checksum of what was packed is computed here, over rows: what the index says is what they said.
//! * What was unpacked is not packed again, and only what comes first is unpacked: it is there to be dropped.

use std::collections::BTreeMap;

use millrace_api::id::ChannelId;
use millrace_api::position::SeqNum;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};

use super::objects::{At, NewObjects, invalid, no_row, release};
use super::{Outcome, channel, segments};
use crate::command::{ChainPacked, ChainUnpacked, PACK_SEGMENTS_MAX, PackChain, Response, UnpackChain};
use crate::error::StoreError;
use crate::refused::Refused;
use crate::state::record::StreamRecord;
use crate::state::segment::{ChainIndexRow, ChainRow, IndexRow, PackedSegment, SegmentObjectRow};
use crate::state::table::{ChainIndexes, Channels, ReadTable, SegmentObjects, Segments, Streams};
use crate::state::txn::Txn;

pub fn pack(txn: &mut Txn<'_>, c: &PackChain, index: u64) -> Outcome<Response> {
    let mut row = channel::current(txn, c.channel, c.epoch)?;
    if c.pack_seq.0 == 0 {
        return invalid("chain indexes are counted from 1".into());
    }
    if c.pack_seq == row.pack_seq {
        return packed(index, 0);
    }
    if row.pack_seq.0.checked_add(1) != Some(c.pack_seq.0) {
        return Err(Refused::PackOutOfOrder {
            channel: c.channel,
            last: row.pack_seq,
        }
        .into());
    }
    if c.first_seq >= c.end_seq || !(1..=PACK_SEGMENTS_MAX).contains(&c.segments) {
        return invalid(format!(
            "{} segments from {} to {} are not packed",
            c.segments, c.first_seq, c.end_seq
        ));
    }
    let name = SegmentObjectId {
        channel: c.channel,
        epoch: c.epoch,
        origin: SegmentOrigin::Index,
        seq: c.pack_seq,
        part: 0,
    };
    let mut objects = NewObjects::new(name, &[c.object])?;
    let at = At {
        now_ms: c.now_ms,
        index,
    };
    let mut count = 0;
    if let Some((stream, found)) = found(txn, c)? {
        replace(txn, c, stream, &found, &mut objects)?;
        count = c.segments;
    }
    objects.write(txn, at);
    row.pack_seq = c.pack_seq;
    txn.write::<Channels>(&c.channel, &row);
    packed(index, count)
}

fn packed(log_index: u64, segments: u32) -> Outcome<Response> {
    Ok(Response::ChainPacked(ChainPacked { log_index, segments }))
}

/// The segments that stand between the ends named, if they are those that the index was made of.
fn found(txn: &Txn<'_>, c: &PackChain) -> Outcome<Option<(StreamRecord, Vec<PackedSegment>)>> {
    let Some(stream) = txn.row::<Streams>(&c.stream)? else {
        return Ok(None);
    };
    if stream.deletion.is_some() || c.first_seq < stream.unpacked_through {
        return Ok(None);
    }
    let links = segments::links(txn, c.stream, c.first_seq, c.segments as usize)?;
    let starts = links
        .first()
        .is_some_and(|(_, row)| row.first_seq() == c.first_seq);
    let ends = links.last().is_some_and(|((_, last), _)| last + 1 == c.end_seq);
    let mut found = Vec::with_capacity(links.len());
    for ((_, last), row) in &links {
        let ChainRow::Segment(row) = row else {
            return Ok(None);
        };
        let object = txn.row::<SegmentObjects>(&row.object)?;
        let object = object.ok_or_else(|| no_row(&row.object))?;
        found.push(PackedSegment {
            end_seq: last + 1,
            row: *row,
            object_len: object.len,
            committed_at_ms: object.committed_at_ms,
            alone: object.live_runs == 1,
        });
    }
    let same =
        starts && ends && found.len() == c.segments as usize && PackedSegment::checksum(&found) == c.checksum;
    Ok(same.then_some((stream, found)))
}

/// Puts the index in the place of its segments.
fn replace(
    txn: &mut Txn<'_>,
    c: &PackChain,
    mut stream: StreamRecord,
    found: &[PackedSegment],
    objects: &mut NewObjects,
) -> Outcome<()> {
    let (Some(first), Some(last)) = (found.first(), found.last()) else {
        return invalid("an index has segments".into());
    };
    let object = objects.take(c.object.part, c.object.len);
    let sum = |of: fn(&PackedSegment) -> u64| found.iter().map(of).fold(0, u64::saturating_add);
    let index = IndexRow {
        first_seq: first.row.first_seq,
        first_timestamp: first.row.first_timestamp,
        last_timestamp: last.row.last_timestamp,
        object,
        segments: c.segments,
        bytes: sum(|packed| packed.row.bytes()),
        metered_bytes: sum(|packed| packed.row.metered_bytes),
        appended_before_ms: found
            .iter()
            .map(|packed| packed.row.appended_before_ms)
            .max()
            .unwrap_or(0),
        first_end: first.end_seq,
        first_appended_before_ms: first.row.appended_before_ms,
        checksum: c.checksum,
    };
    for packed in found {
        txn.remove::<Segments>(&(stream.id, packed.end_seq - 1));
        give_up(txn, packed)?;
    }
    txn.write::<Segments>(&(stream.id, last.end_seq - 1), &ChainRow::Index(index));
    let names = ChainIndexRow {
        stream: stream.id,
        names: names(found),
    };
    txn.write::<ChainIndexes>(&object, &names);
    segments::count(txn, &mut stream, 0, u64::from(c.segments))?;
    txn.write::<Streams>(&stream.id, &stream);
    Ok(segments::note_trimmed(txn, &stream)?)
}

/// The object of a segment that is packed now.
fn give_up(txn: &mut Txn<'_>, packed: &PackedSegment) -> Result<(), StoreError> {
    let id = packed.row.object;
    if packed.alone {
        txn.remove::<SegmentObjects>(&id);
        return Ok(());
    }
    let row = txn.row::<SegmentObjects>(&id)?.ok_or_else(|| no_row(&id))?;
    let row = SegmentObjectRow {
        packed_runs: row.packed_runs + 1,
        packed_bytes: row.packed_bytes.saturating_add(packed.row.bytes()),
        ..row
    };
    txn.write::<SegmentObjects>(&id, &row);
    Ok(())
}

/// First and last of the objects that have no row any more, channel by channel.
fn names(found: &[PackedSegment]) -> Vec<(SegmentObjectId, SegmentObjectId)> {
    let mut names: BTreeMap<ChannelId, (SegmentObjectId, SegmentObjectId)> = BTreeMap::new();
    for packed in found.iter().filter(|packed| packed.alone) {
        let id = packed.row.object;
        let (first, last) = names.entry(id.channel).or_insert((id, id));
        (*first, *last) = ((*first).min(id), (*last).max(id));
    }
    names.into_values().collect()
}

pub fn unpack(txn: &mut Txn<'_>, c: &UnpackChain, index: u64) -> Outcome<Response> {
    let Some(mut stream) = txn.row::<Streams>(&c.stream)? else {
        return unpacked(0);
    };
    let Some((key, row)) = first_index(txn, c)? else {
        return unpacked(0);
    };
    let same =
        c.segments.len() == row.segments as usize && PackedSegment::checksum(&c.segments) == row.checksum;
    if !same {
        return invalid(format!("they are not the segments of index {}", c.index));
    }
    let at = At {
        now_ms: c.now_ms,
        index,
    };
    txn.remove::<Segments>(&(c.stream, key));
    txn.remove::<ChainIndexes>(&c.index);
    let len = txn
        .row::<SegmentObjects>(&c.index)?
        .map_or(0, |object| object.len);
    release(txn, c.index, len, at)?;
    for packed in &c.segments {
        take_back(txn, packed)?;
        txn.write::<Segments>(&(c.stream, packed.end_seq - 1), &ChainRow::Segment(packed.row));
    }
    stream.unpacked_through = stream.unpacked_through.max(key + 1);
    segments::count(txn, &mut stream, u64::from(row.segments), 0)?;
    txn.write::<Streams>(&stream.id, &stream);
    segments::note_trimmed(txn, &stream)?;
    unpacked(row.segments)
}

fn unpacked(segments: u32) -> Outcome<Response> {
    Ok(Response::ChainUnpacked(ChainUnpacked { segments }))
}

/// The index that is meant, with its last record, if nothing comes before it.
fn first_index(txn: &Txn<'_>, c: &UnpackChain) -> Outcome<Option<(SeqNum, IndexRow)>> {
    let first = segments::links(txn, c.stream, 0, 1)?.into_iter().next();
    Ok(match first {
        Some(((_, last), ChainRow::Index(row))) if row.object == c.index => Some((last, row)),
        _ => None,
    })
}

/// The object of a segment that has a row again.
fn take_back(txn: &mut Txn<'_>, packed: &PackedSegment) -> Result<(), StoreError> {
    let (id, bytes) = (packed.row.object, packed.row.bytes());
    let row = txn.row::<SegmentObjects>(&id)?;
    let row = match (row, packed.alone) {
        (None, true) => Some(SegmentObjectRow {
            len: packed.object_len,
            live_runs: 1,
            live_bytes: bytes,
            packed_runs: 0,
            packed_bytes: 0,
            committed_at_ms: packed.committed_at_ms,
            death: None,
        }),
        (Some(row), false) => row
            .packed_runs
            .checked_sub(1)
            .zip(row.packed_bytes.checked_sub(bytes))
            .map(|(packed_runs, packed_bytes)| SegmentObjectRow {
                packed_runs,
                packed_bytes,
                ..row
            }),
        _ => None,
    };
    let row = row.ok_or_else(|| {
        let why = format_args!("{id} is not as it was when a segment of it was packed");
        StoreError::corrupt("segment_objects", why)
    })?;
    txn.write::<SegmentObjects>(&id, &row);
    Ok(())
}
