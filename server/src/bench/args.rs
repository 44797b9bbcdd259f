//! The command line of `millrace bench`.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, bail, ensure};
use bytesize::ByteSize;
use clap::{Args, ValueEnum};
use millrace_api::config::StorageClass;
use url::Url;

use super::batch::BatchShape;
use super::driver::Endpoint;
use super::plan::{Names, Output, Pace, Plan, Protocol, Target, Workload};
use super::s2s::SESSIONS_PER_CONNECTION_MAX;
use super::verify::Content;

/// Memory that batches in flight may take.
const IN_FLIGHT_BYTES_MAX: usize = 4 << 30;
/// Batch that is filled when `--batch-records` is not given: large enough that a batch's own cost is small, small
/// enough that several are in flight in a client's usual window.
const BATCH_BYTES_DEFAULT: usize = 256 * 1024;

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Class {
    Standard,
    Express,
}

/// Measure an S2 endpoint, or two in turns
///
/// Creates a basin and streams, drives them, checks every record that it reads, deletes what it made, and prints a
/// table. Ends with a failure if the endpoint broke a session, or lost, repeated, reordered or changed a record.
#[derive(Debug, Args)]
pub struct BenchArgs {
    #[arg(value_enum)]
    workload: Workload,

    /// Endpoint to drive: http:// (HTTP/2 without TLS) or https://
    #[arg(long, value_name = "URL", required_unless_present = "null_sink")]
    url: Option<Url>,

    /// How to speak to it
    #[arg(long, value_enum, default_value = "s2s")]
    protocol: Protocol,

    /// Where its streams are, if not there; `{basin}` in the host stands for the basin's name
    #[arg(long, value_name = "URL")]
    basin_url: Option<String>,

    /// Access token
    #[arg(long, env = "S2_ACCESS_TOKEN", hide_env_values = true)]
    token: Option<String>,

    /// Take any TLS certificate
    #[arg(long)]
    insecure: bool,

    /// Drive a server inside this process that stores nothing, to learn what the bench itself can do
    #[arg(long, conflicts_with_all = ["url", "basin_url", "versus", "server_pid"])]
    null_sink: bool,

    /// Second endpoint, driven in turns with the first; ratios are printed first
    #[arg(long, value_name = "URL")]
    versus: Option<Url>,

    /// As --protocol, for the second endpoint [default: the same]
    #[arg(long, value_enum, value_name = "PROTOCOL", requires = "versus")]
    versus_protocol: Option<Protocol>,

    /// As --basin-url, for the second endpoint
    #[arg(long, value_name = "URL", requires = "versus")]
    versus_basin_url: Option<String>,

    /// As --token, for the second endpoint [default: the same]
    #[arg(long, value_name = "TOKEN", requires = "versus")]
    versus_token: Option<String>,

    /// Process id of the first server, to add its CPU time and peak memory; it must run on this machine
    #[arg(long, value_name = "PID")]
    server_pid: Option<u32>,

    /// As --server-pid, for the second endpoint
    #[arg(long, value_name = "PID", requires = "versus")]
    versus_pid: Option<u32>,

    /// Runs per endpoint; the table has their medians [default: 1, with --versus 3]
    #[arg(long)]
    rounds: Option<usize>,

    /// Streams, each with one writer
    #[arg(long, default_value_t = 1)]
    streams: usize,

    /// Readers per stream: those that follow, or in `catch-up` those that catch up
    #[arg(long, default_value_t = 1)]
    readers: usize,

    /// Readers per stream that catch up in `mixed`
    #[arg(long, default_value_t = 1)]
    catch_up_readers: usize,

    /// Size of a record in metered bytes: 8 and its body; at least 24
    #[arg(long, value_name = "BYTES", default_value = "1024", value_parser = bytes)]
    record_bytes: usize,

    /// Records per batch [default: as many as make 256 KiB, at most 1000]
    #[arg(long, value_name = "RECORDS")]
    batch_records: Option<usize>,

    /// Batches that each writer keeps waiting for their acknowledgement
    #[arg(long, value_name = "BATCHES", default_value_t = 16)]
    in_flight: usize,

    /// Records per second over all streams, sent when they are due [default: as fast as acknowledged]
    #[arg(long, value_name = "RECORDS", conflicts_with = "rate_bytes")]
    rate: Option<f64>,

    /// The same in metered bytes per second, as in 50MiB
    #[arg(long, value_name = "BYTES")]
    rate_bytes: Option<ByteSize>,

    /// Connections of writers, and as many again of readers
    #[arg(long, default_value_t = 1)]
    connections: usize,

    /// Storage class of the streams
    #[arg(long, value_enum, default_value = "standard")]
    storage_class: Class,

    /// How long to measure
    #[arg(long, default_value = "10s", value_parser = humantime::parse_duration)]
    duration: Duration,

    /// How long to drive before measuring
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    warm_up: Duration,

    /// Metered bytes that `catch-up` writes before it reads, over all streams
    #[arg(long, value_name = "BYTES", default_value = "256MiB")]
    preload: ByteSize,

