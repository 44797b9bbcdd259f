//! Spares a store that does not answer, and its callers the wait.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Failures in a row that open the breaker.
const FAILURES_MAX: u32 = 5;
/// How long after the last failure it stays open when nobody probes.
const OPEN_FOR: Duration = Duration::from_secs(30);
/// How long after a probe failed the next one is let through.
const PROBE_PAUSE: Duration = Duration::from_secs(1);

/// Closed at first. While it is open, one request at a time may try whether the store is back; the first answer closes
/// it for all.
#[derive(Debug)]
pub(super) struct Breaker {
    state: Mutex<State>,
}

#[derive(Debug)]
enum State {
    Closed {
        failures: u32,
    },
    Open {
        /// Then everybody may try again, and the first failure opens it again.
        until: Instant,
        probe_at: Instant,
        probing: bool,
    },
}

/// The permission to make one request. Dropped without a word it changes nothing.
#[derive(Debug)]
pub(super) struct Pass<'a> {
    breaker: &'a Breaker,
    probe: bool,
}

impl Breaker {
    pub(super) fn new() -> Self {
        Self {
            state: Mutex::new(State::Closed { failures: 0 }),
        }
    }

    /// `None` while the breaker is open and no probe is due.
    pub(super) fn admit(&self) -> Option<Pass<'_>> {
        let now = Instant::now();
        let mut state = self.lock();
        let probe = match &mut *state {
            State::Closed { .. } => false,
            State::Open { until, .. } if *until <= now => {
                *state = State::Closed {
                    failures: FAILURES_MAX - 1,
                };
                false
            }
            State::Open {
                probe_at, probing, ..
            } => {
                if *probing || *probe_at > now {
                    return None;
                }
                *probing = true;
                true
            }
        };
        Some(Pass { breaker: self, probe })
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Pass<'_> {
    /// The store gave an answer, whatever it was.
    pub(super) fn answered(self) {
        *self.breaker.lock() = State::Closed { failures: 0 };
    }

    /// The store gave no usable answer. Says whether this opened the breaker.
    pub(super) fn failed(self) -> bool {
        let now = Instant::now();
        let mut state = self.breaker.lock();
        match &mut *state {
            State::Closed { failures } if *failures + 1 < FAILURES_MAX => {
                *failures += 1;
                false
            }
            State::Closed { .. } => {
                *state = State::Open {
                    until: now + OPEN_FOR,
                    probe_at: now + PROBE_PAUSE,
                    probing: false,
                };
                true
            }
            State::Open { until, probe_at, .. } => {
                // Requests that were under way when it opened count too.
                *until = now + OPEN_FOR;
                *probe_at = now + PROBE_PAUSE;
                false
            }
        }
    }
}

impl Drop for Pass<'_> {
    fn drop(&mut self) {
        if self.probe
            && let State::Open { probing, .. } = &mut *self.breaker.lock()
        {
            *probing = false;
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    fn opened() -> Breaker {
        let breaker = Breaker::new();
        for failure in 1..=FAILURES_MAX {
            let opens = breaker.admit().expect("it is closed").failed();
            assert_eq!(opens, failure == FAILURES_MAX);
        }
        breaker
    }

    #[tokio::test(start_paused = true)]
    async fn an_answer_between_failures_keeps_it_closed() {
        let breaker = Breaker::new();
        for _ in 0..10 {
            for _ in 1..FAILURES_MAX {
                assert!(!breaker.admit().expect("it is closed").failed());
            }
            breaker.admit().expect("it is closed").answered();
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_open_breaker_lets_one_probe_through_at_a_time() {
        let breaker = opened();
        assert!(breaker.admit().is_none(), "it has just failed");
        advance(PROBE_PAUSE).await;
        let probe = breaker.admit().expect("a probe");
        assert!(breaker.admit().is_none(), "one is under way");
        probe.failed();
        assert!(breaker.admit().is_none());
        advance(PROBE_PAUSE).await;
        drop(breaker.admit().expect("a probe that is given up"));
        breaker.admit().expect("another probe").answered();
        let all: Vec<_> = (0..10).map(|_| breaker.admit().expect("it is closed")).collect();
        assert_eq!(all.len(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn after_half_a_minute_everybody_may_try_and_one_failure_opens_it_again() {
        let breaker = opened();
        advance(OPEN_FOR).await;
        let first = breaker.admit().expect("it is time");
        assert!(breaker.admit().is_some());
        assert!(first.failed());
        assert!(breaker.admit().is_none());
    }
}
