//! `millrace-sim`: the whole cluster in one thread. See [`run`].

mod ambient;
mod bank;
#[cfg(feature = "bugs")]
mod bugs;
mod clients;
mod cluster;
mod disk;
mod faults;
mod findings;
mod invariant;
mod jobs;
mod limit;
mod log;
mod network;
mod operator;
mod replacement;
mod run;
mod schedule;
mod shrink;
mod speed;
mod store;
mod trace;
mod twice;
mod zones;

use std::io::Write;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::{Args, Parser, Subcommand, ValueEnum};
#[cfg(feature = "bugs")]
use millrace_api::bug::Bug;
use millrace_api::config::StorageClass;
use millrace_jepsen::workload::Workload;
use rand_of_mad_turmoil::SeedableRng;

use crate::faults::Kind;
use crate::findings::Findings;
use crate::log::LogRun;
use crate::run::{Outcome, Run};
use crate::trace::Trace;

/// Every host's tasks are polled on one stack.
const STACK_BYTES: usize = 64 << 20;

/// Runs the whole cluster in one thread: a seed decides its time, its network, its store, its faults and its clients.
#[derive(Parser)]
#[command(name = "millrace-sim", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// One run. Prints what happened, and the verdict last; fails if anything was wrong
    Run(OneSeed),
    /// A run that fails, in as little time and with as few of its faults and as little work as will do
    Shrink(OneSeed),
    /// The same run twice, each in a process of its own; fails if they differ in a byte
    Meta(OneSeed),
    /// Many runs, one for each seed; fails if anything was wrong in one of them
    Bank(ManySeeds),
    /// The log of one channel over three zones, without a cluster: one run, or many
    Log(LogArgs),
    /// Breaks one rule after the other and tries seeds until that is found; fails if one never is
    #[cfg(feature = "bugs")]
    Bugs(ManyBugs),
}

#[cfg(feature = "bugs")]
#[derive(Args)]
struct ManyBugs {
    /// Which [default: all]
    #[arg(long = "only", value_delimiter = ',', value_name = "BUG", value_parser = parse_bug)]
    bugs: Vec<Bug>,

    /// The first seed, and the one behind the last
    #[arg(long, value_name = "A..B", value_parser = parse_seeds, default_value = "1..31")]
    seeds: Range<u64>,

    /// How many at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,

    /// Run all seeds, also those behind the first that finds it
    #[arg(long)]
    exhaustive: bool,

    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args)]
struct OneSeed {
    /// Decides everything
    #[arg(long)]
    seed: u64,

    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args)]
struct ManySeeds {
    /// The first seed, and the one behind the last
    #[arg(long, value_name = "A..B", value_parser = parse_seeds, required_unless_present = "dir")]
    seeds: Option<Range<u64>>,

    /// Runs that were kept: the lines of the files in this directory, each with arguments of this program
    #[arg(long, value_name = "DIR", conflicts_with = "seeds")]
    dir: Option<PathBuf>,

    /// How many at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,

    #[command(flatten)]
    run: RunArgs,
}

#[derive(Args)]
struct LogArgs {
    /// Decides everything
    #[arg(long, required_unless_present = "seeds", conflicts_with = "seeds")]
    seed: Option<u64>,

    /// One run for each: the first seed, and the one behind the last
    #[arg(long, value_name = "A..B", value_parser = parse_seeds)]
    seeds: Option<Range<u64>>,

    /// How many at a time
    #[arg(long, default_value_t = 1)]
    jobs: usize,

    /// Simulated seconds in which things go wrong
    #[arg(long, default_value_t = 20)]
    seconds: u64,

    /// Real seconds after which a run that is not over has failed [default: 120, and 10 for each simulated one]
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,

    /// Print the verdict alone
    #[arg(long)]
    quiet: bool,

    /// Break this rule
    #[cfg(feature = "bugs")]
    #[arg(long, value_name = "BUG", value_parser = parse_bug)]
    bug: Option<Bug>,
}

#[derive(Args, Clone)]
struct RunArgs {
    /// Simulated seconds in which things go wrong
    #[arg(long, default_value_t = 15)]
    seconds: u64,

