use millrace_api::config::{RetentionPolicy, StreamConfig};
use millrace_api::id::*;

use super::harness::*;
use crate::command::*;
use crate::refused::Refused;

fn drop_some(id: u128, limit: u32) -> DropSegments {
    DropSegments {
        stream: StreamId(id),
        limit,
        now_ms: 7000,
    }
}

fn dropped(dropped: u32, done: bool) -> SegmentsDropped {
    SegmentsDropped {
        dropped,
        done,
        packed: false,
    }
}

fn forget(seqs: &[u64]) -> ForgetObjects {
    ForgetObjects {
        objects: seqs.iter().map(|seq| flushed_object(*seq)).collect(),
    }
}

/// One stream with segments of these lengths, active.
fn with_segments(lengths: &[u64]) -> Model {
    let mut model = Model::with_active(&[1]);
    for length in lengths {
        model.ok(model.flush_of(&[(1, *length)]));
    }
    model
}

fn trimmed(model: &Model) -> Vec<StreamId> {
    model.view().trimmed_streams(None, 0).unwrap()
}

#[test]
fn what_is_wholly_below_the_trim_point_is_dropped_in_bounded_steps() {
    let mut model = with_segments(&[5, 5, 5, 5]);
    assert_eq!(model.ok(drop_some(1, 0)), dropped(0, true));
    model.rest(1, 17, 10);
    assert_eq!(trimmed(&model), [StreamId(1)]);
    assert_eq!(model.ok(drop_some(1, 2)), dropped(2, false));
    assert_eq!(trimmed(&model), [StreamId(1)]);
    assert_eq!(model.ok(drop_some(1, 2)), dropped(1, true));
    assert_eq!(model.segments(1), [(15, 20)]);
    assert!(trimmed(&model).is_empty());
    assert_eq!(model.dead(), [1, 2, 3].map(flushed_object));
    assert_eq!(model.ok(drop_some(1, 1)), dropped(0, true));
    assert_eq!(model.by_id(1).empty_since_ms, None);
    assert_eq!(model.ok(drop_some(99, 1)), dropped(0, true));
}

