//! What the cache has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

/// Totals since the node started.
#[derive(Debug, Default)]
pub struct CacheStats {
    /// Pages that were there when a reader asked.
    pub hits: AtomicU64,
    /// Pages that a reader waited for, whoever fetched them; again for each time it asked.
    pub misses: AtomicU64,
    /// Downloads that succeeded, each of one or more pages.
    pub downloads: AtomicU64,
    pub downloaded_bytes: AtomicU64,
    /// Requests, hedged ones once, that the store did not answer.
    pub failures: AtomicU64,
    /// Slow requests that were sent a second time.
    pub hedges: AtomicU64,
    pub breaker_opens: AtomicU64,
    /// Pages that were thrown away because a frame in them failed its check.
    pub forgotten: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
