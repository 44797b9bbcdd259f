//! A rolling restart: each node is asked to stop and is started again, the next one when it serves.

use std::time::Duration;

use super::{Fault, Outcome, Undo};
use crate::live::cluster::Cluster;

/// A stop lets clients finish first.
const STOPS_WITHIN: Duration = Duration::from_secs(30);
const SERVES_WITHIN: Duration = Duration::from_secs(60);

pub(super) async fn install(cluster: &mut Cluster) -> Outcome {
    for node in 0..cluster.len() {
        let restarted = async {
            cluster.stop(node, STOPS_WITHIN).await?;
            cluster.start_node(node)?;
            cluster.serves(node, SERVES_WITHIN).await
        };
        if let Err(error) = restarted.await {
            let undo = match cluster.runs(node) {
                true => Undo::Nothing,
                false => Undo::Start(vec![node]),
            };
            let target = format!("node {}", node + 1);
            return Outcome::Unknown(Fault { target, undo }, format!("{error:#}"));
        }
    }
    Outcome::Installed(Fault {
        target: "all, one after the other".into(),
        undo: Undo::Nothing,
    })
}
