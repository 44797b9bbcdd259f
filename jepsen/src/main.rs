//! `millrace-jepsen`: finds out whether Millrace keeps its promises.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, Parser, Subcommand};
use millrace_jepsen::check::{self, Verdict, timeline};
use millrace_jepsen::history;
use millrace_jepsen::live::cluster::Plan;
use millrace_jepsen::live::run::{Run, Until, run_dir};
use millrace_jepsen::live::zones;
use millrace_jepsen::measure::creations::creations;
use millrace_jepsen::measure::forwarding::forwarding;
use millrace_jepsen::measure::resume::{Way, Who, resume};
use millrace_jepsen::nemesis::Nemesis;
use millrace_jepsen::workload::Workload;
use tokio::signal::unix::{SignalKind, signal};

/// Nothing is wrong.
const GOOD: u8 = 0;
/// A promise was broken.
const BROKEN: u8 = 1;
/// Nothing can be said.
const NOTHING_SAID: u8 = 2;

/// Finds out whether Millrace keeps its promises: linearizable streams, nothing lost, nothing twice, whatever happens
/// to nodes and networks.
///
/// The status is 0 if nothing is wrong, 1 if a promise was broken, and 2 if nothing can be said.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run a cluster of real processes, do things to it, and judge what its clients saw
    Live(Live),
    /// Judge the history of one stream
    Check(Check),
    /// Measure a cluster of real processes
    Measure(Measure),
}

/// Each round: clients begin their work, a fault comes and goes, every node is proved to serve again, every stream is
/// read through every node, and all that clients were told is judged.
///
/// Faults that need network namespaces (cut-…) or file systems of their own (disk-full) need root, and are reported as
/// skipped where they cannot be had; those of the store (store-…) need --store, those of zones (zone-…) need --zones.
#[derive(Args)]
struct Live {
    /// The program to test
    #[arg(long, value_name = "PATH", env = "MILLRACE_BIN")]
    millrace: PathBuf,
    /// Nodes of the cluster
    #[arg(long, default_value_t = 3, value_name = "N")]
    nodes: usize,
    /// What clients do; several take turns [default: all]
    #[arg(long, value_delimiter = ',')]
    workload: Vec<Workload>,
    /// What happens to the cluster; several take turns [default: all kinds of kill, pause and cut]
    #[arg(long, value_delimiter = ',')]
    nemesis: Vec<Nemesis>,
    /// Number of rounds, of some ten seconds each
    #[arg(long, value_name = "N", conflicts_with = "minutes")]
    rounds: Option<u64>,
    /// Go on for so long [default: 5]
    #[arg(long, value_name = "MINUTES")]
    minutes: Option<u64>,
    /// Decides all choices, though not their timing [default: drawn, and printed]
    #[arg(long)]
    seed: Option<u64>,
    /// Directory for data, logs and histories [default: a new one below the system's for temporary files]
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Longest election; a lease is twice as long
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    election_timeout: Duration,
    /// An S3 server to store on, s3://BUCKET?endpoint=http://HOST:PORT…, reached through proxies that store-… faults
    /// need; credentials come from the environment [default: a directory]
    #[arg(long, value_name = "URL", env = "MILLRACE_JEPSEN_STORE")]
    store: Option<String>,
    /// Have Express zones, and all streams of class Express, on these [default: class Standard]
    #[arg(long, value_name = "KIND")]
    zones: Option<zones::Kind>,
    /// WAL channels of each node
    #[arg(long, default_value_t = 2, value_name = "N")]
    channels: u32,
    /// Mean pause of a client between two operations
    #[arg(long, default_value = "10ms", value_parser = humantime::parse_duration, value_name = "DURATION")]
    pause: Duration,
    /// Rounds before the next one begins on an empty cluster
    #[arg(long, default_value_t = 10, value_name = "N")]
    rounds_per_cluster: u64,
    /// Put all nodes on loopback, where none can be cut off
    #[arg(long)]
    loopback: bool,
    /// Keep histories and data also where nothing is wrong
    #[arg(long)]
    keep: bool,
    /// Print the report as JSON
    #[arg(long)]
    json: bool,
    /// Further arguments for `millrace server`
    #[arg(last = true)]
    further: Vec<String>,
}

/// All nodes and their clients share this machine, on loopback.
#[derive(Args)]
struct Measure {
    #[command(subcommand)]
    what: What,
    /// The program to measure
    #[arg(long, value_name = "PATH", env = "MILLRACE_BIN", global = true)]
    millrace: Option<PathBuf>,
    /// Longest election; a lease is twice as long
    #[arg(long, default_value = "500ms", value_parser = humantime::parse_duration, value_name = "DURATION", global = true)]
    election_timeout: Duration,
    /// Directory for data and logs [default: a new one below the system's for temporary files]
    #[arg(long, global = true)]
    dir: Option<PathBuf>,
    /// Print the figures as JSON
    #[arg(long, global = true)]
    json: bool,
    /// Further arguments for `millrace server`
    #[arg(last = true, global = true)]
    further: Vec<String>,
}

#[derive(Subcommand)]
enum What {
    /// How long writers wait when a node goes
    Resume {
        /// How it goes
        #[arg(long)]
        way: Way,
        /// Which goes
        #[arg(long)]
        who: Who,
        #[arg(long, default_value_t = 50, value_name = "N")]
        rounds: usize,
    },
    /// What it costs to ask a node that is not the owner
    Forwarding {
        #[arg(long, default_value_t = 5, value_name = "N")]
        rounds: usize,
    },
    /// How fast streams are made, listed, and there again after a restart
    Creations {
        #[arg(long, default_value_t = 100_000, value_name = "N")]
        streams: usize,
    },
}

