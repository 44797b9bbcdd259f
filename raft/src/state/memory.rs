//! A state in memory, for tests and the simulator.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::error::StoreError;
use crate::state::kv::{Pair, Read};
use crate::state::txn::Changes;
use crate::store::keys::Family;

#[derive(Debug, Clone, Default)]
pub struct MemoryState {
    families: BTreeMap<Family, BTreeMap<Vec<u8>, Vec<u8>>>,
}

impl MemoryState {
    /// Makes the changes of a batch part of the state.
    pub fn commit(&mut self, changes: Changes) {
        for ((family, key), value) in changes {
            let keys = self.families.entry(family).or_default();
            match value {
                Some(value) => keys.insert(key, value),
                None => keys.remove(&key),
            };
        }
    }
}

impl Read for MemoryState {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.families.get(&family).and_then(|keys| keys.get(key)).cloned())
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        if end.is_some_and(|end| end <= from) {
            return Ok(Vec::new());
        }
        let Some(keys) = self.families.get(&family) else {
            return Ok(Vec::new());
        };
        let range = (
            Bound::Included(from),
            end.map_or(Bound::Unbounded, Bound::Excluded),
        );
        Ok(keys
            .range::<[u8], _>(range)
            .take(limit)
            .map(|(k, v)| (k.clone(), v.clone()))
            .collect())
    }
}
