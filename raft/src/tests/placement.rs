use millrace_api::id::*;
use millrace_api::name::FencingToken;
use millrace_api::position::StreamPosition;

use super::harness::*;
use crate::command::*;
use crate::refused::Refused;
use crate::state::record::Fencing;

fn activate() -> ActivateStream {
    ActivateStream {
        stream: StreamId(1),
        channel: CHANNEL,
    }
}

fn fencing(token: &str, seq_num: u64) -> Fencing {
    Fencing {
        token: FencingToken::new(token).unwrap(),
        seq_num: Some(seq_num),
    }
}

fn rest(streamlet: StreamletId, tail: u64) -> DeactivateStream {
    DeactivateStream {
        stream: StreamId(1),
        streamlet,
        channel: CHANNEL,
        epoch: Epoch(1),
        tail: StreamPosition::new(tail, 1000 + tail),
        flushed: tail,
        fencing: Fencing::default(),
        trim: 0,
        forgotten: tail,
        now_ms: 400,
    }
}

fn close(streamlet: StreamletId, epoch: u64) -> CloseStreamlet {
    CloseStreamlet {
        stream: StreamId(1),
        streamlet,
        channel: CHANNEL,
        epoch: Epoch(epoch),
    }
}

fn purge() -> PurgeStream {
    PurgeStream { stream: StreamId(1) }
}

fn with_stream() -> Model {
    let mut model = Model::with_channel();
    model.ok(create_stream("s", 1));
    model
}

#[test]
fn activation_opens_a_streamlet_once() {
    let mut model = with_stream();
    let opened = model.ok(activate());
    assert_eq!(opened.outcome, Outcome::Created);
    assert_eq!(opened.streamlet, StreamletId(model.index));
    assert_eq!(
        (opened.epoch, opened.start),
        (Epoch(1), StreamPosition::default())
    );
    let again = model.ok(ActivateStream {
        channel: ChannelId(77),
        ..activate()
    });
    assert_eq!(
        (again.outcome, again.channel, again.streamlet),
        (Outcome::Noop, CHANNEL, opened.streamlet)
    );
    let open = model.view().open_streamlets(CHANNEL).unwrap();
    assert_eq!(open.len(), 1);
    assert_eq!(
        (open[0].stream, open[0].streamlet, open[0].deleting),
        (StreamId(1), opened.streamlet, false)
    );
    assert!(
        model
            .view()
            .open_streamlets(ChannelId(CHANNEL.0 + 1))
            .unwrap()
            .is_empty()
    );
}

#[test]
fn a_channel_that_is_not_active_takes_no_stream() {
    let mut model = with_stream();
    model.ok(expire(1, 1));
    assert_eq!(model.refused(activate()), Refused::ChannelInactive(CHANNEL));
    model.ok(register(2, 2));
    model.ok(assign(2, 2));
    assert_eq!(model.refused(activate()), Refused::ChannelInactive(CHANNEL));
    model.ok(seal(1, 0, 2, 0));
    model.ok(activate_channel(2));
    assert_eq!(model.ok(activate()).epoch, Epoch(2));
    assert_eq!(
        model.refused(ActivateStream {
            stream: StreamId(5),
            ..activate()
        }),
        Refused::StreamGone
    );
}

#[test]
fn a_stream_goes_on_where_it_rested() {
    let mut model = with_stream();
    let first = model.ok(activate());
    model.ok(model.flush_of(&[(1, 10)]));
    let resting = DeactivateStream {
        trim: 3,
        fencing: fencing("x", 4),
        ..rest(first.streamlet, 10)
    };
    model.ok(resting.clone());
    model.ok(resting);
    assert!(model.view().open_streamlets(CHANNEL).unwrap().is_empty());
    let second = model.ok(activate());
    assert_ne!(second.streamlet, first.streamlet);
    assert_eq!(
        (second.start, second.trim, second.forgotten),
        (StreamPosition::new(10, 1010), 3, 10)
    );
    assert_eq!(second.fencing, fencing("x", 4));
    assert!(matches!(
        model.refused(rest(first.streamlet, 11)),
        Refused::StreamletNotOpen(_)
    ));
}

#[test]
fn the_token_that_was_set_later_stays() {
    let mut model = with_stream();
    let first = model.ok(activate());
    model.ok(model.flush_of(&[(1, 10)]));
    model.ok(DeactivateStream {
        fencing: fencing("new", 8),
        trim: 7,
        ..rest(first.streamlet, 10)
    });
    let second = model.ok(activate());
    model.ok(model.flush_of(&[(1, 2)]));
    model.ok(DeactivateStream {
        fencing: fencing("old", 2),
        trim: 5,
        ..rest(second.streamlet, 12)
    });
    let third = model.ok(activate());
    assert_eq!((third.fencing, third.trim), (fencing("new", 8), 7));
    model.ok(model.flush_of(&[(1, 2)]));
    model.ok(DeactivateStream {
        fencing: fencing("", 13),
        ..rest(third.streamlet, 14)
    });
    assert_eq!(model.ok(activate()).fencing, fencing("", 13));
}

