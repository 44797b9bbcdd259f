//! The state as the consensus core drives it: applies entries in batches, makes and installs snapshots.
//!
//! * A batch of entries, and the index of its last, are one write.
//! * An entry is answered when its batch is committed, so that whoever hears the answer can read the change.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use futures::{Stream, StreamExt};
use millrace_api::bug::{Bug, planted};
use openraft::storage::{ApplyResponder, EntryResponder, RaftSnapshotBuilder, RaftStateMachine};
use openraft::{EntryPayload, OptionalSend};
use tokio::sync::watch;

use crate::apply::{advance, apply};
use crate::codec::log::{log_id_at, members_of, position_of, stored_membership};
use crate::command::{Command, Response, StateChecksum};
use crate::error::StoreError;
use crate::state::txn::Txn;
use crate::store::blocking::Blocking;
use crate::store::dir::MetaDir;
use crate::store::snapshot::{Receiver, Snapshot, is_described_by};
use crate::store::state::StateDb;
use crate::types::{Answer, Entry, LogId, SnapshotMeta, StoredMembers, TypeConfig};

/// Checksums of this node's state that are remembered until the leader's are known.
const CHECKSUMS_KEPT: usize = 16;

/// Entries that one write takes at most.
const BATCH_ENTRIES_MAX: usize = 256;

type Responder = ApplyResponder<TypeConfig>;
pub type OfferedSnapshot = openraft::storage::Snapshot<
    openraft::alias::CommittedLeaderIdOf<TypeConfig>,
    u64,
    crate::state::record::MemberNode,
    Arc<Snapshot>,
>;

/// The state of this node, shared by the core and by readers.
pub struct Machine {
    dir: MetaDir,
    blocking: Blocking,
    current: RwLock<Arc<StateDb>>,
    snapshot: Mutex<Option<Arc<Snapshot>>>,
    applied: watch::Sender<u64>,
    /// Index of the last entry that concerned channels.
    channels: watch::Sender<u64>,
    received: AtomicU64,
    /// Newest last.
    checksums: Mutex<VecDeque<StateChecksum>>,
}

impl Machine {
    /// Opens the current state of a directory. Blocks.
    pub fn open(dir: MetaDir, blocking: Blocking) -> Result<Arc<Self>, StoreError> {
        let state = StateDb::open(&dir.current_state()?)?;
        let applied = state.applied()?.last.map_or(0, |last| last.index);
        let snapshot = Snapshot::newest(&dir.snapshots())?;
        Ok(Arc::new(Self {
            dir,
            blocking,
            current: RwLock::new(Arc::new(state)),
            snapshot: Mutex::new(snapshot),
            applied: watch::Sender::new(applied),
            channels: watch::Sender::new(applied),
            received: AtomicU64::new(0),
            checksums: Mutex::default(),
        }))
    }

