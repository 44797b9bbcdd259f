//! The final table, for people.

use std::fmt::Write;

use super::{Aim, EndpointReport, MIB, Report};
use crate::bench::plan::Protocol;
use crate::bench::versus::{Comparison, FIGURES, median};

/// Width of the first column: the longest name of a figure.
const NAME_WIDTH: usize = 20;

/// The whole text, ratios first, with a line break at its end.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    write(report, &mut out).expect("a string takes all that is written");
    out
}

fn write(report: &Report, out: &mut String) -> std::fmt::Result {
    head(report, out)?;
    match &report.endpoints[..] {
        [one] => single(one, out)?,
        endpoints => versus(&report.ratios, endpoints, out)?,
    }
    for endpoint in &report.endpoints {
        notes(endpoint, out)?;
    }
    if report.endpoints.iter().any(watched) {
        writeln!(
            out,
            "CPU-s/GiB: CPU seconds per GiB of metered bytes appended and delivered, warm-up included"
        )?;
    }
    Ok(())
}

fn watched(endpoint: &EndpointReport) -> bool {
    endpoint.rounds.iter().any(|round| round.server.is_some())
}

fn head(report: &Report, out: &mut String) -> std::fmt::Result {
    let settings = &report.settings;
    write!(
        out,
        "\n{}: {} stream(s), records of {} B, {} per batch, ",
        settings.workload, settings.streams, settings.record_bytes, settings.batch_records
    )?;
    match settings.target_records_s {
        Some(rate) => write!(out, "open loop at {rate:.0} records/s")?,
        None => write!(out, "{} batches in flight", settings.in_flight_batches)?,
    }
    writeln!(
        out,
        ", {} connection(s), {} round(s) on {} cores\n",
        settings.connections, settings.rounds, report.machine.cores
    )
}

fn single(endpoint: &EndpointReport, out: &mut String) -> std::fmt::Result {
    for figure in FIGURES {
        if let Some(value) = median(&endpoint.rounds, figure.read) {
            writeln!(out, "{:<NAME_WIDTH$} {:>12}", figure.name, number(value))?;
        }
    }
    writeln!(out)
}

fn versus(ratios: &[Comparison], endpoints: &[EndpointReport], out: &mut String) -> std::fmt::Result {
    writeln!(out, "{:<NAME_WIDTH$} {:>8} {:>12} {:>12}", "", "A ÷ B", "A", "B")?;
    for line in ratios {
        writeln!(
            out,
            "{:<NAME_WIDTH$} {:>8} {:>12} {:>12}",
            line.figure,
            format!("{:.2}", line.ratio),
            number(line.a),
            number(line.b)
        )?;
    }
    writeln!(out)?;
    for endpoint in endpoints {
        let protocol = match endpoint.protocol {
            Protocol::S2s => "S2S",
            Protocol::Grpc => "gRPC",
        };
        writeln!(out, "{} is {} over {protocol}", endpoint.label, endpoint.url)?;
    }
    Ok(())
}

/// Whatever a reader must know before believing the figures, per round.
fn notes(endpoint: &EndpointReport, out: &mut String) -> std::fmt::Result {
    for round in &endpoint.rounds {
        let who = format!("{} round {}", endpoint.label, round.round);
        if let Some(aim) = round.target.filter(|aim| !aim.is_reached()) {
            missed(&who, &aim, out)?;
        }
        writeln!(
            out,
            "{who}: {} ({:.1} MiB/s in all, client {:.2} cores, {:.0} MiB peak)",
            round.limit,
            round.total_mib_s(),
            round.client.cores,
            round.client.peak_bytes as f64 / MIB
        )?;
        let verified = &round.verified;
        writeln!(
            out,
            "{who}: {} records written, {} read and verified, {} hash chain(s) equal",
            verified.records_written, verified.records_read, verified.chains
        )?;
    }
    Ok(())
}

fn missed(who: &str, aim: &Aim, out: &mut String) -> std::fmt::Result {
    writeln!(
        out,
        "{who}: TARGET RATE NOT REACHED: {:.1} % of {:.0} records/s; {} batches were never sent and count with the \
         time they had waited",
        100.0 * aim.reached,
        aim.records_s,
        aim.unsent_batches
    )
}

/// Three digits or more, never an exponent.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}
