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

use std::time::Duration;

use millrace_raft::group::Meta;

use crate::findings::Findings;
use crate::store::Store;

/// All of them, with what they remember of the run so far.
#[derive(Default)]
pub struct Invariants {
    replicas: replicas::Replicas,
    epochs: epochs::Epochs,
    streams: streams::Streams,
    zones: zones::Zones,
}

impl Invariants {
    /// Looks at every node that serves.
    pub fn check(&mut self, nodes: &[(u64, Meta)], findings: &Findings) {
        for (number, meta) in nodes {
            let state = meta.state();
            let seen = state.at_once(|view| {
                self.replicas.check(*number, &view)?;
                self.epochs.check(*number, &view)?;
                self.streams.check(*number, &view)?;
                segments::check(&view)
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
        zones: &[Store],
        findings: &Findings,
    ) {
        let Some((_, newest)) = nodes.iter().max_by_key(|(_, meta)| meta.applied_index()) else {
            return;
        };
        let seen = newest.state().channels().map_err(anyhow::Error::from);
        if let Err(wrong) = seen.and_then(|channels| self.zones.check(now, &channels, zones)) {
            findings.add(wrong.to_string());
        }
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
