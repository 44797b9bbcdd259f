//! What a member needs to start.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_api::id::NodeId;
use openraft::{Config, SnapshotPolicy};

use super::runtime::GroupRuntime;
use super::slot::MemberSlot;
use crate::error::MetaError;
use crate::identity::{ClusterId, DirectoryId, PeerAddress};
use crate::network::{NoNetwork, Transport};
use crate::store::blocking::Blocking;

#[derive(Debug, Clone)]
pub struct MetaOptions {
    /// A directory of this group's own; created if it is not there.
    pub dir: PathBuf,
    /// Never reused after its directory was lost.
    pub node: NodeId,
    /// The group that this node belongs to. Kept in the directory, which is refused under another. `None`: a group of
    /// one that no other node talks to.
    pub cluster: Option<ClusterId>,
    /// Random, and new at every start: the id of the directory if it has none yet. `None` only in a group of one.
    pub directory: Option<DirectoryId>,
    /// Where other members reach this node. Kept in the membership. One that has changed since the last start is told
    /// to the leader, which takes at least one member that is still where it was; empty is no address, and keeps the
    /// one that is known.
    pub address: String,
    pub transport: Arc<dyn Transport>,
    /// What a fresh directory means. One that is not fresh goes on as what it was.
    pub fresh: Fresh,
    pub blocking: Blocking,
    /// What the member runs on; `None` makes one.
    pub runtime: Option<GroupRuntime>,
    /// Filled when the member begins, for what serves it on the network.
    pub slot: MemberSlot,
    pub timing: Timing,
    /// Commands, and reads, that may wait to be taken up.
    pub queue: usize,
    /// Entries between two snapshots.
    pub snapshot_entries: u64,
}

impl MetaOptions {
    pub fn new(dir: impl Into<PathBuf>, node: NodeId) -> Self {
        Self {
            dir: dir.into(),
            node,
            cluster: None,
            directory: None,
            address: String::new(),
            transport: Arc::new(NoNetwork),
            fresh: Fresh::GroupOfOne,
            blocking: Blocking::Pool,
            runtime: None,
            slot: MemberSlot::default(),
            timing: Timing::default(),
            queue: 4096,
            snapshot_entries: 20_000,
        }
    }
}

/// How a member begins whose directory is fresh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fresh {
    /// It founds a group, alone.
    GroupOfOne,
    /// It founds a group together with the others of this list, which names every one of them and itself, once, and
    /// is the same on all. If it finds that there is a group already, it waits to be added like [`Fresh::Join`].
    Form { peers: Vec<PeerAddress> },
    /// It waits until a leader adds it to an existing group.
    Join,
}

/// Time-outs of the group. The defaults stand a machine that is noisy; steady ones may divide the first three by
/// three.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    pub heartbeat_interval: Duration,
    pub election_timeout_min: Duration,
    pub election_timeout_max: Duration,
    /// After this long the outcome of a command is unknown.
    pub propose_timeout: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            heartbeat_interval: Duration::from_millis(300),
            election_timeout_min: Duration::from_millis(1500),
            election_timeout_max: Duration::from_millis(3000),
            propose_timeout: Duration::from_secs(10),
        }
    }
}

/// The consensus library's configuration.
pub(super) fn config(options: &MetaOptions) -> Result<Config, MetaError> {
    let ms = |duration: Duration| duration.as_millis().min(u128::from(u64::MAX)) as u64;
    let timing = &options.timing;
    let kept = options.snapshot_entries.max(1);
    let config = Config {
        cluster_name: "millrace".into(),
        heartbeat_interval: ms(timing.heartbeat_interval),
        election_timeout_min: ms(timing.election_timeout_min),
        election_timeout_max: ms(timing.election_timeout_max),
        enable_pre_vote: Some(true),
        // Twice the longest election at least: the lease has to end first.
        quorum_loss_probe_interval: Some(ms(timing.election_timeout_max).saturating_mul(2)),
        enable_leader_restore: Some(false),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(kept),
        replication_lag_threshold: kept.saturating_mul(2),
        max_in_snapshot_log_to_keep: kept,
        purge_batch_size: 256,
        max_payload_entries: 300,
        install_snapshot_timeout: 60_000,
        ..Config::default()
    };
    config
        .validate()
        .map_err(|error| MetaError::Unusable(format!("timing: {error}").into()))
}
