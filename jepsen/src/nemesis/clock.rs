//! The wall clocks of nodes step back and forth by seconds, and run too fast or too slow.

use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::sleep;

use super::{Fault, Outcome, Undo};
use crate::live::clocks::Reading;
use crate::live::cluster::Cluster;

const SETTINGS: usize = 8;
const AHEAD_MS: std::ops::RangeInclusive<i64> = -4000..=4000;
const RATE: std::ops::RangeInclusive<f64> = 0.8..=1.2;
/// A process looks at its clock once a second.
const BETWEEN_MS: std::ops::Range<u64> = 500..2500;

pub(super) async fn install(cluster: &mut Cluster, rng: &mut SmallRng) -> Outcome {
    if let Some(obstacle) = cluster.clocks.obstacle() {
        return Outcome::Skipped(obstacle.into());
    }
    let mut done = Vec::new();
    for _ in 0..SETTINGS {
        let node = rng.random_range(0..cluster.len());
        let reading = Reading {
            ahead_ms: rng.random_range(AHEAD_MS),
            rate: rng.random_range(RATE),
        };
        if let Err(error) = cluster.clocks.set(node, reading) {
            return Outcome::Unknown(fault(&done), format!("{error:#}"));
        }
        done.push(format!(
            "node {} {:+} ms x{:.2}",
            node + 1,
            reading.ahead_ms,
            reading.rate
        ));
        sleep(Duration::from_millis(rng.random_range(BETWEEN_MS))).await;
    }
    Outcome::Installed(fault(&done))
}

fn fault(done: &[String]) -> Fault {
    Fault {
        target: done.join(", "),
        undo: Undo::Clocks,
    }
}

/// All are right again.
pub(super) fn heal(cluster: &Cluster) -> anyhow::Result<()> {
    (0..cluster.len()).try_for_each(|node| cluster.clocks.heal(node))
}
