//! What client and server used while a load ran.

use std::collections::HashMap;

use anyhow::Result;
use tokio::time::Instant;

use super::process::Process;
use super::report::{GIB, Usage, per_second};

/// Name of the threads of the null sink, which are not the client's.
pub const SINK_THREADS: &str = "null-sink";

/// Figures at the start of a load, to be subtracted from those at its end.
pub struct Stopwatch {
    began: Instant,
    client: Snapshot,
    server: Option<(Process, f64)>,
}

struct Snapshot {
    cpu: f64,
    /// By thread id.
    threads: HashMap<String, f64>,
    /// Of the null sink's threads.
    sink: f64,
}

impl Snapshot {
    fn take() -> Result<Self> {
        let own = Process::own();
        let (sink, client) = own
            .threads()?
            .into_iter()
            .partition::<Vec<_>, _>(|thread| thread.name == SINK_THREADS);
        Ok(Self {
            cpu: own.cpu_seconds()?,
            threads: client
                .into_iter()
                .map(|thread| (thread.id, thread.cpu_seconds))
                .collect(),
            sink: sink.iter().map(|thread| thread.cpu_seconds).sum(),
        })
    }
}

/// What was used between two looks.
#[derive(Debug, Clone, Copy)]
pub struct Used {
    /// Without the null sink's share.
    pub client: Usage,
    /// Share of the time that the client's busiest thread was running.
    pub busiest_thread: f64,
    pub server: Option<Usage>,
    /// CPU seconds per second of the null sink; zero without one.
    pub sink_cores: f64,
}

impl Stopwatch {
    pub fn start(server_pid: Option<u32>) -> Result<Self> {
        let server = match server_pid {
            None => None,
            Some(pid) => {
                let process = Process::of(pid)?;
                let cpu = process.cpu_seconds()?;
                Some((process, cpu))
            }
        };
        Ok(Self {
            began: Instant::now(),
            client: Snapshot::take()?,
            server,
        })
    }

    /// `bytes` were appended and delivered meanwhile.
    pub fn stop(self, bytes: u64) -> Result<Used> {
        let seconds = self.began.elapsed().as_secs_f64();
        let usage = |process: &Process, cpu_s: f64| -> Result<Usage> {
            Ok(Usage {
                cpu_s,
                cores: per_second(cpu_s, seconds),
                cpu_s_per_gib: per_second(cpu_s, bytes as f64 / GIB),
                peak_bytes: process.peak_bytes()?,
            })
        };
        let server = match &self.server {
            None => None,
            Some((process, before)) => Some(usage(process, process.cpu_seconds()? - before)?),
        };
        let now = Snapshot::take()?;
        let sink = now.sink - self.client.sink;
        let busiest = now.threads.iter().map(|(id, cpu)| {
            let before = self.client.threads.get(id).copied().unwrap_or_default();
            cpu - before
        });
        Ok(Used {
            busiest_thread: per_second(busiest.fold(0.0, f64::max), seconds),
            client: usage(&Process::own(), (now.cpu - self.client.cpu - sink).max(0.0))?,
            server,
            sink_cores: per_second(sink, seconds),
        })
    }
}
