//! Time as the bench counts it: nanoseconds since its start, on one monotonic clock for writers and readers alike,
//! so that a reader can tell how old a record is.

use std::time::Duration;

use tokio::time::Instant;

/// Nanoseconds since the start of the bench.
pub type Nanos = u64;

/// The clock of one bench. All copies count from the same start.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    origin: Instant,
}

impl Clock {
    pub fn start() -> Self {
        Self {
            origin: Instant::now(),
        }
    }

    pub fn now(&self) -> Nanos {
        nanos(self.origin.elapsed())
    }

    /// The same point for tokio's timers.
    pub fn instant(&self, at: Nanos) -> Instant {
        self.origin + Duration::from_nanos(at)
    }
}

/// Saturates after 584 years.
pub fn nanos(duration: Duration) -> Nanos {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// What is measured: `start..end`. Before it is the warm-up, after it what was still under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    pub start: Nanos,
    /// Exclusive.
    pub end: Nanos,
}

impl Window {
    pub fn contains(&self, at: Nanos) -> bool {
        (self.start..self.end).contains(&at)
    }

    pub fn seconds(&self) -> f64 {
        self.end.saturating_sub(self.start) as f64 / 1e9
    }
}
