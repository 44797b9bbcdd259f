//! SIGSTOP, for longer than a lease; healed by SIGCONT.
//!
//! A node that wakes up has everything in memory and in its sockets that it had, and must find out by its clock that
//! it has no right to answer any more.

use rand::rngs::SmallRng;

use super::{Fault, Outcome, Undo, named};
use crate::live::cluster::Cluster;
use crate::live::target::Target;

pub(super) async fn install(cluster: &mut Cluster, target: Target, rng: &mut SmallRng) -> Outcome {
    let nodes = target.choose(cluster, rng).await;
    let mut fault = Fault {
        target: named(&nodes),
        undo: Undo::Nothing,
    };
    let mut paused = Vec::new();
    for node in nodes {
        match cluster.pause(node) {
            Ok(()) => paused.push(node),
            Err(error) => {
                fault.undo = Undo::Resume(paused);
                return Outcome::Unknown(fault, format!("{error:#}"));
            }
        }
    }
    fault.undo = Undo::Resume(paused);
    Outcome::Installed(fault)
}