    /// What clients do [default: drawn from the seed]
    #[arg(long)]
    workload: Option<Workload>,

    /// The class of all streams: on one store, or on three zones [default: drawn from the seed]
    #[arg(long, value_parser = parse_class)]
    class: Option<StorageClass>,

    /// What goes wrong, of which kinds; `--faults none` for nothing [default: some, drawn from the seed]
    #[arg(long, value_delimiter = ',', value_name = "KIND")]
    faults: Option<Vec<String>>,

    /// Faults with their times, instead of drawn ones: KIND:WHOM:FROM-UNTIL,…, with a node's number, `owner` or
    /// `leader`, and seconds
    #[arg(long, conflicts_with = "faults")]
    schedule: Option<String>,

    /// Of all faults only these, counted from 0
    #[arg(long, value_delimiter = ',', num_args = 0..)]
    keep: Option<Vec<String>>,

    /// Nodes of the cluster
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u64).range(2..=9))]
    nodes: u64,

    /// Mean pause of a client between two operations, in milliseconds
    #[arg(long, default_value_t = 50)]
    pause_ms: u64,

    /// After how many milliseconds a client gives a request up, whose outcome is unknown then
    #[arg(long, default_value_t = 3_000)]
    patience_ms: u64,

    /// Milliseconds that the network and each node go forward at a time: the least latency there is
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=10))]
    step_ms: u64,

    /// Break this rule
    #[cfg(feature = "bugs")]
    #[arg(long = "bug", id = "planted", value_name = "BUG", value_parser = parse_bug)]
    bug: Option<Bug>,

    /// Real seconds after which a run that is not over has failed [default: 120, and 10 for each simulated one]
    #[arg(long, value_name = "SECONDS")]
    limit: Option<u64>,

    /// Print the verdict alone
    #[arg(long)]
    quiet: bool,

    /// What the trace has of the nodes' logs
    #[arg(long, default_value = "info,openraft=error", value_name = "FILTER")]
    log: String,

    /// Where histories of what is wrong are written [default: millrace-sim among temporary files]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Run(it) => run(it.seed, it.run),
        Command::Meta(it) => twice::run(&it.run, it.seed),
        Command::Shrink(it) => shrink::run(&it.run, it.seed),
        Command::Bank(it) => run_bank(&it),
        Command::Log(it) => run_log(it),
        #[cfg(feature = "bugs")]
        Command::Bugs(it) => {
            let bugs = if it.bugs.is_empty() { Bug::ALL } else { &it.bugs };
            bugs::run(bugs, it.seeds, it.jobs, it.exhaustive, &it.run)
        }
    };
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// `true` if nothing was wrong.
fn run(seed: u64, args: RunArgs) -> anyhow::Result<bool> {
    #[cfg(feature = "bugs")]
    args.bug.into_iter().for_each(millrace_api::bug::plant);
    let disks = disks()?;
    limit::set(
        limit(args.limit, args.seconds),
        format!("seed {seed}"),
        Some(disks.path().to_owned()),
    )?;
    let run = Run {
        seed,
        disturbed: Duration::from_secs(args.seconds),
        workload: args.workload,
        class: args.class,
        faults: args.faults.as_deref().map(kinds).transpose()?,
        schedule: args.schedule.as_deref().map(str::parse).transpose()?,
        keep: args.keep.as_deref().map(indices).transpose()?,
        nodes: args.nodes,
        pause: Duration::from_millis(args.pause_ms),
        patience: Duration::from_millis(args.patience_ms),
        step: Duration::from_millis(args.step_ms),
        out: std::path::absolute(
            args.out
                .unwrap_or_else(|| std::env::temp_dir().join("millrace-sim")),
        )?,
    };
    // Names of files are relative: nothing in the run knows where it is.
    std::env::set_current_dir(disks.path())?;
    let outcome = on_seeded_thread(seed, move || simulate(&run, args.quiet, &args.log))?;
    show(seed, &outcome);
    Ok(outcome.findings.is_empty())
}

