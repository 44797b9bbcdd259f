//! A change of membership, as asked for. Each is safe to ask for again: what is so already is left as it is, and what
//! a lost leader left half done is finished.

use std::collections::BTreeSet;

use millrace_api::id::NodeId;

use crate::identity::DirectoryId;

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    AddLearner {
        node: NodeId,
        address: String,
    },
    Voters(BTreeSet<NodeId>),
    Promote(NodeId),
    Remove(NodeId),
    TransferLeader(NodeId),
    /// A member that was restarted elsewhere, or that has an id for its directory now.
    SetSelf {
        node: NodeId,
        address: String,
        directory: Option<DirectoryId>,
    },
}
