//! Epochs that ended with their owner, and what is adopted from them.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_epoch_that_was_written_in_peace_is_replayed_and_sealed_behind_its_last_chunk() {
    for (zones, quorum) in [(1, 1), (3, 2), (5, 3), (5, 4), (4, 2)] {
        let cell = Cell::new(zones, quorum);
        let group = Group::new(&cell);
        let mut owner = first_owner(&cell);
        owner.write(40).await;
        settle().await;
        let epoch = group.assign(true);
        let shown = recovered(&cell, &group).await;
        assert_eq!(shown.seqs, (0..40).collect::<Vec<_>>());
        assert_eq!(shown.ids, (0..40).map(|slot| id(1, slot)).collect::<Vec<_>>());
        assert_eq!(
            (shown.recovered.next_slot, shown.recovered.chunks),
            (ChunkSeq(0), 40)
        );
        let history = group.history();
        assert_eq!(
            history.sealed,
            [SealedEpoch {
                epoch: Epoch(1),
                end: ChunkSeq(40),
                by: epoch,
                adopted: 0
            }]
        );
        owner.submit();
        settle().await;
        owner.take_events();
        assert!(owner.fenced, "the old owner cannot go on");
        assert_eq!(owner.acked().len(), 40);
    }
}

#[tokio::test(start_paused = true)]
async fn the_checkpoint_is_where_the_replay_begins() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    first_owner(&cell).write(10).await;
    group.with(|state| state.checkpoint = (Epoch(1), ChunkSeq(7)));
    let epoch = group.assign(true);
    assert_eq!(recovered(&cell, &group).await.seqs, [7, 8, 9]);
    let mut owner = Owner::new(&cell, epoch, ChunkSeq(0), 10);
    owner.write(5).await;
    group.assign(true);
    assert_eq!(recovered(&cell, &group).await.seqs, (7..15).collect::<Vec<_>>());
    group.with(|state| state.checkpoint = (epoch, ChunkSeq(2)));
    group.assign(false);
    let shown = recovered(&cell, &group).await;
    assert_eq!(shown.seqs, [12, 13, 14]);
    assert_eq!(shown.ids[0], ChunkId::new(CHANNEL, epoch, ChunkSeq(2)));
}

#[tokio::test(start_paused = true)]
async fn nothing_written_is_nothing_found() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    group.assign(true);
    let shown = recovered(&cell, &group).await;
    assert_eq!((shown.ids.len(), shown.recovered.next_slot), (0, ChunkSeq(0)));
}

#[tokio::test(start_paused = true)]
async fn chunks_at_too_few_zones_are_adopted_in_order_with_all_behind_them() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    // Slot 5 reached one zone only, slots 6 and 7 all of them: the owner died before slot 5 was durable.
    for zone in [1, 2] {
        cell.faults[zone].add(
            Rule::new(Fault::FailBefore)
                .op(Op::Create)
                .key(|key| key == id(1, 5).key()),
        );
    }
    let mut owner = first_owner(&cell);
    owner.write(5).await;
    for _ in 0..3 {
        owner.submit();
    }
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert_eq!(owner.acked().len(), 5);
    drop(owner);
    cell.faults.iter().for_each(|faults| faults.heal());
    let epoch = group.assign(true);
    let shown = recovered(&cell, &group).await;
    assert_eq!(shown.seqs, (0..8).collect::<Vec<_>>());
    assert_eq!(shown.ids[5..], [id(2, 0), id(2, 1), id(2, 2)]);
    assert_eq!(shown.recovered.next_slot, ChunkSeq(3));
    assert_eq!(
        group.history().sealed[0],
        SealedEpoch {
            epoch: Epoch(1),
            end: ChunkSeq(5),
            by: epoch,
            adopted: 3
        }
    );
    for slot in 0..3 {
        assert!(cell.holds(id(2, slot)).await >= 2);
        let copy = cell
            .wal
            .chunk(id(2, slot))
            .await
            .expect("a read")
            .expect("a chunk");
        let source = cell.wal.chunk(id(1, 5 + slot)).await.expect("a read");
        assert_eq!(
            copy.meta().kind,
            ChunkKind::Adopted {
                source: id(1, 5 + slot)
            }
        );
        if let Some(source) = source {
            assert_eq!(copy.frames, source.frames, "byte for byte");
        }
    }
    let mut owner = Owner::new(&cell, epoch, shown.recovered.next_slot, 8);
    owner.write(4).await;
    group.assign(true);
    assert_eq!(recovered(&cell, &group).await.seqs, (0..12).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn more_is_adopted_than_is_kept_in_memory() {
    let options = WalOptions {
        inflight_chunks: 4,
        recovery_bytes_max: 1000,
        ..WalOptions::default()
    };
    let cell = Cell::with(3, 2, options);
    let group = Group::new(&cell);
    cell.faults[0].cut(Cut::Refusing);
    first_owner(&cell).write(50).await;
    cell.faults[0].heal();
    cell.faults[1].cut(Cut::Refusing);
    group.assign(true);
    let shown = recovered(&cell, &group).await;
    assert_eq!(shown.seqs, (0..50).collect::<Vec<_>>());
    assert_eq!(shown.recovered.next_slot, ChunkSeq(50));
}

#[tokio::test(start_paused = true)]
async fn the_same_seed_gives_the_same_recovery() {
    let run = async || {
        let cell = Cell::new(3, 2);
        let group = Group::new(&cell);
        for faults in &cell.faults {
            faults.add(Rule::new(Fault::Delay {
                least: Duration::ZERO,
                most: Duration::from_millis(40),
            }));
            faults.add(Rule::new(Fault::FailAfter).chance(0.1));
            faults.add(Rule::new(Fault::FailBefore).chance(0.1));
        }
        let mut owner = first_owner(&cell);
        owner.write(20).await;
        owner.submit();
        group.assign(true);
        let shown = recovered(&cell, &group).await;
        let calls: Vec<u64> = cell.faults.iter().map(|faults| faults.calls()).collect();
        (shown, calls, owner.acked())
    };
    let first = run().await;
    assert!(first.0.seqs.starts_with(&first.2));
    assert_eq!(first, run().await);
}