#[test]
fn an_object_lives_as_long_as_one_segment_names_it() {
    let mut model = Model::with_active(&[1, 2]);
    model.ok(model.flush_of(&[(1, 5), (2, 5)]));
    model.rest(1, 5, 10);
    model.ok(drop_some(1, 0));
    assert_eq!(model.objects(), [(flushed_object(1), 1, 110)]);
    assert!(model.dead().is_empty());
    assert_eq!(
        model.refused(forget(&[1])),
        Refused::ObjectLive(flushed_object(1))
    );
    model.rest(2, 5, 10);
    model.ok(drop_some(2, 0));
    assert_eq!(model.objects(), [(flushed_object(1), 0, 0)]);
    let dead = model.view().dead_objects(None, 0).unwrap();
    assert_eq!(
        dead.iter()
            .map(|d| (d.object, d.len, d.dead_at_ms))
            .collect::<Vec<_>>(),
        [(flushed_object(1), 240, 7000)]
    );
    assert!(
        model
            .view()
            .dead_objects(Some(dead[0].cursor), 0)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn dead_objects_are_forgotten_and_live_ones_are_not() {
    let mut model = with_segments(&[5, 5]);
    model.rest(1, 5, 10);
    model.ok(drop_some(1, 0));
    assert_eq!(
        model.refused(forget(&[1, 2])),
        Refused::ObjectLive(flushed_object(2))
    );
    assert_eq!(model.dead(), [flushed_object(1)]);
    model.ok(forget(&[1, 77]));
    model.ok(forget(&[1]));
    assert!(model.dead().is_empty());
    assert_eq!(model.objects(), [(flushed_object(2), 1, 110)]);
    let many = forget(&vec![1; FLUSH_OBJECTS_MAX + 1]);
    assert!(matches!(model.refused(many), Refused::Invalid(_)));
}

#[test]
fn a_deleting_stream_keeps_its_segments_while_somebody_may_answer_for_it() {
    let mut model = with_segments(&[5, 5]);
    let streamlet = model.by_id(1).open.unwrap().streamlet;
    model.ok(delete_stream("s1"));
    assert_eq!(model.ok(drop_some(1, 0)), dropped(0, true));
    model.ok(CloseStreamlet {
        stream: StreamId(1),
        streamlet,
        channel: CHANNEL,
        epoch: Epoch(1),
    });
    assert_eq!(
        model.refused(PurgeStream { stream: StreamId(1) }),
        Refused::SegmentsLeft
    );
    assert_eq!(model.ok(drop_some(1, 1)), dropped(1, false));
    assert_eq!(
        model.refused(PurgeStream { stream: StreamId(1) }),
        Refused::SegmentsLeft
    );
    assert_eq!(model.ok(drop_some(1, 1)), dropped(1, true));
    model.ok(PurgeStream { stream: StreamId(1) });
    assert_eq!(model.dead(), [1, 2].map(flushed_object));
    assert_eq!(model.ok(drop_some(1, 1)), dropped(0, true));
}

#[test]
fn a_deleting_stream_of_an_epoch_that_has_ended_lets_its_segments_go() {
    let mut model = with_segments(&[5]);
    model.ok(delete_stream("s1"));
    model.ok(expire(1, 1));
    model.ok(register(2, 2));
    model.ok(assign(2, 2));
    assert_eq!(model.ok(drop_some(1, 0)), dropped(0, true));
    model.ok(seal(1, 5, 2, 0));
    assert_eq!(model.ok(drop_some(1, 0)), dropped(1, true));
    model.ok(PurgeStream { stream: StreamId(1) });
}

fn set_config(model: &mut Model, config: StreamConfig) {
    model.ok(CreateStream {
        config,
        mode: CreateMode::Ensure,
        ..create_stream("s1", 99)
    });
}

fn retain(model: &mut Model, retention: RetentionPolicy) {
    let config = StreamConfig {
        retention: Some(retention),
        ..Default::default()
    };
    set_config(model, config);
}

fn expire_segments(before: u64, now_ms: u64) -> ExpireSegments {
    ExpireSegments {
        stream: StreamId(1),
        appended_before_ms: before,
        limit: 0,
        now_ms,
    }
}

/// Segments of five records that were flushed at 1000, 2000 and 3000, kept for ten seconds.
fn aged() -> Model {
    let mut model = Model::with_active(&[1]);
    retain(&mut model, RetentionPolicy::Age(10));
    for now_ms in [1000, 2000, 3000] {
        let flush = model.flush_of(&[(1, 5)]);
        model.ok(CommitFlush { now_ms, ..flush });
    }
    model
}

#[test]
fn what_is_older_than_the_retention_expires_and_is_trimmed() {
    let mut model = aged();
    assert_eq!(model.ok(expire_segments(999, 11_000)), dropped(0, true));
    assert_eq!(model.by_id(1).trim, 0);
    assert_eq!(model.ok(expire_segments(2000, 12_000)), dropped(2, true));
    assert_eq!((model.segments(1), model.by_id(1).trim), (vec![(10, 15)], 10));
    assert_eq!(model.dead(), [1, 2].map(flushed_object));
    assert!(trimmed(&model).is_empty());
    assert_eq!(model.by_id(1).empty_since_ms, None);
}

#[test]
fn expiry_goes_in_bounded_steps() {
    let mut model = aged();
    let step = ExpireSegments {
        limit: 1,
        ..expire_segments(2000, 12_000)
    };
    assert_eq!(model.ok(step.clone()), dropped(1, false));
    assert_eq!(model.by_id(1).trim, 5);
    assert_eq!(model.ok(step.clone()), dropped(1, true));
    assert_eq!(model.ok(step), dropped(0, true));
}

#[test]
fn expiry_keeps_a_trim_point_that_is_further_on() {
    let mut model = aged();
    model.rest(1, 12, 10);
    assert_eq!(model.ok(expire_segments(1000, 12_000)), dropped(1, true));
    assert_eq!(model.by_id(1).trim, 12);
    assert_eq!(trimmed(&model), [StreamId(1)]);
}

#[test]
fn what_the_retention_keeps_does_not_expire() {
    let mut model = aged();
    assert_eq!(model.refused(expire_segments(1000, 10_999)), Refused::Retained);
    assert_eq!(
        model.refused(expire_segments(u64::MAX, u64::MAX)),
        Refused::Retained
    );
    retain(&mut model, RetentionPolicy::Age(u64::MAX));
    assert_eq!(model.refused(expire_segments(1000, u64::MAX)), Refused::Retained);
    retain(&mut model, RetentionPolicy::Infinite);
    assert_eq!(model.refused(expire_segments(0, u64::MAX)), Refused::Retained);
    model.ok(delete_stream("s1"));
    assert!(matches!(
        model.refused(expire_segments(1000, 11_000)),
        Refused::StreamDeletionPending(_)
    ));
    let gone = ExpireSegments {
        stream: StreamId(99),
        ..expire_segments(1000, 11_000)
    };
    assert_eq!(model.ok(gone), dropped(0, true));
}

#[test]
fn a_stream_knows_since_when_it_is_empty() {
    let mut model = Model::with_channel();
    model.ok(create_stream("s1", 1));
    let since = |model: &Model| model.by_id(1).empty_since_ms;
    let activate = ActivateStream {
        stream: StreamId(1),
        channel: CHANNEL,
    };
    assert_eq!(since(&model), Some(200));
    model.ok(activate.clone());
    model.rest(1, 0, 300);
    assert_eq!(since(&model), Some(200), "it has held nothing meanwhile");
    model.ok(activate.clone());
    model.ok(model.flush_of(&[(1, 5)]));
    assert_eq!(since(&model), None);
    model.rest(1, 4, 400);
    assert_eq!(since(&model), None);
    model.ok(activate.clone());
    model.rest(1, 5, 500);
    assert_eq!(since(&model), Some(500));
    model.ok(drop_some(1, 0));
    assert_eq!(since(&model), Some(500));
    model.ok(activate.clone());
    model.ok(model.flush_of(&[(1, 5)]));
    model.rest(1, 10, 0);
    assert_eq!(since(&model), None, "an entry without a time says nothing");
    model.ok(drop_some(1, 0));
    assert_eq!(since(&model), Some(7000));

    let mut model = aged();
    model.ok(expire_segments(3000, 13_000));
    assert_eq!(since(&model), None, "its owner may have sequenced more");
    model.ok(model.flush_of(&[(1, 5)]));
    model.rest(1, 0, 14_000);
    model.ok(expire_segments(5000, 15_000));
    assert_eq!(since(&model), Some(15_000));
}

#[test]
fn an_empty_stream_is_deleted_after_its_time_and_no_other_is() {
    let delete = |now_ms| DeleteEmptyStream {
        stream: StreamId(1),
        now_ms,
    };
    let mut model = with_segments(&[5]);
    set_config(
        &mut model,
        StreamConfig {
            delete_on_empty_min_age_secs: Some(2),
            ..Default::default()
        },
    );
    assert_eq!(model.refused(delete(u64::MAX)), Refused::NotEmpty, "active");
    model.rest(1, 4, 1000);
    assert_eq!(
        model.refused(delete(u64::MAX)),
        Refused::NotEmpty,
        "a record is left"
    );
    model.ok(ActivateStream {
        stream: StreamId(1),
        channel: CHANNEL,
    });
    model.rest(1, 5, 1000);
    assert_eq!(
        model.refused(delete(u64::MAX)),
        Refused::NotEmpty,
        "a segment is left"
    );
    model.ok(drop_some(1, 0));
    assert_eq!(model.refused(delete(2999)), Refused::NotEmpty, "too early");
    set_config(&mut model, StreamConfig::default());
    assert_eq!(model.refused(delete(u64::MAX)), Refused::NotEmpty, "off");
    set_config(
        &mut model,
        StreamConfig {
            delete_on_empty_min_age_secs: Some(2),
            ..Default::default()
        },
    );
    let deleted = model.ok(delete(3000));
    assert_eq!(deleted.outcome, Outcome::Updated);
    assert_eq!(deleted.stream.deletion.unwrap().at_ms, 3000);
    assert_eq!(model.ok(delete(4000)).outcome, Outcome::Noop);
    assert_eq!(model.view().deleting_streams(None, 9).unwrap().len(), 1);
    model.ok(PurgeStream { stream: StreamId(1) });
    assert_eq!(model.refused(delete(5000)), Refused::StreamGone);
}

#[test]
fn lists_go_on_after_what_was_seen() {
    let mut model = Model::with_active(&[1, 2, 3]);
    for _ in 0..3 {
        model.ok(model.flush_of(&[(1, 1), (2, 1), (3, 1)]));
    }
    let view = model.view();
    let after = |id| {
        let streams = view.streams_after(id, 2).unwrap();
        streams.iter().map(|stream| stream.id.0).collect::<Vec<_>>()
    };
    assert_eq!(after(None), [1, 2]);
    assert_eq!(after(Some(StreamId(2))), [3]);
    let objects = |channel, after| {
        let objects = view.segment_objects(channel, after, 2).unwrap();
        objects
            .iter()
            .map(|object| object.object.seq.0)
            .collect::<Vec<_>>()
    };
    assert_eq!(objects(None, None), [1, 2]);
    assert_eq!(objects(Some(CHANNEL), Some(flushed_object(2))), [3]);
    assert!(objects(Some(ChannelId(9)), None).is_empty());
    assert!(view.segment_object(flushed_object(4)).unwrap().is_none());
}
