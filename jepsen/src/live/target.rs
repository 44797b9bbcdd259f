//! Who leads, and who owns what is written to.
//!
//! The cluster says who leads, by `millrace cluster status`; where it does not, the leader of the latest term has said so
//! in its log. The owner of the streams in use is whose channels take appends
//! while one looks, by its own metrics. Both are hints: a fault that hits another node than it meant to is a fault all
//! the same, and the report says which node it was.

use std::time::Duration;

use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use serde_json::Value;
use tokio::time::sleep;

use super::admin;
use super::cluster::Cluster;
use super::edge;

const LEADS: &str = "this node leads the metadata group";
const TAKEN: &str = "millrace_channel_records_total";
/// How long appends are counted to find out who takes them.
const LOOK: Duration = Duration::from_millis(300);

/// Whom a fault is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Target {
    /// Of the metadata group.
    Leader,
    /// Of the channel that is written to most.
    Owner,
    /// Both of them; one node, if it is both.
    Both,
    /// As many as may be away without stopping the others.
    Minority,
    /// All nodes that are not.
    AllButOwner,
    /// Any one.
    Any,
    /// All.
    All,
}

impl Target {
    /// Nodes to hit. Where the one that is meant cannot be found, any one.
    pub async fn choose(self, cluster: &Cluster, rng: &mut SmallRng) -> Vec<usize> {
        let running = || (0..cluster.len()).filter(|node| cluster.runs(*node));
        let any = running().choose(rng).unwrap_or_default();
        let mut nodes = match self {
            Self::Leader => vec![leader(cluster).await.unwrap_or(any)],
            Self::Owner => vec![owner(cluster).await.unwrap_or(any)],
            Self::Both => {
                let owner = owner(cluster).await.unwrap_or(any);
                vec![leader(cluster).await.unwrap_or(any), owner]
            }
            Self::Minority => running().choose_multiple(rng, (cluster.len() - 1) / 2),
            Self::AllButOwner => {
                let owner = owner(cluster).await.unwrap_or(any);
                running().filter(|node| *node != owner).collect()
            }
            Self::Any => vec![any],
            Self::All => running().collect(),
        };
        nodes.sort_unstable();
        nodes.dedup();
        nodes
    }
}

/// The node that leads the metadata group.
pub async fn leader(cluster: &Cluster) -> Option<usize> {
    match admin::leader(cluster).await {
        Some(leader) => Some(leader),
        None => leader_by_logs(cluster),
    }
}

/// The node that began the highest term.
fn leader_by_logs(cluster: &Cluster) -> Option<usize> {
    let term = |node: &usize| {
        let log = std::fs::read_to_string(cluster.log(*node)).ok()?;
        let lines = log.lines().rev().filter(|line| line.contains(LEADS));
        lines.filter_map(term_of).max()
    };
    (0..cluster.len())
        .filter_map(|node| Some((term(&node)?, node)))
        .max()
        .map(|(_, node)| node)
}

fn term_of(line: &str) -> Option<u64> {
    let line: Value = serde_json::from_str(line).ok()?;
    line.get("fields")
        .and_then(|fields| fields.get("term"))
        .or(line.get("term"))?
        .as_u64()
}

/// The node whose channels take the most records while one looks; `None` if nothing is written.
pub async fn owner(cluster: &Cluster) -> Option<usize> {
    let before = taken(cluster).await;
    sleep(LOOK).await;
    let after = taken(cluster).await;
    let grown = before
        .iter()
        .zip(&after)
        .map(|(before, after)| match (before, after) {
            (Some(before), Some(after)) => after.saturating_sub(*before),
            _ => 0,
        });
    let (most, node) = grown.zip(0..).max()?;
    (most > 0).then_some(node)
}

async fn taken(cluster: &Cluster) -> Vec<Option<u64>> {
    let nodes = (0..cluster.len()).map(async |node| {
        if !cluster.runs(node) {
            return None;
        }
        let metrics = edge::get(cluster.http(node), "/metrics", LOOK).await.ok()?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(TAKEN))?;
        line.trim().parse().ok()
    });
    futures::future::join_all(nodes).await
}
