//! The changes of one batch over the state they start from. Reads see the changes.

use std::collections::BTreeMap;
use std::ops::Bound;

use crate::error::StoreError;
use crate::state::kv::{Pair, Read};
use crate::store::keys::Family;

/// Keys with their new values; `None` is deleted.
pub type Changes = BTreeMap<(Family, Vec<u8>), Option<Vec<u8>>>;

pub struct Txn<'a> {
    base: &'a dyn Read,
    changes: Changes,
}

impl<'a> Txn<'a> {
    pub fn new(base: &'a dyn Read) -> Self {
        Self {
            base,
            changes: Changes::new(),
        }
    }

    pub fn put(&mut self, family: Family, key: Vec<u8>, value: Vec<u8>) {
        self.changes.insert((family, key), Some(value));
    }

    pub fn delete(&mut self, family: Family, key: Vec<u8>) {
        self.changes.insert((family, key), None);
    }

    /// Takes over what a nested transaction changed.
    pub fn merge(&mut self, changes: Changes) {
        self.changes.extend(changes);
    }

    pub fn into_changes(self) -> Changes {
        self.changes
    }

    fn changed<'s>(
        &'s self,
        family: Family,
        from: &[u8],
        end: Option<&[u8]>,
    ) -> impl Iterator<Item = (&'s [u8], Option<&'s [u8]>)> + use<'s> {
        let end = end.map(<[u8]>::to_vec);
        self.changes
            .range((Bound::Included((family, from.to_vec())), Bound::Unbounded))
            .take_while(move |((f, key), _)| *f == family && end.as_ref().is_none_or(|end| key < end))
            .map(|((_, key), value)| (key.as_slice(), value.as_deref()))
    }
}

impl Read for Txn<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        match self.changes.get(&(family, key.to_vec())) {
            Some(value) => Ok(value.clone()),
            None => self.base.get(family, key),
        }
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        // Every deletion may hide one pair of the base, so that many more are asked for.
        let hidden = self
            .changed(family, from, end)
            .filter(|(_, value)| value.is_none())
            .count();
        let base = self.base.scan(family, from, end, limit.saturating_add(hidden))?;
        let mut merged: BTreeMap<Vec<u8>, Vec<u8>> = base.into_iter().collect();
        for (key, value) in self.changed(family, from, end) {
            match value {
                Some(value) => merged.insert(key.to_vec(), value.to_vec()),
                None => merged.remove(key),
            };
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::memory::MemoryState;
    use proptest::prelude::*;

    const FAMILY: Family = Family::Basins;

    fn change() -> impl Strategy<Value = (u8, Option<u8>)> {
        (0u8..20, proptest::option::of(any::<u8>()))
    }

    proptest! {
        #[test]
        fn a_transaction_reads_what_the_state_reads_after_it(
            base in proptest::collection::vec(change(), 0..20),
            over in proptest::collection::vec(change(), 0..20),
            from in 0u8..20, end in proptest::option::of(0u8..20), limit in 0usize..25,
        ) {
            let mut state = MemoryState::default();
            let as_changes = |list: &[(u8, Option<u8>)]| -> Changes {
                list.iter().map(|(k, v)| ((FAMILY, vec![*k]), v.map(|v| vec![v]))).collect()
            };
            state.commit(as_changes(&base));
            let before = state.clone();
            let mut txn = Txn::new(&before);
            txn.merge(as_changes(&over));
            state.commit(as_changes(&over));
            let end = end.map(|e| vec![e]);
            prop_assert_eq!(
                txn.scan(FAMILY, &[from], end.as_deref(), limit).unwrap(),
                state.scan(FAMILY, &[from], end.as_deref(), limit).unwrap()
            );
            prop_assert_eq!(txn.get(FAMILY, &[from]).unwrap(), state.get(FAMILY, &[from]).unwrap());
        }
    }
}
