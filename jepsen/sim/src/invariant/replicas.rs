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
    /// Whether nobody had this state before: otherwise it is one that was looked at when another node had it.
    pub fn check(&mut self, node: u64, view: &View<'_>) -> anyhow::Result<bool> {
        let (index, checksum) = (view.applied_index()?, view.checksum()?);
        let is_new = !self.seen.contains_key(&index);
        let (known, first) = *self.seen.entry(index).or_insert((checksum, node));
        self.comparisons += u64::from(first != node);
        if self.seen.len() > KEPT {
            self.seen.pop_first();
        }
        ensure!(
            known == checksum,
            "I7: at index {index} node {node} has a state of checksum {checksum:08x}, node {first} one of {known:08x}"
        );
        Ok(is_new)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::invariant::replica::Replica;

    #[test]
    fn replicas_that_differ_at_one_index_are_found() {
        let mut replicas = Replicas::default();
        let (mut one, mut other) = (Replica::new(), Replica::new());
        assert!(replicas.check(1, &one.view()).unwrap());
        assert!(!replicas.check(2, &other.view()).unwrap());
        assert_eq!(replicas.comparisons, 1);
        one.assign(1);
        other.assign(2);
        replicas.check(1, &one.view()).unwrap();
        assert!(replicas.check(2, &other.view()).is_err());
    }

    #[test]
    fn a_replica_may_be_behind() {
        let mut replicas = Replicas::default();
        let (mut one, other) = (Replica::new(), Replica::new());
        one.assign(1);
        replicas.check(1, &one.view()).unwrap();
        replicas.check(2, &other.view()).unwrap();
        assert_eq!(replicas.comparisons, 0);
    }
}
