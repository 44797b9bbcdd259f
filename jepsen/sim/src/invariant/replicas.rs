//! Every replica has the same state at the same applied index (I7).

use std::collections::BTreeMap;

use anyhow::ensure;
use millrace_raft::query::View;

/// Indices that are remembered.
const KEPT: usize = 10_000;

#[derive(Default)]
pub struct Replicas {
    /// By applied index: the checksum, and the node that had it first.
    seen: BTreeMap<u64, (u32, u64)>,
    pub comparisons: u64,
}

impl Replicas {
    pub fn check(&mut self, node: u64, view: &View<'_>) -> anyhow::Result<()> {
        let (index, checksum) = (view.applied_index()?, view.checksum()?);
        let (known, first) = *self.seen.entry(index).or_insert((checksum, node));
        self.comparisons += u64::from(first != node);
        if self.seen.len() > KEPT {
            self.seen.pop_first();
        }
        ensure!(
            known == checksum,
            "I7: at index {index} node {node} has a state of checksum {checksum:08x}, node {first} one of {known:08x}"
        );
        Ok(())
    }
}
