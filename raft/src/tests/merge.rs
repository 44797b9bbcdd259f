use millrace_api::id::*;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};

use super::harness::*;
use crate::command::*;
use crate::refused::Refused;

fn merged_object(seq: u64) -> SegmentObjectId {
    SegmentObjectId {
        origin: SegmentOrigin::Merge,
        ..flushed_object(seq)
    }
}

/// Streams 1 and 2 with three segments of five records each, in three objects.
fn three() -> Model {
    let mut model = Model::with_active(&[1, 2]);
    for now_ms in [10, 30, 20] {
        let flush = model.flush_of(&[(1, 5), (2, 5)]);
        model.ok(CommitFlush { now_ms, ..flush });
    }
    model
}

/// A run over the segments of flushes `first..=last`.
fn run(id: u128, first: u64, last: u64) -> MergedRun {
    let (first_seq, end_seq) = (5 * (first - 1), 5 * last);
    MergedRun {
        stream: StreamId(id),
        part: 0,
        offset: 0,
        frames_len: 280,
        index_len: 20,
        first_seq,
        first_timestamp: 1000 + first_seq,
        end_seq,
        last_timestamp: 1000 + end_seq,
        metered_bytes: 80 * (1 + last - first),
        appended_before_ms: (first..=last)
            .map(|n| [10, 30, 20][n as usize - 1])
            .max()
            .unwrap(),
        sources: (first..=last).map(flushed_object).collect(),
    }
}

fn merge(model: &Model, runs: Vec<MergedRun>) -> CommitMerge {
    let channel = model.view().channel(CHANNEL).unwrap().unwrap();
    CommitMerge {
        channel: CHANNEL,
        epoch: channel.epoch,
        merge_seq: FlushSeq(channel.merge_seq.0 + 1),
        objects: vec![FlushedObject { part: 0, len: 1000 }],
        runs,
        now_ms: 6000,
    }
}

#[test]
fn a_merge_takes_the_place_of_its_sources() {
    let mut model = three();
    let command = merge(&model, vec![run(1, 1, 2), run(2, 1, 3)]);
    let answer = model.ok(command.clone());
    assert_eq!((answer.log_index, answer.replaced), (model.index, 5));
    assert_eq!(model.segments(1), [(0, 10), (10, 15)]);
    assert_eq!(model.segments(2), [(0, 15)]);
    let link = model.view().chain(StreamId(1), 7, 1).unwrap()[0];
    let segment = link.segment().unwrap();
    assert_eq!((segment.row.object, segment.object_len), (merged_object(1), 1000));
    assert_eq!(
        (segment.row.first_timestamp, segment.row.last_timestamp),
        (1000, 1010)
    );
    assert_eq!(
        (segment.row.metered_bytes, segment.row.appended_before_ms),
        (160, 30)
    );
    assert_eq!(
        model.objects(),
        [
            (flushed_object(1), 0, 0),
            (flushed_object(2), 0, 0),
            (flushed_object(3), 1, 110),
            (merged_object(1), 2, 600),
        ]
    );
    assert_eq!(model.dead(), [1, 2].map(flushed_object));

    // Again: the same answer in kind, and no change.
    let (segments, objects) = (model.segments(1), model.objects());
    let again = model.ok(command);
    assert_eq!((again.log_index, again.replaced), (model.index, 0));
    assert_eq!((model.segments(1), model.objects()), (segments, objects));
    let channel = model.view().channel(CHANNEL).unwrap().unwrap();
    assert_eq!((channel.merge_seq, channel.flush_seq), (FlushSeq(1), FlushSeq(3)));

    // What was merged is merged on.
    let next = MergedRun {
        sources: vec![merged_object(1), flushed_object(3)],
        ..run(1, 1, 3)
    };
    assert_eq!(model.ok(merge(&model, vec![next])).replaced, 2);
    assert_eq!(model.segments(1), [(0, 15)]);
    assert_eq!(model.dead(), [1, 2, 3].map(flushed_object));
}

#[test]
fn a_run_whose_sources_have_changed_is_passed_over() {
    let mut model = three();
    let gone = merge(&model, vec![run(1, 1, 3), run(2, 1, 2), run(9, 1, 1)]);
    model.rest(1, 5, 10);
    model.ok(DropSegments {
        stream: StreamId(1),
        limit: 0,
        now_ms: 10,
    });
    let answer = model.ok(gone);
    assert_eq!(answer.replaced, 2);
    assert_eq!(model.segments(1), [(5, 10), (10, 15)]);
    assert_eq!(model.segments(2), [(0, 10), (10, 15)]);
    assert_eq!(model.objects()[3], (merged_object(1), 1, 300));

    // Merged meanwhile; other objects; not from end to end.
    let other = MergedRun {
        sources: vec![flushed_object(3), flushed_object(2)],
        ..run(1, 2, 3)
    };
    let short = MergedRun {
        end_seq: 14,
        ..run(1, 2, 3)
    };
    let late = MergedRun {
        first_seq: 6,
        ..run(1, 2, 3)
    };
    let answer = model.ok(merge(&model, vec![run(2, 1, 2), other, short, late]));
    assert_eq!(answer.replaced, 0);
    assert_eq!(model.dead(), [flushed_object(1), merged_object(2)]);
    assert_eq!(model.segments(1), [(5, 10), (10, 15)]);
}

#[test]
fn a_run_that_says_something_else_than_its_sources_refuses_the_whole_merge() {
    let mut model = three();
    let spoils: [fn(&mut MergedRun); 9] = [
        |run| run.first_timestamp += 1,
        |run| run.last_timestamp += 1,
        |run| run.metered_bytes += 1,
        |run| run.appended_before_ms -= 1,
        |run| run.sources.clear(),
        |run| run.end_seq = run.first_seq,
        |run| run.part = 1,
        |run| run.offset = 701,
        |run| run.sources[0] = merged_object(1),
    ];
    for spoil in spoils {
        let mut bad = run(1, 1, 2);
        spoil(&mut bad);
        let command = merge(&model, vec![run(2, 1, 2), bad]);
        assert!(matches!(model.refused(command), Refused::Invalid(_)));
    }
    let many = MergedRun {
        sources: vec![flushed_object(1); FLUSH_STREAMS_MAX + 1],
        ..run(1, 1, 2)
    };
    let command = merge(&model, vec![many]);
    assert!(matches!(model.refused(command), Refused::Invalid(_)));
    assert_eq!(model.segments(2).len(), 3);
}

#[test]
fn merges_are_counted_and_belong_to_the_current_epoch() {
    let mut model = three();
    let out_of_order = Refused::MergeOutOfOrder {
        channel: CHANNEL,
        last: FlushSeq(0),
    };
    let good = merge(&model, vec![run(1, 1, 2)]);
    let later = CommitMerge {
        merge_seq: FlushSeq(2),
        ..good.clone()
    };
    assert_eq!(model.refused(later), out_of_order);
    let zero = CommitMerge {
        merge_seq: FlushSeq(0),
        ..good.clone()
    };
    assert!(matches!(model.refused(zero), Refused::Invalid(_)));
    model.ok(expire(1, 1));
    assert!(matches!(model.refused(good), Refused::EpochMoved { .. }));
}

#[test]
fn a_merge_over_the_trim_point_keeps_the_list_of_trimmed_streams_right() {
    let mut model = three();
    model.rest(1, 7, 10);
    let trimmed = |model: &Model| model.view().trimmed_streams(None, 0).unwrap();
    assert_eq!(trimmed(&model), [StreamId(1)]);
    model.ok(merge(&model, vec![run(1, 1, 2)]));
    assert!(trimmed(&model).is_empty());
}
