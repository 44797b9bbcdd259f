//! The group's types, as the consensus library wants them named.

use crate::command::Command;
use crate::command::Response;
use crate::refused::Refused;
use crate::state::record::MemberNode;

/// What an entry answers; `None` for entries that carry no command.
pub type Answer = Option<Result<Response, Refused>>;

openraft::declare_raft_types!(
    pub TypeConfig:
        D = Command,
        R = Answer,
        NodeId = u64,
        Node = MemberNode,
);

pub type LeaderId = openraft::alias::LeaderIdOf<TypeConfig>;
pub type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub type Vote = openraft::alias::VoteOf<TypeConfig>;
pub type Entry = openraft::alias::EntryOf<TypeConfig>;
pub type StoredMembers = openraft::alias::StoredMembershipOf<TypeConfig>;
pub type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;