#[test]
fn the_first_record_may_set_the_token() {
    let never = Fencing::default();
    assert_eq!(never.clone().merge(fencing("x", 0)), fencing("x", 0));
    assert_eq!(fencing("x", 0).merge(never), fencing("x", 0));
}

#[test]
fn rest_is_refused_unless_everything_is_flushed_and_fits() {
    let mut model = with_stream();
    let first = model.ok(activate());
    let good = rest(first.streamlet, 10);
    assert_eq!(model.refused(good.clone()), Refused::NotFlushed);
    model.ok(model.flush_of(&[(1, 10)]));
    assert_eq!(
        model.refused(DeactivateStream {
            flushed: 9,
            ..good.clone()
        }),
        Refused::NotFlushed
    );
    assert_eq!(model.refused(rest(first.streamlet, 11)), Refused::NotFlushed);
    let moved = Refused::EpochMoved {
        channel: CHANNEL,
        epoch: Epoch(1),
    };
    assert_eq!(
        model.refused(DeactivateStream {
            epoch: Epoch(2),
            ..good.clone()
        }),
        moved
    );
    for bad in [
        DeactivateStream {
            trim: 11,
            ..good.clone()
        },
        DeactivateStream {
            fencing: fencing("x", 10),
            ..good.clone()
        },
        DeactivateStream {
            forgotten: 11,
            ..good.clone()
        },
    ] {
        assert!(matches!(model.refused(bad), Refused::Invalid(_)));
    }
    model.ok(good);
    let second = model.ok(activate());
    assert!(matches!(
        model.refused(rest(second.streamlet, 9)),
        Refused::Invalid(_)
    ));
    model.ok(expire(1, 1));
    assert_eq!(
        model.refused(rest(second.streamlet, 10)),
        Refused::ChannelInactive(CHANNEL)
    );
}

#[test]
fn a_name_is_free_only_after_the_owner_has_closed_the_streamlet() {
    let mut model = with_stream();
    let open = model.ok(activate());
    assert_eq!(model.refused(close(open.streamlet, 1)), Refused::NotDeleting);
    model.ok(delete_stream("s"));
    assert!(model.view().open_streamlets(CHANNEL).unwrap()[0].deleting);
    assert!(matches!(
        model.refused(purge()),
        Refused::StreamletOpen { epoch: Epoch(1), .. }
    ));
    assert!(matches!(
        model.refused(rest(open.streamlet, 5)),
        Refused::StreamDeletionPending(_)
    ));
    assert!(matches!(
        model.refused(close(open.streamlet, 2)),
        Refused::EpochMoved { .. }
    ));
    assert!(matches!(
        model.refused(close(StreamletId(1), 1)),
        Refused::StreamletNotOpen(_)
    ));
    model.ok(close(open.streamlet, 1));
    model.ok(close(open.streamlet, 1));
    model.ok(purge());
    model.ok(close(open.streamlet, 1));
    assert!(model.view().open_streamlets(CHANNEL).unwrap().is_empty());
    assert_eq!(model.refused(rest(open.streamlet, 5)), Refused::StreamGone);
    model.ok(create_stream("s", 2));
}

#[test]
fn a_name_is_free_after_the_epoch_of_the_mark_has_ended() {
    let mut model = with_stream();
    model.ok(activate());
    model.ok(delete_stream("s"));
    model.ok(expire(1, 1));
    assert!(
        matches!(model.refused(purge()), Refused::StreamletOpen { .. }),
        "expired is not yet sealed"
    );
    model.ok(register(2, 2));
    model.ok(assign(2, 2));
    assert!(matches!(model.refused(purge()), Refused::StreamletOpen { .. }));
    model.ok(seal(1, 5, 2, 0));
    model.ok(purge());
    assert!(model.view().open_streamlets(CHANNEL).unwrap().is_empty());
}

#[test]
fn an_epoch_that_ended_before_the_mark_frees_nothing() {
    let mut model = with_stream();
    model.ok(activate());
    model.ok(expire(1, 1));
    model.ok(register(2, 2));
    model.ok(assign(2, 2));
    model.ok(seal(1, 5, 2, 0));
    model.ok(delete_stream("s"));
    assert!(matches!(
        model.refused(purge()),
        Refused::StreamletOpen { epoch: Epoch(2), .. }
    ));
    model.ok(activate_channel(2));
    let streamlet = model.stream("s").unwrap().open.unwrap().streamlet;
    model.ok(close(streamlet, 2));
    model.ok(purge());
}

#[test]
fn an_active_stream_hears_of_its_new_configuration_through_the_answer() {
    use millrace_api::config::{RetentionPolicy, StreamConfig};
    let mut model = with_stream();
    let open = model.ok(activate());
    let config = StreamConfig {
        retention: Some(RetentionPolicy::Infinite),
        ..Default::default()
    };
    let replaced = model.ok(CreateStream {
        config,
        mode: CreateMode::Ensure,
        ..create_stream("s", 9)
    });
    assert_eq!(replaced.stream.open.unwrap().streamlet, open.streamlet);
    assert_eq!(
        model.view().open_streamlets(CHANNEL).unwrap()[0].config.retention,
        RetentionPolicy::Infinite
    );
}
