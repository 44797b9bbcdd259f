use millrace_api::config::{RetentionPolicy, StreamConfig};
use millrace_api::id::*;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};

use super::harness::*;
use crate::command::*;
use crate::query::{ChainLink, PackedSegment};
use crate::refused::Refused;
use crate::state::table::{Segments, Streams};
use crate::state::txn::Txn;

fn index(seq: u64) -> SegmentObjectId {
    SegmentObjectId {
        origin: SegmentOrigin::Index,
        ..flushed_object(seq)
    }
}

/// Streams with as many segments of five records each, flushed at 1000, 2000 and so on, in objects that they share.
fn flushed(ids: &[u128], flushes: u64) -> Model {
    let mut model = Model::with_active(ids);
    let streams: Vec<_> = ids.iter().map(|id| (*id, 5)).collect();
    for n in 1..=flushes {
        let flush = model.flush_of(&streams);
        model.ok(CommitFlush {
            now_ms: 1000 * n,
            ..flush
        });
    }
    model
}

/// An index over segments as they are now, and what packs them.
fn pack_of(model: &Model, id: u128, first_seq: u64, count: usize) -> (PackChain, Vec<PackedSegment>) {
    let segments = model.view().packable(StreamId(id), first_seq, count).unwrap();
    let channel = model.view().channel(CHANNEL).unwrap().unwrap();
    let command = PackChain {
        channel: CHANNEL,
        epoch: channel.epoch,
        pack_seq: FlushSeq(channel.pack_seq.0 + 1),
        object: FlushedObject { part: 0, len: 400 },
        stream: StreamId(id),
        first_seq,
        end_seq: segments.last().unwrap().end_seq,
        segments: segments.len() as u32,
        checksum: PackedSegment::checksum(&segments),
        now_ms: 9000,
    };
    (command, segments)
}

/// Packs; what is in the index then.
fn pack(model: &mut Model, id: u128, first_seq: u64, count: usize) -> Vec<PackedSegment> {
    let (command, segments) = pack_of(model, id, first_seq, count);
    let packed = model.ok(command);
    assert_eq!((packed.log_index, packed.segments), (model.index, count as u32));
    segments
}

fn unpack_of(id: u128, seq: u64, segments: Vec<PackedSegment>) -> UnpackChain {
    UnpackChain {
        stream: StreamId(id),
        index: index(seq),
        segments,
        now_ms: 9500,
    }
}

fn drop_of(id: u128) -> DropSegments {
    DropSegments {
        stream: StreamId(id),
        limit: 0,
        now_ms: 9600,
    }
}

#[test]
fn an_index_takes_the_place_of_segments_and_of_objects_that_are_theirs_alone() {
    let mut model = flushed(&[1], 4);
    let (segments, objects) = (model.segments(1), model.objects());
    let packed = pack(&mut model, 1, 0, 3);
    assert!(packed.iter().all(|packed| packed.alone));
    assert_eq!(
        (model.indexes(1), model.segments(1)),
        (vec![(0, 15)], vec![(15, 20)])
    );
    assert_eq!(model.objects(), [(flushed_object(4), 1, 110), (index(1), 1, 400)]);
    assert_eq!(model.by_id(1).segments, Some(1));
    let ChainLink::Index(link) = model.view().chain(StreamId(1), 7, 1).unwrap()[0] else {
        panic!("an index")
    };
    assert_eq!(
        (link.end_seq, link.object_len, link.row.object),
        (15, 400, index(1))
    );
    assert_eq!((link.row.first_timestamp, link.row.last_timestamp), (1000, 1015));
    assert_eq!(
        (link.row.segments, link.row.bytes, link.row.metered_bytes),
        (3, 330, 240)
    );
    assert_eq!((link.row.first_end, link.row.appended_before_ms), (5, 3000));
    let names = model.view().chain_indexes(None, 0).unwrap();
    assert_eq!(names[0].names, [(flushed_object(1), flushed_object(3))]);

    let unpacked = model.ok(unpack_of(1, 1, packed.clone()));
    assert_eq!(unpacked.segments, 3);
    assert_eq!(model.segments(1), segments);
    let live: Vec<_> = model
        .objects()
        .into_iter()
        .filter(|(_, runs, _)| *runs > 0)
        .collect();
    assert_eq!(live, objects);
    assert_eq!(model.dead(), [index(1)]);
    assert!(model.view().chain_indexes(None, 0).unwrap().is_empty());
    assert_eq!(
        (model.by_id(1).segments, model.by_id(1).unpacked_through),
        (Some(4), 15)
    );

    // Again: there is no index that comes first. What was in one is not packed any more; what comes behind may be.
    assert_eq!(model.ok(unpack_of(1, 1, packed)).segments, 0);
    let (again, _) = pack_of(&model, 1, 10, 2);
    assert_eq!(model.ok(again).segments, 0);
    assert_eq!(model.segments(1), segments);
    pack(&mut model, 1, 15, 1);
}

