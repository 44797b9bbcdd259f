//! The Express zones of a cluster: the disks of its nodes, or three places in the store that fail by themselves.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde_json::Value;
use tokio::time::{Instant, sleep};

use super::admin::{Said, ask};
use super::cluster::Cluster;
use super::network::Network;
use super::proxy::Manners;
use super::store::Proxied;

/// There are so many, whatever the number of nodes.
pub const ZONES: usize = 3;
const ASKED_WITHIN: Duration = Duration::from_secs(10);

/// What zones are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// The disks of the first three nodes
    Disks,
    /// Three prefixes of --store, each behind proxies of its own
    Stores,
}

/// See the module.
#[derive(Debug)]
pub enum Zones {
    /// No stream is of class Express.
    None,
    /// Each is the disk of a node, and fails with it.
    Disks,
    /// Each with one proxy for each node.
    Stores(Vec<Proxied>),
}

impl Zones {
    /// In the store of `url` if they are to be there.
    pub async fn new(
        kind: Option<Kind>,
        url: Option<&str>,
        dir: &Path,
        network: &Network,
        nodes: usize,
    ) -> anyhow::Result<Self> {
        match kind {
            None => Ok(Self::None),
            Some(Kind::Disks) => {
                ensure!(nodes >= ZONES, "there are {ZONES} zones, and only {nodes} disks");
                Ok(Self::Disks)
            }
            Some(Kind::Stores) => {
                let url = url.context("--zones stores needs --store")?;
                let mut zones = Vec::new();
                for zone in 1..=ZONES {
                    zones.push(Proxied::new(url, &format!("zone-{zone}"), dir, network, nodes).await?);
                }
                Ok(Self::Stores(zones))
            }
        }
    }

    /// For `--express` of a node.
    pub fn urls(&self, node: usize) -> Option<String> {
        match self {
            Self::None => None,
            Self::Disks => Some(
                (1..=ZONES)
                    .map(|node| format!("disk://{node}"))
                    .collect::<Vec<_>>()
                    .join(","),
            ),
            Self::Stores(zones) => {
                let urls: Vec<_> = zones.iter().map(|zone| zone.url(node)).collect();
                Some(urls.join(","))
            }
        }
    }

    /// How one of them is to all nodes from now on.
    ///
    /// # Errors
    /// It cannot be made to misbehave.
    pub fn set(&self, zone: usize, manners: Manners) -> anyhow::Result<()> {
        match self {
            Self::None => bail!("there are no zones: --zones says what they are"),
            Self::Disks => bail!("zones are disks, which fail with their nodes: kill, pause or cut those"),
            Self::Stores(zones) => {
                zones[zone].set_all(manners);
                Ok(())
            }
        }
    }
}

/// Every zone is in use, and has all that it is to have.
///
/// # Errors
/// It is not so within `within`.
pub async fn whole(cluster: &Cluster, within: Duration) -> anyhow::Result<()> {
    if matches!(cluster.zones, Zones::None) {
        return Ok(());
    }
    let deadline = Instant::now() + within;
    loop {
        let state = match ask(cluster, &["zones"], ASKED_WITHIN).await {
            Ok(Said::Done(zones)) if are_whole(&zones) => return Ok(()),
            Ok(said) => format!("{said:?}"),
            Err(error) => format!("{error:#}"),
        };
        ensure!(
            Instant::now() < deadline,
            "zones are not whole within {within:?}: {state}"
        );
        sleep(Duration::from_millis(500)).await;
    }
}

fn are_whole(zones: &Value) -> bool {
    let is_whole = |zone: &Value| zone["state"] == "ok" && zone["repair_backlog"].as_u64().unwrap_or(0) == 0;
    zones
        .as_array()
        .is_some_and(|zones| zones.len() == ZONES && zones.iter().all(is_whole))
}
