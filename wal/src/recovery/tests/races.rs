//! Old owners that live on while their epoch is sealed.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_owner_that_lives_is_not_chased_for_ever() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    for (i, faults) in cell.faults.iter().enumerate() {
        let delay = Fault::Delay {
            least: Duration::from_millis(1),
            most: Duration::from_millis(5 + i as u64),
        };
        faults.add(Rule::new(delay));
    }
    let mut owner = first_owner(&cell);
    owner.write(10).await;
    group.assign(true);
    let (shown, ()) = tokio::join!(recovered(&cell, &group), async {
        while !owner.fenced {
            owner.submit();
            owner.take_events();
            tokio::time::sleep(Duration::from_micros(100)).await;
        }
    });
    let acked = owner.acked();
    assert!(
        shown.seqs.starts_with(&acked),
        "{} acknowledged, {} shown",
        acked.len(),
        shown.seqs.len()
    );
    assert_eq!(shown.seqs, (0..shown.seqs.len() as u64).collect::<Vec<_>>());
}

/// The old owner's create of its last slot is held up at each subset of zones, before or after its effect, and let go
/// before, during or after the recovery: whatever was acknowledged at any time must have been shown.
#[tokio::test(start_paused = true)]
async fn a_create_that_was_held_up_never_acknowledges_into_the_void() {
    let mut kept = 0;
    for held in 0..8u32 {
        for after in [false, true] {
            for opened in 0..3 {
                let cell = Cell::new(3, 2);
                let group = Group::new(&cell);
                let mut owner = first_owner(&cell);
                owner.write(3).await;
                let last = |key: &str| key == id(1, 3).key();
                let gates: Vec<_> = (0..3)
                    .filter(|zone| held & (1 << zone) != 0)
                    .map(|zone| {
                        cell.faults[zone].stall(Rule::default().op(Op::Create).key(last).times(1), after)
                    })
                    .collect();
                owner.submit();
                tokio::time::sleep(Duration::from_millis(5)).await;
                group.assign(true);
                let open = || gates.iter().for_each(|gate| gate.open());
                if opened == 0 {
                    open();
                }
                let (shown, ()) = tokio::join!(recovered(&cell, &group), async {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    if opened == 1 {
                        open();
                    }
                });
                open();
                settle().await;
                let acked = owner.acked();
                assert!(
                    shown.seqs.starts_with(&acked),
                    "held {held:b} after {after} opened {opened}"
                );
                kept += usize::from(shown.seqs.len() == 4);
                // Another recovery finds the same.
                group.assign(true);
                assert_eq!(recovered(&cell, &group).await.seqs, shown.seqs);
            }
        }
    }
    assert!((1..48).contains(&kept), "both outcomes were seen");
}

/// The recovery has sealed the slot at one zone only when the old owner's chunk lands at the two others.
#[tokio::test(start_paused = true)]
async fn one_seal_of_three_does_not_end_an_epoch() {
    let cell = Cell::new(3, 2);
    let group = Group::new(&cell);
    let mut owner = first_owner(&cell);
    owner.write(3).await;
    let stall = |zone: usize| {
        let last = |key: &str| key == id(1, 3).key();
        cell.faults[zone].stall(Rule::default().op(Op::Create).key(last).times(1), false)
    };
    let chunk_at = [stall(0), stall(1), stall(2)];
    owner.submit();
    for gate in &chunk_at {
        gate.reached(1).await;
    }
    let seal_at = [stall(1), stall(2)];
    group.assign(true);
    let (shown, ()) = tokio::join!(recovered(&cell, &group), async {
        for gate in &seal_at {
            gate.reached(1).await;
        }
        chunk_at[1].open();
        chunk_at[2].open();
        tokio::time::sleep(Duration::from_millis(10)).await;
        assert_eq!(owner.acked(), [0, 1, 2, 3]);
        seal_at.iter().for_each(|gate| gate.open());
    });
    assert_eq!(shown.seqs, [0, 1, 2, 3]);
}

/// Every way in which two slots and seals by a recovery that died can stand at three zones.
#[tokio::test(start_paused = true)]
async fn every_placement_of_two_chunks_and_seals_is_decided_safely() {
    const EMPTY: u32 = 0;
    const CHUNK: u32 = 1;
    let place = |mut code: u32| {
        [[(); 3]; 2].map(|slot| {
            slot.map(|()| {
                let digit = code % 3;
                code /= 3;
                digit
            })
        })
    };
    for code in 0..729 {
        let placed = place(code);
        for dark in [None, Some(code as usize % 3)] {
            let cell = Cell::new(3, 2);
            let group = Group::new(&cell);
            for (slot, zones) in (0..).zip(placed) {
                let chunk = ChunkMeta {
                    id: id(1, slot),
                    kind: ChunkKind::Chunk,
                    nonce: nonce(Epoch(1)),
                };
                let seal = ChunkMeta {
                    kind: ChunkKind::Seal { by: Epoch(2) },
                    nonce: Nonce(2),
                    ..chunk
                };
                for (zone, what) in zones.into_iter().enumerate() {
                    let object = match what {
                        EMPTY => continue,
                        CHUNK => batch(slot).finish(chunk),
                        _ => Chunk::seal(seal),
                    };
                    cell.memory[zone]
                        .create(&id(1, slot).key(), &object.payload)
                        .await
                        .expect("a create");
                }
            }
            if let Some(dark) = dark {
                cell.faults[dark].cut(Cut::Refusing);
            }
            group.assign(true);
            let shown = recovered(&cell, &group).await;
            let copies = placed.map(|zones| zones.iter().filter(|what| **what == CHUNK).count());
            let acked = if copies[0] < 2 {
                0
            } else if copies[1] < 2 {
                1
            } else {
                2
            };
            assert!(shown.seqs.len() >= acked, "{placed:?} dark {dark:?}: {shown:?}");
            assert_eq!(shown.seqs, (0..shown.seqs.len() as u64).collect::<Vec<_>>());
            for (slot, copies) in copies.iter().enumerate().take(shown.seqs.len()) {
                assert!(*copies > 0, "slot {slot} was never written");
            }
            // Whoever comes next, and with whatever zone dark, finds the same.
            cell.faults.iter().for_each(|faults| faults.heal());
            cell.faults[(code as usize + 1) % 3].cut(Cut::Refusing);
            group.assign(true);
            assert_eq!(
                recovered(&cell, &group).await.seqs,
                shown.seqs,
                "{placed:?} dark {dark:?}"
            );
        }
    }
}
