//! A channel's epochs only grow, each has one owner for ever, and an end that was recorded stays (I1, as far as
//! metadata says).

use std::collections::BTreeMap;

use anyhow::ensure;
use millrace_raft::query::View;
use millrace_raft::state::record::{Owner, Seal};

#[derive(Default)]
pub struct Epochs {
    /// By channel and epoch.
    owners: BTreeMap<(u64, u64), Owner>,
    ends: BTreeMap<(u64, u64), Seal>,
    /// By node and channel: the epoch at an applied index.
    newest: BTreeMap<(u64, u64), (u64, u64)>,
}

impl Epochs {
    pub fn check(&mut self, node: u64, view: &View<'_>) -> anyhow::Result<()> {
        let index = view.applied_index()?;
        for channel in view.channels()? {
            let id = u64::from(channel.channel.0);
            let epoch = channel.epoch.0;
            let (before, at) = self.newest.insert((node, id), (epoch, index)).unwrap_or_default();
            ensure!(
                epoch >= before || index < at,
                "I1: on node {node} channel {id} went from epoch {before} back to {epoch}"
            );
            ensure!(
                channel.sealed_through <= channel.epoch,
                "I1: on node {node} channel {id} is sealed beyond its epoch {epoch}"
            );
            for (epoch, state) in &channel.epochs {
                let key = (id, epoch.0);
                let owner = *self.owners.entry(key).or_insert(state.owner);
                ensure!(
                    owner == state.owner,
                    "I1: epoch {} of channel {id} belongs to {:?}, and belonged to {owner:?}",
                    epoch.0,
                    state.owner
                );
                if let Some(seal) = state.seal {
                    let end = *self.ends.entry(key).or_insert(seal);
                    ensure!(
                        end == seal,
                        "I1: epoch {} of channel {id} ended as {seal:?}, and before as {end:?}",
                        epoch.0
                    );
                }
            }
        }
        Ok(())
    }
}
