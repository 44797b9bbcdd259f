//! A zone in memory: for tests, the simulator, and trying things out. Durable as long as the process is.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Mutex, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{CreateOutcome, Payload, ReadRange, StoreError, ZoneStore, check_key, check_prefix};

/// Holds every object in one piece. Yields to other tasks once before each operation, so that races show.
#[derive(Default)]
pub struct MemoryStore {
    objects: Mutex<BTreeMap<String, Bytes>>,
}

impl MemoryStore {
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of objects.
    pub fn object_count(&self) -> usize {
        self.locked(|objects| objects.len())
    }

    /// Puts `bytes` under `key` whatever stands there: for tests that need a store gone wrong.
    pub fn overwrite(&self, key: &str, bytes: Bytes) {
        self.locked(|objects| objects.insert(key.to_owned(), bytes));
    }

    /// Forgets everything, as a replaced disk does.
    pub fn clear(&self) {
        self.locked(BTreeMap::clear);
    }

    fn locked<T>(&self, f: impl FnOnce(&mut BTreeMap<String, Bytes>) -> T) -> T {
        f(&mut self.objects.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "MemoryStore({} objects)", self.object_count())
    }
}

#[async_trait]
impl ZoneStore for MemoryStore {
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        check_key(key)?;
        tokio::task::yield_now().await;
        // Joined outside the lock: a large payload must not hold up other tasks.
        let bytes = payload.to_bytes();
        Ok(self.locked(|objects| match objects.entry(key.to_owned()) {
            std::collections::btree_map::Entry::Vacant(entry) => {
                entry.insert(bytes);
                CreateOutcome::Created
            }
            std::collections::btree_map::Entry::Occupied(_) => CreateOutcome::Exists,
        }))
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        tokio::task::yield_now().await;
        let object = self.locked(|objects| objects.get(key).cloned());
        Ok(object.map(|bytes| {
            let range = range.within(bytes.len() as u64);
            bytes.slice(range.start as usize..range.end as usize)
        }))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        check_prefix(prefix)?;
        tokio::task::yield_now().await;
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        Ok(self.locked(|objects| {
            objects
                .range::<str, _>((from, Bound::Unbounded))
                .map(|(key, _)| key)
                .take_while(|key| key.starts_with(prefix))
                .take(limit)
                .cloned()
                .collect()
        }))
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        check_key(key)?;
        tokio::task::yield_now().await;
        self.locked(|objects| objects.remove(key));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[tokio::test]
    async fn memory_keeps_every_promise_of_a_zone() {
        crate::conformance::suite(Arc::new(MemoryStore::new())).await;
    }
}
