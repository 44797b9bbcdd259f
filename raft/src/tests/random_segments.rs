//! Random flushes and merges, what deletes their segments, and what must hold after each.

use std::collections::{BTreeMap, BTreeSet};

use millrace_api::id::*;
use millrace_api::name::FencingToken;
use millrace_api::position::StreamPosition;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use proptest::prelude::*;

use super::random::all;
use crate::command::*;
use crate::query::{SegmentRow, View};
use crate::state::kv::Read;
use crate::state::record::*;
use crate::state::table::*;

fn slot() -> impl Strategy<Value = Slot> {
    (1u64..6, 0u64..3).prop_map(|(epoch, slot)| Slot {
        epoch: Epoch(epoch),
        slot: ChunkSeq(slot),
    })
}

fn object() -> impl Strategy<Value = SegmentObjectId> {
    (1u32..3, 1u64..3, any::<bool>(), 1u64..9, 0u32..2).prop_map(|(channel, epoch, merge, seq, part)| {
        SegmentObjectId {
            channel: ChannelId(channel),
            epoch: Epoch(epoch),
            origin: if merge {
                SegmentOrigin::Merge
            } else {
                SegmentOrigin::Flush
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
pub fn steer(view: View<'_>, command: &mut Command) {
    match command {
        Command::CommitFlush(c) if c.now_ms % 8 > 0 => steer_flush(view, c),
        Command::CommitMerge(c) if c.now_ms % 8 > 0 => steer_merge(view, c),
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
    ids.filter(|id| !view.segments(*id, 0, 1).unwrap().is_empty())
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
        let found = view.segments(run.stream, 0, count).unwrap();
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

/// The objects of a state, and whether they are dead.
pub type Objects = BTreeMap<SegmentObjectId, bool>;

/// Checks segments and objects against each other and against their streams.
pub fn check(state: &dyn Read, streams: &BTreeMap<StreamId, StreamRecord>) -> Objects {
    let mut segments: BTreeMap<StreamId, Vec<(u64, SegmentRow)>> = BTreeMap::new();
    let mut counted: BTreeMap<SegmentObjectId, (u64, u64)> = BTreeMap::new();
    for ((stream, last), row) in all::<Segments>(state) {
        assert!(streams.contains_key(&stream), "a segment has a stream");
        segments.entry(stream).or_default().push((last + 1, row));
        let (runs, bytes) = counted.entry(row.object).or_default();
        *runs += 1;
        *bytes += row.bytes();
    }
    let mut trimmed = BTreeSet::new();
    for (id, stream) in streams {
        let own = segments.get(id).map_or(&[][..], Vec::as_slice);
        check_tiling(stream, own);
        trimmed.extend(own.first().filter(|(end, _)| *end <= stream.trim).map(|_| *id));
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
        let count = counted.remove(&id).unwrap_or_default();
        assert_eq!(
            (row.live_runs, row.live_bytes),
            count,
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
    assert!(counted.is_empty(), "segments name objects: {counted:?}");
    let queued: BTreeSet<_> = all::<DeadObjects>(state)
        .into_iter()
        .map(|(key, ())| key)
        .collect();
    assert_eq!(queued, dead, "every dead object is queued, and no other");
    objects
}

fn check_tiling(stream: &StreamRecord, segments: &[(u64, SegmentRow)]) {
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
        assert!(row.first_seq == at.seq_num && *end > at.seq_num, "segments tile");
        assert!(row.first_timestamp >= at.timestamp && row.last_timestamp >= row.first_timestamp);
        at = StreamPosition::new(*end, row.last_timestamp);
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