fn run_bank(bank: &ManySeeds) -> anyhow::Result<bool> {
    let runs = match &bank.dir {
        Some(dir) => bank::kept(dir)?,
        None => {
            let seeds = bank.seeds.clone().unwrap_or_default();
            let run = |seed| [vec!["run".to_owned()], bank.run.of(seed)].concat();
            seeds.map(run).collect()
        }
    };
    bank::run(&runs, bank.jobs)
}

/// `true` if nothing was wrong.
fn run_log(args: LogArgs) -> anyhow::Result<bool> {
    let seconds = args.seconds.to_string();
    let (Some(seed), None) = (args.seed, args.seeds.clone()) else {
        let run = |seed: u64| ["log", "--seed", &seed.to_string(), "--seconds", &seconds].map(str::to_owned);
        let runs = args.seeds.unwrap_or_default().map(|seed| run(seed).to_vec());
        return bank::run(&runs.collect::<Vec<_>>(), args.jobs);
    };
    #[cfg(feature = "bugs")]
    args.bug.into_iter().for_each(millrace_api::bug::plant);
    limit::set(limit(args.limit, args.seconds), format!("seed {seed}"), None)?;
    let run = LogRun {
        seed,
        disturbed: Duration::from_secs(args.seconds),
    };
    let outcome = on_seeded_thread(seed, move || {
        let (trace, findings) = watched(args.quiet, "info")?;
        run.run(&trace, &findings)
    })?;
    let mut to = std::io::stdout().lock();
    for finding in &outcome.findings {
        // What cannot be told is still in the exit status.
        let _ = writeln!(to, "WRONG: {finding}");
    }
    let _ = writeln!(
        to,
        "seed {seed}: {}, {} owners, {} recoveries, {} records acknowledged, {:.1} s simulated, hash {:016x}",
        if outcome.findings.is_empty() {
            "ok"
        } else {
            "FAILED"
        },
        outcome.owners,
        outcome.recoveries,
        outcome.acknowledged,
        outcome.simulated.as_secs_f64(),
        outcome.hash,
    );
    Ok(outcome.findings.is_empty())
}

impl RunArgs {
    /// As a command line, for one seed.
    fn of(&self, seed: u64) -> Vec<String> {
        let mut args: Vec<String> = vec!["--seed".into(), seed.to_string()];
        let mut add = |name: &str, value: String| args.extend([name.to_owned(), value]);
        add("--seconds", self.seconds.to_string());
        add("--nodes", self.nodes.to_string());
        add("--pause-ms", self.pause_ms.to_string());
        add("--patience-ms", self.patience_ms.to_string());
        add("--step-ms", self.step_ms.to_string());
        add("--log", self.log.clone());
        if let Some(limit) = self.limit {
            add("--limit", limit.to_string());
        }
        if let Some(out) = &self.out {
            add("--out", out.display().to_string());
        }
        if let Some(name) = self.workload.and_then(|workload| workload.to_possible_value()) {
            add("--workload", name.get_name().to_owned());
        }
        if let Some(class) = self.class {
            add("--class", class_name(class).to_owned());
        }
        #[cfg(feature = "bugs")]
        if let Some(bug) = self.bug {
            add("--bug", bug.name().to_owned());
        }
        if let Some(schedule) = &self.schedule {
            add("--schedule", schedule.clone());
        }
        if let Some(faults) = &self.faults {
            add("--faults", faults.join(","));
        }
        args
    }
}

fn limit(seconds: Option<u64>, simulated_seconds: u64) -> Duration {
    seconds.map_or(limit::of(simulated_seconds), Duration::from_secs)
}

fn simulate(run: &Run, quiet: bool, log: &str) -> anyhow::Result<Outcome> {
    let _clocks = mad_turmoil::time::SimClocksGuard::init();
    let (trace, findings) = watched(quiet, log)?;
    run.run(&trace, &findings)
}

/// Where everything is written down that happens from now on, and what is wrong.
fn watched(quiet: bool, log: &str) -> anyhow::Result<(Trace, Findings)> {
    let trace = Trace::new(!quiet);
    trace.collect_logs(log)?;
    let findings = Findings::new(trace.clone());
    let panics = findings.clone();
    let told = std::panic::take_hook();
    // A task that panics does not end the run by itself.
    std::panic::set_hook(Box::new(move |panic| {
        panics.add(format!("a panic: {panic}"));
        told(panic);
    }));
    Ok((trace, findings))
}

