//! What happened, for people and for programs.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// One round.
#[derive(Debug, Clone, Serialize)]
pub struct RoundReport {
    /// Counted from 0.
    pub round: u64,
    /// What clients did.
    pub workload: String,
    /// What was done to the cluster.
    pub fault: FaultReport,
    /// Operations in all histories of the round.
    pub operations: u64,
    /// How they ended.
    pub outcomes: BTreeMap<&'static str, u64>,
    /// What is wrong; empty if nothing is.
    pub findings: Vec<String>,
}

/// One fault.
#[derive(Debug, Clone, Serialize)]
pub struct FaultReport {
    /// As on the command line.
    pub name: String,
    /// `installed`, `skipped` or `unknown`.
    pub state: &'static str,
    /// Whom it hit.
    pub target: String,
    /// Why it was skipped, or is unknown.
    pub detail: String,
    /// The longest time without an acknowledged append, from the beginning of the fault until appends went on.
    #[serde(rename = "silence_ms", serialize_with = "milliseconds")]
    pub silence: Duration,
}

/// A run.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// Repeats its choices.
    pub seed: u64,
    /// One after the other.
    pub rounds: Vec<RoundReport>,
    /// In all.
    #[serde(rename = "took_ms", serialize_with = "milliseconds")]
    pub took: Duration,
}

fn milliseconds<S: serde::Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
}

impl Report {
    /// Nothing has happened yet.
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            rounds: Vec::new(),
            took: Duration::ZERO,
        }
    }

    pub(super) fn add(&mut self, round: RoundReport) {
        self.rounds.push(round);
    }

    /// Whether nothing is wrong. Of no rounds nothing can be said.
    pub fn is_good(&self) -> bool {
        !self.rounds.is_empty() && self.rounds.iter().all(|round| round.findings.is_empty())
    }
}

impl fmt::Display for RoundReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let FaultReport {
            name,
            state,
            target,
            detail,
            silence,
        } = &self.fault;
        write!(
            f,
            "round {:>3}  {:<10} {name:<16} {state}",
            self.round, self.workload
        )?;
        if !target.is_empty() {
            write!(f, " ({target})")?;
        }
        if !detail.is_empty() {
            write!(f, ": {detail}")?;
        }
        write!(f, "; {} operations", self.operations)?;
        for (outcome, count) in &self.outcomes {
            write!(f, ", {count} {outcome}")?;
        }
        write!(f, "; no append for {:.1} s", silence.as_secs_f64())?;
        for finding in &self.findings {
            write!(f, "\n    WRONG: {finding}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut outcomes: BTreeMap<&str, u64> = BTreeMap::new();
        let mut faults: BTreeMap<&str, (BTreeMap<&str, u64>, Duration)> = BTreeMap::new();
        for round in &self.rounds {
            for (outcome, count) in &round.outcomes {
                *outcomes.entry(outcome).or_default() += count;
            }
            let fault = faults.entry(&round.fault.name).or_default();
            *fault.0.entry(round.fault.state).or_default() += 1;
            fault.1 = fault.1.max(round.fault.silence);
        }
        writeln!(
            f,
            "{:<18} {:>9} {:>7} {:>7}  longest time without an append",
            "fault", "installed", "skipped", "unknown"
        )?;
        for (name, (states, silence)) in &faults {
            let count = |state| states.get(state).copied().unwrap_or_default();
            let (installed, skipped, unknown) = (count("installed"), count("skipped"), count("unknown"));
            let seconds = silence.as_secs_f64();
            writeln!(
                f,
                "{name:<18} {installed:>9} {skipped:>7} {unknown:>7}  {seconds:.1} s"
            )?;
        }
        writeln!(f)?;
        for (outcome, count) in &outcomes {
            writeln!(f, "{outcome:<18} {count:>9}")?;
        }
        let wrong = self
            .rounds
            .iter()
            .filter(|round| !round.findings.is_empty())
            .count();
        let operations: u64 = self.rounds.iter().map(|round| round.operations).sum();
        write!(
            f,
            "\n{} rounds, {operations} operations, {wrong} rounds with findings, {:.0} s, seed {}",
            self.rounds.len(),
            self.took.as_secs_f64(),
            self.seed
        )
    }
}
