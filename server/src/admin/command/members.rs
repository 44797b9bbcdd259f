//! What changes who belongs to the cluster, and who leads it.

use anyhow::bail;
use serde_json::json;

use super::Session;
use crate::admin::client::Seen;
use crate::admin::pb::{self, State};
use crate::admin::render::state;
use crate::admin::verdict::too_few_without;

/// A member that lacks no more entries than this has caught up: others go on writing meanwhile.
const CAUGHT_UP_LAG_MAX: u64 = 100;

impl Session {
    pub(super) async fn add(&mut self, node: u64, address: &str, promote: bool) -> anyhow::Result<bool> {
        let request = pb::AddRequest {
            node,
            address: address.to_owned(),
        };
        let seen = self.led().await?;
        if let Some(known) = seen.node(node)
            && known.member
            && matches!(known.state(), State::Expired | State::Silent)
        {
            bail!(
                "node {node} is a member already, at {}, and does not answer. Start it there; if its disk was lost, \
                 `millrace cluster remove {node}`, and add the new one under a number of its own",
                known.cluster_address
            );
        }
        let what = format!("adding node {node}");
        self.insist(&what, |mut admin| {
            let request = request.clone();
            async move { admin.add(request).await }
        })
        .await?;
        loop {
            let seen = self.led().await?;
            match lacks(&seen, node) {
                None => break,
                Some(lacks) => self.wait(&format!("node {node} is a member; {lacks}")).await?,
            }
        }
        if promote {
            self.give_vote(node).await?;
        }
        let vote = if promote {
            "votes"
        } else {
            "follows without a vote"
        };
        let text = format!("node {node} has caught up and {vote}\n");
        self.print(&json!({"node": node, "member": true, "voter": promote}), &text)?;
        Ok(true)
    }

    pub(super) async fn promote(&mut self, node: u64) -> anyhow::Result<bool> {
        let seen = self.led().await?;
        self.member(&seen, node)?;
        self.give_vote(node).await?;
        let text = format!("node {node} votes\n");
        self.print(&json!({"node": node, "member": true, "voter": true}), &text)?;
        Ok(true)
    }

    async fn give_vote(&mut self, node: u64) -> anyhow::Result<()> {
        let what = format!("giving node {node} a vote");
        let promoted = self.insist(&what, |mut admin| async move {
            admin.promote(pb::PromoteRequest { node }).await
        });
        promoted.await.map(drop)
    }

    pub(super) async fn remove(&mut self, node: u64) -> anyhow::Result<bool> {
        let seen = self.led().await?;
        self.member(&seen, node)?;
        let voter = seen.node(node).is_some_and(|known| known.voter);
        if voter && let Some(why) = too_few_without(&seen.best().nodes, node) {
            bail!("node {node} stays: {why}");
        }
        let alive = seen
            .node(node)
            .is_some_and(|known| matches!(known.state(), State::Alive | State::Draining));
        if alive {
            self.empty(node).await?;
        }
        let what = format!("removing node {node}");
        self.insist(&what, |mut admin| async move {
            admin.remove(pb::RemoveRequest { node }).await
        })
        .await?;
        let text = format!(
            "node {node} is no member any more. Stop its process, if it runs; neither its number nor its data directory \
             is to be used again\n"
        );
        self.print(&json!({"node": node, "member": false, "voter": false}), &text)?;
        Ok(true)
    }

    pub(super) async fn transfer_leader(&mut self, to: Option<u64>) -> anyhow::Result<bool> {
        let seen = self.led().await?;
        if let Some(to) = to {
            self.member(&seen, to)?;
        }
        let leader = self.lead(to).await?;
        let text = format!("node {leader} leads\n");
        self.print(&json!({"leader": leader}), &text)?;
        Ok(true)
    }

    /// Has another voter lead, and waits until it says so itself.
    pub(super) async fn lead(&mut self, to: Option<u64>) -> anyhow::Result<u64> {
        let request = pb::TransferLeaderRequest { to };
        let passed = self.insist("passing the leadership on", |mut admin| async move {
            admin.transfer_leader(request).await
        });
        let leader = passed.await?.leader;
        loop {
            let seen = self.led().await?;
            if seen.best().node == leader {
                return Ok(leader);
            }
            self.wait(&format!(
                "node {} leads, and not yet node {leader}",
                seen.best().node
            ))
            .await?;
        }
    }
}

/// What a node that was added has to do yet; `None` if it is as far as the others.
fn lacks(seen: &Seen, node: u64) -> Option<String> {
    let known = match seen.node(node) {
        Some(known) if known.member => known,
        _ => return Some("the leader does not know it yet".into()),
    };
    let itself = seen.best().node == node;
    match (known.state(), known.lag) {
        (State::Alive | State::Draining, _) if itself => None,
        (State::Alive | State::Draining, Some(lag)) if lag <= CAUGHT_UP_LAG_MAX => None,
        (_, Some(lag)) if lag > CAUGHT_UP_LAG_MAX => Some(format!("it lacks {lag} entries of the log")),
        (State::Joining, Some(_)) => Some("it has the log and has not registered yet".into()),
        (_, None) => Some("it has not answered the leader yet".into()),
        (other, _) => Some(format!("it is {}", state(other))),
    }
}