/// Runs `work` on a thread whose randomness is the simulation's from its first moment: hash maps of a
/// thread take their seeds once, and this one's take them from here.
fn on_seeded_thread<T: Send + 'static>(
    seed: u64,
    work: impl FnOnce() -> anyhow::Result<T> + Send + 'static,
) -> anyhow::Result<T> {
    mad_turmoil::rand::set_rng(<rand_of_mad_turmoil::rngs::StdRng as SeedableRng>::seed_from_u64(
        seed,
    ));
    let thread = std::thread::Builder::new()
        .name("sim".into())
        .stack_size(STACK_BYTES);
    let running = thread.spawn(move || {
        fastrand::seed(seed);
        work()
    });
    match running.context("cannot start the simulation")?.join() {
        Ok(done) => done,
        Err(panic) => std::panic::resume_unwind(panic),
    }
}

/// Where the machines' disks are: in memory if there is such a place, for what counts is what is in them and not that
/// it outlives the run.
fn disks() -> anyhow::Result<tempfile::TempDir> {
    let memory = Path::new("/dev/shm");
    let made = match memory.is_dir() {
        true => tempfile::tempdir_in(memory),
        false => tempfile::tempdir(),
    };
    made.context("cannot make a directory for the machines' disks")
}

#[cfg(feature = "bugs")]
fn parse_bug(text: &str) -> Result<Bug, String> {
    let found = Bug::ALL.iter().find(|bug| bug.name() == text);
    found.copied().ok_or_else(|| {
        let names: Vec<_> = Bug::ALL.iter().map(|bug| bug.name()).collect();
        format!("there are {}", names.join(", "))
    })
}

fn parse_class(text: &str) -> Result<StorageClass, String> {
    let classes = [StorageClass::Standard, StorageClass::Express];
    let found = classes.into_iter().find(|class| class_name(*class) == text);
    found.ok_or_else(|| "there are standard and express".to_owned())
}

fn class_name(class: StorageClass) -> &'static str {
    match class {
        StorageClass::Standard => "standard",
        StorageClass::Express => "express",
    }
}

fn parse_seeds(text: &str) -> Result<Range<u64>, String> {
    let number = |text: &str| text.parse().map_err(|_| format!("{text:?} is not a number"));
    let (first, end) = text.split_once("..").ok_or("expected A..B")?;
    Ok(number(first)?..number(end)?)
}

/// Numbers of faults; an empty text names none.
fn indices(texts: &[String]) -> anyhow::Result<Vec<usize>> {
    let texts = texts.iter().filter(|text| !text.is_empty());
    let number = |text: &String| text.parse().with_context(|| format!("{text:?} is not a number"));
    texts.map(number).collect()
}

/// Names of kinds, or `none`.
fn kinds(names: &[String]) -> anyhow::Result<Vec<Kind>> {
    if names == ["none"] {
        return Ok(Vec::new());
    }
    let kind = |name: &String| Kind::from_str(name, true).map_err(|why| anyhow!("faults: {why}"));
    names.iter().map(kind).collect()
}

fn show(seed: u64, outcome: &Outcome) {
    // What cannot be told is still in the exit status.
    let mut to = std::io::stdout().lock();
    for finding in &outcome.findings {
        let _ = writeln!(to, "WRONG: {finding}");
    }
    for history in &outcome.histories {
        let _ = writeln!(to, "see {}", history.display());
    }
    let _ = writeln!(
        to,
        "seed {seed}: {}, {:?}, {} operations, {:.1} s simulated, healed after {:.1} s, {} events, hash {:016x}",
        if outcome.findings.is_empty() {
            "ok"
        } else {
            "FAILED"
        },
        outcome.workload,
        outcome.operations,
        outcome.simulated.as_secs_f64(),
        outcome.healed_after.as_secs_f64(),
        outcome.events,
        outcome.hash,
    );
}
