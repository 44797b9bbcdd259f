//! When the clients are done: the last reads through every node, and the verdict on each stream.

use std::path::Path;
use std::time::Duration;

use anyhow::Context;
use millrace_client::{Basin, Error};
use tokio::time::{Instant, sleep};

use crate::check::records::{FinalRead, findings};
use crate::check::{self, Verdict, operations, timeline};
use crate::history::{self, Finish, Start};
use crate::model::Tokens;
use crate::workload::actor::read_to_tail;
use crate::workload::{Prefix, Track};

/// What was found out about one stream.
#[derive(Debug)]
pub struct Judgement {
    /// Its name.
    pub stream: String,
    /// Operations in its history.
    pub operations: u64,
    /// What is wrong, for people; empty if nothing is.
    pub findings: Vec<String>,
}

/// Reads the whole stream through each node, and writes that into its history. What could not be read within the time
/// is a finding.
pub async fn last_reads(track: &Track, basins: &[Basin], within: Duration) -> Vec<FinalRead> {
    let mut reads = Vec::new();
    for (node, basin) in basins.iter().enumerate() {
        match last_read(track, basin, within).await {
            Ok(mut read) => {
                read.node = format!("node {}", node + 1);
                reads.push(read);
            }
            Err(error) => track.findings.add(format!(
                "node {} does not let the stream be read: {error}",
                node + 1
            )),
        }
    }
    reads
}

async fn last_read(track: &Track, basin: &Basin, within: Duration) -> Result<FinalRead, Error> {
    let stream = basin.stream(&track.stream)?;
    let deadline = Instant::now() + within;
    let mut client = track.recorder.client();
    // What is before the trim is known from earlier reads, or not at all.
    let mut before = track.known.get();
    before.truncate(track.first());
    loop {
        let mut prefix = before.clone();
        let open = client.start(Start::Read);
        let read = read_to_tail(&stream, &mut prefix).await;
        let finish = match &read {
            Ok(Some(finish)) => *finish,
            _ => Finish::ReadFailure,
        };
        client.finish(open, finish);
        match (read, finish) {
            (Ok(_), Finish::ReadSuccess { tail, .. }) => {
                track.known.learn(&prefix);
                return Ok(shown(&prefix, &before, tail));
            }
            (Ok(_), _) if Instant::now() >= deadline => {
                return Err(Error::Corrupt("records are missing".into()));
            }
            (Err(error), _) if Instant::now() >= deadline => return Err(error),
            _ => sleep(Duration::from_millis(100)).await,
        }
    }
}

fn shown(prefix: &Prefix, before: &Prefix, tail: u64) -> FinalRead {
    let from = before.len();
    let read = prefix.record_hashes.iter().skip(before.record_hashes.len());
    FinalRead {
        node: String::new(),
        records: (from..).zip(read.copied()).collect(),
        tail,
    }
}

/// Judges a stream, and writes its history, and if something is wrong its timeline, to files whose names begin with
/// `path`.
pub fn judge(track: &Track, reads: &[FinalRead], path: &Path) -> anyhow::Result<Judgement> {
    let events = track.recorder.events();
    let at = |suffix: &str| {
        let mut name = path.as_os_str().to_owned();
        name.push(suffix);
        std::path::PathBuf::from(name)
    };
    let file =
        std::fs::File::create(at(".jsonl")).with_context(|| format!("cannot write {}", path.display()))?;
    history::write(&events, std::io::BufWriter::new(file))?;

    let mut found = track.findings.list();
    let operations = operations::operations(&events, &mut Tokens::default())?;
    if !track.deleted {
        found.extend(findings(&operations, &events, reads, track.first()));
    }
    let known = track.known.get();
    match check::check(&events, Some(&known.record_hashes))? {
        Verdict::Linearizable { .. } => {}
        Verdict::Undecided => found.push("the history could not be decided".into()),
        Verdict::Violation(violation) => {
            found.push(format!("not linearizable: {}", violation.summary()));
            std::fs::write(at(".html"), timeline::html(&violation))?;
        }
    }
    if !found.is_empty() {
        let records: Vec<String> = known.record_hashes.iter().map(u64::to_string).collect();
        std::fs::write(at(".records"), records.join("\n"))?;
        std::fs::write(at(".findings"), found.join("\n"))?;
    }
    Ok(Judgement {
        stream: track.stream.clone(),
        operations: track.recorder.len(),
        findings: found,
    })
}
