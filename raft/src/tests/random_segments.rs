//! Random flushes and merges, what deletes their segments, and what must hold after each.

use std::collections::{BTreeMap, BTreeSet};

use millrace_api::id::*;
use millrace_api::name::FencingToken;
use millrace_api::position::StreamPosition;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use proptest::prelude::*;

use super::harness::Written;
use super::random::all;
use crate::command::*;
use crate::query::{ChainLink, PackedSegment, SegmentRow, View};
use crate::state::kv::Read;
use crate::state::record::*;
use crate::state::segment::{ChainRow, IndexRow};
use crate::state::table::*;

fn slot() -> impl Strategy<Value = Slot> {
    (1u64..6, 0u64..3).prop_map(|(epoch, slot)| Slot {
        epoch: Epoch(epoch),
        slot: ChunkSeq(slot),
    })
}

fn object() -> impl Strategy<Value = SegmentObjectId> {
    (1u32..3, 1u64..3, 0..3, 1u64..9, 0u32..2).prop_map(|(channel, epoch, origin, seq, part)| {
        SegmentObjectId {
            channel: ChannelId(channel),
            epoch: Epoch(epoch),
            origin: match origin {
                0 => SegmentOrigin::Flush,
                1 => SegmentOrigin::Merge,
                _ => SegmentOrigin::Index,
            },
            seq: FlushSeq(seq),
            part,
        }
    })
}

fn objects() -> impl Strategy<Value = Vec<FlushedObject>> {
    let object = (0u32..2, 0u64..99).prop_map(|(part, len)| FlushedObject { part, len });
    proptest::collection::vec(object, 0..3)
}

prop_compose! {
    fn flushed_stream()(
        stream in 1u128..9, streamlet in 1u64..80, tail in 0u64..9, trim in 0u64..12, run in any::<bool>(),
        part in 0u32..2, token in proptest::option::of(0u64..9), first in 0u64..9, index_len in 0u32..5,
    ) -> FlushedStream {
        FlushedStream {
            stream: StreamId(stream),
            streamlet: StreamletId(streamlet),
            tail: StreamPosition::new(tail, tail),
            fencing: Fencing { token: FencingToken::new("t").unwrap(), seq_num: token },
            trim,
            forgotten: trim,
            run: run.then_some(FlushedRun {
                part,
                offset: 0,
                frames_len: 10,
                index_len,
                first_seq: first,
                first_timestamp: first,
                metered_bytes: 8,
            }),
        }
    }
}

prop_compose! {
    fn merged_run()(
        stream in 1u128..9, first_seq in 0u64..9, count in 1u64..4, index_len in 0u32..5,
        sources in proptest::collection::vec(object(), 0..3),
    ) -> MergedRun {
        MergedRun {
            stream: StreamId(stream),
            part: 0,
            offset: 0,
            frames_len: 10,
            index_len,
            first_seq,
            first_timestamp: 0,
            end_seq: first_seq + count,
            last_timestamp: 0,
            metered_bytes: 0,
            appended_before_ms: 0,
            sources,
        }
    }
}

prop_compose! {
    fn packed_segment()(
        object in object(), first_seq in 0u64..9, alone in any::<bool>(), numbers in any::<[u64; 6]>(),
    ) -> PackedSegment {
        PackedSegment {
            end_seq: first_seq + 1,
            row: SegmentRow {
                first_seq,
                first_timestamp: numbers[0],
                last_timestamp: numbers[1],
                object,
                offset: numbers[2],
                frames_len: numbers[3],
                index_len: 4,
                metered_bytes: numbers[4],
                appended_before_ms: numbers[5],
            },
            object_len: 100,
            committed_at_ms: 7,
            alone,
        }
    }
}

fn packing() -> impl Strategy<Value = Command> {
    (
        1u32..3,
        1u64..6,
        1u64..6,
        1u128..9,
        0u64..9,
        1u32..4,
        any::<u32>(),
        0u64..100,
    )
        .prop_map(
            |(channel, epoch, pack_seq, stream, first_seq, segments, checksum, now_ms)| {
                PackChain {
                    channel: ChannelId(channel),
                    epoch: Epoch(epoch),
                    pack_seq: FlushSeq(pack_seq),
                    object: FlushedObject { part: 0, len: 50 },
                    stream: StreamId(stream),
                    first_seq,
                    end_seq: first_seq + u64::from(segments),
                    segments,
                    checksum,
                    now_ms,
                }
                .into()
            },
        )
}

