//! Zones that are dark, replaced, torn or late.

use super::*;

#[tokio::test(start_paused = true)]
async fn every_zone_may_be_dark_while_everything_acknowledged_is_found() {
    for dark_while_written in 0..3 {
        for dark_while_recovered in 0..3 {
            for cut in [Cut::Refusing, Cut::Silent] {
                let cell = Cell::new(3, 2);
                let group = Group::new(&cell);
                let mut owner = first_owner(&cell);
                owner.write(5).await;
                cell.faults[dark_while_written].cut(cut);
                owner.write(5).await;
                owner.submit();
                drop(owner);
                cell.faults[dark_while_written].heal();
                cell.faults[dark_while_recovered].cut(cut);
                let epoch = group.assign(true);
                let shown = recovered(&cell, &group).await;
                assert!(shown.seqs.starts_with(&(0..10).collect::<Vec<_>>()), "{shown:?}");
                let written = shown.seqs.len() as u64;
                // And once more, by another owner, with another zone dark.
                let mut owner = Owner::new(&cell, epoch, shown.recovered.next_slot, written);
                owner.write(3).await;
                cell.faults[dark_while_recovered].heal();
                cell.faults[(dark_while_recovered + 1) % 3].cut(cut);
                group.assign(true);
                let again = recovered(&cell, &group).await;
                assert_eq!(again.seqs, (0..written + 3).collect::<Vec<_>>());
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_was_replaced_by_a_blank_one_does_not_count() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    cell.faults[2].cut(Cut::Refusing);
    first_owner(&cell).write(10).await;
    cell.faults[2].heal();
    // Zone 0 is replaced: were it believed, with zone 2 it would say that nothing was ever written.
    cell.memory[0].clear();
    group.with(|state| state.gens = vec![ZoneGen(1), ZoneGen(101), ZoneGen(102)]);
    group.assign(true);
    group.with(|state| state.gens = cell.wal.gens());
    let shown = recovered(&cell, &group).await;
    assert_eq!(shown.seqs, (0..10).collect::<Vec<_>>());
    assert_eq!(
        shown.recovered.next_slot,
        ChunkSeq(10),
        "no slot is known to be at two zones"
    );
    // With a second zone replaced nothing can be known any more.
    let group = Group::new(&cell);
    group.with(|state| state.gens = vec![ZoneGen(1), ZoneGen(2), ZoneGen(102)]);
    group.assign(true);
    group.with(|state| state.gens = cell.wal.gens());
    assert!(matches!(
        recover_as(&cell, &group).await,
        Err(RecoveryError::Invalid(_))
    ));
}

#[tokio::test(start_paused = true)]
async fn a_torn_or_corrupt_copy_is_no_answer() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    first_owner(&cell).write(10).await;
    settle().await;
    for (slot, zone) in [(2, 0), (8, 1), (9, 2)] {
        let key = id(1, slot).key();
        let bytes = cell.memory[zone]
            .get(&key, ReadRange::Full)
            .await
            .expect("a read")
            .expect("an object");
        cell.memory[zone].overwrite(&key, bytes.slice(..bytes.len() - 10));
    }
    let key = id(1, 7).key();
    let mut bytes = BytesMut::from(
        &cell.memory[0]
            .get(&key, ReadRange::Full)
            .await
            .expect("a read")
            .expect("one")[..],
    );
    bytes[180] ^= 1;
    cell.memory[0].overwrite(&key, bytes.freeze());
    group.assign(true);
    assert_eq!(recovered(&cell, &group).await.seqs, (0..10).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn a_missing_slot_of_a_sealed_epoch_is_waited_for() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    first_owner(&cell).write(5).await;
    settle().await;
    group.assign(true);
    recovered(&cell, &group).await;
    group.assign(true);
    let key = id(1, 2).key();
    let object = cell.memory[0]
        .get(&key, ReadRange::Full)
        .await
        .expect("a read")
        .expect("an object");
    for memory in &cell.memory {
        memory.delete(&key).await.expect("a delete");
    }
    let back = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(cell.holds(id(1, 2)).await, 0, "not sealed");
        cell.memory[1].overwrite(&key, object);
    };
    let (shown, ()) = tokio::join!(recovered(&cell, &group), back);
    assert_eq!(shown.seqs, [0, 1, 2, 3, 4]);
}

#[tokio::test(start_paused = true)]
async fn an_adopted_slot_that_a_verdict_named_is_waited_for_and_not_sealed() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    with_an_unproven_slot(&cell).await;
    let epoch = group.assign(true);
    let shown = recovered(&cell, &group).await;
    Owner::new(&cell, epoch, shown.recovered.next_slot, 4)
        .write(2)
        .await;
    group.assign(true);
    let key = id(2, 0).key();
    let object = cell.wal.chunk(id(2, 0)).await.expect("a read").expect("a chunk");
    for memory in &cell.memory {
        memory.delete(&key).await.expect("a delete");
    }
    let mut builder = crate::ChunkBuilder::new();
    object.frames.iter().for_each(|frame| builder.push(frame.clone()));
    let bytes = builder.finish(*object.meta()).payload.to_bytes();
    let back = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        assert_eq!(cell.holds(id(2, 0)).await, 0, "not sealed");
        cell.memory[1].overwrite(&key, bytes);
    };
    let (shown, ()) = tokio::join!(recovered(&cell, &group), back);
    assert_eq!(shown.seqs, (0..6).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn an_object_of_a_later_release_is_not_judged() {
    let cell = Cell::new(1, 1);
    let group = Group::new(&cell);
    first_owner(&cell).write(2).await;
    let key = id(1, 1).key();
    let mut bytes = BytesMut::from(
        &cell.memory[0]
            .get(&key, ReadRange::Full)
            .await
            .expect("a read")
            .expect("one")[..],
    );
    bytes[8] = 200;
    cell.memory[0].overwrite(&key, bytes.freeze());
    group.assign(true);
    assert!(matches!(
        recover_as(&cell, &group).await,
        Err(RecoveryError::Corrupt(_))
    ));
    assert_eq!(group.history().sealed, []);
}
