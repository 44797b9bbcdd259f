//! How fast a number of runs was: simulated time, and work of clients, for each second of a processor.

use std::fmt;

/// What runs came to so far.
#[derive(Debug, Default, Clone, Copy, PartialEq)]
pub struct Speed {
    pub simulated_seconds: f64,
    pub operations: f64,
}

impl Speed {
    /// Adds what a run of a cluster says of itself in its last line. A run of the log alone counts for nothing.
    pub fn add(&mut self, printed: &str) {
        let last = printed.lines().last().unwrap_or_default();
        let before = |what: &str| {
            let number = last.split(what).next()?.rsplit(' ').next()?;
            number.parse::<f64>().ok().filter(|_| last.contains(what))
        };
        if let (Some(operations), Some(seconds)) = (before(" operations"), before(" s simulated")) {
            self.operations += operations;
            self.simulated_seconds += seconds;
        }
    }
}

/// Seconds of a processor that the children of this process took that have ended; `None` where nobody tells.
pub fn children_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    // Behind the name, which may have spaces: the state, and then numbers.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |field: usize| fields.get(field)?.parse::<u64>().ok();
    let spent = ticks(13)? + ticks(14)?;
    Some(spent as f64 / rustix::param::clock_ticks_per_second() as f64)
}

impl fmt::Display for Speed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let simulated = self.simulated_seconds;
        write!(f, "{simulated:.0} simulated s")?;
        if simulated > 0.0 && self.operations > 0.0 {
            write!(f, ", {:.0} operations in each", self.operations / simulated)?;
        }
        match children_seconds() {
            Some(spent) if spent > 0.0 => {
                write!(f, ", {:.1} in a second of a processor", simulated / spent)
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_add_up() {
        let mut speed = Speed::default();
        speed.add(
            "WRONG: 9 operations\nseed 3: ok, Plain, 120 operations, 30.5 s simulated, healed after 1.0 s",
        );
        speed.add("seed 4: ok, 7 owners, 9 recoveries, 20 records acknowledged, 19.5 s simulated, hash 00");
        speed.add("nothing of that");
        let both = Speed {
            simulated_seconds: 30.5,
            operations: 120.0,
        };
        assert_eq!(speed, both);
    }
}
