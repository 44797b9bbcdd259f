//! A bound to the real time that a run takes: one that has not come to its end has shown nothing, and never passes.

use std::io::Write;
use std::path::PathBuf;
use std::process;
use std::thread;
use std::time::Duration;

/// Besides what a run is given for each simulated second.
const BASE: Duration = Duration::from_secs(120);
/// For each simulated second in which things go wrong.
const EACH_SECOND: Duration = Duration::from_secs(10);

/// What a run of so many simulated seconds may take.
pub fn of(simulated_seconds: u64) -> Duration {
    let simulated_seconds = u32::try_from(simulated_seconds).unwrap_or(u32::MAX);
    BASE.saturating_add(EACH_SECOND.saturating_mul(simulated_seconds))
}

/// Ends this process as a failed run when it is still there after `limit`; `disks` are removed then.
///
/// # Errors
/// If there is no thread to be had.
pub fn set(limit: Duration, run: String, disks: Option<PathBuf>) -> std::io::Result<()> {
    let guard = move || {
        thread::sleep(limit);
        let mut to = std::io::stdout().lock();
        // What cannot be told is still in the exit status.
        let _ = writeln!(
            to,
            "WRONG: the run is not over after {} s of real time",
            limit.as_secs()
        );
        let _ = writeln!(to, "{run}: FAILED, given up");
        let _ = to.flush();
        if let Some(disks) = disks {
            let _ = std::fs::remove_dir_all(disks);
        }
        process::exit(1);
    };
    thread::Builder::new().name("limit".into()).spawn(guard).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn longer_runs_may_take_longer() {
        assert!(of(0) < of(1) && of(100) < of(1000));
        assert_eq!(of(u64::MAX), of(u64::MAX - 1));
    }
}
