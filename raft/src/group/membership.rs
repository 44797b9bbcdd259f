//! Who belongs to the group: one voter more or less at a time. The leader does it; others pass it on.

use std::collections::BTreeSet;
use std::time::Duration;

use millrace_api::id::NodeId;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::{ClientWriteError, RaftError};
use openraft::{ChangeMembers, Instant as _, Membership};
use tokio::time::Instant;

use super::router::Leader;
use super::undone::Undone;
use super::{Change, Meta};
use crate::codec::forward;
use crate::error::MetaError;
use crate::identity::{DirectoryId, Introduction, Member};
use crate::network::{Call, Peer, TransportError};
use crate::refused::Refused;
use crate::state::record::MemberNode;
use crate::types::TypeConfig;

/// A learner that lacks more entries than this does not become a voter: a quorum might have to wait for it.
pub const PROMOTE_LAG_MAX: u64 = 1_000;

/// Between two attempts of a member to correct what the membership says about it.
pub(super) const CORRECTION_PAUSE: Duration = Duration::from_secs(1);

/// How long a node may take to say who it is.
const IDENTIFY_TIMEOUT: Duration = Duration::from_secs(2);

impl Meta {
    /// Adds a node that follows the log and does not vote. The node must run, fresh, and wait to be added: it is asked
    /// for its directory first. Returns when the change is committed; the node may be far behind then: [`Meta::lag`]
    /// on the leader says how far. A node id is never reused after its disk was lost.
    ///
    /// # Errors
    ///
    /// [`MetaError::Retry`] if there is no leader, the node does not answer or another change is under way;
    /// [`MetaError::Refused`] if it is not the node it should be; [`MetaError::Unknown`] if the leader was lost
    /// meanwhile. As for all changes of membership, asking again is safe.
    pub async fn add_learner(&self, node: NodeId, address: &str) -> Result<(), MetaError> {
        self.change(Change::AddLearner {
            node,
            address: address.to_owned(),
        })
        .await
    }

    /// Makes these members the voters, one after the other: first the additions, as [`Meta::promote`], then the
    /// removals, after which the removed are learners. If it ends early, the same call goes on.
    pub async fn change_voters(&self, voters: BTreeSet<NodeId>) -> Result<(), MetaError> {
        self.change(Change::Voters(voters)).await
    }

    /// Makes a learner a voter, when both steps of the change are committed.
    ///
    /// # Errors
    ///
    /// As [`Meta::add_learner`]; [`MetaError::Retry`] also while the learner does not answer the leader or lacks more
    /// than [`PROMOTE_LAG_MAX`] entries.
    pub async fn promote(&self, node: NodeId) -> Result<(), MetaError> {
        self.change(Change::Promote(node)).await
    }

    /// Takes a node out of the group. A leader hands over first. The node itself may not hear of it: it is to be
    /// stopped, and its id not to be used again.
    ///
    /// # Errors
    ///
    /// As [`Meta::add_learner`]; [`MetaError::Retry`] also if too few of the voters that would be left answer the
    /// leader; [`MetaError::Refused`] for the last voter.
    pub async fn remove(&self, node: NodeId) -> Result<(), MetaError> {
        self.change(Change::Remove(node)).await
    }

    /// Makes a voter the leader. Returns when it leads.
    pub async fn transfer_leader(&self, to: NodeId) -> Result<(), MetaError> {
        self.change(Change::TransferLeader(to)).await
    }

    /// Has another voter lead, if this member does and another answers: that which lacks least. For a member that is
    /// to stop.
    pub async fn hand_over(&self) -> Result<(), MetaError> {
        if !matches!(self.shared.router.leader(), Leader::Here) {
            return Ok(());
        }
        match self.successor(|_| false) {
            Some(next) => self.transfer_leader(next).await,
            None => Ok(()),
        }
    }

    /// Voters and learners, as the newest membership says that this node has seen.
    pub fn members(&self) -> Vec<Member> {
        let metrics = self.shared.core.raft().metrics().borrow_watched().clone();
        members_of(metrics.membership_config.membership())
    }

    /// Entries that a node still lacks, as the leader knows; `None` if this node does not lead or does not know.
    pub fn lag(&self, node: NodeId) -> Option<u64> {
        super::metrics::lag(self.shared.core.raft(), node.0)
    }

