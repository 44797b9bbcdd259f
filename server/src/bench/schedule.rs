//! Open-loop load: when each batch is to be sent, whatever the endpoint does.
//!
//! Batch `k` of the whole load is due at `start + k · interval` and belongs to stream `k mod streams`. A batch that
//! cannot be sent when it is due keeps its time: its latency counts from there. Nothing is queued for it, for what
//! is due follows from the clock alone.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::clock::{Clock, Nanos};

/// Batches at even distances, over all streams in turn.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Schedule {
    start: Nanos,
    /// Exclusive: nothing is due from here on.
    end: Nanos,
    batches_per_second: f64,
    streams: u64,
}

impl Schedule {
    /// # Panics
    /// If the rate is not above zero, or if there is no stream.
    pub fn new(start: Nanos, end: Nanos, batches_per_second: f64, streams: usize) -> Self {
        assert!(batches_per_second > 0.0 && streams > 0);
        Self {
            start,
            end,
            batches_per_second,
            streams: streams as u64,
        }
    }

    /// When batch `n` of `stream` is due; `None` if that would be at or after the end.
    pub fn due(&self, stream: usize, n: u64) -> Option<Nanos> {
        let k = n * self.streams + stream as u64;
        let at = self.start + (k as f64 * 1e9 / self.batches_per_second) as u64;
        (at < self.end).then_some(at)
    }

    pub fn end(&self) -> Nanos {
        self.end
    }

    /// Batches of the whole load that are due at or before `now`.
    fn due_until(&self, now: Nanos) -> u64 {
        match now.checked_sub(self.start) {
            None => 0,
            Some(passed) => (passed as f64 * self.batches_per_second / 1e9) as u64 + 1,
        }
    }
}

/// Wakes writers when something of theirs is due, from a thread of its own: the runtime's timers are a millisecond
/// coarse, which would be most of a fast endpoint's latency.
#[derive(Debug)]
pub struct Pacer {
    released: Arc<Vec<Released>>,
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Released {
    batches: AtomicU64,
    more: Notify,
}

/// Longest sleep, so that a stop is noticed.
const SLEEP_MAX: Duration = Duration::from_millis(20);

impl Pacer {
    pub fn start(schedule: Schedule, clock: Clock) -> std::io::Result<Self> {
        let streams = schedule.streams as usize;
        let released = Arc::new((0..streams).map(|_| Released::default()).collect::<Vec<_>>());
        let stop = Arc::<AtomicBool>::default();
        let thread = std::thread::Builder::new().name("pacer".into()).spawn({
            let (released, stop) = (released.clone(), stop.clone());
            move || pace(schedule, clock, &released, &stop)
        })?;
        Ok(Self {
            released,
            stop,
            thread: Some(thread),
        })
    }

    /// Waits until batch `n` of `stream` is due. Cancel safe; one waiter per stream.
    pub async fn due(&self, stream: usize, n: u64) {
        let released = &self.released[stream];
        while released.batches.load(Ordering::Acquire) <= n {
            released.more.notified().await;
        }
    }
}

impl Drop for Pacer {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            drop(thread.join());
        }
    }
}

fn pace(schedule: Schedule, clock: Clock, released: &[Released], stop: &AtomicBool) {
    let streams = schedule.streams;
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) {
        let now = clock.now();
        let due = match now < schedule.end {
            true => schedule.due_until(now),
            // One more than there may be, so that rounding holds none back; writers ask the schedule and stop.
            false => schedule.due_until(schedule.end) + streams,
        };
        if due > done {
            // Streams whose turn came: all of them if a whole round or more passed.
            for k in done.max(due.saturating_sub(streams))..due {
                let stream = k % streams;
                let count = (due - stream).div_ceil(streams);
                let released = &released[stream as usize];
                released.batches.store(count, Ordering::Release);
                released.more.notify_one();
            }
            done = due;
        }
        if now >= schedule.end {
            return;
        }
        let next = schedule.start + (done as f64 * 1e9 / schedule.batches_per_second) as u64;
        let wait = Duration::from_nanos(next.saturating_sub(clock.now()).max(1));
        std::thread::sleep(wait.min(SLEEP_MAX));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn batches_are_due_at_even_distances_in_turn() {
        let schedule = Schedule::new(1_000, 1_000 + 1_000_000_000, 1000.0, 4);
        let first: Vec<_> = (0..4).map(|stream| schedule.due(stream, 0).unwrap()).collect();
        assert_eq!(first, [1_000, 1_001_000, 2_001_000, 3_001_000]);
        assert_eq!(schedule.due(1, 2), Some(1_000 + 9_000_000));
        // The last of 1000 batches, and the one that would be the first after the end.
        assert_eq!(schedule.due(3, 249), Some(1_000 + 999_000_000));
        assert_eq!(schedule.due(0, 250), None);
    }

    #[test]
    fn a_rate_below_one_and_one_beyond_the_clock_are_kept_in_the_long_run() {
        let slow = Schedule::new(0, u64::MAX, 0.5, 1);
        assert_eq!(slow.due(0, 3), Some(6_000_000_000));
        let fast = Schedule::new(0, u64::MAX, 3e9, 1);
        assert_eq!(fast.due(0, 3_000_000_000), Some(1_000_000_000));
    }

    #[test]
    fn what_is_due_by_a_time_is_counted_with_the_batch_of_that_time() {
        let schedule = Schedule::new(500, u64::MAX, 1000.0, 3);
        assert_eq!(schedule.due_until(499), 0);
        assert_eq!(schedule.due_until(500), 1);
        assert_eq!(schedule.due_until(500 + 999_999), 1);
        assert_eq!(schedule.due_until(500 + 1_000_000), 2);
    }

    #[tokio::test]
    async fn the_pacer_releases_no_batch_before_its_time_and_every_batch_after_it() {
        let clock = Clock::start();
        let start = clock.now();
        let schedule = Schedule::new(start, start + 100_000_000, 1000.0, 3);
        let pacer = Pacer::start(schedule, clock).unwrap();
        for stream in 0..3 {
            let mut n = 0;
            while let Some(due) = schedule.due(stream, n) {
                pacer.due(stream, n).await;
                assert!(clock.now() >= due, "batch {n} of stream {stream}");
                n += 1;
            }
            assert!((33..=34).contains(&n));
        }
    }
}
