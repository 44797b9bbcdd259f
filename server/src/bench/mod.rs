//! `millrace bench`: drives any S2 endpoint, measures it, and checks every record that it reads.
//!
//! - An open loop sends when a batch is due and counts its latency from then, however late it could be sent; a closed
//!   loop keeps a number of batches in flight.
//! - Every reader holds what it gets against what was written: dense sequence numbers, a mark in each body, and a hash
//!   chain over all of them. The first difference fails the run.
//! - Memory is bounded: by batches in flight, by windows of connections, by histograms of fixed size.
//! - The bench says when it was itself the limit; `docs/benchmarks.md` has the rules and the definitions.
//!
//! [`Driver`](driver::Driver) is what it needs of an endpoint; the workloads know no protocol.

pub mod args;
pub mod batch;
pub mod chain;
pub mod clock;
mod crew;
pub mod driver;
mod grpc;
mod limit;
mod meter;
mod observer;
pub mod plan;
mod plot;
mod process;
mod progress;
pub mod report;
mod round;
pub mod s2s;
pub mod schedule;
pub mod sink;
mod site;
mod usage;
pub mod verify;
pub mod versus;
mod workload;

use std::path::Path;

use anyhow::{Context, Result};
use millrace_api::config::StorageClass;

use self::clock::Clock;
use self::plan::{Plan, Target, Workload};
use self::progress::Progress;
use self::report::{EndpointReport, Machine, Report, Settings};
use self::round::Round;
use self::sink::NullSink;

/// Version of the JSON's fields.
const FORMAT: u32 = 1;

/// Runs the plan and prints what it found. `Err` if an endpoint failed or is not to be believed; what the rounds
/// before that found is printed all the same.
pub async fn run(plan: Plan) -> Result<()> {
    let progress = Progress::stderr();
    let measured = measure(&plan, &progress).await;
    progress.clear();
    let (report, done) = measured?;
    let rounds = report.endpoints.iter().map(|endpoint| endpoint.rounds.len());
    if rounds.sum::<usize>() > 0 {
        publish(&plan, &report)?;
    }
    done
}

fn publish(plan: &Plan, report: &Report) -> Result<()> {
    let table = report::render(report);
    match plan.output.json_on_stdout() {
        true => eprint!("{table}"),
        false => print!("{table}"),
    }
    if let Some(path) = &plan.output.json {
        write_json(report, path)?;
    }
    if let Some(path) = &plan.output.plot {
        let svg = plot::draw(report)?;
        std::fs::write(path, svg).with_context(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// Runs the plan and prints nothing. `Err` if any round failed.
pub async fn measure_quietly(plan: &Plan) -> Result<Report> {
    let (report, done) = measure(plan, &Progress::silent()).await?;
    done.map(|()| report)
}

/// All rounds on all endpoints, in turns, up to the first that fails.
async fn measure(plan: &Plan, progress: &Progress) -> Result<(Report, Result<()>)> {
    let clock = Clock::start();
    // Held until the end: it serves as long as it lives.
    let (targets, sink) = match &plan.targets[..] {
        [] => {
            let sink = NullSink::start(plan)?;
            (vec![sink.target()], Some(sink))
        }
        targets => (targets.to_vec(), None),
    };
    let mut endpoints: Vec<EndpointReport> = targets.iter().map(EndpointReport::of).collect();
    let mut done = Ok(());
    'rounds: for number in 0..plan.rounds {
        for turn in versus::turns(number, targets.len()) {
            let round = Round {
                plan,
                target: &targets[turn],
                number: number + 1,
                null_sink: sink.is_some(),
                clock,
                progress,
            };
            match round.run().await {
                Ok(report) => endpoints[turn].rounds.push(report),
                Err(error) => {
                    done = Err(error.context(format!("{} round {}", targets[turn].label, number + 1)));
                    break 'rounds;
                }
            }
        }
    }
    let ratios = match &endpoints[..] {
        [a, b] => versus::compare(a, b),
        _ => Vec::new(),
    };
    let report = Report {
        format: FORMAT,
        version: env!("CARGO_PKG_VERSION"),
        settings: settings(plan),
        machine: Machine::here(),
        ratios,
        endpoints,
    };
    Ok((report, done))
}

impl EndpointReport {
    fn of(target: &Target) -> Self {
        Self {
            label: target.label,
            protocol: target.protocol,
            url: target.endpoint.url.to_string(),
            rounds: Vec::new(),
        }
    }
}

fn settings(plan: &Plan) -> Settings {
    let (readers, catch_up_readers) = match plan.workload {
        Workload::Append => (0, 0),
        Workload::Tail => (plan.readers, 0),
        Workload::CatchUp => (0, plan.readers),
        Workload::Mixed => (plan.readers, plan.catch_up_readers),
    };
    Settings {
        workload: plan.workload.name(),
        streams: plan.streams,
        readers,
        catch_up_readers,
        record_bytes: plan.shape.record_bytes,
        batch_records: plan.shape.records,
        in_flight_batches: plan.in_flight,
        connections: plan.connections,
        storage_class: match plan.storage_class {
            StorageClass::Standard => "standard".into(),
            StorageClass::Express => "express".into(),
        },
        target_records_s: plan.target_records_per_second(),
        warm_up_s: plan.warm_up.as_secs_f64(),
        duration_s: plan.duration.as_secs_f64(),
        preload_bytes: (plan.workload == Workload::CatchUp).then_some(plan.preload_bytes),
        rounds: plan.rounds,
        seed: plan.seed,
    }
}

fn write_json(report: &Report, path: &Path) -> Result<()> {
    let mut json = serde_json::to_vec_pretty(report)?;
    json.push(b'\n');
    if path.as_os_str() == "-" {
        use std::io::Write;
        return Ok(std::io::stdout().write_all(&json)?);
    }
    std::fs::write(path, json).with_context(|| format!("write {}", path.display()))
}
