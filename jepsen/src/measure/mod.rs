//! How long a cluster of real processes takes for what its promises say nothing of.
//!
//! All on loopback: nothing is cut off here, and a network namespace would cost time of its own.

pub mod creations;
pub mod forwarding;
pub mod resume;

use std::fmt;
use std::time::Duration;

use anyhow::bail;
use millrace_client::{Basin, BasinConfig};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::live::cluster::{Cluster, Plan};
use crate::live::network::Network;
use crate::live::{BASIN, builder_of};

const STARTS_WITHIN: Duration = Duration::from_secs(120);

/// Durations in order.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Distribution {
    /// Ascending.
    pub seconds: Vec<f64>,
}

impl Distribution {
    /// Of these.
    pub fn of(durations: impl IntoIterator<Item = Duration>) -> Self {
        let mut seconds: Vec<f64> = durations.into_iter().map(|took| took.as_secs_f64()).collect();
        seconds.sort_by(f64::total_cmp);
        Self { seconds }
    }

    /// The value below which this share of them lies, 0 to 1; nearest rank. 0 of none.
    pub fn quantile(&self, share: f64) -> f64 {
        let rank = (share * self.seconds.len() as f64).ceil() as usize;
        let at = rank.clamp(1, self.seconds.len().max(1)) - 1;
        self.seconds.get(at).copied().unwrap_or_default()
    }
}

impl fmt::Display for Distribution {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |share| self.quantile(share) * 1000.0;
        write!(
            f,
            "p50 {:.1} ms, p90 {:.1} ms, p99 {:.1} ms, max {:.1} ms of {}",
            ms(0.5),
            ms(0.9),
            ms(0.99),
            ms(1.0),
            self.seconds.len()
        )
    }
}

/// A fresh cluster with a basin whose streams come with their first append.
async fn start(plan: Plan) -> anyhow::Result<Cluster> {
    let cluster = Cluster::start(plan, Network::loopback("time is measured"), STARTS_WITHIN).await?;
    let config = BasinConfig {
        create_stream_on_append: true,
        ..BasinConfig::default()
    };
    let deadline = Instant::now() + STARTS_WITHIN;
    while let Err(error) = basin(&cluster, 0)?.ensure(config).await {
        if Instant::now() > deadline {
            bail!("the basin cannot be made: {error}");
        }
        sleep(Duration::from_millis(100)).await;
    }
    Ok(cluster)
}

/// The basin as one node serves it.
fn basin(cluster: &Cluster, node: usize) -> anyhow::Result<Basin> {
    Ok(builder_of(cluster, node).build()?.basin(BASIN)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_values_that_occurred() {
        let of = Distribution::of((1..=10).rev().map(Duration::from_secs));
        let at = |share| of.quantile(share);
        assert_eq!(
            [at(0.0), at(0.5), at(0.9), at(0.91), at(1.0)],
            [1.0, 5.0, 9.0, 10.0, 10.0]
        );
        assert_eq!(Distribution::default().quantile(0.5), 0.0);
    }
}
