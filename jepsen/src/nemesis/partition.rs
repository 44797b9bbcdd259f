//! Packets between nodes are dropped, in one direction or both. Clients and the store are reached as before: a node
//! that was cut off goes on being asked, and must not answer what it cannot know.

use rand::rngs::SmallRng;

use super::{Fault, Outcome, Undo, named};
use crate::live::cluster::Cluster;
use crate::live::network::Cut;
use crate::live::target::Target;

pub(super) async fn install(cluster: &mut Cluster, target: Target, cut: Cut, rng: &mut SmallRng) -> Outcome {
    let obstacle = cluster.network.obstacle();
    if !obstacle.is_empty() {
        return Outcome::Skipped(obstacle);
    }
    let nodes = target.choose(cluster, rng).await;
    let direction = match cut {
        Cut::In => "hears no peer",
        Cut::Out => "is heard by no peer",
        Cut::Whole => "is cut off",
    };
    let fault = Fault {
        target: format!("{} {direction}", named(&nodes)),
        undo: Undo::Network,
    };
    for node in nodes {
        let others: Vec<_> = (0..cluster.len()).filter(|other| *other != node).collect();
        if let Err(error) = cluster.network.cut(node, &others, cut) {
            return Outcome::Unknown(fault, format!("{error:#}"));
        }
    }
    Outcome::Installed(fault)
}