    /// Has the change made, by whoever leads.
    pub(super) async fn change(&self, change: Change) -> Result<(), MetaError> {
        let deadline = Instant::now() + self.shared.timing.propose_timeout;
        loop {
            let undone = match self.shared.router.leader() {
                Leader::Here => self.change_here(&change, deadline).await,
                Leader::At(leader) => self.ask_change(&leader, &change, deadline).await,
                Leader::Nobody => Err(Undone::NotLeading(None)),
                Leader::Stopped(why) => Err(Undone::closed(why)),
            };
            match undone {
                Err(Undone::NotLeading(_)) if Instant::now() < deadline => self.shared.router.news().await,
                other => return other.map_err(MetaError::from),
            }
        }
    }

    pub(super) async fn ask_change(
        &self,
        to: &Peer,
        change: &Change,
        deadline: Instant,
    ) -> Result<(), Undone> {
        let budget = deadline.saturating_duration_since(Instant::now());
        let request = forward::encode_change(change, budget);
        match self.shared.router.ask(to, Call::Change, request, budget).await {
            Ok(bytes) => match forward::decode_changed(&bytes) {
                Ok(changed) => changed.map_err(Undone::told_by_leader),
                Err(error) => Err(Undone::unknown(error)),
            },
            Err(TransportError::Unreachable(_) | TransportError::Rejected(_)) => {
                Err(Undone::NotLeading(None))
            }
            Err(TransportError::Failed(why)) => Err(Undone::unknown(why)),
        }
    }

    /// Makes the change here, if this node leads.
    pub(super) async fn change_here(&self, change: &Change, deadline: Instant) -> Result<(), Undone> {
        let made = async {
            self.finish_joint().await?;
            match change {
                Change::AddLearner { node, address } => self.add_here(*node, address).await,
                Change::Voters(voters) => self.voters_here(voters, deadline).await,
                Change::Promote(node) => self.promote_here(*node).await,
                Change::Remove(node) => self.remove_here(*node, deadline).await,
                Change::TransferLeader(to) => self.transfer_here(*to, deadline).await,
                Change::SetSelf {
                    node,
                    address,
                    directory,
                } => self.set_here(*node, address, *directory).await,
            }
        };
        match tokio::time::timeout_at(deadline, made).await {
            Ok(made) => made,
            Err(_) => Err(Undone::unknown("the change of membership timed out: ask again")),
        }
    }

    /// Finishes a change that an earlier leader began.
    async fn finish_joint(&self) -> Result<(), Undone> {
        let metrics = self.shared.core.raft().metrics().borrow_watched().clone();
        match metrics.membership_config.membership().get_joint_config().len() {
            0 | 1 => Ok(()),
            _ => {
                self.write(ChangeMembers::AddVoterIds(BTreeSet::new()), true)
                    .await
            }
        }
    }

    async fn write(&self, change: ChangeMembers<u64, MemberNode>, retain: bool) -> Result<(), Undone> {
        let changed = self.shared.core.raft().change_membership(change, retain).await;
        changed.map(drop).map_err(not_changed)
    }

    async fn add_here(&self, node: NodeId, address: &str) -> Result<(), Undone> {
        let known = self.member(node);
        if let Some(known) = &known
            && known.address == address
        {
            return Ok(());
        }
        let peer = Peer {
            node,
            address: address.to_owned(),
            directory: None,
        };
        let found = self.identify(&peer).await.map_err(Undone::retry)?;
        let own = self.shared.identity.cluster;
        if found.identity.cluster != own {
            return Err(invalid(format!(
                "the node at {address} belongs to another cluster"
            )));
        }
        if found.identity.node != node {
            let there = found.identity.node;
            return Err(invalid(format!(
                "the node at {address} is node {there}, not node {node}"
            )));
        }
        if let Some(known) = known {
            let (known, why) = (
                known.address,
                "a member moves by being restarted with its new address",
            );
            return Err(invalid(format!("node {node} is a member at {known}: {why}")));
        }
        if found.initialized {
            let why = "its directory belongs to a group already";
            return Err(invalid(format!("the node at {address} is not fresh: {why}")));
        }
        let member = MemberNode {
            address: address.to_owned(),
            directory: found.identity.directory,
        };
        let added = self.shared.core.raft().add_learner(node.0, member, false).await;
        added.map(drop).map_err(not_changed)
    }

    async fn voters_here(&self, voters: &BTreeSet<NodeId>, deadline: Instant) -> Result<(), Undone> {
        for node in voters {
            self.promote_here(*node).await?;
        }
        let own = self.shared.identity.node;
        let mut leaving: Vec<NodeId> = self
            .members()
            .into_iter()
            .filter(|member| member.voter && !voters.contains(&member.node))
            .map(|member| member.node)
            .collect();
        // This node last: whoever leads then goes on.
        leaving.sort_by_key(|node| *node == own);
        for node in leaving {
            self.demote_here(node, deadline).await?;
        }
        Ok(())
    }

