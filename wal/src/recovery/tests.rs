//! A cell of memory zones, a metadata group of one channel, and owners that write.

mod judge;
mod plain;
mod races;
mod zones;

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

#[tokio::test]
async fn a_recovery_can_run_in_a_task_of_its_own() {
    fn send<T: Send>(recovery: T) -> T {
        recovery
    }
    let cell = Cell::new(1, 1);
    let group = Group::new(&cell);
    let history = group.history();
    // Send, and not Sync.
    let seen = std::cell::Cell::new(0);
    let visit = move |_: ChunkId, _: &Arc<Footer>| seen.set(seen.get() + 1);
    send(recover(&cell.wal, &history, &*group, Nonce(1), visit))
        .await
        .expect("nothing to recover");
}
