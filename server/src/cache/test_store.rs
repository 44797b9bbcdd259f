//! A store for tests that notes what it is asked and fails on demand.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use millrace_api::id::{ChannelId, Epoch, FlushSeq};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_wal::fault::{FaultStore, Faults};
use millrace_wal::{CreateOutcome, MemoryStore, Payload, ReadRange, StoreError, ZoneStore};

use super::PAGE_BYTES;

#[derive(Debug)]
pub(crate) struct TestStore {
    pub(crate) memory: Arc<MemoryStore>,
    pub(crate) faults: Faults,
    inner: FaultStore<MemoryStore>,
    gets: Mutex<Vec<(String, Range<u64>)>>,
    running: AtomicUsize,
    most: AtomicUsize,
}

impl TestStore {
    pub(crate) fn new() -> Arc<Self> {
        let (memory, faults) = (Arc::new(MemoryStore::new()), Faults::new(1));
        Arc::new(Self {
            inner: FaultStore::new(memory.clone(), faults.clone()),
            memory,
            faults,
            gets: Mutex::default(),
            running: AtomicUsize::new(0),
            most: AtomicUsize::new(0),
        })
    }

    /// Reads so far, refused ones included.
    pub(crate) fn requests(&self) -> usize {
        self.gets.lock().unwrap().len()
    }

    /// The most reads that were under way at a time.
    pub(crate) fn most_at_once(&self) -> usize {
        self.most.load(Ordering::Relaxed)
    }

    /// How often each page of an object was asked for.
    pub(crate) fn page_requests(&self, object: SegmentObjectId) -> BTreeMap<u64, usize> {
        let key = object.to_string();
        let mut pages = BTreeMap::new();
        for (_, range) in self.gets.lock().unwrap().iter().filter(|(k, _)| *k == key) {
            for page in range.start / PAGE_BYTES..range.end.div_ceil(PAGE_BYTES) {
                *pages.entry(page).or_default() += 1;
            }
        }
        pages
    }

    /// Flips a bit of a stored object.
    pub(crate) async fn flip(&self, object: SegmentObjectId, at: usize) {
        let key = object.to_string();
        let bytes = self.memory.get(&key, ReadRange::Full).await.unwrap().unwrap();
        let mut bytes = BytesMut::from(&bytes[..]);
        bytes[at] ^= 1 << (at % 8);
        self.memory.overwrite(&key, bytes.freeze());
    }
}

#[async_trait]
impl ZoneStore for TestStore {
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        self.inner.create(key, payload).await
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        let ReadRange::Range(asked) = range.clone() else {
            panic!("pages are asked for by range")
        };
        self.gets.lock().unwrap().push((key.to_owned(), asked));
        let running = self.running.fetch_add(1, Ordering::Relaxed) + 1;
        self.most.fetch_max(running, Ordering::Relaxed);
        let answer = self.inner.get(key, range).await;
        self.running.fetch_sub(1, Ordering::Relaxed);
        answer
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.inner.delete(key).await
    }
}

pub(crate) fn object_id(seq: u64) -> SegmentObjectId {
    SegmentObjectId {
        channel: ChannelId(1),
        epoch: Epoch(2),
        origin: SegmentOrigin::Flush,
        seq: FlushSeq(seq),
        part: 0,
    }
}