    async fn promote_here(&self, node: NodeId) -> Result<(), Undone> {
        match self.member(node) {
            Some(member) if member.voter => return Ok(()),
            Some(_) => {}
            None => return Err(invalid(format!("node {node} is no member: add it first"))),
        }
        match self.lag(node) {
            Some(lag) if lag > PROMOTE_LAG_MAX => {
                return Err(Undone::retry(format_args!("node {node} lacks {lag} entries")));
            }
            Some(_) if self.answers(node) => {}
            _ => {
                return Err(Undone::retry(format_args!(
                    "node {node} does not answer the leader"
                )));
            }
        }
        self.write(ChangeMembers::AddVoterIds(BTreeSet::from([node.0])), true)
            .await
    }

    async fn remove_here(&self, node: NodeId, deadline: Instant) -> Result<(), Undone> {
        match self.member(node) {
            None => return Ok(()),
            Some(member) if member.voter => self.demote_here(node, deadline).await?,
            Some(_) => {}
        }
        self.write(ChangeMembers::RemoveNodes(BTreeSet::from([node.0])), false)
            .await
    }

    /// Makes a voter a learner.
    async fn demote_here(&self, node: NodeId, deadline: Instant) -> Result<(), Undone> {
        let own = self.shared.identity.node;
        let voters = self.members().into_iter().filter(|member| member.voter);
        let left: Vec<NodeId> = voters
            .map(|member| member.node)
            .filter(|id| *id != node)
            .collect();
        if left.is_empty() {
            return Err(invalid(format!("node {node} is the last voter")));
        }
        self.majority_answers_now(node, &left).await?;
        if node == own {
            let Some(next) = self.successor(|_| false) else {
                return Err(Undone::retry("no other voter answers"));
            };
            self.transfer_here(next, deadline).await?;
            // It goes on.
            return Err(Undone::NotLeading(Some(next.0)));
        }
        self.write(ChangeMembers::RemoveVoters(BTreeSet::from([node.0])), true)
            .await
    }

    /// Waits until a majority of these has answered after this was called. With one that died a moment ago among them
    /// the change would begin, and never end: its last step needs a majority of those who are left.
    async fn majority_answers_now(&self, without: NodeId, left: &[NodeId]) -> Result<(), Undone> {
        let own = self.shared.identity.node;
        let asked = Instant::now();
        let patience = self.shared.timing.election_timeout_max * 2;
        loop {
            let elapsed = asked.elapsed();
            let answered = |id: &NodeId| *id == own || self.heard(*id).is_some_and(|ago| ago < elapsed);
            let answering = left.iter().filter(|id| answered(id)).count();
            if answering > left.len() / 2 {
                return Ok(());
            }
            if elapsed > patience {
                return Err(Undone::retry(format_args!(
                    "without node {without}, {answering} of {} voters would answer",
                    left.len()
                )));
            }
            tokio::time::sleep(self.shared.timing.heartbeat_interval / 4).await;
        }
    }

    async fn transfer_here(&self, to: NodeId, deadline: Instant) -> Result<(), Undone> {
        let own = self.shared.identity.node;
        match self.member(to) {
            Some(member) if member.voter => {}
            _ => return Err(invalid(format!("node {to} is no voter"))),
        }
        if to == own {
            return Ok(());
        }
        if !self.answers(to) {
            return Err(Undone::retry(format_args!(
                "node {to} does not answer the leader"
            )));
        }
        let raft = self.shared.core.raft();
        raft.trigger()
            .transfer_leader(to.0)
            .await
            .map_err(Undone::closed)?;
        let mut seen = self.shared.router.leadership();
        let timeout = self.shared.timing.election_timeout_max * 2;
        let deadline = deadline.min(Instant::now() + timeout);
        let leads = seen.wait_for(|seen| seen.leader == Some(to));
        match tokio::time::timeout_at(deadline, leads).await {
            Ok(Ok(_)) => Ok(()),
            Ok(Err(_)) => Err(Undone::closed("it was shut down")),
            Err(_) => Err(Undone::retry(format_args!("node {to} did not take over"))),
        }
    }

    async fn set_here(
        &self,
        node: NodeId,
        address: &str,
        directory: Option<DirectoryId>,
    ) -> Result<(), Undone> {
        let Some(known) = self.member(node) else {
            return Err(invalid(format!("node {node} is no member")));
        };
        if known.directory.is_some() && known.directory != directory {
            return Err(invalid(format!(
                "node {node} is a member with another data directory"
            )));
        }
        let member = MemberNode {
            address: address.to_owned(),
            directory,
        };
        if (known.address.as_str(), known.directory) == (address, directory) {
            return Ok(());
        }
        self.write(ChangeMembers::SetNodes([(node.0, member)].into()), true)
            .await
    }