    /// Pause of `catch-up` between writing and reading
    #[arg(long, default_value = "2s", value_parser = humantime::parse_duration)]
    settle: Duration,

    /// Read streams that are there already, named by --basin and --stream-prefix, instead of writing some; only for
    /// `catch-up`
    #[arg(long, requires_all = ["basin", "stream_prefix"])]
    existing: bool,

    /// With --existing: the records are not this bench's, so that only their sequence numbers can be checked
    #[arg(long, requires = "existing")]
    foreign: bool,

    /// Basin to use; made, and deleted afterwards, if it is not there [default: one of the bench's own]
    #[arg(long, value_name = "NAME")]
    basin: Option<String>,

    /// Streams are named by this and their number [default: bench-SEED/]
    #[arg(long, value_name = "PREFIX")]
    stream_prefix: Option<String>,

    /// Leave the basin and its streams
    #[arg(long)]
    keep: bool,

    /// Seed of record bodies and names [default: random]
    #[arg(long)]
    seed: Option<u64>,

    /// MiB/s that `--null-sink` showed for this load; a result near it is said to be the bench's limit
    #[arg(long, value_name = "MIBPS")]
    ceiling: Option<f64>,

    /// Distance of progress lines and of the points in time of JSON and plot
    #[arg(long, default_value = "1s", value_parser = humantime::parse_duration)]
    interval: Duration,

    /// How long an endpoint may leave the bench waiting before the run fails
    #[arg(long, default_value = "30s", value_parser = humantime::parse_duration)]
    timeout: Duration,

    /// Write all results as JSON; `-` is standard output, and the table then goes to standard error
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,

    /// Draw throughput and latency percentiles over time
    #[arg(long, value_name = "FILE.svg")]
    plot: Option<PathBuf>,
}

fn bytes(text: &str) -> Result<usize, String> {
    let size: ByteSize = text.parse()?;
    usize::try_from(size.as_u64()).map_err(|error| error.to_string())
}

impl BenchArgs {
    /// Checks everything that can be checked without an endpoint. `random_seed` is used if none was given.
    pub fn plan(self, random_seed: u64) -> Result<Plan> {
        self.check()?;
        let seed = self.seed.unwrap_or(random_seed);
        let shape = self.shape()?;
        let records_per_second = match (self.rate, self.rate_bytes) {
            (Some(rate), _) => Some(rate),
            (None, Some(bytes)) => Some(bytes.as_u64() as f64 / shape.record_bytes as f64),
            (None, None) => None,
        };
        let pace = match records_per_second {
            None => Pace::Saturate,
            Some(rate) if rate.is_finite() && rate > 0.0 => Pace::Rate(rate / shape.records as f64),
            Some(_) => bail!("the rate must be above zero"),
        };
        let held = self
            .in_flight
            .saturating_mul(self.streams)
            .saturating_mul(shape.bytes());
        ensure!(
            held <= IN_FLIGHT_BYTES_MAX,
            "{} batches in flight on each of {} streams take {} of memory; at most {} is allowed",
            self.in_flight,
            self.streams,
            ByteSize(held as u64),
            ByteSize(IN_FLIGHT_BYTES_MAX as u64),
        );
        let rounds = self.rounds.unwrap_or(if self.versus.is_some() { 3 } else { 1 });
        ensure!(rounds > 0, "there must be a round");
        Ok(Plan {
            workload: self.workload,
            targets: self.targets()?,
            rounds,
            names: Names {
                stream_prefix: match &self.stream_prefix {
                    Some(prefix) => prefix.clone(),
                    None => format!("bench-{seed:016x}/"),
                },
                basin: self.basin,
                existing: self.existing,
                keep: self.keep,
            },
            streams: self.streams,
            readers: self.readers,
            catch_up_readers: self.catch_up_readers,
            shape,
            in_flight: self.in_flight,
            pace,
            connections: self.connections,
            storage_class: match self.storage_class {
                Class::Standard => StorageClass::Standard,
                Class::Express => StorageClass::Express,
            },
            warm_up: self.warm_up,
            duration: self.duration,
            preload_bytes: self.preload.as_u64(),
            settle: self.settle,
            interval: self.interval,
            patience: self.timeout,
            content: match self.foreign {
                true => Content::Foreign,
                false => Content::Marked,
            },
            seed,
            ceiling_mib_s: self.ceiling,
            output: Output {
                json: self.json,
                plot: self.plot,
            },
        })
    }

