//! Real processes on this machine, real faults, and what their clients saw of it.

pub mod admin;
pub mod clocks;
pub mod cluster;
pub mod edge;
pub mod judge;
pub mod network;
pub mod ports;
pub mod proxy;
pub mod report;
pub mod run;
pub mod store;
pub mod target;
pub mod zones;

use std::time::Duration;

use millrace_client::{Client, ClientBuilder};

use self::cluster::Cluster;
use crate::workload;

/// All streams of a run are in it.
pub const BASIN: &str = "jepsen-basin";
/// What takes longer has an unknown outcome.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(3);

/// Of a client that asks this node and no other, whatever answers say of who might know better.
pub fn builder_of(cluster: &Cluster, node: usize) -> ClientBuilder {
    let address = cluster.http(node);
    Client::builder()
        .endpoints([format!("http://{address}")])
        .connector(move |_| edge::connect(address))
}

/// A client of this node with the time limits of workloads.
pub fn client_of(cluster: &Cluster, node: usize, seed: u64) -> anyhow::Result<Client> {
    let seed = seed.wrapping_add(node as u64);
    Ok(workload::client(
        builder_of(cluster, node),
        REQUEST_TIMEOUT,
        seed,
    )?)
}
