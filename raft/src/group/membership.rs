//! Who belongs to the group. Asked of the leader, one change at a time.

use std::collections::BTreeSet;

use millrace_api::id::NodeId;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::impls::BasicNode;

use super::Meta;
use crate::error::MetaError;
use crate::types::TypeConfig;

impl Meta {
    /// Adds a node that follows the log and does not vote. Returns when the change is committed; the node may be far
    /// behind then: [`Meta::lag`] says how far. A node id is never reused after its disk was lost.
    ///
    /// # Errors
    ///
    /// [`MetaError::Retry`] if this node does not lead or another change is under way.
    pub async fn add_learner(&self, node: NodeId, address: &str) -> Result<(), MetaError> {
        let added = self
            .shared
            .core
            .raft()
            .add_learner(node.0, BasicNode::new(address), false)
            .await;
        added.map(drop).map_err(not_changed)
    }

    /// Makes these nodes, which must be learners or voters, the voters; other voters become learners. Returns when
    /// both steps of the change are committed. If the leader dies between them, the same change finishes it.
    ///
    /// # Errors
    ///
    /// As [`Meta::add_learner`].
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), MetaError> {
        let voters: BTreeSet<u64> = voters.into_iter().map(|node| node.0).collect();
        let changed = self.shared.core.raft().change_membership(voters, true).await;
        changed.map(drop).map_err(not_changed)
    }

    /// Entries that a node still lacks, as the leader knows; `None` if this node does not lead or does not know.
    pub fn lag(&self, node: NodeId) -> Option<u64> {
        super::metrics::lag(self.shared.core.raft(), node.0)
    }
}

fn not_changed(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> MetaError {
    match error {
        RaftError::Fatal(fatal) => MetaError::Closed(fatal.to_string().into()),
        RaftError::APIError(error @ ClientWriteError::LogEntryDiscarded(_)) => {
            MetaError::Unknown(error.to_string().into())
        }
        RaftError::APIError(error) => MetaError::Retry(error.to_string().into()),
    }
}