#[test]
fn an_object_that_others_share_counts_what_is_packed() {
    let mut model = flushed(&[1, 2], 2);
    let packed = pack(&mut model, 1, 0, 2);
    assert!(packed.iter().all(|packed| !packed.alone));
    let object = |model: &Model| model.view().segment_object(flushed_object(1)).unwrap().unwrap();
    let counts = |model: &Model| {
        let object = object(model);
        (
            object.live_runs,
            object.live_bytes,
            object.packed_runs,
            object.packed_bytes,
        )
    };
    assert_eq!(counts(&model), (2, 220, 1, 110));
    model.rest(2, 10, 10);
    model.ok(drop_of(2));
    assert_eq!(counts(&model), (1, 110, 1, 110));
    assert_eq!(object(&model).dead_at_ms, None, "an index names it");
    model.ok(unpack_of(1, 1, packed));
    assert_eq!(counts(&model), (1, 110, 0, 0));
    model.rest(1, 10, 10);
    model.ok(drop_of(1));
    assert!(object(&model).dead_at_ms.is_some());
}

#[test]
fn an_index_over_what_has_changed_is_passed_over_and_dead() {
    let mut model = flushed(&[1, 2], 4);
    let (stale, _) = pack_of(&model, 1, 0, 3);
    model.rest(2, 20, 10);
    model.ok(drop_of(2));
    // The objects are this stream's alone by now.
    assert_eq!(model.ok(stale.clone()).segments, 0);
    assert!(model.dead().contains(&index(1)));
    let repeated = model.ok(stale);
    assert_eq!((repeated.log_index, repeated.segments), (model.index, 0));

    let (good, _) = pack_of(&model, 1, 0, 3);
    let spoils: [fn(&mut PackChain); 5] = [
        |c| c.checksum += 1,
        |c| c.end_seq += 1,
        |c| c.first_seq += 1,
        |c| c.segments -= 1,
        |c| c.stream = StreamId(77),
    ];
    for (seq, spoil) in (2..).zip(spoils) {
        let mut bad = good.clone();
        bad.pack_seq = FlushSeq(seq);
        spoil(&mut bad);
        assert_eq!(model.ok(bad).segments, 0, "{seq}");
        assert!(model.dead().contains(&index(seq)));
    }
    // Trimmed meanwhile; over an index.
    model.rest(1, 5, 10);
    model.ok(drop_of(1));
    let late = PackChain {
        pack_seq: FlushSeq(7),
        ..good
    };
    assert_eq!(model.ok(late).segments, 0);
    pack(&mut model, 1, 10, 2);
    let (over, _) = pack_of(&model, 1, 5, 1);
    let over = PackChain {
        end_seq: 20,
        segments: 2,
        ..over
    };
    assert_eq!(model.ok(over).segments, 0);
    assert_eq!(
        (model.segments(1), model.indexes(1)),
        (vec![(5, 10)], vec![(10, 20)])
    );
}

#[test]
fn indexes_are_counted_and_belong_to_the_current_epoch() {
    let mut model = flushed(&[1], 3);
    let (good, _) = pack_of(&model, 1, 0, 2);
    let with_seq = |seq| PackChain {
        pack_seq: FlushSeq(seq),
        ..good.clone()
    };
    let last = FlushSeq(0);
    assert_eq!(
        model.refused(with_seq(2)),
        Refused::PackOutOfOrder {
            channel: CHANNEL,
            last
        }
    );
    assert!(matches!(model.refused(with_seq(0)), Refused::Invalid(_)));
    let spoils: [fn(&mut PackChain); 4] = [
        |c| c.segments = 0,
        |c| c.segments = PACK_SEGMENTS_MAX + 1,
        |c| c.end_seq = c.first_seq,
        |c| c.object.len = 0,
    ];
    for spoil in spoils {
        let mut bad = good.clone();
        spoil(&mut bad);
        assert!(matches!(model.refused(bad), Refused::Invalid(_)));
    }
    model.ok(expire(1, 1));
    assert!(matches!(model.refused(good), Refused::EpochMoved { .. }));
}

