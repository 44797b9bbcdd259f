//! Many seeds, each in a process of its own, a few at a time.

use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use anyhow::{Context, ensure};

/// What became of a seed.
struct Done {
    seed: u64,
    ok: bool,
    printed: String,
}

/// Runs them all, `jobs` at a time; `true` if nothing was wrong in any. Says of each that failed how to run it again.
/// `command` is what this program is called with for a seed.
pub fn run(
    seeds: Range<u64>,
    jobs: usize,
    command: impl Fn(u64) -> Vec<String> + Sync,
) -> anyhow::Result<bool> {
    ensure!(
        !seeds.is_empty(),
        "there are no seeds from {} up to {}",
        seeds.start,
        seeds.end
    );
    let next = AtomicU64::new(seeds.start);
    let failed = Mutex::new(Vec::new());
    let work = || -> anyhow::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::SeqCst);
            if seed >= seeds.end {
                return Ok(());
            }
            let args = command(seed);
            let done = one(&args, seed)?;
            print!("{}", done.printed);
            if !done.ok {
                println!("again: millrace-sim {}", args.join(" "));
                let mut failed = failed.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                failed.push(done.seed);
            }
        }
    };
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let workers: Vec<_> = (0..jobs.max(1)).map(|_| scope.spawn(work)).collect();
        for worker in workers {
            match worker.join() {
                Ok(done) => done?,
                Err(panic) => std::panic::resume_unwind(panic),
            }
        }
        Ok(())
    })?;
    let mut failed = failed
        .into_inner()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    failed.sort_unstable();
    let count = seeds.end - seeds.start;
    println!("{count} seeds, {} failed: {failed:?}", failed.len());
    Ok(failed.is_empty())
}

/// A run that did not come to its end is not ok.
fn one(args: &[String], seed: u64) -> anyhow::Result<Done> {
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
            "seed {seed}: FAILED, ended with {}\n{}",
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(Done {
        seed,
        ok: code == Some(0),
        printed,
    })
}
