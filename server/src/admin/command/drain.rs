//! Has a node give its channels and its leadership to others.

use anyhow::bail;
use serde_json::json;

use super::{Session, again};
use crate::admin::client::Seen;
use crate::admin::pb::{self, State};

impl Session {
    pub(super) async fn drain(&mut self, node: u64) -> anyhow::Result<bool> {
        self.empty(node).await?;
        let text = format!(
            "node {node} owns no channels. `millrace cluster resume {node}`, or a restart of it, lets it have some \
             again\n"
        );
        self.print(&json!({"node": node, "state": "draining", "channels": 0}), &text)?;
        Ok(true)
    }

    /// Waits until the node owns nothing and does not lead.
    pub(super) async fn empty(&mut self, node: u64) -> anyhow::Result<()> {
        let seen = self.led().await?;
        self.member(&seen, node)?;
        if !has_heir(&seen, node) {
            bail!("node {node} stays as it is: no other node is alive that could take its channels");
        }
        loop {
            let seen = self.led().await?;
            let Some(known) = seen.node(node) else {
                bail!("node {node} is no member of the cluster any more");
            };
            if known.state() != State::Draining {
                // Said again if it was restarted meanwhile.
                self.set_aside(&seen, node, true).await?;
            }
            let others_vote = seen
                .best()
                .nodes
                .iter()
                .any(|other| other.voter && other.node != node);
            let leads = seen.best().node == node && others_vote;
            if leads {
                self.progress
                    .say(&format!("node {node} passes the leadership on"));
                self.lead(None).await?;
            } else if known.channels == 0 && known.state() == State::Draining {
                return Ok(());
            }
            let left = match known.channels {
                0 => "is to own no channels, which the leader has not heard yet".to_owned(),
                1 => "still owns 1 channel".to_owned(),
                left => format!("still owns {left} channels"),
            };
            self.wait(&format!("node {node} {left}")).await?;
        }
    }

    pub(super) async fn resume(&mut self, node: u64) -> anyhow::Result<bool> {
        loop {
            let seen = self.led().await?;
            self.member(&seen, node)?;
            if seen.node(node).is_some_and(|known| known.state() == State::Alive) {
                break;
            }
            self.set_aside(&seen, node, false).await?;
            self.wait(&format!(
                "node {node} may own channels; the leader has not heard it yet"
            ))
            .await?;
        }
        let text = format!("node {node} may own channels; it gets its share one by one\n");
        self.print(&json!({"node": node, "state": "alive"}), &text)?;
        Ok(true)
    }

    /// Tells the node itself.
    async fn set_aside(&mut self, seen: &Seen, node: u64, aside: bool) -> anyhow::Result<()> {
        let address = self.member(seen, node)?;
        let request = pb::SetAsideRequest { node, aside };
        loop {
            let asked = self
                .client
                .ask(&address, async |mut admin| admin.set_aside(request).await);
            match asked.await {
                Ok(_) => return Ok(()),
                Err(status) if again(&status) && lives(seen, node) => {
                    let why = self.client.why(&status);
                    self.wait(&format!("node {node} at {address} cannot be told: {why}"))
                        .await?;
                }
                Err(status) => bail!(
                    "node {node} at {address} cannot be told: {}. If it is to go, stop it: others take over what it \
                     owns",
                    self.client.why(&status)
                ),
            }
        }
    }
}

fn lives(seen: &Seen, node: u64) -> bool {
    let known = seen.node(node);
    known.is_some_and(|known| matches!(known.state(), State::Alive | State::Draining))
}

/// Whether another node can take channels.
fn has_heir(seen: &Seen, node: u64) -> bool {
    seen.best()
        .nodes
        .iter()
        .any(|other| other.node != node && other.member && other.state() == State::Alive)
}
