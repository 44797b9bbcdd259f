//! Verdicts that are lost or refused, and recoveries that died before or after them.

use super::*;

type Change = fn(&mut ChannelHistory, &dyn Fn(u64, u64, u64) -> SealedEpoch);

#[tokio::test(start_paused = true)]
async fn a_lost_verdict_is_asked_for_and_not_guessed() {
    for lose in [
        vec![true],
        vec![false],
        vec![true, false],
        vec![false, false, false],
    ] {
        let cell = Cell::new(3, 2);
        let group = Group::new(&cell);
        first_owner(&cell).write(5).await;
        group.assign(true);
        group.with(|state| state.lose = lose.clone());
        assert_eq!(recovered(&cell, &group).await.seqs, (0..5).collect::<Vec<_>>());
        assert_eq!(
            group.with(|state| state.proposals),
            lose.iter().filter(|takes| !**takes).count() + 1
        );
        assert_eq!(group.history().sealed.len(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_recovery_whose_epoch_is_over_is_refused() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    first_owner(&cell).write(5).await;
    group.assign(true);
    let late = group.history();
    group.assign(false);
    let outcome = recover(&cell.wal, &late, &*group, nonce(late.current), |_, _| {
        panic!("nothing to show")
    })
    .await;
    assert!(matches!(outcome, Err(RecoveryError::Fenced(_))), "{outcome:?}");
    assert_eq!(recovered(&cell, &group).await.seqs, (0..5).collect::<Vec<_>>());
    let outcome = recover(&cell.wal, &late, &*group, nonce(late.current), |_, _| {
        panic!("nothing to show")
    })
    .await;
    assert!(
        matches!(outcome, Err(RecoveryError::Fenced(_))),
        "another's verdict is not ours: {outcome:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_recovery_that_died_before_its_verdict_leaves_a_void_epoch() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    with_an_unproven_slot(&cell).await;
    group.assign(true);
    // The owner of epoch 2 adopts, and dies before anything is recorded.
    group.with(|state| state.lose = vec![false; 100]);
    let died = timeout(Duration::from_secs(2), recover_as(&cell, &group)).await;
    assert!(died.is_err());
    assert!(cell.holds(id(2, 0)).await >= 2);
    group.with(|state| state.lose.clear());
    group.assign(false);
    let shown = recovered(&cell, &group).await;
    assert_eq!(shown.seqs, [0, 1, 2, 3]);
    assert_eq!(shown.ids[3], id(3, 0));
    let sealed = group.history().sealed;
    assert_eq!(
        (sealed[1].epoch, sealed[1].end, sealed[1].adopted),
        (Epoch(2), ChunkSeq(0), 0)
    );
}

#[tokio::test(start_paused = true)]
async fn a_recovery_that_died_after_its_verdict_leaves_exactly_its_adopted_slots() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    with_an_unproven_slot(&cell).await;
    group.assign(true);
    recovered(&cell, &group).await;
    // Never activated; a stray chunk behind the adopted one is not part of it.
    let stray = ChunkMeta {
        id: id(2, 1),
        kind: ChunkKind::Chunk,
        nonce: nonce(Epoch(2)),
    };
    for memory in &cell.memory {
        memory
            .create(&id(2, 1).key(), &batch(99).finish(stray).payload)
            .await
            .expect("a create");
    }
    group.assign(false);
    let shown = recovered(&cell, &group).await;
    assert_eq!(shown.seqs, [0, 1, 2, 3]);
    assert_eq!(shown.ids[3], id(2, 0));
    assert_eq!(shown.recovered.next_slot, ChunkSeq(0));
    let sealed = group.history().sealed;
    assert_eq!((sealed[1].epoch, sealed[1].end), (Epoch(2), ChunkSeq(1)));
    group.assign(false);
    assert_eq!(recovered(&cell, &group).await.seqs, [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn two_recoveries_that_died_with_alternating_zones_dark_lose_nothing() {
    for first in 0..3 {
        for second in 0..3 {
            for cuts_after in [50, 400, 1000] {
                let cell = Cell::new(3, 2);
                let group = Group::new(&cell);
                let mut owner = first_owner(&cell);
                owner.write(6).await;
                cell.faults[first].cut(Cut::Silent);
                owner.write(2).await;
                let acked = owner.acked();
                // The old owner lives on, and tries to go on, through all that follows.
                for (dark, lose) in [(first, true), (second, true), (first, false)] {
                    cell.faults.iter().for_each(|faults| faults.heal());
                    cell.faults[dark].cut(Cut::Silent);
                    owner.submit();
                    group.assign(group.with(|state| state.current == Epoch(1)));
                    if lose {
                        group.with(|state| state.lose = vec![false; 100]);
                        let died =
                            timeout(Duration::from_millis(cuts_after), recover_as(&cell, &group)).await;
                        assert!(died.is_err());
                        group.with(|state| state.lose.clear());
                    }
                }
                let shown = recovered(&cell, &group).await;
                assert_eq!(shown.seqs, (0..shown.seqs.len() as u64).collect::<Vec<_>>());
                assert!(shown.seqs.starts_with(&acked), "{acked:?} {shown:?}");
                let acked = owner.acked();
                assert!(
                    shown.seqs.starts_with(&acked),
                    "the old owner acknowledged behind its end"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_history_that_breaks_the_rules_is_refused_before_anything_is_sealed() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    group.assign(true);
    let good = group.history();
    let sealed = |epoch, by, adopted| SealedEpoch {
        epoch: Epoch(epoch),
        end: ChunkSeq(5),
        by: Epoch(by),
        adopted,
    };
    let bad: [Change; 6] = [
        |history, _| history.current = Epoch(1),
        |history, _| history.checkpoint.0 = Epoch(9),
        |history, _| history.gens = vec![ZoneGen(1)],
        |history, sealed| history.sealed = vec![sealed(1, 2, 0)],
        |history, sealed| {
            history.unsealed.clear();
            history.sealed = vec![sealed(1, 2, 0)];
            history.checkpoint = (Epoch(1), ChunkSeq(6));
        },
        |history, sealed| {
            history.current = Epoch(4);
            history.unsealed[0].epoch = Epoch(3);
            history.sealed = vec![sealed(1, 3, 2)];
        },
    ];
    for (i, change) in bad.iter().enumerate() {
        let mut history = good.clone();
        change(&mut history, &sealed);
        let outcome = recover(&cell.wal, &history, &*group, Nonce(1), |_, _| {}).await;
        assert!(
            matches!(outcome, Err(RecoveryError::Invalid(_))),
            "{i}: {outcome:?}"
        );
    }
    assert!(cell.memory.iter().all(|memory| memory.object_count() == 0));
}
