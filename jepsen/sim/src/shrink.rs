//! A failing run with as few faults as will do: those that it fails without are left out, in ever smaller parts.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::RunArgs;

/// Prints the command of the smallest run that still fails. `false` if the seed does not fail at all.
///
/// # Errors
/// If a run could not be done.
pub fn run(args: &RunArgs, seed: u64) -> anyhow::Result<bool> {
    let tried = attempt(args, seed, None)?;
    if !tried.failed {
        println!("seed {seed} does not fail");
        return Ok(false);
    }
    println!("seed {seed} fails, with {} faults: {}", tried.faults, tried.why);
    let mut keep: Vec<usize> = (0..tried.faults).collect();
    let mut why = tried.why;
    let mut parts = 2;
    while !keep.is_empty() {
        let len = keep.len().div_ceil(parts);
        let without = (0..keep.len()).step_by(len).find_map(|from| {
            let left: Vec<usize> = keep
                .iter()
                .enumerate()
                .filter(|(at, _)| !(from..from + len).contains(at))
                .map(|(_, index)| *index)
                .collect();
            match attempt(args, seed, Some(&left)) {
                Ok(tried) if tried.failed => Some(Ok((left, tried.why))),
                Ok(_) => None,
                Err(error) => Some(Err(error)),
            }
        });
        match without.transpose()? {
            Some((left, reason)) => {
                println!("without {} of them: {reason}", keep.len() - left.len());
                (keep, why) = (left, reason);
                parts = 2;
            }
            None if len == 1 => break,
            None => parts *= 2,
        }
    }
    println!("{} faults are left: {why}", keep.len());
    println!(
        "again: millrace-sim run {}",
        of(args, seed, Some(&keep)).join(" ")
    );
    Ok(true)
}

struct Tried {
    failed: bool,
    faults: usize,
    why: String,
}

fn of(args: &RunArgs, seed: u64, keep: Option<&[usize]>) -> Vec<String> {
    let mut args = args.of(seed);
    if let Some(keep) = keep {
        let keep: Vec<String> = keep.iter().map(usize::to_string).collect();
        args.push(format!("--keep={}", keep.join(",")));
    }
    args
}

fn attempt(args: &RunArgs, seed: u64, keep: Option<&[usize]>) -> anyhow::Result<Tried> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command
        .arg("run")
        .args(of(args, seed, keep))
        .stderr(Stdio::inherit());
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("cannot run this program")?;
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        "the run ended with {}",
        output.status
    );
    let printed = String::from_utf8_lossy(&output.stdout);
    let mut wrong = printed.lines().filter_map(|line| line.strip_prefix("WRONG: "));
    Ok(Tried {
        failed: output.status.code() == Some(1),
        faults: printed.lines().filter(|line| line.contains(" fault: ")).count(),
        why: wrong.next_back().unwrap_or_default().to_owned(),
    })
}