pub fn flushing() -> BoxedStrategy<Command> {
    let place = (1u32..3, 1u64..6, 1u64..6)
        .prop_map(|(channel, epoch, seq)| (ChannelId(channel), Epoch(epoch), FlushSeq(seq)));
    let stream = (1u128..9).prop_map(StreamId);
    let step = (stream.clone(), 0u32..3, 0u64..100);
    prop_oneof![
        9 => (
            place.clone(), slot(), slot(), objects(),
            proptest::collection::vec(flushed_stream(), 0..4), 0u64..100,
        ).prop_map(|((channel, epoch, flush_seq), from, through, objects, streams, now_ms)| {
            CommitFlush { channel, epoch, flush_seq, from, through, objects, streams, now_ms }.into()
        }),
        2 => (place, objects(), proptest::collection::vec(merged_run(), 0..3), 0u64..100).prop_map(
            |((channel, epoch, merge_seq), objects, runs, now_ms)| {
                CommitMerge { channel, epoch, merge_seq, objects, runs, now_ms }.into()
            }
        ),
        3 => packing(),
        2 => (stream.clone(), object(), proptest::collection::vec(packed_segment(), 0..3), 0u64..100).prop_map(
            |(stream, index, segments, now_ms)| UnpackChain { stream, index, segments, now_ms }.into()
        ),
        3 => step.clone().prop_map(|(stream, limit, now_ms)| DropSegments { stream, limit, now_ms }.into()),
        2 => step.prop_map(|(stream, limit, before)| {
            ExpireSegments { stream, appended_before_ms: before, limit, now_ms: 2000 + before }.into()
        }),
        2 => proptest::collection::vec(object(), 0..3).prop_map(|objects| ForgetObjects { objects }.into()),
        2 => (stream, 0u64..5000).prop_map(|(stream, now_ms)| DeleteEmptyStream { stream, now_ms }.into()),
    ]
    .boxed()
}

/// Makes most guesses right, as [`super::random::steer`] does for the other commands.
pub fn steer(view: View<'_>, written: &mut Written, command: &mut Command) {
    match command {
        Command::CommitFlush(c) if c.now_ms % 8 > 0 => steer_flush(view, c),
        Command::CommitMerge(c) if c.now_ms % 8 > 0 => steer_merge(view, c),
        Command::PackChain(c) if c.now_ms % 8 > 0 => steer_pack(view, written, c),
        Command::UnpackChain(c) if c.now_ms % 8 > 0 => steer_unpack(view, written, c),
        Command::DropSegments(c) if c.now_ms % 4 > 0 => {
            let deleting = |id: &StreamId| view.stream_by_id(*id).unwrap().unwrap().deletion.is_some();
            let mut streams = view.trimmed_streams(None, 0).unwrap();
            streams.extend(with_segments(view).into_iter().filter(deleting));
            c.stream = one_of(&streams, c.stream);
        }
        Command::ExpireSegments(c) if c.now_ms % 4 > 0 => {
            c.stream = one_of(&with_segments(view), c.stream);
            // Later than the default retention asks for.
            c.now_ms += 1 << 40;
        }
        Command::DeleteEmptyStream(c) if c.now_ms % 4 > 0 => c.now_ms += 1 << 41,
        Command::ForgetObjects(c) if !c.objects.is_empty() => {
            let dead = view.dead_objects(None, c.objects.len()).unwrap();
            c.objects = dead.iter().map(|dead| dead.object).collect();
        }
        _ => {}
    }
}

fn with_segments(view: View<'_>) -> Vec<StreamId> {
    let streams = view.streams_after(None, 0).unwrap();
    let ids = streams.into_iter().map(|stream| stream.id);
    ids.filter(|id| !view.chain(*id, 0, 1).unwrap().is_empty())
        .collect()
}

/// The guess itself if there is nothing to choose from.
fn one_of(streams: &[StreamId], guess: StreamId) -> StreamId {
    let at = guess.0 as usize % streams.len().max(1);
    streams.get(at).copied().unwrap_or(guess)
}

