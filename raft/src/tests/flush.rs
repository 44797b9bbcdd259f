use millrace_api::id::*;
use millrace_api::name::FencingToken;
use millrace_api::position::StreamPosition;

use super::harness::*;
use crate::command::*;
use crate::refused::Refused;
use crate::state::record::{ChannelRecord, Fencing, Slot};

fn slot(epoch: u64, slot: u64) -> Slot {
    Slot {
        epoch: Epoch(epoch),
        slot: ChunkSeq(slot),
    }
}

fn channel(model: &Model) -> ChannelRecord {
    model.view().channel(CHANNEL).unwrap().unwrap()
}

fn invalid(model: &mut Model, command: CommitFlush) -> String {
    match model.refused(command) {
        Refused::Invalid(why) => why,
        other => panic!("{other:?}"),
    }
}

/// Node 2 takes the channel over in the next epoch, which ends the last at `end`.
fn take_over(model: &mut Model, end: u64) {
    let channel = channel(model);
    let owner = channel.owner.unwrap();
    model.ok(expire(owner.node.0, owner.incarnation.0));
    let (node, epoch) = (owner.node.0 + 1, channel.epoch.0 + 1);
    model.ok(register(node, node.into()));
    model.ok(assign(node, node.into()));
    model.ok(seal(epoch - 1, end, epoch, 0));
    model.ok(activate_channel(epoch));
}

#[test]
fn a_flush_moves_the_checkpoint_and_the_tails_of_its_streams() {
    let mut model = Model::with_active(&[1, 2]);
    let flush = model.flush_of(&[(1, 5), (2, 3)]);
    let answer = model.ok(flush.clone());
    assert_eq!(answer.log_index, model.index);
    let after = channel(&model);
    assert_eq!(
        (after.checkpoint, after.flush_seq, after.merge_seq),
        (slot(1, 1), FlushSeq(1), FlushSeq(0))
    );
    assert_eq!(model.by_id(1).tail, StreamPosition::new(5, 1005));
    let open = model.view().open_streamlets(CHANNEL).unwrap();
    assert_eq!(open[1].flushed, StreamPosition::new(3, 1003));
    model.ok(model.flush_of(&[(1, 4)]));
    let links = model.view().chain(StreamId(1), 0, 0).unwrap();
    let segments: Vec<_> = links.iter().filter_map(|link| link.segment()).collect();
    let of = |n: usize| {
        let segment = &segments[n];
        (
            segment.row.first_seq,
            segment.end_seq,
            segment.row.object,
            segment.object_len,
        )
    };
    assert_eq!(segments.len(), 2);
    assert_eq!(of(0), (0, 5, flushed_object(1), 240));
    assert_eq!(of(1), (5, 9, flushed_object(2), 130));
    let row = segments[1].row;
    assert_eq!((row.first_timestamp, row.last_timestamp), (1005, 1009));
    assert_eq!((row.offset, row.frames_len, row.index_len), (0, 100, 10));
    assert_eq!((row.metered_bytes, row.appended_before_ms), (80, 5000));
    assert_eq!(
        model.objects(),
        [(flushed_object(1), 2, 220), (flushed_object(2), 1, 110)]
    );
}

#[test]
fn the_segments_from_a_record_on_begin_with_the_one_that_holds_it() {
    let mut model = Model::with_active(&[1, 2]);
    for _ in 0..3 {
        model.ok(model.flush_of(&[(1, 5), (2, 1)]));
    }
    let from = |seq, limit| {
        let links = model.view().chain(StreamId(1), seq, limit).unwrap();
        links.iter().map(|link| link.first_seq()).collect::<Vec<_>>()
    };
    assert_eq!(from(0, 0), [0, 5, 10]);
    assert_eq!(from(4, 0), [0, 5, 10]);
    assert_eq!(from(5, 1), [5]);
    assert_eq!(from(14, 0), [10]);
    assert!(from(15, 0).is_empty());
    assert!(from(u64::MAX, 0).is_empty());
}

