use millrace_api::config::StorageClass;
use millrace_api::id::*;

use super::harness::*;
use crate::command::*;
use crate::refused::Refused;

fn release(epoch: u64, sealed_end: Option<u64>) -> ReleaseChannels {
    ReleaseChannels {
        node: NodeId(1),
        incarnation: Incarnation(1),
        channels: vec![ReleasedChannel {
            channel: CHANNEL,
            epoch: Epoch(epoch),
            sealed_end: sealed_end.map(ChunkSeq),
        }],
    }
}

/// Node 1 owned epoch 1 and is gone; node 2 has epoch 2.
fn after_a_crash() -> Model {
    let mut model = Model::with_channel();
    model.ok(register(2, 2));
    assert_eq!(model.ok(expire(1, 1)).freed, [CHANNEL]);
    assert_eq!(model.ok(assign(2, 2)), Epoch(2));
    model
}

#[test]
fn a_cell_is_initialised_once() {
    let mut model = Model::default();
    model.ok(InitCell { cell_id: 5 });
    model.ok(InitCell { cell_id: 5 });
    assert_eq!(
        model.refused(InitCell { cell_id: 6 }),
        Refused::CellInitialized { cell_id: 5 }
    );
    assert_eq!(model.view().cell_id().unwrap(), Some(5));
}

#[test]
fn a_zone_keeps_its_registered_gen() {
    let mut model = Model::with_channel();
    let zone = |zone, gen_id, replaces| RegisterZone {
        zone,
        gen_id,
        replaces,
    };
    model.ok(zone(0, GEN, None));
    let other = model.refused(zone(0, ZoneGen(9), None));
    assert_eq!(
        other,
        Refused::ZoneRegistered {
            zone: 0,
            registered: GEN
        }
    );
    let stale = model.refused(zone(0, ZoneGen(9), Some(ZoneGen(8))));
    assert!(matches!(stale, Refused::ZoneRegistered { .. }), "{stale:?}");
    model.ok(zone(0, ZoneGen(9), Some(GEN)));
    // The answer was lost, and it is asked again.
    model.ok(zone(0, ZoneGen(9), Some(GEN)));
    let twice = model.refused(zone(1, ZoneGen(9), None));
    assert!(
        matches!(twice, Refused::Invalid(_)),
        "one store is not two zones: {twice:?}"
    );
}

#[test]
fn no_epoch_begins_under_a_zone_that_was_replaced() {
    let mut model = Model::with_channel();
    let replace = RegisterZone {
        zone: 0,
        gen_id: ZoneGen(9),
        replaces: Some(GEN),
    };
    model.ok(replace);
    model.ok(expire(1, 1));
    model.ok(register(2, 2));
    assert!(matches!(model.refused(assign(2, 2)), Refused::Invalid(_)));
}

#[test]
fn a_live_owner_keeps_its_channel() {
    let mut model = Model::with_channel();
    model.ok(register(2, 2));
    assert!(matches!(
        model.refused(assign(2, 2)),
        Refused::ChannelOwned { epoch: Epoch(1), .. }
    ));
    // Even after its successor has registered without proof of its end.
    model.ok(register(1, 11));
    assert!(matches!(
        model.refused(assign(1, 11)),
        Refused::ChannelOwned { .. }
    ));
    assert_eq!(model.ok(expire(1, 1)).freed, [CHANNEL]);
    assert_eq!(model.ok(assign(1, 11)), Epoch(2));
}

#[test]
fn proof_of_the_old_process_end_frees_its_channels_at_once() {
    let mut model = Model::with_channel();
    let reply = model.ok(RegisterNode {
        proves_old_dead: true,
        ..register(1, 11)
    });
    assert_eq!(
        (reply.replaced, reply.freed),
        (Some(Incarnation(1)), vec![CHANNEL])
    );
    assert_eq!(model.ok(assign(1, 11)), Epoch(2));
    // The same registration again does not free what it owns now.
    let reply = model.ok(RegisterNode {
        proves_old_dead: true,
        ..register(1, 11)
    });
    assert_eq!((reply.replaced, reply.freed), (None, vec![]));
}

