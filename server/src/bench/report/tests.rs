use serde_json::Value;

use super::samples::report;
use super::*;

#[test]
fn ratios_come_before_absolute_figures() {
    let text = render(&report(&[&[30.0], &[15.0]]));
    let lines: Vec<_> = text.lines().collect();
    let line = lines
        .iter()
        .find(|line| line.starts_with("append MiB/s"))
        .unwrap();
    let columns: Vec<_> = line.split_whitespace().collect();
    assert_eq!(columns, ["append", "MiB/s", "2.00", "30.0", "15.0"]);
    assert!(text.contains("A is http://A over S2S\nB is http://B over S2S\n"));
}

#[test]
fn one_endpoint_has_figures_and_a_verdict() {
    let text = render(&report(&[&[30.0]]));
    assert!(text.contains("append MiB/s                 30.0\n"), "{text}");
    assert!(text.contains("A round 1: the client was not the limit"));
    assert!(!text.contains("catch-up"));
    assert!(!text.contains("NOT REACHED"));
}

#[test]
fn a_missed_target_is_said_loudly() {
    let mut report = report(&[&[30.0]]);
    let mut aim = Aim {
        records_s: 1000.0,
        reached: 0.99,
        unsent_batches: 0,
        lateness: Latency::default(),
    };
    report.endpoints[0].rounds[0].target = Some(aim);
    assert!(!render(&report).contains("NOT REACHED"));
    aim.reached = 0.5;
    aim.unsent_batches = 7;
    report.endpoints[0].rounds[0].target = Some(aim);
    let text = render(&report);
    assert!(text.contains("TARGET RATE NOT REACHED: 50.0 % of 1000 records/s; 7 batches"));
}

#[test]
fn the_definition_of_server_cpu_is_printed_with_it() {
    let mut report = report(&[&[30.0]]);
    assert!(!render(&report).contains("CPU seconds per GiB of metered bytes"));
    report.endpoints[0].rounds[0].server = Some(report.endpoints[0].rounds[0].client);
    let text = render(&report);
    assert!(text.contains("server CPU-s/GiB"));
    assert!(text.contains("CPU seconds per GiB of metered bytes appended and delivered"));
}

#[test]
fn json_has_every_round_and_interval_under_stable_names() {
    let json: Value = serde_json::to_value(report(&[&[30.0, 31.0], &[15.0, 16.0]])).unwrap();
    assert_eq!(json["format"], 1);
    assert_eq!(json["ratios"][0]["figure"], "append MiB/s");
    assert_eq!(json["ratios"][0]["better"], "higher");
    assert_eq!(json["endpoints"][1]["label"], "B");
    let round = &json["endpoints"][0]["rounds"][1];
    assert_eq!(round["append"]["mib_s"], 31.0);
    assert_eq!(round["append"]["latency"]["p99_ms"], 3.0);
    assert_eq!(round["limited_by"], "not_client");
    assert_eq!(round["tail"], Value::Null);
    assert_eq!(round["intervals"].as_array().unwrap().len(), 3);
    assert_eq!(round["intervals"][2]["append_mib_s"], 31.0);
}

#[test]
fn no_latency_is_no_sample_rather_than_a_fast_one() {
    assert_eq!(Latency::of(&Tally::default()).count, 0);
    assert_eq!(Flow::of(&Tally::default(), 1.0), None);
    assert_eq!(per_second(5.0, 0.0), 0.0);
}
