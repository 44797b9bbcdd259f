//! What other members ask of this one.

use std::collections::BTreeSet;

use millrace_api::id::NodeId;
use tokio::time::Instant;

use super::{Change, Meta, Undone};
use crate::codec::{DecodeError, forward};
use crate::error::MetaError;
use crate::identity::{Caller, Introduction, Known};
use crate::network::{self, Call, IncomingSnapshot};
use crate::refused::Refused;

impl Meta {
    /// Answers a request of another member, as its transport brought it. Run by any runtime; cancel safe.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] if the bytes are no request.
    pub async fn serve(&self, call: Call, request: &[u8]) -> Result<Vec<u8>, MetaError> {
        match call {
            Call::Append | Call::Vote | Call::PreVote | Call::TransferLeader => {
                network::serve_raft(self.shared.core.raft(), call, request).await
            }
            Call::Propose => {
                let (commands, budget) = forward::decode_propose(request).map_err(bad)?;
                let deadline = Instant::now() + budget.min(self.shared.timing.propose_timeout);
                let all = commands
                    .into_iter()
                    .map(|command| self.submit(command, deadline, true));
                let answers = futures::future::join_all(all).await;
                Ok(forward::encode_answers(&answers))
            }
            Call::ReadIndex => {
                let budget = forward::decode_read_index(request).map_err(bad)?;
                let budget = budget.min(self.shared.timing.propose_timeout);
                let index = tokio::time::timeout(budget, self.read_index(true)).await;
                let index = index.unwrap_or_else(|_| Err(Undone::retry("no confirmation in time")));
                Ok(forward::encode_index(&index))
            }
            Call::Change => {
                let (change, budget) = forward::decode_change(request).map_err(bad)?;
                let deadline = Instant::now() + budget.min(self.shared.timing.propose_timeout);
                let leadership = *self.shared.router.leadership().borrow();
                let changed = match leadership.leads {
                    true => self.change_here(&change, deadline).await,
                    false => Err(Undone::NotLeading(leadership.leader.map(|node| node.0))),
                };
                Ok(forward::encode_changed(&changed))
            }
            Call::Identify => Ok(forward::encode_introduction(&self.introduction())),
        }
    }

    /// As [`Meta::serve`], for a caller who said who it is: strangers are turned away.
    ///
    /// # Errors
    ///
    /// [`MetaError::Refused`] for a caller that [`Meta::admit`] turns away.
    pub async fn serve_caller(
        &self,
        caller: &Caller,
        call: Call,
        request: &[u8],
    ) -> Result<Vec<u8>, MetaError> {
        self.admit(caller, call)?;
        if call == Call::Change
            && let (Change::SetSelf { node, .. }, _) = forward::decode_change(request).map_err(bad)?
            && node != caller.node
        {
            return Err(refused(format!("node {} speaks for node {node}", caller.node)));
        }
        self.serve(call, request).await
    }

    /// Whether a caller may ask for this.
    ///
    /// A known member whose directory is another than it had is turned away: it lost what it promised to keep. What
    /// only members may ask for, callers that are none may not. The consensus itself admits senders that this member
    /// does not know yet, for it may be behind; but one that belongs to no group listens only to those who name its
    /// directory, and so mean this life of the node.
    pub fn admit(&self, caller: &Caller, call: Call) -> Result<(), MetaError> {
        if call == Call::Identify {
            return Ok(());
        }
        let members = self.members();
        let known = members.iter().find(|member| member.node == caller.node);
        if let Some(known) = known
            && known
                .directory
                .is_some_and(|directory| directory != caller.directory)
        {
            return Err(refused(format!(
                "node {} is a member with another data directory: its disk was replaced",
                caller.node
            )));
        }
        match call {
            Call::Propose | Call::ReadIndex | Call::Change if known.is_none() => Err(refused(format!(
                "node {} is no member of this cluster",
                caller.node
            ))),
            Call::Append | Call::Vote | Call::PreVote | Call::TransferLeader
                if members.is_empty() && !caller.names_directory =>
            {
                Err(refused(
                    "this node is fresh, and the call means an earlier life of it".into(),
                ))
            }
            _ => Ok(()),
        }
    }

    /// Who this member is.
    pub fn introduction(&self) -> Introduction {
        let members = self.members();
        Introduction {
            identity: self.shared.identity,
            initialized: !members.is_empty(),
            members,
            peers: self.shared.peers.clone(),
            known: self.known(),
        }
    }

    /// What this member knows of others. A state that cannot be read knows nothing: it fails elsewhere.
    fn known(&self) -> Vec<Known> {
        let registered = self.state().nodes().unwrap_or_default();
        let members = self.members().into_iter().map(|member| member.node);
        let nodes: BTreeSet<NodeId> = registered
            .iter()
            .map(|record| record.node)
            .chain(members)
            .collect();
        let known = |node| Known {
            node,
            incarnation: registered
                .iter()
                .find(|record| record.node == node)
                .map(|record| record.incarnation),
            reached: super::metrics::reached(self.shared.core.raft(), node.0),
        };
        nodes.into_iter().map(known).collect()
    }

    /// Begins to take in a snapshot from the leader.
    pub async fn receive_snapshot(&self, opening: &[u8]) -> Result<IncomingSnapshot, MetaError> {
        let shared = &*self.shared;
        let raft = shared.core.raft().clone();
        network::receive_snapshot(raft, shared.machine.clone(), shared.blocking, opening).await
    }

    pub(super) fn node(&self) -> NodeId {
        self.shared.identity.node
    }
}

fn bad(error: DecodeError) -> MetaError {
    MetaError::Invalid(error.to_string().into())
}

fn refused(why: String) -> MetaError {
    MetaError::Refused(Refused::Invalid(why))
}