#[test]
fn the_same_flush_again_changes_nothing_and_answers() {
    let mut model = Model::with_active(&[1]);
    let flush = model.flush_of(&[(1, 5)]);
    model.ok(flush.clone());
    let (stream, objects) = (model.by_id(1), model.objects());
    let again = model.ok(flush.clone());
    assert_eq!(again.log_index, model.index);
    assert_eq!((model.by_id(1), model.objects()), (stream, objects));
    assert_eq!(channel(&model).flush_seq, FlushSeq(1));
    let other = CommitFlush {
        through: slot(1, 9),
        ..flush
    };
    let out_of_order = Refused::FlushOutOfOrder {
        channel: CHANNEL,
        last: FlushSeq(1),
        checkpoint: slot(1, 1),
    };
    assert_eq!(model.refused(other), out_of_order);
}

#[test]
fn a_flush_that_does_not_follow_the_last_is_refused_and_hears_of_it() {
    let mut model = Model::with_active(&[1]);
    model.ok(model.flush_of(&[(1, 5)]));
    let next = model.flush_of(&[(1, 1)]);
    let out_of_order = Refused::FlushOutOfOrder {
        channel: CHANNEL,
        last: FlushSeq(1),
        checkpoint: slot(1, 1),
    };
    for bad in [
        CommitFlush {
            flush_seq: FlushSeq(3),
            ..next.clone()
        },
        CommitFlush {
            from: slot(1, 0),
            ..next.clone()
        },
        CommitFlush {
            from: slot(1, 2),
            ..next.clone()
        },
    ] {
        assert_eq!(model.refused(bad), out_of_order);
    }
    let zero = CommitFlush {
        flush_seq: FlushSeq(0),
        through: slot(1, 1),
        ..next.clone()
    };
    assert!(invalid(&mut model, zero).contains("from 1"));
    for through in [slot(1, 0), slot(2, 0), slot(0, 9)] {
        let bad = CommitFlush {
            through,
            ..next.clone()
        };
        invalid(&mut model, bad);
    }
    model.ok(next);
}

#[test]
fn only_the_owner_of_the_current_epoch_flushes() {
    let mut model = Model::with_active(&[1]);
    let flush = model.flush_of(&[(1, 5)]);
    let moved = |epoch| Refused::EpochMoved {
        channel: CHANNEL,
        epoch: Epoch(epoch),
    };
    let later = CommitFlush {
        epoch: Epoch(2),
        ..flush.clone()
    };
    assert_eq!(model.refused(later), moved(1));
    model.ok(expire(1, 1));
    assert_eq!(model.refused(flush.clone()), moved(1));
    model.ok(register(2, 2));
    model.ok(assign(2, 2));
    assert_eq!(model.refused(flush.clone()), moved(2));
    let unactivated = CommitFlush {
        epoch: Epoch(2),
        ..flush
    };
    assert_eq!(model.refused(unactivated), moved(2));
    model.ok(seal(1, 3, 2, 0));
    model.ok(activate_channel(2));
    model.ok(model.flush_of(&[(1, 5)]));
}

#[test]
fn a_flush_forgets_the_epochs_that_a_replay_does_not_read() {
    let mut model = Model::with_active(&[1]);
    take_over(&mut model, 7);
    take_over(&mut model, 2);
    let epochs = |model: &Model| channel(model).epochs.iter().map(|(e, _)| e.0).collect::<Vec<_>>();
    assert_eq!(epochs(&model), [1, 2, 3]);
    let flush = |model: &Model, through| CommitFlush {
        through,
        ..model.flush_of(&[])
    };
    let beyond = flush(&model, slot(2, 3));
    assert!(invalid(&mut model, beyond).contains("ended earlier"));
    model.ok(flush(&model, slot(2, 2)));
    assert_eq!(epochs(&model), [2, 3]);
    model.ok(flush(&model, slot(3, 0)));
    assert_eq!(epochs(&model), [3]);
    // What is forgotten cannot be asked for again, and nothing else minds.
    assert!(matches!(model.refused(seal(1, 7, 3, 0)), Refused::Invalid(_)));
    take_over(&mut model, 1);
    assert_eq!(epochs(&model), [3, 4]);
    model.ok(model.flush_of(&[(1, 2)]));
    assert_eq!(epochs(&model), [4]);
}