/// The file has one JSON object per line, a start and a finish for each operation; the stream was empty at the
/// beginning.
#[derive(Args)]
struct Check {
    /// The history
    file: PathBuf,
    /// Draw the shortest beginning that no order explains
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Hashes of all records of the stream in order, one a line, as far as somebody knows them from a read that is in
    /// the history
    #[arg(long, value_name = "FILE")]
    records: Option<PathBuf>,
}

fn main() -> ExitCode {
    let said = match Cli::parse().command {
        Command::Live(live) => live.run(),
        Command::Check(check) => check.run(),
        Command::Measure(measure) => measure.run(),
    };
    match said {
        Ok(status) => ExitCode::from(status),
        Err(error) => {
            eprintln!("millrace-jepsen: {error:#}");
            ExitCode::from(NOTHING_SAID)
        }
    }
}

impl Live {
    fn run(self) -> anyhow::Result<u8> {
        ensure!(self.rounds_per_cluster > 0, "--rounds-per-cluster is at least 1");
        let seed = self.seed.unwrap_or_else(drawn);
        let dir = run_dir(self.dir, seed);
        let all = <Workload as clap::ValueEnum>::value_variants;
        let run = Run {
            plan: Plan {
                program: std::path::absolute(&self.millrace)?,
                dir: dir.clone(),
                nodes: self.nodes,
                election_timeout: self.election_timeout,
                store: self.store,
                zones: self.zones,
                clocks: self.nemesis.contains(&Nemesis::Clock),
                channels: self.channels,
                further: self.further,
            },
            workloads: match self.workload.is_empty() {
                true => all().to_vec(),
                false => self.workload,
            },
            nemeses: match self.nemesis.is_empty() {
                true => Nemesis::MIXED.to_vec(),
                false => self.nemesis,
            },
            until: match (self.rounds, self.minutes) {
                (Some(rounds), _) => Until::Rounds(rounds),
                (None, minutes) => Until::Time(Duration::from_secs(60 * minutes.unwrap_or(5))),
            },
            rounds_per_cluster: self.rounds_per_cluster,
            seed,
            pause: self.pause,
            loopback: self.loopback,
            keep: self.keep,
        };
        eprintln!("seed {seed}, files in {}", dir.display());
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let report = runtime.block_on(async {
            // Whoever stops it wants nodes and networks gone, too.
            let mut terminated = signal(SignalKind::terminate())?;
            tokio::select! {
                report = run.run(|round| eprintln!("{round}")) => report,
                _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
                _ = terminated.recv() => Err(anyhow::anyhow!("terminated")),
            }
        })?;
        match self.json {
            true => println!("{}", serde_json::to_string_pretty(&report)?),
            false => println!("\n{report}"),
        }
        if report.is_good() && !self.keep {
            std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        }
        Ok(if report.is_good() { GOOD } else { BROKEN })
    }
}

impl Measure {
    fn run(self) -> anyhow::Result<u8> {
        let dir = run_dir(self.dir, drawn());
        let program = self.millrace.context("--millrace says what to measure")?;
        let plan = Plan {
            program: std::path::absolute(program)?,
            dir: dir.clone(),
            nodes: 3,
            election_timeout: self.election_timeout,
            store: None,
            zones: None,
            clocks: false,
            channels: 2,
            further: self.further,
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()?;
        let (text, json) = runtime.block_on(async {
            match self.what {
                What::Resume { way, who, rounds } => {
                    let told = |victim, pause| eprintln!("node {}: {pause:?}", victim + 1);
                    figures(resume(plan, way, who, rounds, told).await?)
                }
                What::Forwarding { rounds } => figures(forwarding(plan, rounds).await?),
                What::Creations { streams } => figures(creations(plan, streams).await?),
            }
        })?;
        println!("{}", if self.json { json } else { text });
        std::fs::remove_dir_all(&dir).with_context(|| format!("cannot remove {}", dir.display()))?;
        Ok(GOOD)
    }
}

fn figures<T: std::fmt::Display + serde::Serialize>(of: T) -> anyhow::Result<(String, String)> {
    Ok((of.to_string(), serde_json::to_string_pretty(&of)?))
}

#[allow(
    clippy::disallowed_methods,
    reason = "whoever wants to repeat a run names the seed"
)]
fn drawn() -> u64 {
    rand::random()
}

impl Check {
    fn run(self) -> anyhow::Result<u8> {
        let open = |path: &Path| {
            let file = File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
            Ok::<_, anyhow::Error>(BufReader::new(file))
        };
        let events = history::read(open(&self.file)?).with_context(|| format!("{}", self.file.display()))?;
        let records = match &self.records {
            None => None,
            Some(path) => Some(
                open(path)?
                    .lines()
                    .map(|line| Ok(line?.trim().parse()?))
                    .collect::<anyhow::Result<Vec<u64>>>()
                    .with_context(|| format!("{}", path.display()))?,
            ),
        };
        match check::check(&events, records.as_deref())? {
            Verdict::Linearizable { operations, unknown } => {
                let (happened, of) = unknown;
                println!(
                    "linearizable: {operations} operations; of {of} unknown outcomes, {happened} happened in the order found"
                );
                Ok(GOOD)
            }
            Verdict::Undecided => {
                println!("undecided: too many unknown outcomes, too few reads");
                Ok(NOTHING_SAID)
            }
            Verdict::Violation(violation) => {
                println!("not linearizable: {}", violation.summary());
                if let Some(path) = &self.html {
                    std::fs::write(path, timeline::html(&violation))
                        .with_context(|| format!("cannot write {}", path.display()))?;
                }
                Ok(BROKEN)
            }
        }
    }
}
