//! A store that lets nothing through until it has proved to be the life of the zone that is meant.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use async_trait::async_trait;
use bytes::Bytes;
use millrace_api::id::ZoneGen;
use millrace_wal::{CreateOutcome, Payload, ReadRange, StoreError, ZoneStore};

/// One life of a zone. While it is shut, every call answers [`StoreError::Retry`] at once: the zone counts as one that
/// cannot be reached. An answer that comes after it was shut may be another store's and counts as none.
#[derive(Debug)]
pub struct Guard {
    number: u32,
    zone_gen: ZoneGen,
    /// Set before it is opened for the first time.
    store: OnceLock<Arc<dyn ZoneStore>>,
    open: AtomicBool,
}

impl Guard {
    /// Shut.
    pub fn new(number: u32, zone_gen: ZoneGen) -> Self {
        Self {
            number,
            zone_gen,
            store: OnceLock::new(),
            open: AtomicBool::new(false),
        }
    }

    pub fn zone_gen(&self) -> ZoneGen {
        self.zone_gen
    }

    /// This store's marker was seen to be that of this life. The first one that was admitted stays.
    pub fn admit(&self, store: Arc<dyn ZoneStore>) {
        let _ = self.store.set(store);
        self.open.store(true, Ordering::Release);
    }

    /// The marker was seen to be another, or may be.
    pub fn shut(&self) {
        self.open.store(false, Ordering::Release);
    }

    pub fn is_open(&self) -> bool {
        self.open.load(Ordering::Acquire)
    }

    fn store(&self) -> Result<&Arc<dyn ZoneStore>, StoreError> {
        let unverified = || {
            let number = self.number;
            StoreError::Retry(format!(
                "zone {number} is not verified to be the one that was written to"
            ))
        };
        let open = self.store.get().filter(|_| self.is_open());
        open.ok_or_else(unverified)
    }

    fn pass<T>(&self, answer: T) -> Result<T, StoreError> {
        self.store().map(|_| answer)
    }
}

#[async_trait]
impl ZoneStore for Guard {
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        let answer = self.store()?.create(key, payload).await?;
        self.pass(answer)
    }

    async fn upload(&self, key: &str, payload: &Payload) -> Result<(), StoreError> {
        self.store()?.upload(key, payload).await?;
        self.pass(())
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        let answer = self.store()?.get(key, range).await?;
        self.pass(answer)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        let answer = self.store()?.list(prefix, after, limit).await?;
        self.pass(answer)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.store()?.delete(key).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_wal::MemoryStore;

    #[tokio::test]
    async fn nothing_passes_a_guard_that_is_shut() {
        let store = Arc::new(MemoryStore::new());
        let guard = Guard::new(2, ZoneGen(7));
        let payload = Payload::from(Bytes::from_static(b"x"));
        let refused = guard.create("a", &payload).await.unwrap_err();
        assert!(refused.retryable() && refused.to_string().contains("zone 2"));
        assert_eq!(store.object_count(), 0);
        guard.admit(store.clone());
        assert_eq!(guard.create("a", &payload).await, Ok(CreateOutcome::Created));
        guard.shut();
        assert!(guard.get("a", ReadRange::Full).await.is_err());
        assert!(guard.list("", None, 1).await.is_err());
        assert!(guard.delete("a").await.is_err());
        assert_eq!(store.object_count(), 1);
    }
}
