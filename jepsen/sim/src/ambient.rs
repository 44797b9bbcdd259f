//! The clocks and the randomness of one machine.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_server::env::Ambient;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::trace;

/// Where wall clocks stand when a run begins: 2025-01-01.
const BEGAN_MS: i64 = 1_735_689_600_000;

/// A machine: outlives the processes that run on it. Clones share it.
#[derive(Clone)]
pub struct Machine(Arc<Inner>);

struct Inner {
    rng: Mutex<SmallRng>,
    /// By how much the wall clock is off.
    skew_ms: AtomicI64,
    /// How long it was up when the run began.
    up: Duration,
    /// What its clocks gain, in millionths.
    drift_ppm: i64,
}

impl Machine {
    /// `drift_ppm`: millionths of a second that its clocks gain in each second; negative ones lose.
    pub fn new(seed: u64, drift_ppm: i64) -> Self {
        let mut rng = SmallRng::seed_from_u64(seed);
        let up = Duration::from_millis(rng.random_range(1_000..1_000_000_000));
        Self(Arc::new(Inner {
            skew_ms: AtomicI64::new(rng.random_range(-200..200)),
            rng: Mutex::new(rng),
            up,
            drift_ppm,
        }))
    }

    /// Sets the wall clock forward, or back.
    pub fn step_clock(&self, by_ms: i64) {
        self.0.skew_ms.fetch_add(by_ms, Ordering::SeqCst);
    }

    fn gained(&self) -> i64 {
        let elapsed = i64::try_from(trace::now().as_micros()).unwrap_or(i64::MAX);
        elapsed / 1_000 * self.0.drift_ppm / 1_000
    }
}

impl Ambient for Machine {
    fn now_ms(&self) -> u64 {
        let elapsed = i64::try_from(trace::now().as_millis()).unwrap_or(i64::MAX);
        let now = BEGAN_MS + elapsed + self.gained() / 1_000 + self.0.skew_ms.load(Ordering::SeqCst);
        u64::try_from(now).unwrap_or(0)
    }

    fn boot(&self) -> Duration {
        let gained = self.gained();
        let by = Duration::from_micros(gained.unsigned_abs());
        let up = self.0.up + trace::now();
        match gained < 0 {
            true => up.saturating_sub(by),
            false => up + by,
        }
    }

    fn random_u128(&self) -> u128 {
        self.0.rng.lock().unwrap_or_else(PoisonError::into_inner).random()
    }
}
