//! Takes what the meters gathered, interval by interval, and keeps the whole.

use super::clock::{Clock, Window};
use super::meter::Tally;
use super::report::{Interval, Latency, MIB, per_second};
use super::workload::Meters;

/// Tallies of the three kinds of traffic.
#[derive(Debug, Clone, Default)]
pub struct Flows {
    pub append: Tally,
    pub tail: Tally,
    pub catch_up: Tally,
}

impl Flows {
    fn add(&mut self, other: &Flows) {
        self.append.add(&other.append);
        self.tail.add(&other.tail);
        self.catch_up.add(&other.catch_up);
    }

    /// Metered bytes at any time.
    pub fn bytes_ever(&self) -> u64 {
        self.append.bytes_ever + self.tail.bytes_ever + self.catch_up.bytes_ever
    }
}

pub struct Observer {
    clock: Clock,
    window: Window,
    /// Since the last interval.
    current: Flows,
    total: Flows,
    /// End of the last interval, in nanoseconds.
    last: u64,
    intervals: Vec<Interval>,
}

impl Observer {
    pub fn new(clock: Clock, window: Window) -> Self {
        Self {
            clock,
            window,
            current: Flows::default(),
            total: Flows::default(),
            last: window.start,
            intervals: Vec::new(),
        }
    }

    /// Ends an interval, if the measured time has begun and has not ended. What is under way after the end belongs
    /// to the last interval.
    pub fn tick(&mut self, meters: &Meters) -> Option<&Interval> {
        self.gather(meters);
        let now = self.clock.now();
        if now <= self.last || now >= self.window.end {
            return None;
        }
        Some(self.close(now))
    }

    /// The whole, once nothing is under way any more.
    pub fn finish(mut self, meters: &Meters) -> Observed {
        self.gather(meters);
        let end = self.clock.now().min(self.window.end);
        if end > self.last {
            self.close(end);
        }
        let mut lateness = Tally::default();
        meters.lateness.drain(&mut lateness);
        self.total.add(&self.current);
        Observed {
            seconds: end.saturating_sub(self.window.start) as f64 / 1e9,
            flows: self.total,
            lateness: Latency::of(&lateness),
            intervals: self.intervals,
        }
    }

    fn gather(&mut self, meters: &Meters) {
        meters.acked.drain(&mut self.current.append);
        meters.followed.drain(&mut self.current.tail);
        meters.caught_up.drain(&mut self.current.catch_up);
    }

    fn close(&mut self, now: u64) -> &Interval {
        let flows = std::mem::take(&mut self.current);
        let seconds = (now - self.last) as f64 / 1e9;
        let mib_s = |tally: &Tally| per_second(tally.bytes as f64 / MIB, seconds);
        self.intervals.push(Interval {
            at_s: (now - self.window.start) as f64 / 1e9,
            append_mib_s: mib_s(&flows.append),
            tail_mib_s: mib_s(&flows.tail),
            catch_up_mib_s: mib_s(&flows.catch_up),
            append_latency: Latency::of(&flows.append),
            tail_latency: Latency::of(&flows.tail),
        });
        self.total.add(&flows);
        self.last = now;
        self.intervals.last().expect("one was added")
    }
}

/// What a load came to.
pub struct Observed {
    pub seconds: f64,
    pub flows: Flows,
    pub lateness: Latency,
    pub intervals: Vec<Interval>,
}
