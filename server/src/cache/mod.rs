//! Pages of segment objects in memory.
//!
//! Segment objects never change, so a page of one is good for as long as it is wanted. Each is fetched once however
//! many readers want it at a time, and a failure is never kept. What a page says is not judged here: readers check
//! every frame and [`forget`](PageCache::forget) a page that is not what was written.
//!
//! Nodes of one zone share what they fetch: see [`zone`].

mod breaker;
mod flight;
mod kept;
mod latency;
mod source;
mod stats;
mod store;
pub mod zone;

#[cfg(test)]
pub(crate) mod test_store;
#[cfg(test)]
mod tests;

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use bytes::{Bytes, BytesMut};
use millrace_api::segment::SegmentObjectId;
use millrace_wal::{Payload, StoreError, ZoneStore};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use flight::Flights;
use kept::Kept;
use source::{FromStore, Source};
pub use stats::CacheStats;
use stats::count;
use zone::{Neighbours, Zone};

/// Bytes of every page but an object's last.
pub const PAGE_BYTES: u64 = 1 << 20;
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
    store: Arc<dyn ZoneStore>,
    kept: Kept,
    flights: Arc<Flights>,
    zone: Option<Arc<Zone>>,
    stats: Arc<CacheStats>,
}

impl PageCache {
    /// Of a node that is alone: what is missing comes from the store.
    pub fn new(store: Arc<dyn ZoneStore>, options: &PageCacheOptions) -> Arc<Self> {
        let stats = Arc::new(CacheStats::default());
        let kept = Kept::new(options.capacity_bytes);
        let source = FromStore::new(store.clone(), stats.clone());
        Arc::new(Self {
            store,
            flights: Flights::new(kept.clone(), Arc::new(source), options.downloads_max),
            kept,
            zone: None,
            stats,
        })
    }

    /// Of one node among others: what is missing comes from the node of the zone that looks after it, and from the
    /// store where that one does not answer.
    pub fn in_zone(
        store: Arc<dyn ZoneStore>,
        options: &PageCacheOptions,
        neighbours: Arc<dyn Neighbours>,
    ) -> Arc<Self> {
        let stats = Arc::new(CacheStats::default());
        let kept = Kept::new(options.capacity_bytes);
        let from_store = FromStore::new(store.clone(), stats.clone());
        let zone = Zone::new(
            neighbours,
            kept.clone(),
            from_store,
            options.downloads_max,
            stats.clone(),
        );
        let source: Arc<dyn Source> = zone.clone();
        Arc::new(Self {
            store,
            flights: Flights::new(kept.clone(), source, options.downloads_max),
            kept,
            zone: Some(zone),
            stats,
        })
    }

    /// What other nodes of the zone ask this one, until `stop`; `None` of a node that is alone.
    pub fn service(&self, stop: CancellationToken) -> Option<Router> {
        self.zone
            .as_ref()
            .map(|zone| zone::service::router(zone.clone(), stop))
    }

    pub fn stats(&self) -> &CacheStats {
        &self.stats
    }

    /// Bytes of the pages that are kept, about.
    pub fn kept_bytes(&self) -> u64 {
        self.kept.bytes()
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
            found.push(self.kept.get(object, object_len, page).await);
        }
        let (hits, bytes) = found.iter().flatten().fold((0, 0), |(hits, bytes), page| {
            (hits + 1, bytes + page.len() as u64)
        });
        count(&self.stats.hits, hits);
        count(&self.stats.hit_bytes, bytes);
        count(&self.stats.misses, found.len() as u64 - hits);
        let missing = |page: &u32| found[(page - pages.start) as usize].is_none();
        let missing: Vec<u32> = pages.clone().filter(missing).collect();
        if !missing.is_empty() {
            let arrived = self.flights.pages(object, object_len, &missing).await?;
            for (page, arrived) in missing.into_iter().zip(arrived) {
                found[(page - pages.start) as usize] = Some(arrived);
            }
        }
        Ok(found.into_iter().flatten().collect())
    }

    /// Takes in an object whose upload has succeeded, all of it: its readers are about to come.
    pub async fn insert_fresh(&self, object: SegmentObjectId, payload: &Payload) {
        for (page, piece) in (0..).zip(payload.pieces(PAGE_BYTES)) {
            self.kept.put(PageKey { object, page }, owned(&piece)).await;
            // Copying a page takes long enough.
            tokio::task::yield_now().await;
        }
    }

    /// Drops a page whose copy `seen` is not what was written, unless another copy has come in the meantime. Whoever
    /// gave it to this node is told to do the same when the page is asked for again.
    pub async fn forget(&self, object: SegmentObjectId, page: u32, seen: &Bytes) {
        self.store.doubt(&object.to_string());
        let key = PageKey { object, page };
        if self.kept.forget(key, |kept| kept.as_ptr() == seen.as_ptr()).await {
            count(&self.stats.forgotten, 1);
            if let Some(zone) = &self.zone {
                zone.suspect(key, seen).await;
            }
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
