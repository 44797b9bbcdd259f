//! Pages of segment objects in memory.
//!
//! Segment objects never change, so a page of one is good for as long as it is wanted. Each is downloaded once however
//! many readers want it at a time, and a failed download is never kept. What a page says is not judged here: readers
//! check every frame and [`forget`](PageCache::forget) a page that is not what was written.

mod breaker;
mod flight;
mod latency;
mod stats;
mod store;

#[cfg(test)]
pub(crate) mod test_store;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use millrace_api::segment::SegmentObjectId;
use millrace_wal::{Payload, StoreError, ZoneStore};
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use tokio::time::{Instant, sleep};

use flight::{Claimed, Flights};
pub use stats::CacheStats;
use stats::count;
use store::GuardedStore;

/// Bytes of every page but an object's last.
pub const PAGE_BYTES: u64 = 1 << 20;
/// What an entry costs besides its bytes, about.
const ENTRY_OVERHEAD: usize = 256;
/// How long a reader goes on asking a store that does not answer. Shorter than clients wait for a sign of life.
const PATIENCE: Duration = Duration::from_secs(10);
/// Waits before a page is asked for again; the last one from then on.
const PAUSES: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(800),
];

#[derive(Debug, Clone)]
pub struct PageCacheOptions {
    /// Bytes of pages that are kept. Those that somebody reads at the moment come on top.
    pub capacity_bytes: u64,
    /// Downloads that are under way at a time, of up to 4 MiB each.
    pub downloads_max: usize,
}

impl Default for PageCacheOptions {
    fn default() -> Self {
        Self {
            capacity_bytes: 256 << 20,
            downloads_max: 64,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct PageKey {
    object: SegmentObjectId,
    page: u32,
}

/// Why there is no page, after some patience.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PageError {
    /// There is no such object: what it held is elsewhere by now, or deleted.
    #[error("segment object {0} is gone")]
    Gone(SegmentObjectId),
    /// The object ends too early.
    #[error("segment object {object} ends at {end} and should not")]
    Short { object: SegmentObjectId, end: u64 },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl PageError {
    /// Asking again without changing anything may help.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Store(error) if error.retryable())
    }
}

/// One per node and store.
pub struct PageCache {
    pages: Cache<PageKey, Bytes>,
    flights: Flights,
    store: GuardedStore,
    stats: Arc<CacheStats>,
}

impl PageCache {
    pub fn new(store: Arc<dyn ZoneStore>, options: &PageCacheOptions) -> Arc<Self> {
        let stats = Arc::new(CacheStats::default());
        let pages = Cache::builder()
            .weigher(|_, page: &Bytes| u32::try_from(page.len() + ENTRY_OVERHEAD).unwrap_or(u32::MAX))
            // Readers of a stream follow each other closely through pages that were just fetched or written; a policy
            // that wants to see a page asked for twice before it keeps it would fetch each of them again.
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(options.capacity_bytes)
            .build();
        Arc::new(Self {
            pages,
            flights: Flights::new(options.downloads_max),
            store: GuardedStore::new(store, stats.clone()),
            stats,
        })
    }

    pub fn stats(&self) -> &CacheStats {
        &self.stats
    }

    /// Bytes of the pages that are kept, about.
    pub fn kept_bytes(&self) -> u64 {
        self.pages.weighted_size()
    }

    /// Adjacent pages of an object that is `object_len` bytes long, in order; those that are missing together come
    /// with one request. Fails when the store does not answer for about ten seconds. Dropping the future ends the
    /// wait, not a download that has begun.
    ///
    /// # Panics
    /// If the range is not within the object.
    pub async fn pages(
        self: &Arc<Self>,
        object: SegmentObjectId,
        object_len: u64,
        pages: Range<u32>,
    ) -> Result<Vec<Bytes>, PageError> {
        assert!(
            u64::from(pages.end) <= object_len.div_ceil(PAGE_BYTES),
            "pages of an object are within it"
        );
        let deadline = Instant::now() + PATIENCE;
        let mut pauses = PAUSES.into_iter();
        let mut pause = Duration::ZERO;
        loop {
            match self.try_pages(object, object_len, pages.clone()).await {
                Err(error) if error.retryable() => {
                    pause = pauses.next().unwrap_or(pause);
                    if Instant::now() + pause > deadline {
                        return Err(error);
                    }
                    sleep(pause).await;
                }
                done => return done,
            }
        }
    }

    async fn try_pages(
        self: &Arc<Self>,
        object: SegmentObjectId,
        object_len: u64,
        pages: Range<u32>,
    ) -> Result<Vec<Bytes>, PageError> {
        let mut found = Vec::with_capacity(pages.len());
        for page in pages.clone() {
            found.push(self.pages.get(&PageKey { object, page }).await);
        }
        let hits = found.iter().flatten().count();
        count(&self.stats.hits, hits as u64);
        count(&self.stats.misses, (found.len() - hits) as u64);
        if hits < found.len() {
            let missing = |page: &u32| found[(page - pages.start) as usize].is_none();
            let missing: Vec<u32> = pages.clone().filter(missing).collect();
            // All downloads are under way before the first is waited for.
            let claimed = flight::claim(self, object, object_len, &missing);
            for (page, claimed) in missing.into_iter().zip(claimed) {
                let key = PageKey { object, page };
                found[(page - pages.start) as usize] = Some(self.arrival(key, object_len, claimed).await?);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    async fn arrival(
        self: &Arc<Self>,
        key: PageKey,
        object_len: u64,
        claimed: Claimed,
    ) -> Result<Bytes, PageError> {
        match claimed {
            Claimed::InFlight(flight) => flight.page(key.page).await,
            Claimed::Kept => match self.pages.get(&key).await {
                Some(page) => Ok(page),
                // It came and went since it was looked for.
                None => flight::begin_one(self, key, object_len).page(key.page).await,
            },
        }
    }

    /// Takes in an object whose upload has succeeded, all of it: its readers are about to come.
    pub async fn insert_fresh(&self, object: SegmentObjectId, payload: &Payload) {
        for (page, piece) in (0..).zip(payload.pieces(PAGE_BYTES)) {
            self.pages.insert(PageKey { object, page }, owned(&piece)).await;
            // Copying a page takes long enough.
            tokio::task::yield_now().await;
        }
    }

    /// Drops a page, unless another copy of it than `seen` has come in the meantime.
    pub async fn forget(&self, object: SegmentObjectId, page: u32, seen: &Bytes) {
        let key = PageKey { object, page };
        let kept = self.pages.get(&key).await;
        if kept.is_some_and(|kept| kept.as_ptr() == seen.as_ptr()) {
            count(&self.stats.forgotten, 1);
            self.pages.invalidate(&key).await;
        }
    }
}

/// Where a page is in an object of `object_len` bytes.
fn page_range(page: u32, object_len: u64) -> Range<u64> {
    let start = u64::from(page) * PAGE_BYTES;
    start..(start + PAGE_BYTES).min(object_len)
}

/// The bytes in memory of their own: a page must not keep alive what it was cut out of.
fn owned(piece: &Payload) -> Bytes {
    let mut bytes = BytesMut::with_capacity(piece.len() as usize);
    piece
        .parts()
        .iter()
        .for_each(|part| bytes.extend_from_slice(part));
    bytes.freeze()
}
