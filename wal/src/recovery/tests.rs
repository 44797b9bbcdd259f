use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::BytesMut;
use millrace_api::id::{ChannelId, ChunkSeq, Epoch, Nonce, ZoneGen};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::timeout;

use super::*;
use crate::fault::{Cut, Fault, Op, Rule};
use crate::format::{Chunk, ChunkId, ChunkKind, ChunkMeta, Footer};
use crate::quorum::tests::{Cell, batch};
use crate::quorum::{AckPrefix, EpochWriter, WalOptions, WriteEvent};
use crate::zone::{ReadRange, ZoneStore};

const CHANNEL: ChannelId = ChannelId(1);

/// The metadata group of one channel: the rules of `apply`, and answers that get lost.
#[derive(Debug)]
struct Group {
    state: Mutex<GroupState>,
}

#[derive(Debug)]
struct GroupState {
    checkpoint: (Epoch, ChunkSeq),
    sealed: Vec<SealedEpoch>,
    unsealed: Vec<UnsealedEpoch>,
    current: Epoch,
    gens: Vec<ZoneGen>,
    /// Proposals whose answer is lost; `true` if they take effect.
    lose: Vec<bool>,
    proposals: usize,
}

impl Group {
    fn new(cell: &Cell) -> Arc<Self> {
        let state = GroupState {
            checkpoint: (Epoch(1), ChunkSeq(0)),
            sealed: Vec::new(),
            unsealed: Vec::new(),
            current: Epoch(1),
            gens: cell.wal.gens(),
            lose: Vec::new(),
            proposals: 0,
        };
        Arc::new(Self {
            state: Mutex::new(state),
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut GroupState) -> T) -> T {
        f(&mut self.state.lock().expect("no panic before"))
    }

    /// A new owner. `activated` tells whether the old one ever was active.
    fn assign(&self, activated: bool) -> Epoch {
        self.with(|state| {
            let adopted = state
                .sealed
                .iter()
                .find(|s| s.by == state.current && s.adopted > 0)
                .map(|s| s.adopted);
            let old = UnsealedEpoch {
                epoch: state.current,
                activated,
                adopted,
                gens: state.gens.clone(),
            };
            state.unsealed.push(old);
            state.current.0 += 1;
            state.current
        })
    }

    fn history(&self) -> ChannelHistory {
        self.with(|state| ChannelHistory {
            channel: CHANNEL,
            checkpoint: state.checkpoint,
            sealed: state.sealed.clone(),
            unsealed: state.unsealed.clone(),
            current: state.current,
            gens: state.gens.clone(),
        })
    }
}

#[async_trait]
impl Judge for Group {
    async fn seal_epoch(
        &self,
        _: ChannelId,
        epoch: Epoch,
        end: ChunkSeq,
        by: Epoch,
        adopted: u64,
    ) -> Result<ChunkSeq, JudgeError> {
        tokio::task::yield_now().await;
        self.with(|state| {
            state.proposals += 1;
            let lost = state.lose.pop();
            if lost == Some(false) {
                return Err(JudgeError::Retry("lost before".into()));
            }
            if by != state.current || state.unsealed.first().map(|unsealed| unsealed.epoch) != Some(epoch) {
                return Err(JudgeError::Refused(format!(
                    "{epoch} by {by}, current is {}",
                    state.current
                )));
            }
            state.unsealed.remove(0);
            state.sealed.push(SealedEpoch {
                epoch,
                end,
                by,
                adopted,
            });
            if lost.is_some() {
                Err(JudgeError::Retry("lost after".into()))
            } else {
                Ok(end)
            }
        })
    }

