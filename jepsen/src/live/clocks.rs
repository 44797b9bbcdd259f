//! Wall clocks of single nodes, set while they run: `libfaketime` between each process and the system's clock.
//!
//! Only the wall clock. Timers and leases go by the monotonic one, which nobody sets on a real machine either; the
//! simulator has that one drift.
//!
//! What is set here is a file that a process looks into if the library was loaded into it. Whether it was, nobody can
//! say but the process itself: it is to be asked for its clock.

use std::path::{Path, PathBuf};

use anyhow::Context;
use tokio::process::Command;

/// Where Debian and its relatives have it, and others.
const LIBRARIES: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketime.so.1",
    "/usr/lib64/faketime/libfaketime.so.1",
    "/usr/lib/faketime/libfaketime.so.1",
];
const RIGHT: Reading = Reading {
    ahead_ms: 0,
    rate: 1.0,
};

/// How a clock is wrong.
#[derive(Debug, Clone, Copy)]
pub struct Reading {
    /// Milliseconds ahead of the system's; behind it if negative.
    pub ahead_ms: i64,
    /// Its seconds per second, counted from the start of the process.
    pub rate: f64,
}

/// See the module.
#[derive(Debug)]
pub struct Clocks {
    /// `None` if nobody is to set them.
    library: Option<PathBuf>,
    dir: PathBuf,
}

impl Clocks {
    /// Of nodes whose files are in `dir`. They can be set only if that is `wanted`, and the library is there.
    pub fn new(wanted: bool, dir: &Path) -> anyhow::Result<Self> {
        let there = LIBRARIES
            .into_iter()
            .map(PathBuf::from)
            .find(|path| path.is_file());
        Ok(Self {
            library: there.filter(|_| wanted),
            dir: std::path::absolute(dir)?,
        })
    }

    /// Why they cannot be set; nothing if they can.
    pub fn obstacle(&self) -> Option<&'static str> {
        match self.library {
            Some(_) => None,
            None => Some("there is no libfaketime: on Debian it is in the package `faketime`"),
        }
    }

    /// Gives a process the clock of a node. It has what was [`set`](Self::set) for the node before.
    pub fn give(&self, node: usize, command: &mut Command) -> anyhow::Result<()> {
        let Some(library) = &self.library else {
            return Ok(());
        };
        let file = self.file(node);
        if !file.exists() {
            self.set(node, RIGHT)?;
        }
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", file)
            // Seconds until a process looks into the file again.
            .env("FAKETIME_CACHE_DURATION", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DONT_RESET", "1");
        Ok(())
    }

    /// Within a second the node's clock is so, if its process follows.
    pub fn set(&self, node: usize, reading: Reading) -> anyhow::Result<()> {
        let seconds = reading.ahead_ms as f64 / 1000.0;
        let (file, text) = (self.file(node), format!("{seconds:+.3} x{:.3}\n", reading.rate));
        // Whoever reads finds all of it.
        let whole = file.with_extension("new");
        std::fs::write(&whole, text)
            .and_then(|()| std::fs::rename(&whole, &file))
            .with_context(|| format!("cannot write {}", file.display()))
    }

    /// Right again.
    pub fn heal(&self, node: usize) -> anyhow::Result<()> {
        self.set(node, RIGHT)
    }

    fn file(&self, node: usize) -> PathBuf {
        self.dir.join(format!("node-{}.clock", node + 1))
    }
}
