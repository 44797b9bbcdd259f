//! SIGKILL; healed by a start on the same data.

use rand::rngs::SmallRng;

use super::{Fault, Outcome, Undo, named};
use crate::live::cluster::Cluster;
use crate::live::target::Target;

pub(super) async fn install(cluster: &mut Cluster, target: Target, rng: &mut SmallRng) -> Outcome {
    let nodes = target.choose(cluster, rng).await;
    let fault = Fault {
        target: named(&nodes),
        undo: Undo::Start(nodes.clone()),
    };
    for node in nodes {
        if let Err(error) = cluster.kill(node).await {
            return Outcome::Unknown(fault, format!("{error:#}"));
        }
    }
    Outcome::Installed(fault)
}
