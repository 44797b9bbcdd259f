//! What it costs to ask a node that is not the owner.

use std::fmt;
use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_client::{AppendSessionOptions, Batch, Stream};
use serde::Serialize;
use tokio::time::Instant;

use super::{Distribution, basin, start};
use crate::live::cluster::{Cluster, Plan};

const RECORD_BYTES: usize = 1024;
const RECORDS_PER_BATCH: usize = 64;
/// Appends one after the other, in turns through the owner and through another node.
const LONE_APPENDS: usize = 2_000;
/// Batches through one node before it is the other's turn.
const BULK_BATCHES: usize = 1_500;

/// Appends of one stream through its owner, and through another node.
#[derive(Debug, Clone, Serialize)]
pub struct Forwarding {
    owner: Cost,
    other: Cost,
}

#[derive(Debug, Clone, Default, Serialize)]
struct Cost {
    /// Of an append with nothing else on its way.
    latency: Distribution,
    /// Of all nodes together, over a session that is always full.
    cpu_seconds_per_gib: f64,
}

impl fmt::Display for Forwarding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (owner, other) = (&self.owner, &self.other);
        let ms = |cost: &Cost| cost.latency.quantile(0.5) * 1000.0;
        writeln!(f, "lone append through the owner: {}", owner.latency)?;
        writeln!(f, "through another node:          {}", other.latency)?;
        writeln!(f, "forwarding adds {:.2} ms at p50", ms(other) - ms(owner))?;
        write!(
            f,
            "CPU of all nodes, s/GiB: {:.2} through the owner, {:.2} through another node: {:.2} times",
            owner.cpu_seconds_per_gib,
            other.cpu_seconds_per_gib,
            other.cpu_seconds_per_gib / owner.cpu_seconds_per_gib
        )
    }
}

/// Measures with one stream.
pub async fn forwarding(plan: Plan, rounds: usize) -> anyhow::Result<Forwarding> {
    let mut cluster = start(plan).await?;
    let name = "forwarding";
    let mut through = Vec::new();
    for node in 0..cluster.len() {
        through.push(basin(&cluster, node)?.stream(name)?);
    }
    through[0].append(batch(1)?).await?;
    let owner = owner(&cluster, &through[0]).await?;
    let other = (owner + 1) % cluster.len();
    let mut costs = [Cost::default(), Cost::default()];
    let streams = [&through[owner], &through[other]];
    let mut lone = [Vec::new(), Vec::new()];
    for _ in 0..LONE_APPENDS {
        for (stream, took) in streams.iter().zip(&mut lone) {
            let began = Instant::now();
            stream.append(batch(1)?).await?;
            took.push(began.elapsed());
        }
    }
    let mut cpu = [0.0; 2];
    for _ in 0..rounds {
        for (stream, cpu) in streams.iter().zip(&mut cpu) {
            let before = cluster.cpu_seconds()?;
            bulk(stream).await?;
            *cpu += cluster.cpu_seconds()? - before;
        }
    }
    let gib = (rounds * BULK_BATCHES * RECORDS_PER_BATCH * RECORD_BYTES) as f64 / f64::from(1 << 30);
    for ((cost, took), cpu) in costs.iter_mut().zip(lone).zip(cpu) {
        cost.latency = Distribution::of(took);
        cost.cpu_seconds_per_gib = cpu / gib;
    }
    cluster.kill_all().await;
    let [owner, other] = costs;
    Ok(Forwarding { owner, other })
}

/// Whose channels take the stream's records.
async fn owner(cluster: &Cluster, stream: &Stream) -> anyhow::Result<usize> {
    const LOOKS: usize = 20;
    for _ in 0..LOOKS {
        let looked = crate::live::target::owner(cluster);
        let (owner, _) = tokio::join!(looked, async {
            for _ in 0..LOOKS {
                tokio::time::sleep(Duration::from_millis(10)).await;
                let _ = stream.append(batch(1).expect("a batch")).await;
            }
        });
        if let Some(owner) = owner {
            return Ok(owner);
        }
    }
    None.context("no node takes the stream's records")
}

async fn bulk(stream: &Stream) -> anyhow::Result<()> {
    let session = stream.append_session(AppendSessionOptions::default())?;
    for _ in 0..BULK_BATCHES {
        drop(session.submit(batch(RECORDS_PER_BATCH)?).await?);
    }
    session.close().await?;
    Ok(())
}

fn batch(records: usize) -> anyhow::Result<Batch> {
    ensure!(records > 0, "a batch has records");
    Ok(Batch::new(vec![vec![b'x'; RECORD_BYTES]; records])?)
}