    fn member(&self, node: NodeId) -> Option<Member> {
        self.members().into_iter().find(|member| member.node == node)
    }

    /// The voter that should lead instead of this member: of the others that answer, one that lacks least, and one for
    /// which `last_choice` holds only if it holds for all of them. `None` if none answers, and on a member that does not
    /// lead.
    pub fn successor(&self, last_choice: impl Fn(NodeId) -> bool) -> Option<NodeId> {
        let own = self.shared.identity.node;
        let voters = self.members().into_iter().filter(|member| member.voter);
        let others = voters.map(|member| member.node).filter(|node| *node != own);
        others
            .filter(|node| self.answers(*node))
            .min_by_key(|node| (last_choice(*node), self.lag(*node).unwrap_or(u64::MAX), *node))
    }

    /// Whether a member has answered this leader lately; `false` on a member that does not lead, and for the leader
    /// itself.
    pub fn answers(&self, node: NodeId) -> bool {
        let lately = self.shared.timing.election_timeout_max * 2;
        self.heard(node).is_some_and(|ago| ago < lately)
    }

    /// How long ago a member last answered this leader.
    fn heard(&self, node: NodeId) -> Option<Duration> {
        let metrics = self.shared.core.raft().metrics().borrow_watched().clone();
        let heard = metrics.heartbeat.as_ref().and_then(|heard| *heard.get(&node.0)?);
        heard.map(|at| at.elapsed())
    }

    /// Asks a node who it is.
    pub(super) async fn identify(&self, peer: &Peer) -> Result<Introduction, String> {
        let transport = &self.shared.router.transport;
        let answer = transport
            .call(peer, Call::Identify, Vec::new(), IDENTIFY_TIMEOUT)
            .await;
        let bytes = answer.map_err(|error| format!("node {} at {}: {error}", peer.node, peer.address))?;
        forward::decode_introduction(&bytes)
            .map_err(|error| format!("node {} at {}: {error}", peer.node, peer.address))
    }

    /// Has the membership say where this member is, if it says something else. `true` if that is settled.
    pub(super) async fn correct_self(&self, address: &str) -> bool {
        let own = self.shared.identity;
        let Some(known) = self.member(own.node) else {
            return false;
        };
        let address = match address.is_empty() {
            true => known.address.clone(),
            false => address.to_owned(),
        };
        let directory = own.directory.or(known.directory);
        if (known.address.as_str(), known.directory) == (address.as_str(), directory) {
            return true;
        }
        let change = Change::SetSelf {
            node: own.node,
            address,
            directory,
        };
        match self.set_self(change).await {
            Ok(()) => {
                tracing::info!(node = %own.node, "the membership has this node's address now");
                true
            }
            Err(MetaError::Closed(_)) => true,
            Err(error) => {
                tracing::warn!(%error, "the membership has another address of this node");
                false
            }
        }
    }

    /// The leader may not know where this node is, and this node then not who leads: it asks everybody.
    async fn set_self(&self, change: Change) -> Result<(), MetaError> {
        let deadline = Instant::now() + IDENTIFY_TIMEOUT;
        if !matches!(self.shared.router.leader(), Leader::Nobody) {
            return self.change(change).await;
        }
        for peer in self.shared.router.others() {
            match self.ask_change(&peer, &change, deadline).await {
                Err(Undone::NotLeading(_)) => {}
                other => return other.map_err(MetaError::from),
            }
        }
        Err(MetaError::Retry("no leader was found".into()))
    }
}

pub(super) fn members_of(membership: &Membership<u64, MemberNode>) -> Vec<Member> {
    let voters: BTreeSet<u64> = membership.voter_ids().collect();
    let member = |(id, node): (&u64, &MemberNode)| Member {
        node: NodeId(*id),
        address: node.address.clone(),
        voter: voters.contains(id),
        directory: node.directory,
    };
    membership.nodes().map(member).collect()
}

fn invalid(why: String) -> Undone {
    Undone::Error(MetaError::Refused(Refused::Invalid(why)))
}

fn not_changed(error: RaftError<TypeConfig, ClientWriteError<TypeConfig>>) -> Undone {
    match error {
        RaftError::Fatal(fatal) => Undone::closed(fatal),
        RaftError::APIError(ClientWriteError::ForwardToLeader(forward)) => {
            Undone::NotLeading(forward.leader_id)
        }
        RaftError::APIError(error @ ClientWriteError::LogEntryDiscarded(_)) => Undone::unknown(error),
        RaftError::APIError(error) => Undone::retry(error),
    }
}
