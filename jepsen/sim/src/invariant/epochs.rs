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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant::replica::Replica;

    #[test]
    fn two_owners_of_one_epoch_are_found() {
        let mut epochs = Epochs::default();
        let (mut one, mut other) = (Replica::new(), Replica::new());
        one.assign(1);
        other.assign(2);
        assert_eq!(one.epoch(), other.epoch());
        epochs.check(1, &one.view()).unwrap();
        assert!(epochs.check(2, &other.view()).is_err());
    }

    #[test]
    fn an_epoch_that_goes_back_is_found() {
        let mut epochs = Epochs::default();
        let (mut later, mut back) = (Replica::new(), Replica::new());
        later.assign(1);
        epochs.check(1, &later.view()).unwrap();
        back.advance();
        assert!(epochs.check(1, &back.view()).is_err());
    }
}