#[test]
fn an_incarnation_that_ended_never_comes_back() {
    let mut model = Model::with_channel();
    model.ok(register(1, 11));
    let ended = |n| Refused::IncarnationEnded {
        node: NodeId(1),
        incarnation: Incarnation(n),
    };
    assert_eq!(
        model.refused(RegisterNode {
            proves_old_dead: true,
            ..register(1, 1)
        }),
        ended(1)
    );
    model.ok(expire(1, 11));
    assert_eq!(model.refused(register(1, 11)), ended(11));
    assert_eq!(model.refused(assign(1, 11)), ended(11));
}

#[test]
fn an_expiry_that_another_term_judged_is_refused() {
    let mut model = Model::with_channel();
    let judged = |term| ExpireNode { term, ..expire(1, 1) };
    assert_eq!(model.refused(judged(2)), Refused::TermOver);
    model.ok(judged(1));
    model.ok(judged(0));
}

#[test]
fn expiry_leaves_the_successor_alone() {
    let mut model = Model::with_channel();
    model.ok(RegisterNode {
        proves_old_dead: true,
        ..register(1, 11)
    });
    model.ok(assign(1, 11));
    assert!(model.ok(expire(1, 1)).freed.is_empty());
    let node = model.view().node(NodeId(1)).unwrap().unwrap();
    assert_eq!((node.incarnation, node.expired), (Incarnation(11), false));
    assert!(model.view().channel(CHANNEL).unwrap().unwrap().owner.is_some());
}

#[test]
fn every_assignment_begins_an_epoch() {
    let mut model = after_a_crash();
    // Chunks that the first attempt adopted into epoch 2 may be on their way for a long time.
    assert_eq!(model.ok(assign(2, 2)), Epoch(3));
    model.ok(seal(1, 3, 3, 0));
    model.ok(seal(2, 0, 3, 0));
    model.ok(activate_channel(3));
    assert_eq!(
        model.ok(assign(2, 2)),
        Epoch(4),
        "an active epoch is ended by the same owner, too"
    );
}

#[test]
fn an_epoch_is_written_under_registered_gens() {
    let mut model = Model::with_channel();
    model.ok(expire(1, 1));
    model.ok(register(2, 2));
    for gens in [vec![], vec![ZoneGen(77)], vec![GEN, GEN], vec![GEN; 17]] {
        let assign = AssignChannel { gens, ..assign(2, 2) };
        assert!(matches!(model.refused(assign), Refused::Invalid(_)));
    }
}

#[test]
fn activation_waits_for_every_earlier_seal() {
    let mut model = after_a_crash();
    let refused = model.refused(activate_channel(2));
    assert_eq!(
        refused,
        Refused::EarlierEpochUnsealed {
            channel: CHANNEL,
            oldest: Epoch(1)
        }
    );
    model.ok(seal(1, 3, 2, 0));
    assert!(matches!(
        model.refused(activate_channel(1)),
        Refused::EpochMoved { epoch: Epoch(2), .. }
    ));
    model.ok(activate_channel(2));
    model.ok(activate_channel(2));
    let channel = model.view().channel(CHANNEL).unwrap().unwrap();
    assert!(channel.activated);
    assert_eq!(
        channel.sealed().map(|(e, _, s)| (e, s.end)).collect::<Vec<_>>(),
        [(Epoch(1), ChunkSeq(3))]
    );
    assert_eq!(channel.unsealed_earlier().count(), 0);
}

#[test]
fn only_the_current_epoch_seals_and_only_the_oldest() {
    let mut model = after_a_crash();
    assert!(matches!(
        model.refused(seal(1, 3, 1, 0)),
        Refused::EpochMoved { .. }
    ));
    model.ok(expire(2, 2));
    assert!(matches!(
        model.refused(seal(1, 3, 2, 0)),
        Refused::EpochMoved { .. }
    ));
    model.ok(register(3, 3));
    assert_eq!(model.ok(assign(3, 3)), Epoch(3));
    assert!(matches!(
        model.refused(seal(1, 3, 2, 0)),
        Refused::EpochMoved { epoch: Epoch(3), .. }
    ));
    let out_of_order = Refused::SealOutOfOrder {
        channel: CHANNEL,
        oldest: Epoch(1),
    };
    assert_eq!(model.refused(seal(2, 0, 3, 0)), out_of_order);
    model.ok(seal(1, 3, 3, 0));
    model.ok(seal(2, 0, 3, 0));
    model.ok(activate_channel(3));
}