#[test]
fn runs_that_do_not_continue_what_was_flushed_refuse_the_whole_flush() {
    let mut model = Model::with_active(&[1, 2]);
    model.ok(model.flush_of(&[(1, 5)]));
    let spoils: [fn(&mut FlushedStream); 10] = [
        |s| s.run.as_mut().unwrap().first_seq += 1,
        |s| s.run.as_mut().unwrap().first_seq -= 1,
        |s| s.run.as_mut().unwrap().first_timestamp = 1004,
        |s| s.tail.seq_num = 5,
        |s| s.tail.timestamp = 1004,
        |s| s.run = None,
        |s| {
            s.run = None;
            s.tail = StreamPosition::new(5, 1006);
        },
        |s| s.trim = 11,
        |s| s.forgotten = 11,
        |s| s.fencing.seq_num = Some(10),
    ];
    for spoil in spoils {
        let mut flush = model.flush_of(&[(2, 1), (1, 5)]);
        spoil(&mut flush.streams[1]);
        invalid(&mut model, flush);
    }
    assert_eq!(model.by_id(2).tail.seq_num, 0);
    model.ok(model.flush_of(&[(2, 1), (1, 5)]));
}

#[test]
fn a_run_outside_its_object_refuses_the_whole_flush() {
    let mut model = Model::with_active(&[1]);
    let good = model.flush_of(&[(1, 5)]);
    let spoils: [fn(&mut FlushedRun); 5] = [
        |run| run.part = 1,
        |run| run.offset = 21,
        |run| run.offset = u64::MAX,
        |run| run.frames_len = 0,
        |run| run.index_len = 31,
    ];
    for spoil in spoils {
        let mut flush = good.clone();
        spoil(flush.streams[0].run.as_mut().unwrap());
        invalid(&mut model, flush);
    }
    let part = good.objects[0];
    for objects in [
        vec![part, part],
        vec![part, FlushedObject { part: 1, len: 0 }],
        (0..=FLUSH_OBJECTS_MAX as u32)
            .map(|part| FlushedObject { part, len: 200 })
            .collect(),
    ] {
        let bad = CommitFlush {
            objects,
            ..good.clone()
        };
        invalid(&mut model, bad);
    }
    let many = CommitFlush {
        streams: vec![good.streams[0].clone(); FLUSH_STREAMS_MAX + 1],
        ..good.clone()
    };
    assert!(invalid(&mut model, many).contains("at most"));
    model.ok(good);
}

#[test]
fn a_large_run_may_be_cut_over_several_objects() {
    let mut model = Model::with_active(&[1]);
    let mut flush = model.flush_of(&[(1, 5)]);
    let mut rest = flush.streams[0].clone();
    rest.tail = StreamPosition::new(8, 1008);
    let run = rest.run.as_mut().unwrap();
    (run.part, run.first_seq, run.first_timestamp) = (1, 5, 1005);
    flush.streams.push(rest);
    flush.objects.push(FlushedObject { part: 1, len: 110 });
    model.ok(flush);
    assert_eq!(model.segments(1), [(0, 5), (5, 8)]);
    assert_eq!(model.objects().len(), 2);
}

#[test]
fn a_stream_that_is_gone_or_open_elsewhere_is_passed_over() {
    let mut model = Model::with_active(&[1, 2, 3]);
    let late = model.flush_of(&[(1, 5), (2, 4), (3, 2)]);
    model.ok(delete_stream("s1"));
    model.ok(CloseStreamlet {
        stream: StreamId(1),
        streamlet: late.streams[0].streamlet,
        channel: CHANNEL,
        epoch: Epoch(1),
    });
    model.ok(PurgeStream { stream: StreamId(1) });
    model.rest(2, 0, 10);
    let again = model.ok(ActivateStream {
        stream: StreamId(2),
        channel: CHANNEL,
    });
    model.ok(late);
    assert!(model.segments(1).is_empty() && model.segments(2).is_empty());
    assert_eq!(model.by_id(2).tail.seq_num, 0);
    assert_eq!(model.by_id(2).open.unwrap().streamlet, again.streamlet);
    assert_eq!(model.segments(3), [(0, 2)]);
    assert_eq!(model.objects(), [(flushed_object(1), 1, 110)]);
}

