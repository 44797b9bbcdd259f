//! The wall clocks of nodes step back and forth by seconds, and run too fast or too slow.
//!
//! Clocks that nobody follows are no fault. So all are set ahead first, and every node has to tell that time.

use std::time::Duration;

use futures::future::join_all;
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep};

use super::{Fault, Outcome, Undo};
use crate::live::clocks::Reading;
use crate::live::cluster::Cluster;

const SETTINGS: usize = 8;
const AHEAD_MS: std::ops::RangeInclusive<i64> = -4000..=4000;
const RATE: std::ops::RangeInclusive<f64> = 0.8..=1.2;
/// A process looks at its clock once a second.
const BETWEEN_MS: std::ops::Range<u64> = 500..2500;

/// What every node has to tell before anything else is done.
const PROOF: Reading = Reading {
    ahead_ms: 4000,
    rate: 1.0,
};
/// A node that tells to be so far ahead follows: it is at least three seconds for one that does, rounded down, and at most
/// one for one that does not, which its answer may have taken.
const FOLLOWS_FROM_MS: i64 = 2000;
/// One that does not tell so when asked this long after does not follow.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(5);
/// One that has not answered by then is not asked any more.
const ANSWERS_WITHIN: Duration = Duration::from_secs(30);
const LOOK_INTERVAL: Duration = Duration::from_millis(100);

/// Whether the clock of a node is the one that was set.
#[derive(Debug, PartialEq, Eq)]
enum Followed {
    Yes,
    /// It is so far ahead instead.
    No(i64),
    /// Nobody can say, for this reason.
    Unknown(String),
}

/// Why it is not sure that all clocks are set.
#[derive(Debug, PartialEq, Eq)]
enum Doubt {
    /// None is.
    Nowhere(String),
    Somewhere(String),
}

pub(super) async fn install(cluster: &mut Cluster, rng: &mut SmallRng) -> Outcome {
    if let Some(obstacle) = cluster.clocks.obstacle() {
        return Outcome::Skipped(obstacle.into());
    }
    let followed = join_all((0..cluster.len()).map(|node| follow(cluster, node))).await;
    let doubt = match doubt(&followed) {
        Some(Doubt::Nowhere(why)) => {
            return match heal(cluster) {
                Ok(()) => Outcome::Skipped(why),
                Err(error) => Outcome::Unknown(fault(&[]), format!("{why}; {error:#}")),
            };
        }
        Some(Doubt::Somewhere(why)) => Some(why),
        None => None,
    };
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
    match doubt {
        None => Outcome::Installed(fault(&done)),
        Some(why) => Outcome::Unknown(fault(&done), why),
    }
}

fn fault(done: &[String]) -> Fault {
    Fault {
        target: done.join(", "),
        undo: Undo::Clocks,
    }
}

/// Sets the node's clock ahead and waits until it tells so.
async fn follow(cluster: &Cluster, node: usize) -> Followed {
    if let Err(error) = cluster.clocks.set(node, PROOF) {
        return Followed::Unknown(format!("{error:#}"));
    }
    let set_at = Instant::now();
    loop {
        let asked_after = set_at.elapsed();
        match cluster.ahead_ms(node).await {
            Ok(ahead_ms) if ahead_ms >= FOLLOWS_FROM_MS => return Followed::Yes,
            Ok(ahead_ms) if asked_after >= FOLLOWS_WITHIN => return Followed::No(ahead_ms),
            Err(error) if asked_after >= ANSWERS_WITHIN => return Followed::Unknown(error.to_string()),
            _ => sleep(LOOK_INTERVAL).await,
        }
    }
}

/// What is to be thought of nodes of which this became, in their order.
fn doubt(followed: &[Followed]) -> Option<Doubt> {
    let told = followed.iter().enumerate().filter_map(|(node, followed)| {
        let node = node + 1;
        match followed {
            Followed::Yes => None,
            Followed::No(ahead_ms) => Some(format!(
                "node {node} was set {:+} ms and tells {ahead_ms:+} ms",
                PROOF.ahead_ms
            )),
            Followed::Unknown(why) => Some(format!("node {node} does not tell its clock: {why}")),
        }
    });
    let told: Vec<String> = told.collect();
    let nobody = followed
        .iter()
        .all(|followed| matches!(followed, Followed::No(_)));
    match told.join(", ") {
        _ if told.is_empty() => None,
        why if nobody => Some(Doubt::Nowhere(format!("libfaketime is not in force: {why}"))),
        why => Some(Doubt::Somewhere(why)),
    }
}

/// All are right again.
pub(super) fn heal(cluster: &Cluster) -> anyhow::Result<()> {
    (0..cluster.len()).try_for_each(|node| cluster.clocks.heal(node))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_is_set_when_every_node_has_told_so() {
        let silent = || Followed::Unknown("no answer".into());
        let (follows, not) = (|| Followed::Yes, || Followed::No(-400));
        assert_eq!(doubt(&[follows(), follows()]), None);
        assert!(matches!(doubt(&[not(), not()]), Some(Doubt::Nowhere(_))));
        for unsure in [
            [follows(), not()],
            [silent(), follows()],
            [silent(), not()],
            [silent(), silent()],
        ] {
            assert!(matches!(doubt(&unsure), Some(Doubt::Somewhere(_))), "{unsure:?}");
        }
        let Some(Doubt::Nowhere(why)) = doubt(&[not()]) else {
            panic!("nobody follows");
        };
        assert!(why.contains("node 1 was set +4000 ms and tells -400 ms"), "{why}");
    }
}
