//! What processes use, from Linux's `/proc`: CPU time and peak memory.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// A process that is watched.
#[derive(Debug, Clone)]
pub struct Process {
    dir: PathBuf,
}

impl Process {
    /// `Err` if there is none with this id, or if there is no `/proc`.
    pub fn of(pid: u32) -> Result<Self> {
        let process = Self {
            dir: PathBuf::from(format!("/proc/{pid}")),
        };
        process
            .cpu_seconds()
            .with_context(|| format!("no process {pid} to be measured"))?;
        Ok(process)
    }

    /// The bench's own.
    pub fn own() -> Self {
        Self {
            dir: PathBuf::from("/proc/self"),
        }
    }

    /// User and system time so far, of all threads, ended ones included.
    pub fn cpu_seconds(&self) -> Result<f64> {
        Ok(stat(&self.dir.join("stat"))?.cpu_seconds)
    }

    /// Largest resident memory since the process began (`VmHWM`).
    pub fn peak_bytes(&self) -> Result<u64> {
        let path = self.dir.join("status");
        let status = std::fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
        parse_peak(&status).with_context(|| format!("no VmHWM in {}", path.display()))
    }

    /// User and system time of each living thread, with its name.
    pub fn threads(&self) -> Result<Vec<Thread>> {
        let mut threads = Vec::new();
        for task in std::fs::read_dir(self.dir.join("task"))? {
            let task = task?;
            // A thread may end between the listing and the look at it.
            if let Ok(stat) = stat(&task.path().join("stat")) {
                threads.push(Thread {
                    id: task.file_name().to_string_lossy().into_owned(),
                    ..stat
                });
            }
        }
        Ok(threads)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct Thread {
    pub id: String,
    /// At most 15 bytes of it.
    pub name: String,
    pub cpu_seconds: f64,
}

fn stat(path: &Path) -> Result<Thread> {
    let text = std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    parse_stat(&text, rustix::param::clock_ticks_per_second() as f64)
        .with_context(|| format!("cannot make sense of {}", path.display()))
}

/// The name is in brackets and may itself hold some; what follows the last is numbers.
fn parse_stat(text: &str, ticks_per_second: f64) -> Result<Thread> {
    let (head, tail) = text.rsplit_once(") ").context("no name in brackets")?;
    let (id, name) = head.split_once(" (").context("no name in brackets")?;
    // Fields 14 and 15, utime and stime; the tail begins with field 3.
    let fields: Vec<&str> = tail.split_ascii_whitespace().collect();
    let [Some(user), Some(system)] = [fields.get(11), fields.get(12)] else {
        bail!("too few fields");
    };
    let ticks = user.parse::<u64>()? + system.parse::<u64>()?;
    Ok(Thread {
        id: id.to_owned(),
        name: name.to_owned(),
        cpu_seconds: ticks as f64 / ticks_per_second,
    })
}

fn parse_peak(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kib: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_found_whatever_the_process_is_called() {
        let text = "42 (a) b (c) S 1 42 42 0 -1 4194304 9 8 7 6 150 25 3 4 20 0 1 0 100 5 6\n";
        let thread = parse_stat(text, 100.0).unwrap();
        assert_eq!(
            (thread.id.as_str(), thread.name.as_str(), thread.cpu_seconds),
            ("42", "a) b (c", 1.75)
        );
        assert!(parse_stat("42 (x) S 1 2", 100.0).is_err());
        assert!(parse_stat("", 100.0).is_err());
    }

    #[test]
    fn peak_memory_is_in_kibibytes() {
        assert_eq!(
            parse_peak("Name:\tx\nVmHWM:\t   12 kB\nVmRSS:\t 9 kB\n"),
            Some(12 * 1024)
        );
        assert_eq!(parse_peak("Name:\tx\n"), None);
    }

    #[test]
    fn this_process_can_be_measured() {
        let own = Process::of(std::process::id()).unwrap();
        assert!(own.peak_bytes().unwrap() > 0);
        assert!(!own.threads().unwrap().is_empty());
        own.cpu_seconds().unwrap();
    }
}