/// A channel whose owner may flush, and has something to; the guess itself if there is none.
fn serving(view: View<'_>, guess: ChannelId) -> ChannelId {
    let serves = |channel: &ChannelRecord| {
        let open = view.open_streamlets_count(channel.channel).unwrap();
        channel.activated && channel.owner.is_some() && open > 0
    };
    let found = view.channels().unwrap().into_iter().find(serves);
    found.map_or(guess, |channel| channel.channel)
}

fn steer_flush(view: View<'_>, c: &mut CommitFlush) {
    c.channel = serving(view, c.channel);
    let Some(channel) = view.channel(c.channel).unwrap() else {
        return;
    };
    (c.epoch, c.flush_seq) = (channel.epoch, FlushSeq(channel.flush_seq.0 + 1));
    c.from = channel.checkpoint;
    let sealed = channel.sealed().find(|(epoch, ..)| *epoch == c.through.epoch);
    match sealed {
        Some((_, _, seal)) => c.through.slot = c.through.slot.min(seal.end),
        None => c.through.epoch = c.epoch,
    }
    c.through = c.through.max(c.from);
    let mut tails: BTreeMap<StreamId, StreamPosition> = BTreeMap::new();
    let mut offset = 0;
    let open = view.open_streamlets(c.channel).unwrap();
    let open: Vec<StreamId> = open.into_iter().map(|open| open.stream).collect();
    for flushed in &mut c.streams {
        if flushed.trim % 4 > 0 {
            flushed.stream = one_of(&open, flushed.stream);
        }
        let Some(stream) = view.stream_by_id(flushed.stream).unwrap() else {
            continue;
        };
        flushed.streamlet = stream.open.map_or(flushed.streamlet, |open| open.streamlet);
        let was = *tails.entry(stream.id).or_insert(stream.tail);
        let mut tail = was;
        if let Some(run) = &mut flushed.run {
            let count = 1 + flushed.tail.seq_num % 4;
            tail = StreamPosition::new(was.seq_num + count, was.timestamp + count);
            (run.part, run.first_seq, run.first_timestamp) = (0, was.seq_num, was.timestamp + 1);
            run.offset = offset;
            offset += run.frames_len + u64::from(run.index_len);
        }
        flushed.tail = tail;
        flushed.trim = flushed.trim.min(tail.seq_num);
        flushed.forgotten = flushed.trim;
        flushed.fencing.seq_num = flushed.fencing.seq_num.filter(|seq| *seq < tail.seq_num);
        tails.insert(stream.id, tail);
    }
    let len = offset.max(1);
    c.objects = vec![FlushedObject { part: 0, len }];
}

/// What stands at the beginning of a stream: as many segments as the run has records.
fn steer_merge(view: View<'_>, c: &mut CommitMerge) {
    c.channel = serving(view, c.channel);
    let Some(channel) = view.channel(c.channel).unwrap() else {
        return;
    };
    (c.epoch, c.merge_seq) = (channel.epoch, FlushSeq(channel.merge_seq.0 + 1));
    c.objects = vec![FlushedObject { part: 0, len: 100 }];
    let streams = with_segments(view);
    for run in &mut c.runs {
        run.stream = one_of(&streams, run.stream);
        let count = (run.end_seq - run.first_seq) as usize;
        let found = view.chain(run.stream, 0, count).unwrap();
        let found: Vec<_> = found.iter().filter_map(ChainLink::segment).collect();
        let (Some(first), Some(last)) = (found.first(), found.last()) else {
            continue;
        };
        (run.first_seq, run.end_seq) = (first.row.first_seq, last.end_seq);
        (run.first_timestamp, run.last_timestamp) = (first.row.first_timestamp, last.row.last_timestamp);
        run.metered_bytes = found.iter().map(|segment| segment.row.metered_bytes).sum();
        run.appended_before_ms = found
            .iter()
            .map(|segment| segment.row.appended_before_ms)
            .max()
            .unwrap();
        run.sources = found.iter().map(|segment| segment.row.object).collect();
    }
}

