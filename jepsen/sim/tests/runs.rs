//! Whole runs, each in a process of its own.

use std::process::{Command, Output};

fn simulator(args: &[&str]) -> Output {
    let out = tempfile::tempdir().expect("a directory");
    Command::new(env!("CARGO_BIN_EXE_millrace-sim"))
        .args(args)
        .arg("--out")
        .arg(out.path())
        .output()
        .expect("the simulator")
}

fn printed(output: &Output) -> String {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    text(&output.stdout) + &text(&output.stderr)
}

#[test]
fn one_seed_is_one_run() {
    let twice = simulator(&["meta", "--seed", "7", "--seconds", "6"]);
    assert!(twice.status.success(), "{}", printed(&twice));
}

#[test]
fn two_seeds_are_two_runs() {
    let run = |seed: &str| simulator(&["run", "--seed", seed, "--seconds", "1", "--quiet"]).stdout;
    assert_ne!(run("1"), run("2"));
}

#[test]
fn a_few_seeds_find_nothing_wrong() {
    let bank = simulator(&["bank", "--seeds", "1..7", "--seconds", "8"]);
    assert!(bank.status.success(), "{}", printed(&bank));
}

#[test]
fn the_log_over_three_zones_loses_nothing() {
    let logs = simulator_of_logs(&["--seeds", "1..7"]);
    assert!(logs.status.success(), "{}", printed(&logs));
}

#[test]
fn one_seed_is_one_run_of_the_log() {
    let run = |seed: &str| simulator_of_logs(&["--seed", seed, "--seconds", "5"]).stdout;
    assert_eq!(run("7"), run("7"));
    assert_ne!(run("7"), run("8"));
}

fn simulator_of_logs(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_millrace-sim"))
        .arg("log")
        .args(args)
        .output()
        .expect("the simulator")
}

/// Six seeds, of which one is enough: it takes an owner that is cut off, lives on, and is written to.
#[test]
fn a_store_that_replaces_what_stands_there_is_found() {
    let args = [
        "bank",
        "--seeds",
        "14..20",
        "--seconds",
        "15",
        "--workload",
        "many",
    ];
    let lies = ["--faults", "store-lies,hold", "--class", "standard"];
    let bank = simulator(&[&args[..], &lies].concat());
    assert_eq!(bank.status.code(), Some(1), "{}", printed(&bank));
    assert!(printed(&bank).contains("not linearizable"), "{}", printed(&bank));
}
