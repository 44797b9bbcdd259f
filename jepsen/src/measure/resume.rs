//! How long writers wait when a node goes.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::ValueEnum;
use futures::future::try_join_all;
use millrace_client::{Batch, Stream};
use serde::Serialize;
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::{Distribution, basin, start};
use crate::live::cluster::{Cluster, Plan};
use crate::live::target;

const STREAMS: usize = 6;
/// Writers are undisturbed for so long before and after.
const CALM: Duration = Duration::from_secs(1);
const SERVES_WITHIN: Duration = Duration::from_secs(120);

/// How a node goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Way {
    /// SIGKILL.
    Kill,
    /// SIGTERM, as for a rolling restart.
    Stop,
}

/// Which node goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize)]
pub enum Who {
    /// The one that leads the metadata group.
    Leader,
    /// One that does not.
    Other,
}

/// The longest time without an acknowledgement, over all writers, of every round. Each writer has one append on its
/// way, through a node that stays.
#[derive(Debug, Clone, Serialize)]
pub struct Resume {
    way: Way,
    who: Who,
    /// Of an election and of a lease.
    election_timeout_ms: u128,
    pauses: Distribution,
}

impl fmt::Display for Resume {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            way,
            who,
            election_timeout_ms,
            pauses,
        } = self;
        let lease = 2 * election_timeout_ms;
        write!(
            f,
            "{way:?} {who:?}, elections to {election_timeout_ms} ms, leases of {lease} ms: writers pause {pauses}"
        )
    }
}

/// One round after the other, each with another victim.
pub async fn resume(
    plan: Plan,
    way: Way,
    who: Who,
    rounds: usize,
    mut told: impl FnMut(usize, Duration),
) -> anyhow::Result<Resume> {
    ensure!(plan.nodes > 2, "with fewer than three nodes nothing goes on");
    let election_timeout = plan.election_timeout;
    let mut cluster = start(plan).await?;
    let mut pauses = Vec::new();
    for round in 0..rounds {
        let leader = target::leader(&cluster).await.context("nobody leads")?;
        let others: Vec<usize> = (0..cluster.len()).filter(|node| *node != leader).collect();
        let victim = match who {
            Who::Leader => leader,
            Who::Other => others[round % others.len()],
        };
        let pause = pause_of(&mut cluster, victim, way, election_timeout).await?;
        told(victim, pause);
        pauses.push(pause);
        cluster.start_node(victim)?;
        cluster.serves(victim, SERVES_WITHIN).await?;
        // Channels come back one at a time.
        sleep(election_timeout * 2 + CALM).await;
    }
    cluster.kill_all().await;
    Ok(Resume {
        way,
        who,
        election_timeout_ms: election_timeout.as_millis(),
        pauses: Distribution::of(pauses),
    })
}

async fn pause_of(
    cluster: &mut Cluster,
    victim: usize,
    way: Way,
    election_timeout: Duration,
) -> anyhow::Result<Duration> {
    let stay: Vec<usize> = (0..cluster.len()).filter(|node| *node != victim).collect();
    let (over, until) = watch::channel(false);
    let mut writers = Vec::new();
    for number in 0..STREAMS {
        let through = stay[number % stay.len()];
        let stream = basin(cluster, through)?.stream(format!("resume/{number}"))?;
        writers.push(tokio::spawn(longest_pause(stream, until.clone())));
    }
    sleep(CALM).await;
    match way {
        Way::Kill => cluster.kill(victim).await?,
        Way::Stop => cluster.stop(victim, SERVES_WITHIN).await?,
    }
    // Longer than it may take; a writer that still waits then is waited for.
    let leased = match way {
        Way::Kill => election_timeout * 4,
        Way::Stop => Duration::ZERO,
    };
    sleep(leased + CALM).await;
    over.send_replace(true);
    let pauses = try_join_all(writers).await?;
    Ok(pauses.into_iter().max().unwrap_or_default())
}

/// An append that fails is made again; only acknowledgements count.
async fn longest_pause(stream: Stream, over: watch::Receiver<bool>) -> Duration {
    let mut longest = Duration::ZERO;
    // The first may create the stream.
    let mut last = None;
    while !*over.borrow() || last.is_none() {
        let batch = Batch::new(["x"]).expect("a small record");
        if stream.append(batch).await.is_ok() {
            let now = Instant::now();
            longest = longest.max(last.map_or(Duration::ZERO, |last| now - last));
            last = Some(now);
        }
        sleep(Duration::from_millis(2)).await;
    }
    longest
}
