//! The way to every channel: those that this node owns, and through their nodes those of others.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use arc_swap::ArcSwap;
use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, Epoch, NodeId, StreamId};
use millrace_raft::error::StoreError;
use millrace_raft::group::Meta;
use millrace_raft::query::ChannelRecord;
use millrace_wal::EpochProgress;

use tokio::sync::watch;

use crate::channel::handle::ChannelHandle;
use crate::channel::stats::ChannelStats;
use crate::peer::directory::Peers;

/// Clones share one view.
#[derive(Clone)]
pub struct Channels {
    shared: Arc<Shared>,
}

struct Shared {
    node: NodeId,
    meta: Meta,
    /// Read by every request, changed when a channel comes or goes.
    owned: ArcSwap<BTreeMap<ChannelId, Owned>>,
    /// Set once where there are other nodes.
    peers: OnceLock<Peers>,
    loads: ArcSwap<BTreeMap<ChannelId, u64>>,
    changed: watch::Sender<()>,
    /// Of every channel that this node ever served: counters only grow.
    stats: Mutex<BTreeMap<ChannelId, Arc<ChannelStats>>>,
}

/// A channel that this node serves.
#[derive(Clone)]
pub struct Owned {
    pub epoch: Epoch,
    pub handle: ChannelHandle,
    pub stats: Arc<ChannelStats>,
    /// How far the epoch is durable.
    pub progress: EpochProgress,
}

impl Channels {
    pub fn new(node: NodeId, meta: Meta) -> Self {
        Self {
            shared: Arc::new(Shared {
                node,
                meta,
                owned: ArcSwap::default(),
                peers: OnceLock::new(),
                loads: ArcSwap::default(),
                changed: watch::Sender::new(()),
                stats: Mutex::default(),
            }),
        }
    }

    /// From now on channels of other nodes are reached through `peers`.
    pub fn reach_others(&self, peers: Peers) {
        let _ = self.shared.peers.set(peers);
    }

    /// Whether channels may move to another node.
    pub fn has_others(&self) -> bool {
        self.shared.peers.get().is_some()
    }

    /// The channels that this node serves, and in which epochs.
    pub fn owned_epochs(&self) -> Vec<(ChannelId, Epoch)> {
        let owned = self.shared.owned.load();
        owned
            .iter()
            .map(|(channel, owned)| (*channel, owned.epoch))
            .collect()
    }

    /// This node serves the channel from now on.
    pub fn insert(&self, channel: Owned) {
        self.shared.owned.rcu(|owned| {
            let mut owned = BTreeMap::clone(owned);
            owned.insert(channel.handle.id(), channel.clone());
            owned
        });
        self.shared.changed.send_replace(());
    }

    /// This node no longer serves the channel under that epoch.
    pub fn remove(&self, channel: ChannelId, epoch: Epoch) {
        self.shared.owned.rcu(|owned| {
            let mut owned = BTreeMap::clone(owned);
            if owned.get(&channel).is_some_and(|known| known.epoch == epoch) {
                owned.remove(&channel);
            }
            owned
        });
    }

    /// Resolves when this node serves all of these. Cancel safe.
    pub async fn wait_owned(&self, channels: &BTreeSet<ChannelId>) {
        let mut changed = self.shared.changed.subscribe();
        while !channels.iter().all(|channel| self.local(*channel).is_some()) {
            // The sender is in `self`.
            let _ = changed.changed().await;
        }
    }

    /// The counters of a channel on this node.
    pub fn stats(&self, channel: ChannelId) -> Arc<ChannelStats> {
        self.all_stats_locked().entry(channel).or_default().clone()
    }

    /// Of every channel that this node ever served.
    pub fn all_stats(&self) -> Vec<Arc<ChannelStats>> {
        self.all_stats_locked().values().cloned().collect()
    }

    fn all_stats_locked(&self) -> MutexGuard<'_, BTreeMap<ChannelId, Arc<ChannelStats>>> {
        self.shared.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node serves.
    pub fn owned(&self) -> Arc<BTreeMap<ChannelId, Owned>> {
        self.shared.owned.load_full()
    }

    /// The channel, if this node serves it.
    pub fn local(&self, channel: ChannelId) -> Option<ChannelHandle> {
        self.shared
            .owned
            .load()
            .get(&channel)
            .map(|owned| owned.handle.clone())
    }

    /// Metered bytes a second of every channel, as the leader knows them.
    pub fn set_loads(&self, loads: BTreeMap<ChannelId, u64>) {
        self.shared.loads.store(Arc::new(loads));
    }

    /// A handle on the channel at its owner; `None` while it has none that is known here.
    pub fn get(&self, channel: ChannelId) -> Result<Option<ChannelHandle>, StoreError> {
        if let Some(handle) = self.local(channel) {
            return Ok(Some(handle));
        }
        let record = self.shared.meta.state().channel(channel)?;
        Ok(record.and_then(|record| self.remote(&record)))
    }

    fn remote(&self, record: &ChannelRecord) -> Option<ChannelHandle> {
        let owner = record.owner.filter(|owner| owner.node != self.shared.node)?;
        let peers = self.shared.peers.get()?;
        let known_at = self.shared.meta.applied_index();
        Some(peers.channel(owner.node, record.channel).known_at(known_at))
    }

    /// The channel that a dormant stream of the class is to be placed on: the less loaded of two that depend on the
    /// stream alone, so that concurrent first requests mostly choose the same. Channels of another class are taken
    /// where the class has none of its own; where it has, and none of them has an owner, there is none to take.
    pub fn pick(&self, class: StorageClass, stream: StreamId) -> Result<Option<ChannelHandle>, StoreError> {
        let all = self.shared.meta.state().channels()?;
        let has_own = all.iter().any(|record| record.class == class);
        let candidates: Vec<_> = all
            .iter()
            .filter(|record| record.owner.is_some() && (record.class == class || !has_own))
            .collect();
        let count = candidates.len() as u128;
        if count == 0 {
            return Ok(None);
        }
        // The id is random: two independent parts of it.
        let first = candidates[(stream.0 % count) as usize];
        let second = candidates[((stream.0 >> 64) % count) as usize];
        let loads = self.shared.loads.load();
        let load = |record: &ChannelRecord| loads.get(&record.channel).copied().unwrap_or(0);
        let chosen = if load(second) < load(first) { second } else { first };
        self.get(chosen.channel)
    }
}