#[test]
fn only_what_was_packed_is_unpacked_and_only_from_the_first_index() {
    let mut model = flushed(&[1, 2], 5);
    let first = pack(&mut model, 1, 0, 2);
    let second = pack(&mut model, 1, 10, 2);
    let spoils: [fn(&mut Vec<PackedSegment>); 4] = [
        |segments| segments[1].row.object.part += 1,
        |segments| segments[0].alone = true,
        |segments| segments.truncate(1),
        |segments| segments.clear(),
    ];
    for spoil in spoils {
        let mut bad = first.clone();
        spoil(&mut bad);
        assert!(matches!(model.refused(unpack_of(1, 1, bad)), Refused::Invalid(_)));
    }
    assert_eq!(model.ok(unpack_of(1, 2, second)).segments, 0);
    assert_eq!(model.ok(unpack_of(2, 1, first.clone())).segments, 0);
    assert_eq!(model.ok(unpack_of(9, 1, first)).segments, 0);
    assert_eq!(model.indexes(1), [(0, 10), (10, 20)]);
}

#[test]
fn what_goes_is_unpacked_first_and_said_to_be_packed() {
    let packed = |dropped, packed: bool| SegmentsDropped {
        dropped,
        done: !packed,
        packed,
    };
    let trimmed = |model: &Model| model.view().trimmed_streams(None, 0).unwrap();
    let mut model = flushed(&[1], 5);
    let first = pack(&mut model, 1, 0, 2);
    let second = pack(&mut model, 1, 10, 2);
    assert_eq!(model.ok(drop_of(1)), packed(0, false));
    // Into the middle of the first segment, then of the second.
    model.rest(1, 4, 10);
    assert!(trimmed(&model).is_empty());
    assert_eq!(model.ok(drop_of(1)), packed(0, false));
    let active = ActivateStream {
        stream: StreamId(1),
        channel: CHANNEL,
    };
    model.ok(active.clone());
    model.rest(1, 7, 10);
    assert_eq!(trimmed(&model), [StreamId(1)]);
    assert_eq!(model.ok(drop_of(1)), packed(0, true));
    model.ok(unpack_of(1, 1, first));
    assert_eq!(model.ok(drop_of(1)), packed(1, false));
    assert!(trimmed(&model).is_empty());
    assert_eq!(
        (model.segments(1), model.indexes(1)),
        (vec![(5, 10), (20, 25)], vec![(10, 20)])
    );
    // Beyond the second index: one step, up to what is packed.
    model.ok(active);
    model.rest(1, 25, 10);
    assert_eq!(model.ok(drop_of(1)), packed(1, true));
    model.ok(unpack_of(1, 2, second));
    assert_eq!(model.ok(drop_of(1)), packed(3, false));
    assert!(model.segments(1).is_empty() && model.indexes(1).is_empty());
    assert!(model.objects().iter().all(|(_, runs, _)| *runs == 0));
}

#[test]
fn retention_looks_at_the_first_segment_of_an_index() {
    let mut model = Model::with_channel();
    let config = StreamConfig {
        retention: Some(RetentionPolicy::Age(10)),
        ..StreamConfig::default()
    };
    model.ok(CreateStream {
        config,
        ..create_stream("s1", 1)
    });
    model.ok(ActivateStream {
        stream: StreamId(1),
        channel: CHANNEL,
    });
    for n in 1..=3 {
        let flush = model.flush_of(&[(1, 5)]);
        model.ok(CommitFlush {
            now_ms: 1000 * n,
            ..flush
        });
    }
    let packed = pack(&mut model, 1, 0, 2);
    let expire = |before| ExpireSegments {
        stream: StreamId(1),
        appended_before_ms: before,
        limit: 0,
        now_ms: before + 10_000,
    };
    assert!(!model.ok(expire(999)).packed);
    let step = model.ok(expire(1000));
    assert_eq!((step.dropped, step.done, step.packed), (0, false, true));
    model.ok(unpack_of(1, 1, packed));
    let step = model.ok(expire(1000));
    assert_eq!((step.dropped, step.done), (1, true));
    assert_eq!(
        (model.segments(1), model.by_id(1).trim),
        (vec![(5, 10), (10, 15)], 5)
    );
}

