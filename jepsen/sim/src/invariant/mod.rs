//! What must hold at every moment of a run, seen from inside: one file each.
//!
//! They look at the metadata of nodes that serve. What only clients can see is judged by their histories.

mod epochs;
#[cfg(test)]
mod replica;
mod replicas;
mod segments;
mod streams;
pub mod timestamps;
mod zones;

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_raft::error::StoreError;
use millrace_raft::group::Meta;
use millrace_raft::query::ChannelRecord;

use crate::findings::Findings;
use crate::zones::Lives;

/// All of them, with what they remember of the run so far.
#[derive(Default)]
pub struct Invariants {
    /// By node: the applied index at the last look. The same process at the same index shows the same again.
    looked_at: BTreeMap<u64, u64>,
    replicas: replicas::Replicas,
    epochs: epochs::Epochs,
    streams: streams::Streams,
    zones: zones::Zones,
    /// Every channel, as of an applied index.
    channels: (u64, Vec<ChannelRecord>),
}

impl Invariants {
    /// Looks at every node that serves and has applied something since the last look.
    pub fn check(&mut self, nodes: &[(u64, Meta)], findings: &Findings) {
        // Whoever starts again is looked at again.
        self.looked_at
            .retain(|number, _| nodes.iter().any(|(serves, _)| serves == number));
        for (number, meta) in nodes {
            let state = meta.state();
            let seen = state.at_once(|view| {
                let index = view.applied_index()?;
                if self.looked_at.insert(*number, index) == Some(index) {
                    return Ok(());
                }
                let is_new = self.replicas.check(*number, &view)?;
                self.epochs.check(*number, &view)?;
                self.streams.check(*number, &view)?;
                match is_new {
                    true => segments::check(&view),
                    false => Ok(()),
                }
            });
            if let Err(wrong) = seen {
                findings.add(wrong.to_string());
            }
        }
    }

    /// Looks at what Express zones hold, by the metadata of the node that has applied most.
    pub fn check_zones(
        &mut self,
        now: Duration,
        nodes: &[(u64, Meta)],
        zones: &[Lives],
        findings: &Findings,
    ) {
        let Some((_, newest)) = nodes.iter().max_by_key(|(_, meta)| meta.applied_index()) else {
            return;
        };
        if let Err(wrong) = self.learn_channels(newest) {
            return findings.add(wrong.to_string());
        }
        if let Err(wrong) = self.zones.check(now, &self.channels.1, zones) {
            findings.add(wrong.to_string());
        }
    }

    /// Reads them if something was applied since they were read.
    fn learn_channels(&mut self, newest: &Meta) -> anyhow::Result<()> {
        if newest.applied_index() != self.channels.0 {
            self.channels = newest
                .state()
                .at_once(|view| Ok::<_, StoreError>((view.applied_index()?, view.channels()?)))?;
        }
        Ok(())
    }

    /// Whether the Express zones were ever used: a run in which they were not has shown nothing of them.
    pub fn zones_were_used(&self) -> bool {
        self.zones.any_written
    }

    /// How many comparisons have been made: a run that made none has shown nothing.
    pub fn comparisons(&self) -> u64 {
        self.replicas.comparisons
    }
}