    pub fn state(&self) -> Arc<StateDb> {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Follows the index of the last applied entry.
    pub fn applied(&self) -> watch::Receiver<u64> {
        self.applied.subscribe()
    }

    /// Follows the index of the last applied entry that may have changed which channels there are, who owns them, or
    /// whether they serve; or of the snapshot that may have done so.
    pub fn channels(&self) -> watch::Receiver<u64> {
        self.channels.subscribe()
    }

    /// Begins to take in a snapshot from another node. Blocks.
    pub fn receive(&self, manifest: &[u8]) -> Result<Receiver, StoreError> {
        let number = self.received.fetch_add(1, Ordering::Relaxed);
        let part = self.dir.incoming().join(format!("received-{number}"));
        Receiver::begin(manifest, part, self.dir.snapshots())
    }

    pub fn newest(&self) -> Option<Arc<Snapshot>> {
        self.snapshot
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// From here on this is the node's snapshot; an older one goes when nobody reads it any more.
    fn keep(&self, snapshot: &Arc<Snapshot>) {
        let mut newest = self.snapshot.lock().unwrap_or_else(PoisonError::into_inner);
        snapshot.keep(true);
        if let Some(older) = newest.replace(snapshot.clone())
            && !Arc::ptr_eq(&older, snapshot)
        {
            older.keep(false);
        }
    }

    pub fn build(&self) -> Result<OfferedSnapshot, StoreError> {
        let snapshot = Snapshot::build(&self.state(), &self.dir.incoming(), &self.dir.snapshots())?;
        self.keep(&snapshot);
        offer(snapshot)
    }

    pub fn install(&self, meta: &SnapshotMeta, snapshot: &Arc<Snapshot>) -> Result<(), StoreError> {
        if !is_described_by(snapshot, meta) {
            return Err(StoreError::corrupt(
                "snapshot",
                "it is not the one that was announced",
            ));
        }
        let path = self.dir.next_state()?;
        snapshot.unpack(&path)?;
        let state = Arc::new(StateDb::open(&path)?);
        self.dir.make_current(&path)?;
        self.keep(snapshot);
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        std::mem::replace(&mut *current, state).retire();
        drop(current);
        self.applied.send_replace(snapshot.index());
        self.channels.send_replace(snapshot.index());
        Ok(())
    }

    /// Applies a batch and commits it; the answers are in the order of the entries.
    pub fn apply_batch(&self, entries: &[Entry]) -> Result<Vec<Answer>, StoreError> {
        let Some(last) = entries.last() else {
            return Ok(Vec::new());
        };
        let state = self.state();
        let mut txn = Txn::new(&*state);
        let mut answers = Vec::with_capacity(entries.len());
        for entry in entries {
            let at = position_of(&entry.log_id);
            let (answer, members) = match &entry.payload {
                EntryPayload::Blank => (None, None),
                EntryPayload::Normal(command) => (Some(apply(&mut txn, command, at)?), None),
                EntryPayload::Membership(membership) => (None, Some(members_of(membership))),
            };
            self.compare(entry, &answer)?;
            if entries.len() > 2 && planted(Bug::EntryDropped) {
                txn = Txn::new(&*state);
            }
            advance(&mut txn, at, members)?;
            answers.push(answer);
        }
        let changes = txn.into_changes();
        state.commit(changes)?;
        self.applied.send_replace(last.log_id.index);
        let concerning = |entry: &&Entry| matches!(&entry.payload, EntryPayload::Normal(command) if command.concerns_channels());
        if let Some(entry) = entries.iter().rfind(concerning) {
            self.channels.send_replace(entry.log_id.index);
        }
        Ok(answers)
    }
}

impl Machine {
    /// Remembers a checksum that an entry asked for; holds one against the leader's. Nothing of a batch in which they
    /// differ is written.
    fn compare(&self, entry: &Entry, answer: &Answer) -> Result<(), StoreError> {
        let mut checksums = self.checksums.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(Ok(Response::StateChecksum(computed))) = answer {
            if checksums.len() == CHECKSUMS_KEPT {
                checksums.pop_front();
            }
            checksums.push_back(*computed);
        }
        let EntryPayload::Normal(Command::CheckState(check)) = &entry.payload else {
            return Ok(());
        };
        let leader = check.computed;
        let own = checksums.iter().find(|own| own.index == leader.index);
        match own.filter(|own| own.checksum != leader.checksum) {
            None => Ok(()),
            Some(own) => Err(StoreError::corrupt(
                "state",
                format_args!(
                    "its checksum before entry {} is {:08x}, the leader's was {:08x}: the replicas differ",
                    leader.index, own.checksum, leader.checksum
                ),
            )),
        }
    }
}

pub fn offer(snapshot: Arc<Snapshot>) -> Result<OfferedSnapshot, StoreError> {
    let meta = snapshot
        .meta()
        .map_err(|error| error.in_store("snapshot manifest"))?;
    Ok(OfferedSnapshot { meta, snapshot })
}

/// The core's handle.
#[derive(Clone)]
pub struct StateMachine(pub Arc<Machine>);

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = Arc<Snapshot>;
    type SnapshotBuilder = Self;

    async fn applied_state(&mut self) -> Result<(Option<LogId>, StoredMembers), io::Error> {
        let applied = self.0.state().applied()?;
        let membership = stored_membership(applied.membership_at, &applied.membership)
            .map_err(|error| error.in_store("membership"))?;
        Ok((applied.last.map(log_id_at), membership))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> Result<(), io::Error>
    where
        Strm: Stream<Item = Result<EntryResponder<TypeConfig>, io::Error>> + Unpin + OptionalSend,
    {
        loop {
            let mut batch: Vec<Entry> = Vec::new();
            let mut responders: Vec<Option<Responder>> = Vec::new();
            while batch.len() < BATCH_ENTRIES_MAX
                && let Some(next) = entries.next().await
            {
                let (entry, responder) = next?;
                batch.push(entry);
                responders.push(responder);
            }
            if batch.is_empty() {
                return Ok(());
            }
            let answers = self.0.apply_batch(&batch)?;
            for (responder, answer) in responders.into_iter().zip(answers) {
                if let Some(responder) = responder {
                    responder.send(answer);
                }
            }
        }
    }

    async fn get_snapshot_builder(&mut self) -> Self::SnapshotBuilder {
        self.clone()
    }

    async fn install_snapshot(
        &mut self,
        meta: &SnapshotMeta,
        snapshot: Arc<Snapshot>,
    ) -> Result<(), io::Error> {
        let (machine, meta) = (self.0.clone(), meta.clone());
        let install = move || machine.install(&meta, &snapshot);
        Ok(self.0.blocking.run(install).await?)
    }

    async fn get_current_snapshot(&mut self) -> Result<Option<OfferedSnapshot>, io::Error> {
        Ok(self.0.newest().map(offer).transpose()?)
    }
}

impl RaftSnapshotBuilder<TypeConfig> for StateMachine {
    type SnapshotData = Arc<Snapshot>;

    async fn build_snapshot(&mut self) -> Result<OfferedSnapshot, io::Error> {
        let machine = self.0.clone();
        Ok(self.0.blocking.run(move || machine.build()).await?)
    }
}