#[test]
fn a_deleting_stream_is_not_packed_and_not_purged_with_an_index() {
    let mut model = flushed(&[1], 4);
    let packed = pack(&mut model, 1, 0, 2);
    let (late, _) = pack_of(&model, 1, 10, 2);
    model.rest(1, 0, 10);
    model.ok(delete_stream("s1"));
    assert_eq!(model.ok(late).segments, 0);
    let purge = PurgeStream { stream: StreamId(1) };
    assert_eq!(model.refused(purge.clone()), Refused::SegmentsLeft);
    assert!(model.ok(drop_of(1)).packed);
    assert_eq!(model.refused(purge.clone()), Refused::SegmentsLeft);
    model.ok(unpack_of(1, 1, packed));
    assert_eq!(model.ok(drop_of(1)).dropped, 4);
    model.ok(purge);
    assert!(model.objects().iter().all(|(_, runs, _)| *runs == 0));
    // A stream under the old name, with another id: nothing late touches it.
    model.ok(create_stream("s1", 2));
    assert_eq!(model.ok(unpack_of(1, 1, Vec::new())).segments, 0);
}

#[test]
fn a_link_is_found_by_time_as_by_walking() {
    // Runs of equal timestamps, over the borders of segments too.
    let mut model = Model::with_active(&[1]);
    for count in [3, 1, 1, 4, 2, 7, 1] {
        let mut flush = model.flush_of(&[(1, count)]);
        for flushed in &mut flush.streams {
            let before = model.by_id(1).tail.timestamp;
            let run = flushed.run.as_mut().unwrap();
            run.first_timestamp = before.max(run.first_seq / 4 * 4);
            flushed.tail.timestamp = run.first_timestamp.max(flushed.tail.seq_num / 4 * 4);
        }
        model.ok(flush);
    }
    for packed in [0, 2, 3] {
        if packed > 0 {
            let first = model.indexes(1).last().map_or(0, |(_, end)| *end);
            pack(&mut model, 1, first, packed);
        }
        let links = model.view().chain(StreamId(1), 0, 0).unwrap();
        for from in 0..20 {
            for timestamp in 0..24 {
                let walked = links
                    .iter()
                    .find(|link| link.end_seq() > from && link.last_timestamp() >= timestamp);
                let found = model.view().chain_at_time(StreamId(1), from, timestamp).unwrap();
                assert_eq!(found.as_ref(), walked, "from {from} at {timestamp}, {packed}");
            }
        }
    }
    assert_eq!(model.view().chain_at_time(StreamId(9), 0, 0).unwrap(), None);
}

#[test]
fn a_stream_of_an_earlier_release_counts_its_segments_when_they_change() {
    let mut model = flushed(&[1], 3);
    let mut stream = model.by_id(1);
    stream.segments = None;
    let mut txn = Txn::new(&model.state);
    txn.write::<Streams>(&StreamId(1), &stream);
    let changes = txn.into_changes();
    model.state.commit(changes);
    model.ok(model.flush_of(&[(1, 5)]));
    assert_eq!(model.by_id(1).segments, Some(4));
}

/// The rows of this release, kept: a later one reads them, and those of the one before there were indexes.
#[test]
fn stored_rows_stay_readable() {
    use crate::state::table::Table;
    let mut model = flushed(&[1], 2);
    let row = |model: &Model| {
        let rows = super::random::all::<Segments>(&model.state);
        Segments::encode(&rows[0].1)
    };
    let segment = [
        16, 232, 7, 24, 237, 7, 34, 8, 8, 4, 16, 1, 24, 1, 32, 1, 48, 100, 56, 10, 64, 80, 72, 232, 7,
    ];
    assert_eq!(row(&model), segment, "as before there were indexes");
    pack(&mut model, 1, 0, 2);
    let kept = row(&model);
    let key = (StreamId(1), 9);
    let decoded = Segments::decode(&key, &kept).unwrap();
    assert_eq!(Segments::encode(&decoded), kept);
    let start = [
        16, 232, 7, 24, 242, 7, 34, 8, 8, 4, 16, 1, 24, 3, 32, 1, 64, 160, 1, 72, 208, 15, 82,
    ];
    assert_eq!(kept[..start.len()], start);
}