    async fn verdict(&self, _: ChannelId, epoch: Epoch) -> Result<Option<SealedEpoch>, JudgeError> {
        tokio::task::yield_now().await;
        Ok(self.with(|state| state.sealed.iter().find(|sealed| sealed.epoch == epoch).cloned()))
    }
}

fn nonce(epoch: Epoch) -> Nonce {
    Nonce(u128::from(epoch.0) << 64 | 1)
}

fn id(epoch: u64, slot: u64) -> ChunkId {
    ChunkId::new(CHANNEL, Epoch(epoch), ChunkSeq(slot))
}

/// What a recovery showed.
#[derive(Debug, PartialEq, Eq, Clone)]
struct Shown {
    ids: Vec<ChunkId>,
    /// First sequence numbers of the frames: `batch(n)` has one frame, with `n`.
    seqs: Vec<u64>,
    recovered: Recovered,
}

async fn recover_as(cell: &Cell, group: &Group) -> Result<Shown, RecoveryError> {
    let history = group.history();
    let (mut ids, mut seqs) = (Vec::new(), Vec::new());
    let visit = |id: ChunkId, footer: &Arc<Footer>| {
        assert_eq!(footer.meta.id, id);
        ids.push(id);
        seqs.extend(footer.entries.iter().map(|entry| entry.header.first_seq));
    };
    let recovered = recover(&cell.wal, &history, group, nonce(history.current), visit).await?;
    Ok(Shown { ids, seqs, recovered })
}

async fn recovered(cell: &Cell, group: &Group) -> Shown {
    timeout(Duration::from_secs(600), recover_as(cell, group))
        .await
        .expect("it ends")
        .expect("it succeeds")
}

/// An owner that writes `batch(n)` for growing `n`.
struct Owner {
    writer: EpochWriter,
    events: UnboundedReceiver<WriteEvent>,
    acks: AckPrefix,
    /// By slot, from the first that it wrote.
    seqs: BTreeMap<u64, u64>,
    next_seq: u64,
    fenced: bool,
}

impl Owner {
    fn new(cell: &Cell, epoch: Epoch, first_slot: ChunkSeq, next_seq: u64) -> Self {
        let (writer, events) = cell.wal.writer(CHANNEL, epoch, nonce(epoch), first_slot);
        Self {
            writer,
            events,
            acks: AckPrefix::new(first_slot),
            seqs: BTreeMap::new(),
            next_seq,
            fenced: false,
        }
    }

    fn submit(&mut self) -> bool {
        if self.writer.free_slots() == 0 {
            return false;
        }
        self.seqs.insert(self.writer.next_slot().0, self.next_seq);
        self.writer.submit(batch(self.next_seq));
        self.next_seq += 1;
        true
    }

    fn take_events(&mut self) {
        while let Ok(event) = self.events.try_recv() {
            match event {
                WriteEvent::Durable { slot, .. } => drop(self.acks.durable(slot)),
                WriteEvent::Fenced { .. } => self.fenced = true,
                WriteEvent::Retrying { .. } => {}
            }
        }
    }

    /// Writes `count` batches and waits until all are acknowledged.
    async fn write(&mut self, count: u64) {
        for _ in 0..count {
            while !self.submit() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        }
        while self.acks.end() < self.writer.next_slot() {
            tokio::time::sleep(Duration::from_millis(1)).await;
            self.take_events();
            assert!(!self.fenced);
        }
    }

    /// Sequence numbers that were acknowledged.
    fn acked(&mut self) -> Vec<u64> {
        self.take_events();
        self.seqs
            .range(..self.acks.end().0)
            .map(|(_, seq)| *seq)
            .collect()
    }
}

async fn settle() {
    tokio::time::sleep(Duration::from_secs(60)).await;
}

fn first_owner(cell: &Cell) -> Owner {
    Owner::new(cell, Epoch(1), ChunkSeq(0), 0)
}

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

/// Leaves slot 3 of epoch 1 at zone 0 only, unacknowledged, and slots before it acknowledged.
async fn with_an_unproven_slot(cell: &Cell) {
    let mut owner = first_owner(cell);
    owner.write(3).await;
    for zone in 1..3 {
        cell.faults[zone].cut(Cut::Refusing);
    }
    owner.submit();
    tokio::time::sleep(Duration::from_millis(50)).await;
    drop(owner);
    for zone in 1..3 {
        cell.faults[zone].heal();
    }
    assert_eq!(cell.holds(id(1, 3)).await, 1);
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
    let bad: [fn(&mut ChannelHistory, &dyn Fn(u64, u64, u64) -> SealedEpoch); 6] = [
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