/// Some of the segments that were never in an index.
fn steer_pack(view: View<'_>, written: &mut Written, c: &mut PackChain) {
    c.channel = serving(view, c.channel);
    let Some(channel) = view.channel(c.channel).unwrap() else {
        return;
    };
    (c.epoch, c.pack_seq) = (channel.epoch, FlushSeq(channel.pack_seq.0 + 1));
    c.stream = one_of(&with_segments(view), c.stream);
    let Some(stream) = view.stream_by_id(c.stream).unwrap() else {
        return;
    };
    let links = view.chain(c.stream, stream.unpacked_through, 0).unwrap();
    let first = links.iter().find(|link| link.segment().is_some());
    let first = first.map_or(0, ChainLink::first_seq);
    let packable = view.packable(c.stream, first, c.segments as usize).unwrap();
    let Some(last) = packable.last() else { return };
    (c.first_seq, c.end_seq, c.segments) = (first, last.end_seq, packable.len() as u32);
    c.checksum = PackedSegment::checksum(&packable);
    let name = SegmentObjectId {
        channel: c.channel,
        epoch: c.epoch,
        origin: SegmentOrigin::Index,
        seq: c.pack_seq,
        part: 0,
    };
    written.insert(name, packable);
}

fn steer_unpack(view: View<'_>, written: &Written, c: &mut UnpackChain) {
    let first = |id: &StreamId| view.chain(*id, 0, 1).unwrap()[0];
    let mut streams = with_segments(view);
    streams.retain(|id| first(id).segment().is_none());
    if streams.is_empty() {
        return;
    }
    c.stream = one_of(&streams, c.stream);
    c.index = first(&c.stream).object();
    c.segments = written[&c.index].clone();
}

/// The objects of a state, and whether they are dead.
pub type Objects = BTreeMap<SegmentObjectId, bool>;

/// What names an object: rows, and entries of indexes.
#[derive(Default)]
struct Named {
    runs: u64,
    bytes: u64,
    packed_runs: u64,
    packed_bytes: u64,
    /// By an index that has its row.
    alone: bool,
}

/// Checks segments and objects against each other and against their streams.
pub fn check(state: &dyn Read, written: &Written, streams: &BTreeMap<StreamId, StreamRecord>) -> Objects {
    let mut chains: BTreeMap<StreamId, Vec<(u64, ChainRow)>> = BTreeMap::new();
    let mut named: BTreeMap<SegmentObjectId, Named> = BTreeMap::new();
    let mut indexes = BTreeSet::new();
    for ((stream, last), row) in all::<Segments>(state) {
        assert!(streams.contains_key(&stream), "a segment has a stream");
        chains.entry(stream).or_default().push((last + 1, row));
        match row {
            ChainRow::Segment(row) => {
                let named = named.entry(row.object).or_default();
                named.runs += 1;
                named.bytes += row.bytes();
            }
            ChainRow::Index(row) => {
                let packed = &written[&row.object];
                check_index(&row, last + 1, packed);
                let names = state.row::<ChainIndexes>(&row.object).unwrap().unwrap();
                assert_eq!(names.stream, stream);
                for packed in packed {
                    let id = packed.row.object;
                    let covered = names
                        .names
                        .iter()
                        .any(|(first, last)| first.channel == id.channel && (*first..=*last).contains(&id));
                    assert!(covered || !packed.alone, "{id} is among the names of its index");
                    let named = named.entry(id).or_default();
                    named.runs += 1;
                    named.bytes += packed.row.bytes();
                    named.packed_runs += 1;
                    named.packed_bytes += packed.row.bytes();
                    named.alone |= packed.alone;
                }
                indexes.insert(row.object);
                let index = named.entry(row.object).or_default();
                index.runs += 1;
                index.bytes += 50;
            }
        }
    }
    let noted: BTreeSet<_> = all::<ChainIndexes>(state).into_iter().map(|(id, _)| id).collect();
    assert_eq!(noted, indexes, "every index is noted, and no other");
    let mut trimmed = BTreeSet::new();
    for (id, stream) in streams {
        let own = chains.get(id).map_or(&[][..], Vec::as_slice);
        check_tiling(stream, own, written);
        let first_end = own.first().map(|(end, row)| match row {
            ChainRow::Segment(_) => *end,
            ChainRow::Index(index) => written[&index.object][0].end_seq,
        });
        trimmed.extend(first_end.filter(|end| *end <= stream.trim).map(|_| *id));
        assert!(stream.forgotten <= stream.tail.seq_num);
        assert!(
            stream.empty_since_ms.is_none() || stream.trim == stream.tail.seq_num,
            "a stream with records is not called empty"
        );
    }
    let noted: BTreeSet<_> = all::<TrimmedStreams>(state)
        .into_iter()
        .map(|(id, ())| id)
        .collect();
    assert_eq!(noted, trimmed, "every trimmed stream is noted, and no other");

    let mut dead = BTreeSet::new();
    let mut objects = Objects::new();
    for (id, row) in all::<SegmentObjects>(state) {
        let named = named.remove(&id).unwrap_or_default();
        assert!(!named.alone, "{id} has no row while an index has it");
        assert_eq!(
            (row.live_runs, row.live_bytes, row.packed_runs, row.packed_bytes),
            (named.runs, named.bytes, named.packed_runs, named.packed_bytes),
            "{id} counts what names it"
        );
        assert_eq!(
            row.death.is_some(),
            row.live_runs == 0,
            "{id} is dead without live runs"
        );
        dead.extend(row.death.map(|death| (death.log_index, id)));
        objects.insert(id, row.death.is_some());
    }
    for (id, named) in named {
        assert!(named.alone && named.runs == 1, "{id} is named and has no row");
        objects.insert(id, false);
    }
    let queued: BTreeSet<_> = all::<DeadObjects>(state)
        .into_iter()
        .map(|(key, ())| key)
        .collect();
    assert_eq!(queued, dead, "every dead object is queued, and no other");
    objects
}

