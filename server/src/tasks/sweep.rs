//! Removes orphans: objects that two sweeps in a row have found to be such.

use std::collections::BTreeSet;
use std::time::Duration;

use futures::StreamExt;
use millrace_api::id::NodeId;
use tokio_util::sync::CancellationToken;

use super::share::Share;
use crate::storage::cell::{Cell, Place};
use crate::storage::sweep::{Remark, Scope, Sweep, SweepError, remove};

/// Orphans remembered from one sweep to the next; more are found again when these are gone.
const ORPHANS_MAX: usize = 100_000;
/// Between pages, so that nobody is disturbed.
const STEP_PAUSE: Duration = Duration::from_millis(50);
/// A step that fails is tried again after a while, so many times before the sweep is given up.
const RETRY_PAUSE: Duration = Duration::from_secs(10);
const RETRIES: u32 = 30;
/// Objects that nothing is known of that one sweep names in the log.
const NAMED_MAX: u64 = 10;

/// What this node does for the channels of its share.
pub struct Sweeps {
    pub node: NodeId,
    pub cell: Cell,
    /// From the end of one sweep to the next. No shorter than readers may go on with what was released.
    pub interval: Duration,
}

impl Sweeps {
    /// Runs until cancelled.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            let mut suspects = BTreeSet::new();
            loop {
                tokio::time::sleep(self.interval).await;
                match self.sweep(&suspects).await {
                    Ok(found) => suspects = found,
                    Err(error) => {
                        tracing::warn!(%error, "orphans in the store are not looked for at the moment")
                    }
                }
            }
        })
        .await;
    }

    /// Removes what is an orphan still, and answers the others that were found.
    async fn sweep(&self, suspects: &BTreeSet<Place>) -> Result<BTreeSet<Place>, SweepError> {
        let share = Share::of_node(self.node, &self.cell.meta.state())
            .map_err(millrace_raft::error::MetaError::from)?;
        let Some(share) = share else {
            return Ok(BTreeSet::new());
        };
        let mut sweep = Sweep::new(self.cell.clone(), Scope::Share(share));
        let (mut found, mut removed, mut unknown) = (BTreeSet::new(), 0u64, 0u64);
        let mut failures = 0;
        loop {
            let looked = match sweep.step().await {
                Ok(Some(looked)) => looked,
                Ok(None) => break,
                Err(error) if failures < RETRIES => {
                    failures += 1;
                    tracing::info!(%error, "a sweep is held up");
                    tokio::time::sleep(RETRY_PAUSE).await;
                    continue;
                }
                Err(error) => return Err(error),
            };
            if let Some(error) = looked.passed_over {
                tracing::info!(?looked.area, %error, "orphans in a zone are looked for another time");
            }
            let mut proven = Vec::new();
            for it in looked.found {
                match it.remark {
                    Remark::Orphan(_) if suspects.contains(&it.place) => proven.push(it.place),
                    Remark::Orphan(_) if found.len() < ORPHANS_MAX => {
                        found.insert(it.place);
                    }
                    Remark::Orphan(_) => {}
                    Remark::Unknown(_) => {
                        unknown += 1;
                        if unknown <= NAMED_MAX {
                            tracing::warn!(object = %it.place, remark = %it.remark, "an object in the store is not known");
                        }
                    }
                }
            }
            removed += self.remove(proven).await;
            tokio::time::sleep(STEP_PAUSE).await;
        }
        if removed > 0 || !found.is_empty() || unknown > 0 {
            tracing::info!(removed, found = found.len(), unknown, "swept the store");
        }
        Ok(found)
    }

    async fn remove(&self, places: Vec<Place>) -> u64 {
        let removing = remove(&self.cell, places);
        futures::pin_mut!(removing);
        let mut count = 0;
        while let Some((place, removed)) = removing.next().await {
            match removed {
                Ok(()) => count += 1,
                // It is found again.
                Err(error) => tracing::info!(object = %place, %error, "an orphan could not be removed yet"),
            }
        }
        count
    }
}

#[cfg(test)]
mod tests {
    use millrace_api::segment::{SegmentObjectId, SegmentOrigin};

    use super::*;
    use crate::storage::fixture::{Fixture, NODE};

    #[tokio::test]
    async fn an_orphan_goes_when_a_second_sweep_finds_it() {
        let fixture = Fixture::new().await;
        let named = fixture.flush(1, 1).await;
        let sweeps = Sweeps {
            node: NODE,
            cell: fixture.cell.clone(),
            interval: Duration::ZERO,
        };
        let orphan = |part| SegmentObjectId {
            part,
            ..fixture.name(SegmentOrigin::Flush, 1)
        };
        let first = fixture.put(orphan(1), "orphan").await;
        let found = sweeps.sweep(&BTreeSet::new()).await.unwrap();
        assert_eq!(found.len(), 1);
        assert_eq!(fixture.keys().await, [named.to_string(), first]);
        let second = fixture.put(orphan(2), "orphan").await;
        let found = sweeps.sweep(&found).await.unwrap();
        assert_eq!(fixture.keys().await, [named.to_string(), second]);
        assert_eq!(found.len(), 1);
        assert_eq!(sweeps.sweep(&found).await.unwrap(), BTreeSet::new());
        assert_eq!(fixture.keys().await, [named.to_string()]);
    }
}
