//! Whether what is wrong would be found: every rule that can be broken is, and seeds are tried until somebody says so.
//!
//! Each bug is looked for where it can show: with the workload and the faults that it takes. What the faults are, when
//! they come, and everything else is up to the seed, as in any run.

use std::fmt;
use std::ops::Range;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::PoisonError;
use std::time::Duration;

use anyhow::{Context, ensure};
use millrace_api::bug::Bug;

use crate::{RunArgs, jobs};

/// Where a bug shows.
struct Place {
    /// What runs: a cluster with this workload, or the log alone.
    workload: Option<&'static str>,
    class: &'static str,
    goes_wrong: GoesWrong,
    /// Mean pause of clients, if it is not the usual one.
    pause_ms: Option<u64>,
    /// When clients give up, if it is not as usual.
    patience_ms: Option<u64>,
}

enum GoesWrong {
    /// Faults of these kinds, drawn.
    Drawn(&'static str),
    /// These faults at these times: what it takes comes together rarely by itself.
    Planned(&'static str),
}

/// What became of looking for one.
struct Row {
    bug: Bug,
    /// The first seed that found it, how many were tried, and what it said.
    found: Option<(u64, u64, String)>,
    /// Seeds that found it, of those that were tried to the end.
    hits: usize,
    tried: usize,
    took: Duration,
}

/// Looks for all of `bugs` with these seeds, `jobs` at a time; `true` if each was found. With `exhaustive` every seed is
/// run, to say how many of them find it.
pub fn run(
    bugs: &[Bug],
    seeds: Range<u64>,
    jobs: usize,
    exhaustive: bool,
    args: &RunArgs,
) -> anyhow::Result<bool> {
    ensure!(!seeds.is_empty(), "there are no seeds");
    let rows = Mutex::new(Vec::new());
    jobs::each(bugs, jobs, |bug| {
        let row = look(*bug, seeds.clone(), exhaustive, args)?;
        println!("{row}");
        rows.lock().unwrap_or_else(PoisonError::into_inner).push(row);
        Ok(())
    })?;
    let rows = rows.into_inner().unwrap_or_else(PoisonError::into_inner);
    let missed: Vec<_> = rows
        .iter()
        .filter(|row| row.found.is_none())
        .map(|row| row.bug.name())
        .collect();
    let mut tries: Vec<u64> = rows
        .iter()
        .filter_map(|row| Some(row.found.as_ref()?.1))
        .collect();
    tries.sort_unstable();
    let median = tries.get(tries.len() / 2).copied().unwrap_or(0);
    println!(
        "{} bugs, {} found, by {median} seeds in the median; not found: {missed:?}",
        rows.len(),
        tries.len()
    );
    Ok(missed.is_empty())
}

fn look(bug: Bug, seeds: Range<u64>, exhaustive: bool, args: &RunArgs) -> anyhow::Result<Row> {
    let mut row = Row {
        bug,
        found: None,
        hits: 0,
        tried: 0,
        took: Duration::ZERO,
    };
    let place = place(bug);
    let first = seeds.start;
    for seed in seeds {
        let (finding, took) = try_seed(bug, &place, seed, args)?;
        row.tried += 1;
        row.took += took;
        if let Some(finding) = finding {
            row.hits += 1;
            row.found.get_or_insert((seed, seed - first + 1, finding));
            if !exhaustive {
                break;
            }
        }
    }
    Ok(row)
}

/// What the run says that is wrong, if it says something, and how long it took.
fn try_seed(
    bug: Bug,
    place: &Place,
    seed: u64,
    args: &RunArgs,
) -> anyhow::Result<(Option<String>, Duration)> {
    let mut command = Command::new(std::env::current_exe().context("cannot find this program")?);
    match place.workload {
        Some(workload) => {
            let mut args = args.of(seed);
            let unusual = [
                ("--pause-ms", place.pause_ms),
                ("--patience-ms", place.patience_ms),
            ];
            for (name, value) in unusual {
                let usual = args.iter().position(|arg| arg == name);
                if let (Some(at), Some(value)) = (usual, value) {
                    args[at + 1] = value.to_string();
                }
            }
            command.arg("run").args(args);
            command.args(["--workload", workload, "--class", place.class]);
            match place.goes_wrong {
                GoesWrong::Drawn(kinds) => command.args(["--faults", kinds]),
                GoesWrong::Planned(schedule) => command.args(["--schedule", schedule]),
            };
        }
        None => {
            command.args(["log", "--seed", &seed.to_string()]);
        }
    }
    command
        .args(["--quiet", "--bug", bug.name()])
        .stdin(Stdio::null());
    let began = real_time();
    let output = command.output().context("cannot run this program")?;
    let took = real_time().saturating_sub(began);
    let printed = String::from_utf8_lossy(&output.stdout);
    let finding = match output.status.code() {
        Some(0) => None,
        Some(1) => {
            let wrong = printed.lines().find_map(|line| line.strip_prefix("WRONG: "));
            Some(wrong.unwrap_or("nobody says what").to_owned())
        }
        _ => Some(format!("the run ended with {}", output.status)),
    };
    Ok((finding, took))
}

/// The machine's, which the C library does not tell in this program.
fn real_time() -> Duration {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    Duration::new(now.tv_sec.unsigned_abs(), now.tv_nsec as u32)
}

fn place(bug: Bug) -> Place {
    use GoesWrong::{Drawn, Planned};
    let (workload, goes_wrong) = match bug {
        Bug::AckBeforeDurable => ("plain", Drawn("crash")),
        Bug::AckBeyondPrefix => ("sessions", Drawn("store-flaky,crash")),
        Bug::TailBeforeDurable => ("plain", Drawn("store-flaky")),
        Bug::ConditionOnDurable => ("matched", Drawn("store-slow")),
        Bug::RefusalBeforeDurable => ("matched", Drawn("store-flaky,crash")),
        Bug::AnswerWithoutLease => ("many", Drawn("partition,hold")),
        // Whoever was the leader and an owner hears neither of the next leader nor, from the store, of the next owner.
        Bug::GrantUnconfirmed => ("many", Planned("hold:leader:1-9,store-hold:leader:1-9")),
        Bug::ExpireEarly | Bug::OwnerReplaced => ("watched", Planned(OWNER_IS_DEAF)),
        Bug::UnknownAsRefused => ("watched", Planned(ANSWERS_ARE_LOST)),
        Bug::TokenForgotten => ("fenced", Drawn("crash")),
        Bug::TrimForgotten => ("trims", Drawn("crash")),
        // The owner ends, and its successor is there before the store hears of what it wrote.
        Bug::TrimBeforeDurable => (
            "trims",
            Planned("store-hold:owner:1-9,crash:owner:2-3,store-hold:owner:11-19,crash:owner:12-13"),
        ),
        Bug::TimestampFromClock => ("plain", Drawn("clock-step")),
        Bug::ResendSequenced => ("sessions", Drawn("hold,crash")),
        Bug::WritersForgotten => ("sessions", Drawn("hold,crash")),
        Bug::RestUnflushed => ("many", Drawn("crash")),
        Bug::DormantUnconfirmed => ("many", Drawn("hold")),
        Bug::MissUnconfirmed => ("recreate", Drawn("hold")),
        Bug::DeletedStaysOpen => ("recreate", Drawn("none")),
        Bug::SealSkipped => ("plain", Drawn("hold,partition")),
        Bug::ExistsIsLanded => ("plain", Drawn("hold,partition")),
        Bug::EndOneEarly => ("plain", Drawn("crash")),
        Bug::ReleasedOneEarly => ("plain", Drawn("restart-rolling")),
        Bug::SealedNotReplayed => ("plain", Drawn("crash")),
        Bug::LogNotSynced => ("recreate", Drawn("power-loss-all")),
        Bug::ReadIndexLocal => ("recreate", Drawn("hold,partition")),
        Bug::EntryDropped => ("recreate", Drawn("hold,crash")),
        // What one zone alone has is lost when the owner is, and then the zone.
        Bug::DurableBelowQuorum => (
            "plain",
            Planned("zones-dark:1:1-4,crash:owner:3.5-4.5,zone-dark:1:4-14"),
        ),
        Bug::SealInOneZone
        | Bug::AdoptNothing
        | Bug::AdoptInPlace
        | Bug::AdoptOnlyFirst
        | Bug::AdoptOnlyLast
        | Bug::EndBeforeAdopted
        | Bug::BlankZoneCounts => {
            return Place {
                workload: None,
                class: "express",
                goes_wrong: Drawn(""),
                pause_ms: None,
                patience_ms: None,
            };
        }
    };
    Place {
        workload: Some(workload),
        class: match bug {
            Bug::DurableBelowQuorum => "express",
            _ => "standard",
        },
        goes_wrong,
        pause_ms: match bug {
            // Streams that are first used while a node does not hear of it, or that nobody uses for a while.
            Bug::DormantUnconfirmed | Bug::RestUnflushed => Some(400),
            Bug::OwnerReplaced | Bug::ExpireEarly | Bug::GrantUnconfirmed | Bug::UnknownAsRefused => Some(20),
            _ => None,
        },
        patience_ms: match bug {
            // Whoever waits for the former owner does not append through the next one while both answer.
            Bug::OwnerReplaced | Bug::ExpireEarly => Some(300),
            _ => None,
        },
    }
}

/// The owner hears neither that it is one no more, nor, from the store, that it is fenced.
const OWNER_IS_DEAF: &str =
    "hold:follower:1-5,store-hold:follower:1-5,hold:follower:8-12,store-hold:follower:8-12";

/// The leader gives the owner up, and all others reach it as before. It hears of its successor before the clients give
/// up whose chunks landed while the answer was lost.
const ANSWERS_ARE_LOST: &str = "store-flaky:1:0.5-28,hold:follower+leader:1-3.7,hold:follower+leader:7-9.7,\
                                hold:follower+leader:13-15.7,hold:follower+leader:19-21.7";

/// Who would have found it: the part of the simulator that says so.
fn judge(finding: &str) -> &'static str {
    let has = |text: &str| finding.contains(text);
    match () {
        () if has("not linearizable") => "history",
        () if has("lost:") || has("duplicate:") || has("torn:") || has("should not be there") => "records",
        () if has("show different") || has("tail is") || has("comes record") => "records",
        () if has("a panic") => "assertion",
        () if has("ended by itself") || has("ended with") => "the node itself",
        () if has("did not serve") || has("did not end") || has("could not go on") || has("no cluster") => {
            "progress"
        }
        () if has("no owner has written") => "progress",
        () if has("I2") || has("I4") || has("I6") || has("I7") || has("P3") || has("E1") => "invariant",
        () => "workload",
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let place = place(self.bug);
        let place = match place.workload {
            Some(workload) => match place.goes_wrong {
                GoesWrong::Drawn(what) | GoesWrong::Planned(what) => format!("{workload}; {what}"),
            },
            None => "log".to_owned(),
        };
        write!(f, "| {} | {place} | ", self.bug.name())?;
        match &self.found {
            Some((seed, tries, finding)) => write!(
                f,
                "{} | seed {seed} | {tries} | {}/{} | {:.0} s | {}",
                judge(finding),
                self.hits,
                self.tried,
                self.took.as_secs_f64(),
                finding.chars().take(110).collect::<String>()
            ),
            None => write!(
                f,
                "NOT FOUND | | {} | | {:.0} s |",
                self.tried,
                self.took.as_secs_f64()
            ),
        }
    }
}
