//! Executions that once broke a draft of the protocols, one by one: faults at given times, and the workload for which
//! they matter. Each run is judged as any other; besides, its trace must show that it was the execution that is meant.

use std::process::Command;

/// What the run prints, with streams on one store. Panics if anything was wrong.
fn trace(seed: u64, workload: &str, schedule: &str) -> String {
    trace_of("standard", seed, workload, schedule)
}

fn trace_of(class: &str, seed: u64, workload: &str, schedule: &str) -> String {
    let out = tempfile::tempdir().expect("a directory");
    let output = Command::new(env!("CARGO_BIN_EXE_millrace-sim"))
        .args(["run", "--seed", &seed.to_string(), "--workload", workload])
        .args(["--schedule", schedule, "--class", class])
        .arg("--out")
        .arg(out.path())
        .output()
        .expect("the simulator");
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{}", tail(&printed));
    printed
}

fn tail(text: &str) -> String {
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(60)..].join("\n")
}

fn count(trace: &str, what: &str) -> usize {
    trace.lines().filter(|line| line.contains(what)).count()
}

/// The same from the first fault on.
fn disturbed(trace: &str, what: &str) -> usize {
    let from = trace.find(" fault: ").unwrap_or(trace.len());
    count(&trace[from..], what)
}

/// Its chunk arrives where a seal stands.
#[test]
fn an_owner_that_is_suspended_before_a_create_and_wakes_after_the_seal_acknowledges_nothing() {
    let trace = trace(3, "plain", "store-hold:owner:0.9-13,hold:owner:1-13");
    assert!(
        disturbed(&trace, "took the channel over") >= 1,
        "nobody took over"
    );
    let ended = disturbed(&trace, "it begins anew") + disturbed(&trace, "nothing more is acknowledged here");
    assert!(ended >= 1, "the owner never heard that it was one no more");
}

#[test]
fn a_process_that_is_suspended_for_longer_than_its_lease_goes_on_without_harm() {
    let trace = trace(4, "plain", "pause:owner:1-12,pause:leader:14-22");
    assert!(
        disturbed(&trace, "took the channel over") >= 1,
        "nobody took over"
    );
}

/// Seconds are those of the simulation.
#[test]
fn express_serves_as_soon_as_its_zones_are_known() {
    let trace = trace_of("express", 6, "plain", "zone-slow:1:4-5");
    let calm = &trace[..trace.find(" fault: ").expect("a fault")];
    let late = |line: &&str| line.contains("is not verified") && time(line) > 2.0;
    let late: Vec<_> = calm.lines().filter(late).collect();
    assert!(late.is_empty(), "{late:#?}");
}

fn time(line: &str) -> f64 {
    let first = line.split_whitespace().next().and_then(|word| word.parse().ok());
    first.unwrap_or_default()
}

#[test]
fn owners_come_and_go_while_a_zone_is_dark_and_then_another() {
    let schedule = "zone-dark:1:1-8,crash:owner:2-4,zone-dark:1:9-16,pause:owner:10-15,zones-dark:1:17-20";
    let trace = trace_of("express", 5, "plain", schedule);
    assert!(
        disturbed(&trace, "took the channel over") >= 2,
        "nobody took over"
    );
}

/// Whoever takes over dies while it recovers, twice.
#[test]
fn two_recoveries_in_a_row_that_crash_leave_nothing_behind_that_harms_the_third() {
    let schedule = "store-slow:1:0.8-20,crash:owner:1-3,crash:owner:7.5-9,crash:owner:14-15";
    let trace = trace(6, "sessions", schedule);
    assert!(count(&trace, "fault: crash") == 3);
    assert!(disturbed(&trace, "epoch sealed") >= 2, "nothing was recovered");
}

/// The leader hears of it, and the one who gives the channel back does not hear that it has.
#[test]
fn a_release_whose_answer_is_lost_is_a_release() {
    let trace = trace(5, "plain", "one-way:leader:1-8,restart:owner:1.05-1.1");
    assert!(count(&trace, "has stopped") == 1);
    assert!(
        disturbed(&trace, "took the channel over") >= 1,
        "nobody took over"
    );
}

/// It was sent before the node was given up, and arrives after.
#[test]
fn a_heartbeat_that_arrives_after_its_node_was_expired_grants_nothing() {
    let trace = trace(8, "many", "hold:owner:1-12");
    assert!(count(&trace, "its channels are free") >= 1, "nobody was expired");
    assert!(count(&trace, "it begins anew") >= 1, "the node never heard of it");
}

#[test]
fn a_stream_that_is_deleted_and_created_again_behind_the_back_of_its_owner_is_a_new_one() {
    let schedule = "hold:owner:1.2-3.5,hold:owner:5-7.2,pause:owner:9-11.5,hold:2:13-15";
    let trace = trace(9, "recreate", schedule);
    assert!(count(&trace, "fault: ") == 4);
}

#[test]
fn machines_that_lose_power_in_turn_lose_nothing_that_was_acknowledged() {
    let schedule = "power-loss:leader:1-2,power-loss:owner:4-5,power-loss-all:1:8-9,power-loss-all:1:12-12.5";
    let trace = trace(10, "fenced", schedule);
    let lost: u64 = trace
        .lines()
        .filter_map(|line| {
            line.split(" lost ")
                .nth(1)?
                .strip_suffix(" bytes")?
                .parse::<u64>()
                .ok()
        })
        .sum();
    assert!(lost > 0, "there was nothing to lose");
}

#[test]
fn a_rolling_restart_with_a_change_of_membership_is_no_end_of_service() {
    let trace = trace(11, "sessions", "restart-rolling:1:1-12,membership:2:3-9");
    assert!(count(&trace, "has stopped") >= 3, "not all were restarted");
    assert!(count(&trace, ": done") >= 1, "the membership did not change");
}

/// What the operator does is told in `millrace cluster zones replace --help`.
#[test]
fn a_zone_that_is_replaced_under_load_while_another_is_slow_loses_nothing() {
    let schedule = "zone-slow:2:0.5-9,zone-replaced:1:1-8";
    let trace = trace_of("express", 12, "plain", schedule);
    assert!(
        count(&trace, "has stopped") >= 3,
        "not all nodes were given its URL"
    );
    assert!(
        count(&trace, "nothing is left in its former store") == 1,
        "it was not replaced"
    );
}

/// The first owner of the new lives dies while what only two former stores have is still to be flushed.
#[test]
fn a_zone_that_is_lost_and_replaced_while_owners_come_and_go_loses_nothing() {
    let schedule = "zone-replaced:3:1-6,crash:owner:2-3,zone-dark:2:4-5,crash:owner:6-7";
    let trace = trace_of("express", 15, "sessions", schedule);
    assert!(count(&trace, "fault: crash") == 2);
    assert!(count(&trace, "zone 3 is replaced, which was lost") >= 1);
    assert!(
        count(&trace, "nothing is left in its former store") == 1,
        "it was not replaced"
    );
}
