//! The store is slow, refuses requests, or does what is asked and does not answer.

use std::time::Duration;

use rand::rngs::SmallRng;

use super::{Fault, Outcome, Undo, named};
use crate::live::cluster::Cluster;
use crate::live::proxy::Manners;
use crate::live::target::Target;

/// Answers take up to a second and a half.
pub(super) const SLOW: Manners = Manners {
    refuse: 0.0,
    lose: 0.0,
    delay_max: Duration::from_millis(1500),
};

/// Half of all requests do not get there.
pub(super) const FAILING: Manners = Manners {
    refuse: 0.5,
    lose: 0.0,
    delay_max: Duration::from_millis(50),
};

/// A third of all answers do not come back, late or soon.
pub(super) const LOSING: Manners = Manners {
    refuse: 0.0,
    lose: 0.33,
    delay_max: Duration::from_millis(300),
};

/// Nothing gets there.
pub(super) const DARK: Manners = Manners {
    refuse: 1.0,
    lose: 1.0,
    delay_max: Duration::ZERO,
};

pub(super) async fn install(
    cluster: &mut Cluster,
    target: Target,
    manners: Manners,
    rng: &mut SmallRng,
) -> Outcome {
    let nodes = target.choose(cluster, rng).await;
    match cluster.store.set(&nodes, manners) {
        Err(error) => Outcome::Skipped(format!("{error:#}")),
        Ok(()) => Outcome::Installed(Fault {
            target: format!("store of {}", named(&nodes)),
            undo: Undo::Store,
        }),
    }
}
