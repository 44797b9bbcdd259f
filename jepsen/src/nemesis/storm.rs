//! One thing after the other, and on top of each other: nodes are killed, started, paused, woken up and cut off at
//! random, some hundred milliseconds apart, a majority of them at a time if it comes to that.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep};

use super::{Fault, Outcome, Undo};
use crate::live::cluster::Cluster;
use crate::live::network::Cut;

const LASTS: Duration = Duration::from_secs(12);
const BETWEEN_MS: std::ops::Range<u64> = 50..1500;

pub(super) async fn install(cluster: &mut Cluster, rng: &mut SmallRng) -> Outcome {
    let until = Instant::now() + LASTS;
    let mut done = Vec::new();
    while Instant::now() < until {
        let node = rng.random_range(0..cluster.len());
        match gust(cluster, node, rng).await {
            Ok(what) => done.push(format!("{what} {}", node + 1)),
            Err(error) => {
                let fault = fault(&done);
                return Outcome::Unknown(fault, format!("{error:#}"));
            }
        }
        sleep(Duration::from_millis(rng.random_range(BETWEEN_MS))).await;
    }
    Outcome::Installed(fault(&done))
}

fn fault(done: &[String]) -> Fault {
    Fault {
        target: done.join(", "),
        undo: Undo::Everything,
    }
}

/// One thing; what it was.
async fn gust(cluster: &mut Cluster, node: usize, rng: &mut SmallRng) -> anyhow::Result<&'static str> {
    if cluster.is_paused(node) {
        // Some never wake up.
        if rng.random_ratio(1, 4) {
            cluster.kill(node).await?;
            return Ok("kill asleep");
        }
        cluster.resume(node)?;
        return Ok("wake");
    }
    if !cluster.runs(node) {
        cluster.start_node(node)?;
        return Ok("start");
    }
    let can_cut = cluster.network.obstacle().is_empty();
    match rng.random_range(0..if can_cut { 5 } else { 2 }) {
        0 => {
            cluster.kill(node).await?;
            Ok("kill")
        }
        1 => {
            cluster.pause(node)?;
            Ok("pause")
        }
        2 | 3 => {
            let others: Vec<_> = (0..cluster.len()).filter(|other| *other != node).collect();
            let cut = [Cut::In, Cut::Out, Cut::Whole][rng.random_range(0..3)];
            cluster.network.cut(node, &others, cut)?;
            Ok("cut")
        }
        _ => {
            cluster.network.heal()?;
            Ok("join")
        }
    }
}

/// All run and reach each other again.
pub(super) async fn heal(cluster: &mut Cluster) -> anyhow::Result<()> {
    cluster.network.heal()?;
    for node in 0..cluster.len() {
        if cluster.is_paused(node) {
            cluster.resume(node)?;
        } else if !cluster.runs(node) {
            cluster.start_node(node)?;
        }
    }
    Ok(())
}
