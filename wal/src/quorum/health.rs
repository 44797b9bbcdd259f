//! Whether a zone works, and who may find out when it does not.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until};

/// Failures in a row after which a zone counts as failing.
const FAILING_AFTER: u32 = 3;
/// Nothing is deleted for this long where a delete has failed: nobody waits for the room.
const DELETE_PAUSE: Duration = Duration::from_secs(30);

/// A zone's circuit breaker and its share of laggards.
///
/// - While the zone fails, at most one create per probe interval is under way to it.
/// - Bytes held for laggards never exceed the maximum given to [`lag`](Self::lag).
#[derive(Debug)]
pub(crate) struct ZoneHealth {
    probe_interval: Duration,
    state: Mutex<State>,
    recovered: Notify,
    lagging_bytes: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    failures: u32,
    probing: bool,
    next_probe: Option<Instant>,
    next_delete: Option<Instant>,
}

/// Leave to send one create. Report how it ended, or drop it if the create was given up.
#[derive(Debug)]
pub(crate) struct Admission<'a> {
    health: &'a ZoneHealth,
    probe: bool,
}

/// Bytes kept in memory for the sake of a slow zone.
#[derive(Debug)]
pub(crate) struct Lag<'a> {
    health: &'a ZoneHealth,
    bytes: u64,
}

impl ZoneHealth {
    pub(crate) fn new(probe_interval: Duration) -> Self {
        Self {
            probe_interval,
            state: Mutex::default(),
            recovered: Notify::new(),
            lagging_bytes: AtomicU64::new(0),
        }
    }

    pub(crate) fn failing(&self) -> bool {
        self.locked(|state| state.failures >= FAILING_AFTER)
    }

    /// Whether a delete has a chance: creates do not fail, and the last delete has not failed lately.
    pub(crate) fn may_delete(&self) -> bool {
        let now = Instant::now();
        self.locked(|state| state.failures < FAILING_AFTER && state.next_delete.is_none_or(|at| at <= now))
    }

    pub(crate) fn delete_failed(&self) {
        let next = Instant::now() + DELETE_PAUSE;
        self.locked(|state| state.next_delete = Some(next));
    }

    /// Bytes held for laggards now.
    pub(crate) fn lagging_bytes(&self) -> u64 {
        self.lagging_bytes.load(Ordering::Relaxed)
    }

    /// Waits until a create may be sent. Cancel safe.
    pub(crate) async fn admit(&self) -> Admission<'_> {
        loop {
            let recovered = self.recovered.notified();
            tokio::pin!(recovered);
            recovered.as_mut().enable();
            let now = Instant::now();
            let wake = self.locked(|state| {
                if state.failures < FAILING_AFTER {
                    return Ok(false);
                }
                match state.next_probe {
                    Some(at) if at > now => Err(at),
                    _ if state.probing => Err(now + self.probe_interval),
                    _ => {
                        state.probing = true;
                        // Also if this one is given up without a word.
                        state.next_probe = Some(now + self.probe_interval);
                        Ok(true)
                    }
                }
            });
            match wake {
                Ok(probe) => return Admission { health: self, probe },
                Err(at) => tokio::select! {
                    biased;
                    () = recovered => {}
                    () = sleep_until(at) => {}
                },
            }
        }
    }

    /// Takes room for a laggard of `bytes`, unless that would exceed `max` in all.
    pub(crate) fn lag(&self, bytes: u64, max: u64) -> Option<Lag<'_>> {
        self.lagging_bytes
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
                held.checked_add(bytes).filter(|sum| *sum <= max)
            })
            .ok()
            .map(|_| Lag { health: self, bytes })
    }

    fn locked<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Admission<'_> {
    /// The zone gave an answer, whatever it was.
    pub(crate) fn answered(self) {
        let was_failing = self.health.locked(|state| {
            let was_failing = state.failures >= FAILING_AFTER;
            state.failures = 0;
            state.next_probe = None;
            was_failing
        });
        if was_failing {
            self.health.recovered.notify_waiters();
        }
    }

    /// The zone gave no usable answer.
    pub(crate) fn failed(self) {
        let next = Instant::now() + self.health.probe_interval;
        self.health.locked(|state| {
            state.failures = state.failures.saturating_add(1);
            state.next_probe = Some(next);
        });
    }
}

impl Drop for Admission<'_> {
    fn drop(&mut self) {
        if self.probe {
            self.health.locked(|state| state.probing = false);
        }
    }
}

impl Drop for Lag<'_> {
    fn drop(&mut self) {
        self.health.lagging_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}
