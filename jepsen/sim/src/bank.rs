//! Many runs, each in a process of its own, a few at a time.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};

use anyhow::{Context, ensure};

use crate::jobs;
use crate::speed::Speed;

/// The runs that are kept in a directory: the lines of all its files, in order of their names. What follows a `#` is
/// for people.
///
/// # Errors
/// If it cannot be read.
pub fn kept(dir: &Path) -> anyhow::Result<Vec<Vec<String>>> {
    let cannot = || format!("cannot read {}", dir.display());
    let mut files = std::fs::read_dir(dir)
        .with_context(cannot)?
        .map(|entry| entry.map(|entry| entry.path()))
        .collect::<Result<Vec<_>, _>>()
        .with_context(cannot)?;
    files.sort();
    let mut runs = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).with_context(cannot)?;
        let lines = text
            .lines()
            .map(|line| line.split('#').next().unwrap_or_default());
        let words = lines.map(|line| line.split_whitespace().map(str::to_owned).collect::<Vec<_>>());
        runs.extend(words.filter(|words| !words.is_empty()));
    }
    Ok(runs)
}

/// Does all runs, given as arguments of this program, `jobs` at a time; `true` if nothing was wrong in any. Says of each
/// that failed how to do it again.
pub fn run(runs: &[Vec<String>], jobs: usize) -> anyhow::Result<bool> {
    ensure!(!runs.is_empty(), "there is nothing to run");
    let failed = Mutex::new(Vec::new());
    let speed = Mutex::new(Speed::default());
    jobs::each(runs, jobs, |args| {
        let (ok, printed) = one(args)?;
        print!("{printed}");
        speed.lock().unwrap_or_else(PoisonError::into_inner).add(&printed);
        if !ok {
            let again = format!("millrace-sim {}", args.join(" "));
            println!("again: {again}");
            failed.lock().unwrap_or_else(PoisonError::into_inner).push(again);
        }
        Ok(())
    })?;
    let mut failed = failed.into_inner().unwrap_or_else(PoisonError::into_inner);
    failed.sort_unstable();
    let speed = speed.into_inner().unwrap_or_else(PoisonError::into_inner);
    println!("{} runs, {} failed; {speed}", runs.len(), failed.len());
    failed.iter().for_each(|again| println!("  {again}"));
    Ok(failed.is_empty())
}

/// Whether it is ok, and what it printed. A run that did not come to its end is not ok.
fn one(args: &[String]) -> anyhow::Result<(bool, String)> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.args(args).arg("--quiet");
    let output = command
        .stdin(Stdio::null())
        .output()
        .context("cannot run this program")?;
    let mut printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let code = output.status.code();
    if code != Some(0) && code != Some(1) {
        printed += &format!(
            "{}: FAILED, ended with {}\n{}",
            args.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok((code == Some(0), printed))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kept_runs_are_lines_without_what_is_for_people() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("b"), "run --seed 2\n").unwrap();
        std::fs::write(dir.path().join("a"), "# why\n\nrun --seed 1 # because\n").unwrap();
        let run = |seed: &str| ["run", "--seed", seed].map(str::to_owned).to_vec();
        assert_eq!(kept(dir.path()).unwrap(), [run("1"), run("2")]);
    }
}
