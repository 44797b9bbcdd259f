//! What a member can say about itself.

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;

use super::core::Raft;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    Leader,
    Candidate,
    Follower,
    Learner,
    Stopped,
}

/// A moment of this member's view of the group; perhaps stale.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupMetrics {
    pub role: Role,
    pub term: u64,
    pub leader: Option<u64>,
    /// Index of the last entry in this node's log; 0 before the first.
    pub last_log_index: u64,
    pub applied_index: u64,
    /// Index of the last entry in the newest snapshot; 0 without one.
    pub snapshot_index: u64,
    /// Entries up to here are gone from the log; 0 if none.
    pub purged_index: u64,
    pub voters: Vec<u64>,
    pub learners: Vec<u64>,
}

pub(super) fn read(raft: &Raft, applied_index: u64) -> GroupMetrics {
    // Cloned at once: the borrow holds a lock.
    let metrics = raft.metrics().borrow_watched().clone();
    let members = metrics.membership_config.membership();
    GroupMetrics {
        role: match metrics.state {
            ServerState::Leader => Role::Leader,
            ServerState::Candidate => Role::Candidate,
            ServerState::Follower => Role::Follower,
            ServerState::Learner => Role::Learner,
            ServerState::Shutdown => Role::Stopped,
        },
        term: metrics.current_term,
        leader: metrics.current_leader,
        last_log_index: metrics.last_log_index.unwrap_or(0),
        applied_index,
        snapshot_index: metrics.snapshot.map_or(0, |at| at.index),
        purged_index: metrics.purged.map_or(0, |at| at.index),
        voters: members.voter_ids().collect(),
        learners: members.learner_ids().collect(),
    }
}

/// Index of the last entry that a member has, as the leader knows.
pub(super) fn reached(raft: &Raft, node: u64) -> Option<u64> {
    let metrics = raft.metrics().borrow_watched().clone();
    metrics.replication?.get(&node)?.as_ref().map(|at| at.index)
}

/// Entries that a member lacks, as the leader knows.
pub(super) fn lag(raft: &Raft, node: u64) -> Option<u64> {
    let metrics = raft.metrics().borrow_watched().clone();
    let matching = metrics.replication?.get(&node)?.as_ref().map_or(0, |at| at.index);
    Some(metrics.last_log_index.unwrap_or(0).saturating_sub(matching))
}
