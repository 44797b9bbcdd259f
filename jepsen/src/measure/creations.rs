//! How fast streams are made, listed, and there again after a restart.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::ensure;
use futures::StreamExt;
use futures::future::try_join_all;
use millrace_client::{Basin, ListOptions, StreamConfig};
use serde::Serialize;
use tokio::time::Instant;

use super::{basin, start};
use crate::live::cluster::Plan;

const CLIENTS: usize = 64;
const STOPS_WITHIN: Duration = Duration::from_secs(60);

/// Streams of one basin.
#[derive(Debug, Clone, Serialize)]
pub struct Creations {
    streams: usize,
    per_second: f64,
    listed_seconds: f64,
    /// From the start of all nodes until one of them has listed everything.
    reopened_seconds: f64,
}

impl fmt::Display for Creations {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} streams made by {CLIENTS} clients through all nodes: {:.0} a second; listed in {:.2} s; restarted and listed in {:.2} s",
            self.streams, self.per_second, self.listed_seconds, self.reopened_seconds
        )
    }
}

/// Makes so many, lists them, stops every node, starts them again and lists them again.
pub async fn creations(plan: Plan, streams: usize) -> anyhow::Result<Creations> {
    let mut cluster = start(plan).await?;
    let next = Arc::new(AtomicUsize::new(0));
    let began = Instant::now();
    let mut clients = Vec::new();
    for client in 0..CLIENTS {
        let (basin, next) = (basin(&cluster, client % cluster.len())?, next.clone());
        clients.push(create(basin, next, streams));
    }
    try_join_all(clients).await?;
    let per_second = streams as f64 / began.elapsed().as_secs_f64();
    let listed_seconds = list(&basin(&cluster, 0)?, streams).await?;
    for node in 0..cluster.len() {
        cluster.stop(node, STOPS_WITHIN).await?;
    }
    let began = Instant::now();
    for node in 0..cluster.len() {
        cluster.start_node(node)?;
    }
    cluster.serves(0, STOPS_WITHIN).await?;
    list(&basin(&cluster, 0)?, streams).await?;
    let reopened_seconds = began.elapsed().as_secs_f64();
    cluster.kill_all().await;
    Ok(Creations {
        streams,
        per_second,
        listed_seconds,
        reopened_seconds,
    })
}

async fn create(basin: Basin, next: Arc<AtomicUsize>, streams: usize) -> anyhow::Result<()> {
    loop {
        let number = next.fetch_add(1, Ordering::Relaxed);
        if number >= streams {
            return Ok(());
        }
        let stream = basin.stream(format!("created/{number:08}"))?;
        stream.create(StreamConfig::default()).await?;
    }
}

/// Seconds until all were listed.
async fn list(basin: &Basin, streams: usize) -> anyhow::Result<f64> {
    let began = Instant::now();
    let mut listed = 0;
    let mut names = std::pin::pin!(basin.streams(ListOptions::default()));
    while let Some(stream) = names.next().await {
        stream?;
        listed += 1;
    }
    ensure!(listed == streams, "{listed} of {streams} are listed");
    Ok(began.elapsed().as_secs_f64())
}
