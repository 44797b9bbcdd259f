//! One line on a terminal that says how the run goes; nothing where nobody watches.

use std::io::{IsTerminal, Write};

use super::report::Interval;

/// Back to the first column, and the rest of the line gone.
const REWRITE: &str = "\r\x1b[2K";

pub struct Progress {
    live: bool,
}

impl Progress {
    /// On standard error, if that is a terminal.
    pub fn stderr() -> Self {
        Self {
            live: std::io::stderr().is_terminal(),
        }
    }

    pub fn silent() -> Self {
        Self { live: false }
    }

    pub fn say(&self, text: &str) {
        self.write(&format!("{REWRITE}{text}"));
    }

    /// `duration_s` is how long it takes in all, if that is known.
    pub fn interval(&self, who: &str, duration_s: Option<f64>, interval: &Interval) {
        if self.live {
            self.say(&format!("{who}  {}", line(duration_s, interval)));
        }
    }

    /// What a person should know whether or not anybody watches.
    pub fn warn(&self, text: &str) {
        self.clear();
        eprintln!("millrace: {text}");
    }

    /// Leaves an empty line to whoever prints next.
    pub fn clear(&self) {
        self.write(REWRITE);
    }

    fn write(&self, text: &str) {
        if self.live {
            // A terminal that went away is no reason to stop measuring.
            let mut stderr = std::io::stderr().lock();
            drop(stderr.write_all(text.as_bytes()).and_then(|()| stderr.flush()));
        }
    }
}

fn line(duration_s: Option<f64>, interval: &Interval) -> String {
    let mut line = match duration_s {
        Some(duration_s) => format!("{:>4.0}/{duration_s:.0} s", interval.at_s),
        None => format!("{:>4.0} s", interval.at_s),
    };
    for (name, mib_s, latency) in [
        ("append", interval.append_mib_s, Some(&interval.append_latency)),
        ("tail", interval.tail_mib_s, Some(&interval.tail_latency)),
        ("catch-up", interval.catch_up_mib_s, None),
    ] {
        if mib_s > 0.0 {
            line.push_str(&format!("  {name} {mib_s:.1} MiB/s"));
            if let Some(latency) = latency.filter(|latency| latency.count > 0) {
                line.push_str(&format!(
                    " (p50 {:.2} p99 {:.2} ms)",
                    latency.p50_ms, latency.p99_ms
                ));
            }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::super::report::samples;
    use super::*;

    #[test]
    fn the_line_names_what_happens_and_nothing_else() {
        let interval = samples::round(1, 12.5).intervals[1];
        assert_eq!(
            line(Some(3.0), &interval),
            "   2/3 s  append 12.5 MiB/s (p50 1.00 p99 3.00 ms)"
        );
    }
}
