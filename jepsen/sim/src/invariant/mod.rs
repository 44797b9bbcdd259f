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

use millrace_raft::group::Meta;

use crate::findings::Findings;

/// All of them, with what they remember of the run so far.
#[derive(Default)]
pub struct Invariants {
    replicas: replicas::Replicas,
    epochs: epochs::Epochs,
    streams: streams::Streams,
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

    /// How many comparisons have been made: a run that made none has shown nothing.
    pub fn comparisons(&self) -> u64 {
        self.replicas.comparisons
    }
}
