//! Plain counters. Whoever exports metrics reads them; this crate knows no metrics library.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// Upper bounds of all but the last bucket, in microseconds: powers of two from 64 µs to about 67 s.
const BUCKETS: usize = 22;
const FIRST_BOUND_SHIFT: u32 = 6;

/// Durations in buckets whose bounds double. Counting is one relaxed addition for each of count, sum and bucket, so
/// that a snapshot taken meanwhile may differ between them by what is just being counted.
#[derive(Debug, Default)]
pub struct LatencyHistogram {
    buckets: [AtomicU64; BUCKETS],
    sum_micros: AtomicU64,
}

/// What a histogram held at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatencySnapshot {
    /// `(upper bound, observations up to it)`, not cumulative. The last bound is `Duration::MAX`.
    pub buckets: Vec<(Duration, u64)>,
    pub count: u64,
    pub sum: Duration,
}

impl LatencyHistogram {
    pub fn observe(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        let bucket = (0..BUCKETS - 1)
            .find(|i| micros <= Self::bound_micros(*i))
            .unwrap_or(BUCKETS - 1);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        self.sum_micros.fetch_add(micros, Ordering::Relaxed);
    }

    pub fn snapshot(&self) -> LatencySnapshot {
        let counts: Vec<u64> = self
            .buckets
            .iter()
            .map(|bucket| bucket.load(Ordering::Relaxed))
            .collect();
        let bound = |i| match i {
            i if i + 1 == BUCKETS => Duration::MAX,
            i => Duration::from_micros(Self::bound_micros(i)),
        };
        LatencySnapshot {
            count: counts.iter().sum(),
            buckets: counts
                .into_iter()
                .enumerate()
                .map(|(i, count)| (bound(i), count))
                .collect(),
            sum: Duration::from_micros(self.sum_micros.load(Ordering::Relaxed)),
        }
    }

    fn bound_micros(bucket: usize) -> u64 {
        1 << (FIRST_BOUND_SHIFT as usize + bucket)
    }
}

/// Counts of one zone since the process started.
#[derive(Debug, Default)]
pub struct ZoneMetrics {
    /// Creates that were answered `Created`, from request to answer; retries count each for themselves.
    pub create: LatencyHistogram,
    /// Reads that were answered, absent objects included.
    pub read: LatencyHistogram,
    pub created_bytes: AtomicU64,
    pub read_bytes: AtomicU64,
    /// Creates that were answered `Exists`.
    pub exists_total: AtomicU64,
    pub create_failed_total: AtomicU64,
    pub read_failed_total: AtomicU64,
    /// Copies that a read found and could not use.
    pub bad_copies_total: AtomicU64,
    /// Chunks that became durable elsewhere and were not sent to this zone to the end.
    pub laggards_dropped_total: AtomicU64,
}

/// Counts of one WAL since the process started.
#[derive(Debug)]
pub struct WalMetrics {
    /// In the order of the WAL's zones.
    pub zones: Vec<ZoneMetrics>,
    /// From submitting a chunk to its being durable.
    pub durable: LatencyHistogram,
    pub chunks_durable_total: AtomicU64,
    pub bytes_durable_total: AtomicU64,
    pub fenced_total: AtomicU64,
    pub adopted_total: AtomicU64,
}

impl WalMetrics {
    pub(super) fn new(zones: usize) -> Self {
        Self {
            zones: (0..zones).map(|_| ZoneMetrics::default()).collect(),
            durable: LatencyHistogram::default(),
            chunks_durable_total: AtomicU64::new(0),
            bytes_durable_total: AtomicU64::new(0),
            fenced_total: AtomicU64::new(0),
            adopted_total: AtomicU64::new(0),
        }
    }
}

/// Adds to a counter.
pub(crate) fn count(counter: &AtomicU64, by: u64) {
    counter.fetch_add(by, Ordering::Relaxed);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_bounds_it() {
        let histogram = LatencyHistogram::default();
        for micros in [0, 64, 65, 128, 1_000_000, 10_000_000_000] {
            histogram.observe(Duration::from_micros(micros));
        }
        let snapshot = histogram.snapshot();
        assert_eq!(snapshot.count, 6);
        assert_eq!(snapshot.buckets[0], (Duration::from_micros(64), 2));
        assert_eq!(snapshot.buckets[1], (Duration::from_micros(128), 2));
        assert_eq!(snapshot.buckets[BUCKETS - 1], (Duration::MAX, 1));
        assert_eq!(snapshot.buckets.iter().map(|(_, count)| count).sum::<u64>(), 6);
    }
}