    fn check(&self) -> Result<()> {
        for (name, count) in [
            ("streams", self.streams),
            ("readers", self.readers),
            ("in-flight", self.in_flight),
            ("connections", self.connections),
        ] {
            ensure!(count > 0, "--{name} must be above zero");
        }
        for (name, duration) in [
            ("duration", self.duration),
            ("interval", self.interval),
            ("timeout", self.timeout),
        ] {
            ensure!(!duration.is_zero(), "--{name} must be above zero");
        }
        ensure!(
            !self.null_sink || self.protocol == Protocol::S2s,
            "the null sink speaks S2S only"
        );
        ensure!(
            !self.existing || self.workload == Workload::CatchUp,
            "--existing is for catch-up: other loads write"
        );
        ensure!(
            !self.existing || !self.null_sink,
            "the null sink has no existing streams"
        );
        let readers = match self.workload {
            Workload::Append => 0,
            Workload::Tail | Workload::CatchUp => self.readers,
            Workload::Mixed => self.readers.saturating_add(self.catch_up_readers),
        };
        let sessions = self
            .streams
            .saturating_mul(readers.max(1))
            .div_ceil(self.connections);
        ensure!(
            sessions <= SESSIONS_PER_CONNECTION_MAX,
            "{sessions} sessions on a connection are too many: with --connections {} there are at most \
             {SESSIONS_PER_CONNECTION_MAX} on each",
            self.streams
                .saturating_mul(readers.max(1))
                .div_ceil(SESSIONS_PER_CONNECTION_MAX),
        );
        Ok(())
    }

    fn shape(&self) -> Result<BatchShape> {
        let fitting = BATCH_BYTES_DEFAULT / self.record_bytes.max(1);
        let records = self.batch_records.unwrap_or(fitting.clamp(1, 1000));
        BatchShape::new(records, self.record_bytes).map_err(anyhow::Error::msg)
    }

    fn targets(&self) -> Result<Vec<Target>> {
        let endpoint = |url: &Url, basin_url: &Option<String>, token: Option<String>| Endpoint {
            url: url.clone(),
            basin_url: basin_url.clone(),
            token,
            insecure: self.insecure,
        };
        let mut targets = Vec::new();
        if let Some(url) = &self.url {
            targets.push(Target {
                label: "A",
                protocol: self.protocol,
                endpoint: endpoint(url, &self.basin_url, self.token.clone()),
                server_pid: self.server_pid,
            });
        }
        if let Some(url) = &self.versus {
            let token = self.versus_token.clone().or_else(|| self.token.clone());
            targets.push(Target {
                label: "B",
                protocol: self.versus_protocol.unwrap_or(self.protocol),
                endpoint: endpoint(url, &self.versus_basin_url, token),
                server_pid: self.versus_pid,
            });
        }
        for target in &targets {
            let url = &target.endpoint.url;
            ensure!(
                matches!(url.scheme(), "http" | "https") && url.has_host(),
                "{url} is no http:// or https:// URL"
            );
            let plain = target.endpoint.basin_url.is_none() && !self.insecure;
            ensure!(
                target.protocol == Protocol::S2s || plain,
                "gRPC knows no basin URLs and takes no certificate unseen"
            );
        }
        Ok(targets)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(flatten)]
        bench: BenchArgs,
    }

    fn plan(args: &str) -> Result<Plan> {
        let args = ["bench"].into_iter().chain(args.split_whitespace());
        Cli::try_parse_from(args)?.bench.plan(9)
    }

    #[test]
    fn defaults_saturate_one_stream_with_batches_of_256_kib() {
        let plan = plan("append --url http://localhost:1").unwrap();
        assert_eq!(plan.pace, Pace::Saturate);
        assert_eq!((plan.shape.records, plan.shape.record_bytes), (256, 1024));
        assert_eq!((plan.rounds, plan.targets.len(), plan.seed), (1, 1, 9));
        assert_eq!(plan.names.stream_prefix, "bench-0000000000000009/");
    }

    #[test]
    fn a_rate_in_bytes_is_one_in_batches() {
        let plan =
            plan("append --url http://x --rate-bytes 10MiB --record-bytes 1KiB --batch-records 100").unwrap();
        assert_eq!(plan.pace, Pace::Rate(102.4));
        assert_eq!(plan.target_records_per_second(), Some(10240.0));
    }

    #[test]
    fn two_endpoints_take_three_rounds() {
        let plan = plan("tail --url http://a --versus http://b --token t --versus-pid 7").unwrap();
        assert_eq!(plan.rounds, 3);
        let labels: Vec<_> = plan.targets.iter().map(|target| target.label).collect();
        assert_eq!(labels, ["A", "B"]);
        assert_eq!(plan.targets[1].endpoint.token.as_deref(), Some("t"));
        assert_eq!(plan.targets[1].server_pid, Some(7));
    }

    #[test]
    fn what_cannot_be_run_is_refused() {
        for args in [
            "append",
            "append --url http://x --null-sink",
            "append --url ftp://x",
            "append --url http://x --rate 0",
            "append --url http://x --rate 5 --rate-bytes 5",
            "append --url http://x --streams 0",
            "append --url http://x --duration 0s",
            "append --url http://x --record-bytes 23",
            "append --url http://x --record-bytes 2KiB --batch-records 513",
            "append --url http://x --streams 101",
            "tail --url http://x --readers 101",
            "append --url http://x --basin abcdefgh --stream-prefix p --existing",
            "catch-up --url http://x --existing",
            "append --url http://x --in-flight 100000",
            "append --url http://x --versus-pid 5",
            "append --null-sink --protocol grpc",
            "append --url https://x --insecure --protocol grpc",
        ] {
            assert!(plan(args).is_err(), "{args}");
        }
        assert!(plan("append --url http://x --streams 101 --connections 2").is_ok());
        assert!(plan("mixed --null-sink").is_ok());
    }
}
