//! Figures of several rounds as one, and of two endpoints against each other.

use serde::Serialize;

use super::report::{EndpointReport, Flow, MIB, RoundReport};

/// One line of the result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Better {
    Higher,
    Lower,
}

type Read = fn(&RoundReport) -> Option<f64>;

/// A figure that rounds have.
pub struct Figure {
    pub name: &'static str,
    pub better: Better,
    pub read: Read,
}

const fn higher(name: &'static str, read: Read) -> Figure {
    Figure {
        name,
        better: Better::Higher,
        read,
    }
}

const fn lower(name: &'static str, read: Read) -> Figure {
    Figure {
        name,
        better: Better::Lower,
        read,
    }
}

fn flow(flow: &Option<Flow>, read: fn(&Flow) -> f64) -> Option<f64> {
    flow.as_ref().map(read)
}

/// Without a single sample a latency is no figure.
fn latency(part: &Option<Flow>, read: fn(&Flow) -> f64) -> Option<f64> {
    part.as_ref().filter(|flow| flow.latency.count > 0).map(read)
}

/// All of them, in the order of the table.
pub const FIGURES: &[Figure] = &[
    higher("append MiB/s", |r| flow(&r.append, |f| f.mib_s)),
    higher("append records/s", |r| flow(&r.append, |f| f.records_s)),
    lower("ack p50 ms", |r| latency(&r.append, |f| f.latency.p50_ms)),
    lower("ack p90 ms", |r| latency(&r.append, |f| f.latency.p90_ms)),
    lower("ack p99 ms", |r| latency(&r.append, |f| f.latency.p99_ms)),
    lower("ack p99.9 ms", |r| latency(&r.append, |f| f.latency.p999_ms)),
    lower("ack max ms", |r| latency(&r.append, |f| f.latency.max_ms)),
    higher("tail MiB/s", |r| flow(&r.tail, |f| f.mib_s)),
    higher("tail records/s", |r| flow(&r.tail, |f| f.records_s)),
    lower("end-to-end p50 ms", |r| latency(&r.tail, |f| f.latency.p50_ms)),
    lower("end-to-end p90 ms", |r| latency(&r.tail, |f| f.latency.p90_ms)),
    lower("end-to-end p99 ms", |r| latency(&r.tail, |f| f.latency.p99_ms)),
    lower("end-to-end p99.9 ms", |r| latency(&r.tail, |f| f.latency.p999_ms)),
    lower("end-to-end max ms", |r| latency(&r.tail, |f| f.latency.max_ms)),
    higher("catch-up MiB/s", |r| flow(&r.catch_up, |f| f.mib_s)),
    higher("catch-up records/s", |r| flow(&r.catch_up, |f| f.records_s)),
    lower("first batch p50 ms", |r| {
        latency(&r.catch_up, |f| f.latency.p50_ms)
    }),
    lower("first batch max ms", |r| {
        latency(&r.catch_up, |f| f.latency.max_ms)
    }),
    lower("server CPU-s/GiB", |r| r.server.map(|s| s.cpu_s_per_gib)),
    lower("server cores", |r| r.server.map(|s| s.cores)),
    lower("server peak MiB", |r| r.server.map(|s| s.peak_bytes as f64 / MIB)),
    lower("client CPU-s/GiB", |r| Some(r.client.cpu_s_per_gib)),
    lower("client cores", |r| Some(r.client.cores)),
];

/// The median of the rounds that have the figure.
pub fn median(rounds: &[RoundReport], read: Read) -> Option<f64> {
    let mut values: Vec<f64> = rounds.iter().filter_map(read).collect();
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => None,
        odd if odd % 2 == 1 => Some(values[middle]),
        _ => Some(f64::midpoint(values[middle - 1], values[middle])),
    }
}

/// One figure of both endpoints.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Comparison {
    pub figure: &'static str,
    pub better: Better,
    /// `a ÷ b`.
    pub ratio: f64,
    pub a: f64,
    pub b: f64,
}

/// Every figure that both have, and where the second's is not zero.
pub fn compare(a: &EndpointReport, b: &EndpointReport) -> Vec<Comparison> {
    let comparison = |figure: &Figure| {
        let (a, b) = (median(&a.rounds, figure.read)?, median(&b.rounds, figure.read)?);
        (b != 0.0).then(|| Comparison {
            figure: figure.name,
            better: figure.better,
            ratio: a / b,
            a,
            b,
        })
    };
    FIGURES.iter().filter_map(comparison).collect()
}

/// Who begins a round: each endpoint as often as the other, so that a machine that grows warm or busy favours none.
pub fn turns(round: usize, endpoints: usize) -> Vec<usize> {
    let order = 0..endpoints;
    match round.is_multiple_of(2) {
        true => order.collect(),
        false => order.rev().collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::super::plan::Protocol;
    use super::super::report::samples;
    use super::*;

    fn endpoint(label: &'static str, mib_s: &[f64]) -> EndpointReport {
        let rounds = (1..).zip(mib_s).map(|(n, mib_s)| samples::round(n, *mib_s));
        EndpointReport {
            label,
            protocol: Protocol::S2s,
            url: "http://localhost".into(),
            rounds: rounds.collect(),
        }
    }

    #[test]
    fn a_slow_round_does_not_move_the_median() {
        let read: Read = |r| r.append.map(|f| f.mib_s);
        assert_eq!(
            median(&endpoint("A", &[10.0, 1.0, 11.0]).rounds, read),
            Some(10.0)
        );
        assert_eq!(median(&endpoint("A", &[10.0, 20.0]).rounds, read), Some(15.0));
        assert_eq!(median(&[], read), None);
        let none: Read = |r| r.catch_up.map(|f| f.mib_s);
        assert_eq!(median(&endpoint("A", &[10.0]).rounds, none), None);
    }

    #[test]
    fn ratios_are_of_the_first_to_the_second() {
        let ratios = compare(&endpoint("A", &[30.0, 30.0, 1.0]), &endpoint("B", &[15.0]));
        let append = ratios.iter().find(|c| c.figure == "append MiB/s").unwrap();
        assert_eq!((append.ratio, append.a, append.b), (2.0, 30.0, 15.0));
        assert_eq!(append.better, Better::Higher);
        assert!(ratios.iter().all(|c| c.figure != "catch-up MiB/s"));
    }

    #[test]
    fn endpoints_take_turns_in_going_first() {
        assert_eq!(turns(0, 2), [0, 1]);
        assert_eq!(turns(1, 2), [1, 0]);
        assert_eq!(turns(1, 1), [0]);
    }
}