#[test]
fn an_object_of_which_nothing_was_taken_is_dead_from_the_start() {
    let mut model = Model::with_active(&[1]);
    let late = model.flush_of(&[(1, 5)]);
    model.rest(1, 0, 10);
    model.ok(late);
    assert_eq!(model.dead(), [flushed_object(1)]);
    let dead = model.view().segment_object(flushed_object(1)).unwrap().unwrap();
    assert_eq!((dead.live_runs, dead.live_bytes), (0, 0));
    assert_eq!((dead.committed_at_ms, dead.dead_at_ms), (5000, Some(5000)));
}

#[test]
fn a_deleting_stream_takes_its_segments() {
    let mut model = Model::with_active(&[1]);
    model.ok(delete_stream("s1"));
    model.ok(model.flush_of(&[(1, 5)]));
    assert_eq!(model.segments(1), [(0, 5)]);
}

#[test]
fn an_old_token_does_not_come_back_with_a_late_flush() {
    let token = |token: &str, seq| Fencing {
        token: FencingToken::new(token).unwrap(),
        seq_num: Some(seq),
    };
    let mut model = Model::with_active(&[1]);
    let mut flush = model.flush_of(&[(1, 5)]);
    flush.streams[0].fencing = token("new", 3);
    (flush.streams[0].trim, flush.streams[0].forgotten) = (2, 4);
    model.ok(flush);
    let mut flush = model.flush_of(&[(1, 5)]);
    flush.streams[0].fencing = token("old", 1);
    flush.streams[0].trim = 1;
    model.ok(flush);
    let stream = model.by_id(1);
    assert_eq!(
        (stream.fencing, stream.trim, stream.forgotten),
        (token("new", 3), 2, 4)
    );
}

#[test]
fn a_flush_without_runs_moves_the_trim_point() {
    let mut model = Model::with_active(&[1]);
    model.ok(model.flush_of(&[(1, 5)]));
    model.ok(model.flush_of(&[(1, 5)]));
    let mut flush = model.flush_of(&[(1, 0)]);
    flush.objects.clear();
    flush.streams[0].run = None;
    flush.streams[0].trim = 4;
    model.ok(flush.clone());
    assert_eq!(model.by_id(1).trim, 4);
    assert!(model.view().trimmed_streams(None, 0).unwrap().is_empty());
    let mut flush = CommitFlush {
        flush_seq: FlushSeq(4),
        from: flush.through,
        ..flush
    };
    flush.streams[0].trim = 5;
    model.ok(flush);
    assert_eq!(model.view().trimmed_streams(None, 0).unwrap(), [StreamId(1)]);
    assert!(
        model
            .view()
            .trimmed_streams(Some(StreamId(1)), 0)
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_stream_does_not_rest_before_its_last_record_is_flushed() {
    let mut model = Model::with_active(&[1]);
    model.ok(model.flush_of(&[(1, 5)]));
    let open = model.by_id(1).open.unwrap();
    let rest = |tail: u64, timestamp: u64| DeactivateStream {
        stream: StreamId(1),
        streamlet: open.streamlet,
        channel: CHANNEL,
        epoch: Epoch(1),
        tail: StreamPosition::new(tail, timestamp),
        flushed: tail,
        fencing: Fencing::default(),
        trim: 0,
        forgotten: 0,
        now_ms: 1,
    };
    assert_eq!(model.refused(rest(6, 1006)), Refused::NotFlushed);
    assert!(matches!(model.refused(rest(4, 1004)), Refused::Invalid(_)));
    assert!(matches!(model.refused(rest(5, 1006)), Refused::Invalid(_)));
    model.ok(rest(5, 1005));
    let again = model.ok(ActivateStream {
        stream: StreamId(1),
        channel: CHANNEL,
    });
    assert_eq!(again.start, StreamPosition::new(5, 1005));
    model.ok(model.flush_of(&[(1, 2)]));
    assert_eq!(model.segments(1), [(0, 5), (5, 7)]);
}
