//! Reports for tests.

use super::*;

/// A round of an append load.
pub fn round(number: usize, mib_s: f64) -> RoundReport {
    let latency = Latency {
        count: 10,
        p50_ms: 1.0,
        p90_ms: 2.0,
        p99_ms: 3.0,
        p999_ms: 4.0,
        max_ms: 5.0,
        mean_ms: 1.5,
    };
    let interval = |n: usize| Interval {
        at_s: n as f64,
        append_mib_s: mib_s,
        tail_mib_s: 0.0,
        catch_up_mib_s: 0.0,
        append_latency: latency,
        tail_latency: Latency::default(),
    };
    RoundReport {
        round: number,
        measured_s: 3.0,
        append: Some(Flow {
            bytes: 1,
            records: 2,
            batches: 3,
            mib_s,
            records_s: 4.0,
            latency,
        }),
        tail: None,
        catch_up: None,
        target: None,
        client: Usage {
            cpu_s: 1.0,
            cores: 0.5,
            cpu_s_per_gib: 2.0,
            peak_bytes: 1 << 20,
        },
        server: None,
        limit: Limit::NotClient,
        verified: Verified {
            records_written: 2,
            records_read: 0,
            chains: 0,
        },
        intervals: (1..=3).map(interval).collect(),
    }
}

/// One endpoint, or two.
pub fn report(rounds: &[&[f64]]) -> Report {
    let endpoints: Vec<_> = ["A", "B"]
        .into_iter()
        .zip(rounds)
        .map(|(label, rounds)| EndpointReport {
            label,
            protocol: Protocol::S2s,
            url: format!("http://{label}"),
            rounds: (1..).zip(*rounds).map(|(n, mib_s)| round(n, *mib_s)).collect(),
        })
        .collect();
    Report {
        format: 1,
        version: "0",
        settings: Settings {
            workload: "append",
            streams: 1,
            readers: 0,
            catch_up_readers: 0,
            record_bytes: 1024,
            batch_records: 256,
            in_flight_batches: 16,
            connections: 1,
            storage_class: "standard".into(),
            target_records_s: None,
            warm_up_s: 0.0,
            duration_s: 3.0,
            preload_bytes: None,
            rounds: rounds[0].len(),
            seed: 1,
        },
        machine: Machine {
            cores: 2,
            cpu: None,
            kernel: None,
        },
        ratios: match &endpoints[..] {
            [a, b] => crate::bench::versus::compare(a, b),
            _ => Vec::new(),
        },
        endpoints,
    }
}
