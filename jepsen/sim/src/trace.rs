//! What happened in a run, in order: the lines that people read, and a hash over those and over every byte that went
//! over the network or to the stores. Two runs are the same if their hashes are.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;
use twox_hash::XxHash3_64;

thread_local! {
    /// The time of the step under way, for what runs between hosts.
    static STEP: Cell<Duration> = const { Cell::new(Duration::ZERO) };
    /// Which node's process a runtime is, by the runtime's id.
    static PROCESSES: RefCell<BTreeMap<String, u64>> = const { RefCell::new(BTreeMap::new()) };
}

/// What the simulated network logs of itself: a span for each host in each step, which costs more than the step.
const NETWORK_LOG: &str = "turmoil=off";

/// The record of one run. Clones share it.
#[derive(Clone)]
pub struct Trace(Arc<Mutex<Inner>>);

struct Inner {
    /// Folded over everything so far, each with what was before as its seed.
    hash: u64,
    events: u64,
    shown: bool,
}

/// Time since the run began: a host's own inside of it, that of the step between them.
pub fn now() -> Duration {
    turmoil::sim_elapsed().unwrap_or_else(|| STEP.get())
}

/// Says that what runs here from now on is the process of this node: lines that it logs have its name.
pub fn begin_process(node: u64) {
    if let Some(runtime) = runtime() {
        PROCESSES.with_borrow_mut(|processes| processes.insert(runtime, node));
    }
}

fn runtime() -> Option<String> {
    let runtime = tokio::runtime::Handle::try_current().ok()?;
    Some(runtime.id().to_string())
}

/// Says what the time is between hosts.
pub fn set_step(now: Duration) {
    STEP.set(now);
}

impl Trace {
    /// Empty. `shown`: lines go to standard output as they come.
    pub fn new(shown: bool) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            hash: 0,
            events: 0,
            shown,
        })))
    }

    /// Takes everything that the program logs, as `filter` says, for lines.
    pub fn collect_logs(&self, filter: &str) -> anyhow::Result<()> {
        let collector = tracing_subscriber::fmt()
            .with_env_filter(EnvFilter::try_new(format!("{NETWORK_LOG},{filter}"))?)
            .with_ansi(false)
            .with_timer(SimTime)
            .with_writer(self.clone())
            .finish();
        tracing::subscriber::set_global_default(collector)?;
        Ok(())
    }

    /// A line, with the time in front.
    pub fn line(&self, text: &str) {
        let mut line = String::new();
        // Writing into a string does not fail.
        let _ = write!(line, "{} {text}", at(now()));
        self.lock().take(&line);
    }

    /// An event that only counts for the hash: what kind it is, and its bytes.
    pub fn absorb(&self, kind: u8, bytes: &[u8]) {
        let mut inner = self.lock();
        inner.events += 1;
        let mut head = [kind; 17];
        head[1..].copy_from_slice(&now().as_nanos().to_le_bytes());
        inner.fold(&head);
        inner.fold(bytes);
    }

    /// Of everything so far.
    pub fn hash(&self) -> u64 {
        self.lock().hash
    }

    /// How many events.
    pub fn events(&self) -> u64 {
        self.lock().events
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn fold(&mut self, bytes: &[u8]) {
        self.hash = XxHash3_64::oneshot_with_seed(self.hash, bytes);
    }

    fn take(&mut self, line: &str) {
        self.events += 1;
        self.fold(line.as_bytes());
        if self.shown {
            // Whoever reads it may have gone away; the run goes on.
            let _ = writeln!(io::stdout().lock(), "{line}");
        }
    }
}

/// Seconds, to the microsecond.
fn at(time: Duration) -> String {
    format!("{:4}.{:06}", time.as_secs(), time.subsec_micros())
}

struct SimTime;

impl FormatTime for SimTime {
    fn format_time(&self, to: &mut Writer<'_>) -> std::fmt::Result {
        to.write_str(&at(now()))?;
        let node = runtime().and_then(|runtime| PROCESSES.with_borrow(|all| all.get(&runtime).copied()));
        match node {
            Some(node) => write!(to, " node-{node}"),
            None => Ok(()),
        }
    }
}

impl<'a> MakeWriter<'a> for Trace {
    type Writer = LogLine;

    fn make_writer(&'a self) -> LogLine {
        LogLine(self.clone())
    }
}

/// One line of the log, given in one piece.
pub struct LogLine(Trace);

impl Write for LogLine {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let text = String::from_utf8_lossy(bytes);
        self.0.lock().take(text.trim_end());
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