#[test]
fn the_same_seal_is_answered_again_and_another_verdict_is_refused() {
    let mut model = after_a_crash();
    let verdict = EpochSealed {
        end: ChunkSeq(3),
        by: Epoch(2),
        adopted: 2,
    };
    assert_eq!(model.ok(seal(1, 3, 2, 2)), verdict);
    assert_eq!(model.ok(seal(1, 3, 2, 2)), verdict);
    let other = Refused::AlreadySealed {
        channel: CHANNEL,
        epoch: Epoch(1),
        end: ChunkSeq(3),
        by: Epoch(2),
        adopted: 2,
    };
    assert_eq!(model.refused(seal(1, 4, 2, 1)), other);
}

#[test]
fn a_void_epoch_ends_at_zero() {
    let mut model = after_a_crash();
    model.ok(expire(2, 2));
    model.ok(register(3, 3));
    model.ok(assign(3, 3));
    model.ok(seal(1, 3, 3, 0));
    assert!(matches!(model.refused(seal(2, 1, 3, 0)), Refused::Invalid(_)));
    assert!(matches!(model.refused(seal(2, 0, 3, 1)), Refused::Invalid(_)));
    model.ok(seal(2, 0, 3, 0));
}

#[test]
fn an_epoch_that_only_adopted_ends_where_its_adopted_run_does() {
    let mut model = after_a_crash();
    model.ok(seal(1, 3, 2, 4));
    model.ok(expire(2, 2));
    model.ok(register(3, 3));
    model.ok(assign(3, 3));
    let state = &model.view().channel(CHANNEL).unwrap().unwrap();
    let unsealed: Vec<_> = state
        .unsealed_earlier()
        .map(|(e, s)| (e, s.adopted, s.activated))
        .collect();
    assert_eq!(unsealed, [(Epoch(2), 4, false)]);
    for (end, adopted) in [(0, 0), (3, 0), (4, 1), (5, 0), (u64::MAX, 5)] {
        assert!(
            matches!(model.refused(seal(2, end, 3, adopted)), Refused::Invalid(_)),
            "{end} {adopted}"
        );
    }
    model.ok(seal(2, 1, 3, 3));
    model.ok(activate_channel(3));
}

#[test]
fn an_activated_epoch_ends_no_earlier_than_what_it_adopted() {
    let mut model = after_a_crash();
    model.ok(seal(1, 3, 2, 4));
    model.ok(activate_channel(2));
    model.ok(expire(2, 2));
    model.ok(register(3, 3));
    model.ok(assign(3, 3));
    assert!(matches!(model.refused(seal(2, 3, 3, 0)), Refused::Invalid(_)));
    model.ok(seal(2, 9, 3, 2));
}

#[test]
fn an_owner_on_its_way_out_leaves_a_sealed_epoch_behind() {
    let mut model = Model::with_channel();
    assert_eq!(model.ok(release(1, Some(7))).released, [CHANNEL]);
    assert!(
        model.ok(release(1, Some(8))).released.is_empty(),
        "it is not the owner any more"
    );
    model.ok(register(2, 2));
    assert_eq!(model.ok(assign(2, 2)), Epoch(2));
    model.ok(activate_channel(2));
    let channel = model.view().channel(CHANNEL).unwrap().unwrap();
    let sealed: Vec<_> = channel.sealed().map(|(e, _, s)| (e, s.end, s.by)).collect();
    assert_eq!(sealed, [(Epoch(1), ChunkSeq(7), Epoch(1))]);
}

#[test]
fn a_release_without_seal_leaves_the_epoch_to_its_successor() {
    let mut model = Model::with_channel();
    model.ok(release(1, None));
    assert!(matches!(
        model.refused(activate_channel(1)),
        Refused::EpochMoved { .. }
    ));
    model.ok(register(2, 2));
    model.ok(assign(2, 2));
    assert!(matches!(
        model.refused(activate_channel(2)),
        Refused::EarlierEpochUnsealed { .. }
    ));
}

#[test]
fn a_channel_keeps_its_class() {
    let mut model = Model::with_channel();
    model.ok(CreateChannel {
        channel: CHANNEL,
        class: StorageClass::Express,
    });
    let other = CreateChannel {
        channel: CHANNEL,
        class: StorageClass::Standard,
    };
    assert_eq!(model.refused(other), Refused::ChannelClass(CHANNEL));
    let nowhere = ActivateChannel {
        channel: ChannelId(9),
        epoch: Epoch(1),
    };
    assert_eq!(model.refused(nowhere), Refused::ChannelUnknown(ChannelId(9)));
}
