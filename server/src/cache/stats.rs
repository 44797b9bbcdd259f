//! What the cache has done so far.

use std::sync::atomic::{AtomicU64, Ordering};

/// Totals since the node started.
#[derive(Debug, Default)]
pub struct CacheStats {
    /// Pages that were there when a reader asked.
    pub hits: AtomicU64,
    /// Bytes of these.
    pub hit_bytes: AtomicU64,
    /// Pages that a reader waited for, whoever fetched them; again for each time it asked.
    pub misses: AtomicU64,
    /// Downloads from the store that succeeded, each of one or more pages.
    pub downloads: AtomicU64,
    pub downloaded_bytes: AtomicU64,
    /// Requests, hedged ones once, that the store did not answer.
    pub failures: AtomicU64,
    /// Slow requests that were sent a second time.
    pub hedges: AtomicU64,
    pub breaker_opens: AtomicU64,
    /// Pages that were thrown away because a frame in them failed its check.
    pub forgotten: AtomicU64,
    /// Pages that another node of the zone gave to this one.
    pub zone_hits: AtomicU64,
    /// Bytes of these.
    pub zone_hit_bytes: AtomicU64,
    /// Pages that were to come from another node of the zone, and that this one read from the store itself.
    pub zone_misses: AtomicU64,
    /// Nodes that were not asked although they look after the page: too much was under way there, or they do not
    /// answer.
    pub zone_passed_over: AtomicU64,
    /// Pages that this node gave to others of the zone.
    pub zone_served: AtomicU64,
    /// Bytes of these.
    pub zone_served_bytes: AtomicU64,
    /// Requests of other nodes that were turned away because too many were under way.
    pub zone_refused: AtomicU64,
}

pub(super) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}
