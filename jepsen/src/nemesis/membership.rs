//! Members come and go: a node is added, given a vote, and taken out again while clients go on; the leader hands over;
//! a node gives away what it owns.

use std::time::Duration;

use rand::rngs::SmallRng;

use super::{Fault, Outcome, Undo, named};
use crate::live::admin::{Said, ask};
use crate::live::cluster::Cluster;
use crate::live::target::Target;

const WITHIN: Duration = Duration::from_secs(60);
const UNKNOWN_COMMAND: &str = "the program has no commands for it";

/// A fourth node, or fifth, or sixth: numbers are never used again.
pub(super) async fn add(cluster: &mut Cluster) -> Outcome {
    let (node, address) = match cluster.start_guest() {
        Ok(guest) => guest,
        Err(error) => return Outcome::Skipped(format!("{error:#}")),
    };
    let fault = Fault {
        target: format!("node {node} joins and leaves"),
        undo: Undo::Guest(node),
    };
    match ask(
        cluster,
        &["add", &node.to_string(), &address, "--promote"],
        WITHIN,
    )
    .await
    {
        Ok(Said::Done(_)) => Outcome::Installed(fault),
        Ok(Said::NotKnown) => {
            cluster.end_guest().await;
            Outcome::Skipped(UNKNOWN_COMMAND.into())
        }
        Err(error) => Outcome::Unknown(fault, format!("{error:#}")),
    }
}

/// Takes it out, and stops it.
pub(super) async fn remove(cluster: &mut Cluster, node: u64) -> anyhow::Result<()> {
    ask(cluster, &["remove", &node.to_string()], WITHIN).await?;
    cluster.end_guest().await;
    Ok(())
}

/// Another voter leads.
pub(super) async fn transfer(cluster: &mut Cluster) -> Outcome {
    let fault = Fault {
        target: "the leader".into(),
        undo: Undo::Nothing,
    };
    match ask(cluster, &["transfer-leader"], WITHIN).await {
        Ok(Said::Done(_)) => Outcome::Installed(fault),
        Ok(Said::NotKnown) => Outcome::Skipped(UNKNOWN_COMMAND.into()),
        Err(error) => Outcome::Unknown(fault, format!("{error:#}")),
    }
}

/// The owner gives all that it owns to others.
pub(super) async fn drain(cluster: &mut Cluster, rng: &mut SmallRng) -> Outcome {
    let nodes = Target::Owner.choose(cluster, rng).await;
    let node = nodes.first().copied().unwrap_or_default();
    let fault = Fault {
        target: named(&nodes),
        undo: Undo::Drain(node),
    };
    match ask(cluster, &["drain", &(node + 1).to_string()], WITHIN).await {
        Ok(Said::Done(_)) => Outcome::Installed(fault),
        Ok(Said::NotKnown) => Outcome::Skipped(UNKNOWN_COMMAND.into()),
        Err(error) => Outcome::Unknown(fault, format!("{error:#}")),
    }
}

/// The node owns channels again.
pub(super) async fn resume(cluster: &mut Cluster, node: usize) -> anyhow::Result<()> {
    ask(cluster, &["resume", &(node + 1).to_string()], WITHIN).await?;
    Ok(())
}
