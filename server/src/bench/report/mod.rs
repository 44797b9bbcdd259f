//! What a bench found, as it is printed and written. Field names are those of the JSON; they carry their units.

mod table;

use serde::Serialize;

pub use table::render;

use super::limit::Limit;
use super::meter::Tally;
use super::plan::Protocol;
use super::versus::Comparison;

pub const MIB: f64 = 1024.0 * 1024.0;
pub const GIB: f64 = 1024.0 * MIB;

/// All of one run of the bench. `format` changes when a field changes its meaning or goes.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    pub format: u32,
    pub version: &'static str,
    pub settings: Settings,
    pub machine: Machine,
    /// `A ÷ B` of medians; empty with one endpoint.
    pub ratios: Vec<Comparison>,
    pub endpoints: Vec<EndpointReport>,
}

/// What was asked for.
#[derive(Debug, Clone, Serialize)]
pub struct Settings {
    pub workload: &'static str,
    pub streams: usize,
    pub readers: usize,
    pub catch_up_readers: usize,
    pub record_bytes: usize,
    pub batch_records: usize,
    pub in_flight_batches: usize,
    pub connections: usize,
    pub storage_class: String,
    /// Absent in a closed loop.
    pub target_records_s: Option<f64>,
    pub warm_up_s: f64,
    pub duration_s: f64,
    pub preload_bytes: Option<u64>,
    pub rounds: usize,
    pub seed: u64,
}

/// Where the bench ran.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cores: usize,
    pub cpu: Option<String>,
    pub kernel: Option<String>,
}

impl Machine {
    /// As far as `/proc` tells.
    pub fn here() -> Self {
        let read = |path| std::fs::read_to_string(path).ok();
        let cpu = read("/proc/cpuinfo").and_then(|text| {
            let line = text.lines().find(|line| line.starts_with("model name"))?;
            Some(line.split_once(':')?.1.trim().to_owned())
        });
        Self {
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            cpu,
            kernel: read("/proc/sys/kernel/osrelease").map(|text| text.trim().to_owned()),
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub struct EndpointReport {
    pub label: &'static str,
    pub protocol: Protocol,
    pub url: String,
    pub rounds: Vec<RoundReport>,
}

/// One round on one endpoint.
#[derive(Debug, Clone, Serialize)]
pub struct RoundReport {
    /// From 1.
    pub round: usize,
    pub measured_s: f64,
    pub append: Option<Flow>,
    /// To followers.
    pub tail: Option<Flow>,
    pub catch_up: Option<Flow>,
    pub target: Option<Aim>,
    pub client: Usage,
    pub server: Option<Usage>,
    #[serde(flatten)]
    pub limit: Limit,
    pub verified: Verified,
    pub intervals: Vec<Interval>,
}

impl RoundReport {
    /// Appended and delivered, MiB/s.
    pub fn total_mib_s(&self) -> f64 {
        let flows = [&self.append, &self.tail, &self.catch_up];
        flows.into_iter().flatten().map(|flow| flow.mib_s).sum()
    }
}

/// One kind of traffic over the measured time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Flow {
    /// Metered.
    pub bytes: u64,
    pub records: u64,
    pub batches: u64,
    pub mib_s: f64,
    pub records_s: f64,
    pub latency: Latency,
}

impl Flow {
    /// `None` if nothing of this kind happened.
    pub fn of(tally: &Tally, seconds: f64) -> Option<Self> {
        (tally.bytes_ever > 0).then(|| Self {
            bytes: tally.bytes,
            records: tally.records,
            batches: tally.batches,
            mib_s: per_second(tally.bytes as f64 / MIB, seconds),
            records_s: per_second(tally.records as f64, seconds),
            latency: Latency::of(tally),
        })
    }
}

/// Zero over no time at all.
pub fn per_second(amount: f64, seconds: f64) -> f64 {
    if seconds > 0.0 { amount / seconds } else { 0.0 }
}

/// Percentiles over records, in milliseconds; zero if there was none.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize)]
pub struct Latency {
    pub count: u64,
    pub p50_ms: f64,
    pub p90_ms: f64,
    pub p99_ms: f64,
    pub p999_ms: f64,
    pub max_ms: f64,
    pub mean_ms: f64,
}

impl Latency {
    pub fn of(tally: &Tally) -> Self {
        let histogram = &tally.latency;
        if histogram.is_empty() {
            return Self::default();
        }
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            count: histogram.len(),
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1000.0,
            mean_ms: histogram.mean() / 1000.0,
        }
    }
}

/// How an open-loop load went.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Aim {
    pub records_s: f64,
    /// Share of the aim that was acknowledged within the measured time.
    pub reached: f64,
    /// Batches that were due and never sent; their latency counts as what they had waited when the load ended.
    pub unsent_batches: u64,
    /// How late the bench was to send batches that nothing held back.
    pub lateness: Latency,
}

/// Less than this share of the aim is said to be missed. What is under way at the end makes some of the difference.
const REACHED_MIN: f64 = 0.98;

impl Aim {
    pub fn is_reached(&self) -> bool {
        self.reached >= REACHED_MIN && self.unsent_batches == 0
    }
}

/// What a process used, from the first session to the last byte, warm-up included.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Usage {
    pub cpu_s: f64,
    /// CPU seconds per second.
    pub cores: f64,
    /// Per GiB of metered bytes appended and delivered in that time.
    pub cpu_s_per_gib: f64,
    /// Largest resident memory since the process began.
    pub peak_bytes: u64,
}

/// What was checked, over the whole round.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Verified {
    pub records_written: u64,
    /// At every reader: place and content.
    pub records_read: u64,
    /// Readings whose hash chain is the writer's.
    pub chains: u64,
}

/// A piece of the measured time.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Interval {
    /// Its end, from the start of the measured time.
    pub at_s: f64,
    pub append_mib_s: f64,
    pub tail_mib_s: f64,
    pub catch_up_mib_s: f64,
    pub append_latency: Latency,
    pub tail_latency: Latency,
}

#[cfg(test)]
pub mod samples;
#[cfg(test)]
mod tests;