/// An index says of its segments what they say.
fn check_index(row: &IndexRow, end: u64, packed: &[PackedSegment]) {
    let (first, last) = (packed.first().unwrap(), packed.last().unwrap());
    assert_eq!(row.segments as usize, packed.len());
    assert_eq!((row.first_seq, end), (first.row.first_seq, last.end_seq));
    assert_eq!(
        (row.first_timestamp, row.last_timestamp),
        (first.row.first_timestamp, last.row.last_timestamp)
    );
    assert_eq!(
        (row.first_end, row.first_appended_before_ms),
        (first.end_seq, first.row.appended_before_ms)
    );
    let youngest = packed.iter().map(|packed| packed.row.appended_before_ms).max();
    assert_eq!(Some(row.appended_before_ms), youngest);
    let sum = |of: fn(&PackedSegment) -> u64| packed.iter().map(of).sum::<u64>();
    assert_eq!(row.bytes, sum(|packed| packed.row.bytes()));
    assert_eq!(row.metered_bytes, sum(|packed| packed.row.metered_bytes));
    assert_eq!(row.checksum, PackedSegment::checksum(packed));
}

fn check_tiling(stream: &StreamRecord, chain: &[(u64, ChainRow)], written: &Written) {
    let rows = chain.iter().filter(|(_, row)| row.segment().is_some()).count();
    assert_eq!(stream.segments, Some(rows as u64), "segments are counted");
    let mut segments: Vec<(u64, SegmentRow)> = Vec::new();
    for (end, row) in chain {
        match row {
            ChainRow::Segment(row) => segments.push((*end, *row)),
            ChainRow::Index(index) => {
                assert!(*end > stream.unpacked_through, "what was unpacked stays so");
                segments.extend(written[&index.object].iter().map(|it| (it.end_seq, it.row)));
            }
        }
    }
    let Some((_, first)) = segments.first() else {
        assert!(
            stream.deletion.is_some() || stream.trim == stream.tail.seq_num,
            "records that are kept are in segments"
        );
        return;
    };
    assert!(stream.deletion.is_some() || first.first_seq <= stream.trim);
    let mut at = StreamPosition::new(first.first_seq, first.first_timestamp);
    for (end, row) in segments {
        assert!(row.first_seq == at.seq_num && end > at.seq_num, "segments tile");
        assert!(row.first_timestamp >= at.timestamp && row.last_timestamp >= row.first_timestamp);
        at = StreamPosition::new(end, row.last_timestamp);
    }
    assert_eq!(at, stream.tail, "the last segment ends at the flushed tail");
}

/// Checks one step.
pub fn check_step(before: &Objects, after: &Objects) {
    for (id, was_dead) in before {
        match after.get(id) {
            Some(is_dead) => assert!(*is_dead || !was_dead, "{id} does not come back"),
            None => assert!(was_dead, "{id} is forgotten only when dead"),
        }
    }
}
