//! Whether one seed is one run: the same run twice, each in a process of its own, compared byte by byte.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::RunArgs;

/// `true` if both processes printed the same.
pub fn run(args: &RunArgs, seed: u64) -> anyhow::Result<bool> {
    let (first, second) = (printed(args, seed)?, printed(args, seed)?);
    ensure!(!first.is_empty(), "the run printed nothing");
    if first == second {
        let verdict = first.lines().last().unwrap_or_default();
        println!("seed {}: twice the same {} bytes; {verdict}", seed, first.len());
        return Ok(true);
    }
    let parts = first.lines().zip(second.lines()).enumerate();
    let parted = parts.into_iter().find(|(_, (one, other))| one != other);
    println!("seed {}: two runs differ", seed);
    match parted {
        Some((line, (one, other))) => {
            for before in first.lines().take(line).skip(line.saturating_sub(5)) {
                println!("  {before}");
            }
            println!("- {one}\n+ {other}");
        }
        None => println!("one goes on where the other ends"),
    }
    Ok(false)
}

/// What a process prints that does the run.
fn printed(args: &RunArgs, seed: u64) -> anyhow::Result<String> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.arg("run").args(args.of(seed)).stderr(Stdio::inherit());
    let output = command.output().context("cannot run this program")?;
    // A failed run is a run; one that could not be done is not.
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        "the run ended with {}",
        output.status
    );
    String::from_utf8(output.stdout).context("the trace is not text")
}
