//! How long a store takes, and when a request is worth sending twice.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Requests that the percentile is taken of.
const WINDOW: usize = 256;
/// Requests between two looks at the window.
const LOOK_EVERY: usize = 32;
/// A request is never sent twice sooner than this.
const HEDGE_AFTER_MIN: Duration = Duration::from_millis(20);
/// One request in so many may be sent twice.
const REQUESTS_PER_HEDGE: u32 = 25;
/// Second requests that may be saved up.
const HEDGES_SAVED_MAX: u32 = 4;

/// The latest latencies of a store.
#[derive(Debug, Default)]
pub(super) struct Latencies {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    window: Vec<Duration>,
    /// Where the next latency goes, once the window is full.
    next: usize,
    since_look: usize,
    p99: Option<Duration>,
    /// In requests.
    credit: u32,
}

impl Latencies {
    /// Notes a request that was answered.
    pub(super) fn observe(&self, latency: Duration) {
        let mut state = self.lock();
        if state.window.len() < WINDOW {
            state.window.push(latency);
        } else {
            let next = state.next;
            state.window[next] = latency;
            state.next = (next + 1) % WINDOW;
        }
        state.since_look += 1;
        if state.window.len() == WINDOW && state.since_look >= LOOK_EVERY {
            state.since_look = 0;
            let mut sorted = state.window.clone();
            let rank = WINDOW * 99 / 100;
            state.p99 = Some(*sorted.select_nth_unstable(rank).1);
        }
    }

    /// Counts a request, and says after which time without an answer it is slow: the 99th percentile of those before.
    /// `None` until there were enough of them.
    pub(super) fn begin(&self) -> Option<Duration> {
        let mut state = self.lock();
        state.credit = (state.credit + 1).min(HEDGES_SAVED_MAX * REQUESTS_PER_HEDGE);
        state.p99.map(|p99| p99.max(HEDGE_AFTER_MIN))
    }

    /// Whether a slow request may be sent a second time.
    pub(super) fn may_hedge(&self) -> bool {
        let mut state = self.lock();
        let left = state.credit.checked_sub(REQUESTS_PER_HEDGE);
        state.credit = left.unwrap_or(state.credit);
        left.is_some()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_slow_after_the_99th_percentile_of_the_latest() {
        let latencies = Latencies::default();
        assert_eq!(latencies.begin(), None);
        for n in 1..=WINDOW as u64 {
            latencies.observe(Duration::from_millis(100 + n));
        }
        assert_eq!(latencies.begin(), Some(Duration::from_millis(100 + 254)));
        for _ in 0..WINDOW {
            latencies.observe(Duration::from_millis(1));
        }
        assert_eq!(
            latencies.begin(),
            Some(HEDGE_AFTER_MIN),
            "the old ones are forgotten"
        );
    }

    #[test]
    fn a_few_requests_in_a_hundred_are_sent_twice_at_most() {
        let latencies = Latencies::default();
        let mut hedges = 0;
        for _ in 0..1000 {
            latencies.begin();
            hedges += usize::from(latencies.may_hedge());
        }
        assert_eq!(hedges, 1000 / REQUESTS_PER_HEDGE as usize);
    }
}
