//! What is counted while a load runs. Workers add to one of a few tallies, so that they rarely meet; the observer
//! takes them away at every interval.

use std::sync::{Mutex, MutexGuard, PoisonError};

use hdrhistogram::Histogram;

use super::clock::{Nanos, Window};

/// Latencies are kept in microseconds with three digits. Longer ones than this count as this.
const LATENCY_MAX_US: u64 = 3_600_000_000;
const LATENCY_DIGITS: u8 = 3;
/// Tallies per meter: enough for the threads of a large machine, few enough that idle ones cost nothing.
const SHARDS: usize = 16;

/// Sums since they were last taken, and the latencies seen.
#[derive(Debug, Clone)]
pub struct Tally {
    /// Metered bytes of what was completed within the window.
    pub bytes: u64,
    pub records: u64,
    pub batches: u64,
    /// Metered bytes completed at any time, warm-up and afterwards included.
    pub bytes_ever: u64,
    pub records_ever: u64,
    /// Microseconds, one count per record, of those meant to be sent within the window.
    pub latency: Histogram<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            bytes: 0,
            records: 0,
            batches: 0,
            bytes_ever: 0,
            records_ever: 0,
            latency: Histogram::new_with_bounds(1, LATENCY_MAX_US, LATENCY_DIGITS)
                .expect("the bounds are in order and the digits at most five"),
        }
    }
}

impl Tally {
    pub fn add(&mut self, other: &Tally) {
        self.bytes += other.bytes;
        self.records += other.records;
        self.batches += other.batches;
        self.bytes_ever += other.bytes_ever;
        self.records_ever += other.records_ever;
        self.latency
            .add(&other.latency)
            .expect("all tallies have the same bounds");
    }

    fn clear(&mut self) {
        let mut latency = std::mem::take(&mut *self).latency;
        latency.reset();
        self.latency = latency;
    }
}

/// One kind of event: acknowledgements, deliveries to followers, deliveries to those who catch up.
#[derive(Debug)]
pub struct Meter {
    window: Window,
    shards: Vec<Mutex<Tally>>,
}

impl Meter {
    pub fn new(window: Window) -> Self {
        Self {
            window,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
        }
    }

    /// Counts for worker number `worker`; hold it for one batch at most.
    pub fn count(&self, worker: usize) -> Count<'_> {
        let shard = &self.shards[worker % SHARDS];
        Count {
            window: self.window,
            tally: shard.lock().unwrap_or_else(PoisonError::into_inner),
        }
    }

    /// Takes what has gathered into `into`.
    pub fn drain(&self, into: &mut Tally) {
        for shard in &self.shards {
            let mut tally = shard.lock().unwrap_or_else(PoisonError::into_inner);
            if tally.bytes_ever > 0 || !tally.latency.is_empty() {
                into.add(&tally);
                tally.clear();
            }
        }
    }
}

pub struct Count<'a> {
    window: Window,
    tally: MutexGuard<'a, Tally>,
}

impl Count<'_> {
    /// A batch that was completed at `now`.
    pub fn batch(&mut self, now: Nanos, records: u64, bytes: u64) {
        self.tally.bytes_ever += bytes;
        self.tally.records_ever += records;
        if self.window.contains(now) {
            self.tally.bytes += bytes;
            self.tally.records += records;
            self.tally.batches += 1;
        }
    }

    /// How long `records` took that were meant to be sent at `intended`.
    pub fn latency(&mut self, now: Nanos, intended: Nanos, records: u64) {
        if self.window.contains(intended) {
            let micros = now.saturating_sub(intended) / 1000;
            self.tally.latency.saturating_record_n(micros.max(1), records);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_counts_by_its_completion_and_latency_by_its_intention() {
        let meter = Meter::new(Window {
            start: 1_000_000,
            end: 2_000_000,
        });
        let completed = |now, intended| {
            let mut count = meter.count(now as usize);
            count.batch(now, 2, 10);
            count.latency(now, intended, 2);
        };
        completed(999_999, 0); // warm-up
        completed(1_000_000, 999_999); // completed in the window, meant before it
        completed(1_500_000, 1_000_000);
        completed(2_400_000, 1_999_999); // meant in the window, completed after it
        let mut total = Tally::default();
        meter.drain(&mut total);
        assert_eq!((total.bytes, total.records, total.batches), (20, 4, 2));
        assert_eq!((total.bytes_ever, total.records_ever), (40, 8));
        assert_eq!(total.latency.len(), 4);
        assert_eq!((total.latency.min(), total.latency.max()), (400, 500));
        let mut rest = Tally::default();
        meter.drain(&mut rest);
        assert_eq!((rest.bytes_ever, rest.latency.len()), (0, 0));
    }
}
