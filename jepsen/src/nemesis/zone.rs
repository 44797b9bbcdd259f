//! An Express zone is dark, slow, fails, or is lost for good and replaced.

use std::time::Duration;

use anyhow::{Context, bail, ensure};
use rand::rngs::SmallRng;
use rand::seq::IteratorRandom;
use tokio::time::{Instant, sleep};

use super::{Fault, Outcome, Undo};
use crate::live::admin::{Said, ask};
use crate::live::cluster::Cluster;
use crate::live::proxy::Manners;
use crate::live::zones::{self, ZONES, Zones};

/// Until the zones are whole before one of them is taken, and until one is replaced: what is in no segment yet is
/// flushed meanwhile.
const WITHIN: Duration = Duration::from_secs(60);

/// So many zones, drawn anew, are like this to everybody.
pub(super) fn install(cluster: &Cluster, count: usize, manners: Manners, rng: &mut SmallRng) -> Outcome {
    let chosen = (0..ZONES).choose_multiple(rng, count);
    let named: Vec<_> = chosen.iter().map(|zone| format!("zone {}", zone + 1)).collect();
    match chosen
        .iter()
        .try_for_each(|zone| cluster.zones.set(*zone, manners))
    {
        Err(error) => Outcome::Skipped(format!("{error:#}")),
        Ok(()) => Outcome::Installed(Fault {
            target: named.join(", "),
            undo: Undo::Zones,
        }),
    }
}

/// All of them are as they should be.
pub(super) fn heal(cluster: &Cluster) -> anyhow::Result<()> {
    (0..ZONES).try_for_each(|zone| cluster.zones.set(zone, Manners::default()))
}

/// A node dies, and all that its disk has as a zone with it. It starts again on an empty one.
pub(super) async fn lose(cluster: &mut Cluster, rng: &mut SmallRng) -> Outcome {
    if !matches!(cluster.zones, Zones::Disks) {
        return Outcome::Skipped("zones are not on the nodes' disks: --zones disks has them there".into());
    }
    // One at a time is what is promised.
    if let Err(error) = zones::whole(cluster, WITHIN).await {
        return Outcome::Skipped(format!("{error:#}"));
    }
    let node = (0..ZONES).choose(rng).unwrap_or_default();
    let fault = Fault {
        target: format!("disk of node {}", node + 1),
        undo: Undo::LostZone(node),
    };
    let emptied = async {
        cluster.kill(node).await?;
        let disk = cluster.data_dir(node).join("zone");
        std::fs::remove_dir_all(&disk).with_context(|| format!("cannot remove {}", disk.display()))?;
        cluster.start_node(node)
    };
    match emptied.await {
        Ok(()) => Outcome::Installed(fault),
        Err(error) => Outcome::Unknown(fault, format!("{error:#}")),
    }
}

/// The empty disk takes the place of the lost one, and the cluster has said that it is safe to lose one again.
pub(super) async fn replace(cluster: &mut Cluster, node: usize) -> anyhow::Result<()> {
    if !cluster.runs(node) {
        cluster.start_node(node)?;
    }
    cluster.serves(node, WITHIN).await?;
    let deadline = Instant::now() + WITHIN;
    let zone = (node + 1).to_string();
    // The node may not have looked at its disk yet.
    loop {
        match ask(cluster, &["zones", "replace", &zone], WITHIN).await {
            Ok(Said::Done(_)) => break,
            Ok(Said::NotKnown) => bail!("the program cannot replace a zone"),
            Err(error) => ensure!(Instant::now() < deadline, "{error:#}"),
        }
        sleep(Duration::from_millis(500)).await;
    }
    zones::whole(cluster, WITHIN).await
}
