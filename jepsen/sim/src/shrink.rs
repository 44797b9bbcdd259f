//! A failing run that is as small as will do: in a shorter time, with fewer faults, and with clients that do less, as
//! long as it still fails.

use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use crate::RunArgs;

/// Clients are not slowed down further than that.
const PAUSE_MS_MAX: u64 = 800;

/// A run, as far as it is made smaller.
#[derive(Clone, PartialEq)]
struct Size {
    seconds: u64,
    pause_ms: u64,
    /// Faults, counted from 0; `None` is all.
    keep: Option<Vec<usize>>,
}

/// What a run came to.
struct Tried {
    failed: bool,
    faults: usize,
    why: String,
}

struct Shrinking<'a> {
    args: &'a RunArgs,
    seed: u64,
    /// The smallest that fails so far, and what is wrong with it.
    size: Size,
    why: String,
}

/// Prints the command of the smallest run that still fails. `false` if the seed does not fail at all.
///
/// # Errors
/// If a run could not be done.
pub fn run(args: &RunArgs, seed: u64) -> anyhow::Result<bool> {
    let size = Size {
        seconds: args.seconds,
        pause_ms: args.pause_ms,
        keep: None,
    };
    let tried = attempt(args, seed, &size)?;
    if !tried.failed {
        println!("seed {seed} does not fail");
        return Ok(false);
    }
    println!("seed {seed} fails, with {} faults: {}", tried.faults, tried.why);
    let mut shrinking = Shrinking {
        args,
        seed,
        size,
        why: tried.why,
    };
    // With a schedule it takes as long as that says.
    if args.schedule.is_none() {
        shrinking.in_less_time()?;
    }
    let left = attempt(args, seed, &shrinking.size)?.faults;
    shrinking.with_fewer_faults(left)?;
    shrinking.with_less_work()?;
    let Shrinking { size, why, .. } = shrinking;
    let faults = size.keep.as_ref().map_or(left, Vec::len);
    println!("{faults} faults are left, in {} s: {why}", size.seconds);
    println!("again: millrace-sim run {}", of(args, seed, &size).join(" "));
    Ok(true)
}

impl Shrinking<'_> {
    /// Whether the run still fails at this size, which is the smallest then.
    fn fails_at(&mut self, size: Size, what: &str) -> anyhow::Result<bool> {
        let tried = attempt(self.args, self.seed, &size)?;
        if tried.failed {
            println!("{what}: {}", tried.why);
            (self.size, self.why) = (size, tried.why);
        }
        Ok(tried.failed)
    }

    /// Faults are drawn in the order of time: those that are there in less time stay the same.
    fn in_less_time(&mut self) -> anyhow::Result<()> {
        let mut passes = 0;
        while self.size.seconds - passes > 1 {
            let seconds = passes + (self.size.seconds - passes) / 2;
            let size = Size {
                seconds,
                ..self.size.clone()
            };
            if !self.fails_at(size, &format!("in {seconds} s"))? {
                passes = seconds;
            }
        }
        Ok(())
    }

    /// Leaves out ever smaller parts of them.
    fn with_fewer_faults(&mut self, faults: usize) -> anyhow::Result<()> {
        let mut keep: Vec<usize> = (0..faults).collect();
        let mut parts = 2;
        while !keep.is_empty() {
            let len = keep.len().div_ceil(parts);
            let mut smaller = None;
            for from in (0..keep.len()).step_by(len) {
                let until = (from + len).min(keep.len());
                let left = [&keep[..from], &keep[until..]].concat();
                let size = Size {
                    keep: Some(left.clone()),
                    ..self.size.clone()
                };
                if self.fails_at(size, &format!("without {} faults", faults - left.len()))? {
                    smaller = Some(left);
                    break;
                }
            }
            match smaller {
                Some(left) => {
                    keep = left;
                    parts = 2;
                }
                None if len == 1 => break,
                None => parts *= 2,
            }
        }
        Ok(())
    }

    /// Has clients pause for longer.
    fn with_less_work(&mut self) -> anyhow::Result<()> {
        while self.size.pause_ms.saturating_mul(2) <= PAUSE_MS_MAX {
            let pause_ms = (self.size.pause_ms * 2).max(1);
            let size = Size {
                pause_ms,
                ..self.size.clone()
            };
            if !self.fails_at(size, &format!("with pauses of {pause_ms} ms"))? {
                break;
            }
        }
        Ok(())
    }
}

fn of(args: &RunArgs, seed: u64, size: &Size) -> Vec<String> {
    let args = RunArgs {
        seconds: size.seconds,
        pause_ms: size.pause_ms,
        ..args.clone()
    };
    let mut args = args.of(seed);
    if let Some(keep) = &size.keep {
        let keep: Vec<String> = keep.iter().map(usize::to_string).collect();
        args.push(format!("--keep={}", keep.join(",")));
    }
    args
}

fn attempt(args: &RunArgs, seed: u64, size: &Size) -> anyhow::Result<Tried> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    command.arg("run").args(of(args, seed, size));
    // What a panic prints is not wanted as often as this is tried.
    command.stdin(Stdio::null()).stderr(Stdio::null());
    let output = command.output().context("cannot run this program")?;
    ensure!(
        matches!(output.status.code(), Some(0 | 1)),
        "the run ended with {}",
        output.status
    );
    let printed = String::from_utf8_lossy(&output.stdout);
    let mut wrong = printed.lines().filter_map(|line| line.strip_prefix("WRONG: "));
    Ok(Tried {
        failed: output.status.code() == Some(1),
        faults: printed.lines().filter(|line| is_fault(line)).count(),
        why: wrong.next().unwrap_or_default().to_owned(),
    })
}

/// `  12.345678 fault: …`, and nothing that a node logs.
fn is_fault(line: &str) -> bool {
    let mut words = line.split_whitespace();
    words.next().is_some_and(|time| time.parse::<f64>().is_ok()) && words.next() == Some("fault:")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_node_logs_is_no_fault() {
        assert!(is_fault("   4.120000 fault: crash of node 1"));
        assert!(!is_fault(
            "   4.120000 node-1  WARN millrace_server::channel: a fault: it is slow"
        ));
        assert!(!is_fault("   4.120000 over: crash of node 1"));
    }
}
