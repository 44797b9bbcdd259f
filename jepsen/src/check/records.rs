//! What the records themselves say, read from each node when all is over.
//!
//! The checker of histories knows hashes of whole streams; this knows records, and so can name the one that is lost.
//! It needs bodies that differ, as those of all workloads do.

use std::collections::{HashMap, HashSet};

use crate::check::operations::{Kind, Operation};
use crate::history::{Event, Finish, Phase, Start};

/// The whole stream, as somebody read it through one node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FinalRead {
    /// Whom they asked.
    pub node: String,
    /// Sequence number and hash of the body, in the order in which they came.
    pub records: Vec<(u64, u64)>,
    /// The tail that the node named.
    pub tail: u64,
}

/// Everything that is wrong, for people; empty if nothing is.
///
/// `first` is the first sequence number that must be there, 0 unless the stream was trimmed; what was trimmed may be
/// there or not.
pub fn findings(operations: &[Operation], events: &[Event], reads: &[FinalRead], first: u64) -> Vec<String> {
    let mut findings = Vec::new();
    for read in reads {
        dense(read, first, &mut findings);
    }
    let longest = reads.iter().max_by_key(|read| read.tail);
    for read in reads {
        if let Some(longest) = longest
            && !continues(longest, read, first)
        {
            findings.push(format!(
                "{} and {} show different records",
                read.node, longest.node
            ));
        }
    }
    if let Some(longest) = longest {
        exact(operations, events, longest, first, &mut findings);
        for read in reads {
            explained(operations, longest, read, &mut findings);
        }
    }
    findings
}

/// Whether both show the same records as far as the shorter one goes.
fn continues(longer: &FinalRead, shorter: &FinalRead, first: u64) -> bool {
    let both = |read: &FinalRead| {
        let records = read
            .records
            .iter()
            .filter(|(seq_num, _)| (first..shorter.tail).contains(seq_num));
        records.copied().collect::<Vec<_>>()
    };
    both(longer) == both(shorter)
}

/// What one read has beyond another came in between: only an append whose outcome nobody knew can have done that.
fn explained(operations: &[Operation], longer: &FinalRead, shorter: &FinalRead, findings: &mut Vec<String>) {
    if longer.tail == shorter.tail {
        return;
    }
    let unknown = operations.iter().filter_map(|operation| match &operation.kind {
        Kind::Append { batch, tail: None } => Some(&batch.record_hashes),
        _ => None,
    });
    let unknown: HashSet<u64> = unknown.flatten().copied().collect();
    let beyond = longer
        .records
        .iter()
        .filter(|(seq_num, _)| *seq_num >= shorter.tail);
    for (seq_num, _) in beyond.filter(|(_, hash)| !unknown.contains(hash)) {
        findings.push(format!(
            "{} does not show record {seq_num}, which was acknowledged or never asked for, and {} does",
            shorter.node, longer.node
        ));
    }
}

fn dense(read: &FinalRead, first: u64, findings: &mut Vec<String>) {
    let node = &read.node;
    if read.records.first().is_some_and(|(seq_num, _)| *seq_num > first) {
        findings.push(format!("{node}: the records from {first} on are not there"));
    }
    for pair in read.records.windows(2) {
        if pair[1].0 != pair[0].0 + 1 {
            findings.push(format!(
                "{node}: behind record {} comes record {}",
                pair[0].0, pair[1].0
            ));
        }
    }
    let end = read.records.last().map_or(first, |(seq_num, _)| seq_num + 1);
    if end != read.tail && !(read.records.is_empty() && read.tail <= first) {
        findings.push(format!(
            "{node}: the last record is before {end}, the tail is {}",
            read.tail
        ));
    }
}

/// Each acknowledged batch is where its answer said, and nothing is there that was not asked for, refused, or asked
/// for once.
fn exact(
    operations: &[Operation],
    events: &[Event],
    read: &FinalRead,
    first: u64,
    findings: &mut Vec<String>,
) {
    let at: HashMap<u64, u64> = read.records.iter().copied().collect();
    let mut places: HashMap<u64, Vec<u64>> = HashMap::new();
    for (seq_num, hash) in &read.records {
        places.entry(*hash).or_default().push(*seq_num);
    }
    let mut asked: HashMap<u64, u64> = HashMap::new();
    for operation in operations {
        let Kind::Append { batch, tail } = &operation.kind else {
            continue;
        };
        for hash in &batch.record_hashes {
            *asked.entry(*hash).or_default() += 1;
        }
        let op_id = operation.op_id;
        if let Some(tail) = tail {
            let start = tail.saturating_sub(batch.len());
            for (seq_num, hash) in (start..*tail).zip(&batch.record_hashes) {
                match at.get(&seq_num) {
                    None if seq_num < first => {}
                    Some(found) if found == hash => {}
                    None => findings.push(format!(
                        "lost: record {seq_num}, acknowledged to operation {op_id}, is not there"
                    )),
                    Some(_) => findings.push(format!(
                        "lost: record {seq_num}, acknowledged to operation {op_id}, is another one"
                    )),
                }
            }
            continue;
        }
        // Unknown: all of it, together and in order, or nothing of it.
        let found: Vec<u64> = batch
            .record_hashes
            .iter()
            .filter_map(|hash| places.get(hash)?.first().copied())
            .collect();
        let whole =
            found.len() == batch.record_hashes.len() && found.windows(2).all(|pair| pair[1] == pair[0] + 1);
        let cut_by_trim =
            found.len() < batch.record_hashes.len() && found.first().is_some_and(|it| *it <= first);
        if !found.is_empty() && !whole && !cut_by_trim {
            findings.push(format!(
                "torn: only part of the batch of operation {op_id} is there, or not together"
            ));
        }
    }
    for (hash, places) in &places {
        let asked = asked.get(hash).copied().unwrap_or_default();
        if asked == 0 {
            let by = refused_by(events, *hash);
            let whose = by.map_or("nobody appended it".to_owned(), |op_id| {
                format!("operation {op_id} was told that it did not happen")
            });
            findings.push(format!("record {} should not be there: {whose}", places[0]));
        } else if places.len() as u64 > asked {
            findings.push(format!(
                "duplicate: one record is at {places:?}, and was appended {asked} times"
            ));
        }
    }
    findings.sort();
}

fn refused_by(events: &[Event], hash: u64) -> Option<u64> {
    let refused: std::collections::HashSet<u64> = events
        .iter()
        .filter(|event| event.event == Phase::Finish(Finish::AppendDefiniteFailure))
        .map(|event| event.op_id)
        .collect();
    events.iter().find_map(|event| match &event.event {
        Phase::Start(Start::Append(append))
            if append.record_hashes.contains(&hash) && refused.contains(&event.op_id) =>
        {
            Some(event.op_id)
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::history::Append;
    use crate::model::Tokens;
    use crate::recorder::Recorder;

    /// Two acknowledged batches, one unknown of two records, one refused.
    fn recorder() -> Recorder {
        let recorder = Recorder::new();
        let mut client = recorder.client();
        for (hashes, finish) in [
            (vec![1, 2], Finish::AppendSuccess { tail: 2 }),
            (vec![3], Finish::AppendSuccess { tail: 3 }),
            (vec![4, 5], Finish::AppendIndefiniteFailure),
            (vec![6], Finish::AppendDefiniteFailure),
        ] {
            let open = client.start(Start::Append(Append::of(hashes)));
            client.finish(open, finish);
        }
        recorder
    }

    fn read(hashes: &[u64]) -> FinalRead {
        FinalRead {
            node: "node 1".into(),
            records: (0..).zip(hashes.iter().copied()).collect(),
            tail: hashes.len() as u64,
        }
    }

    fn found(reads: &[FinalRead], first: u64) -> String {
        let events = recorder().events();
        let operations = crate::check::operations::operations(&events, &mut Tokens::default()).unwrap();
        findings(&operations, &events, reads, first).join("; ")
    }

    #[test]
    fn unknown_batches_may_be_there_or_not() {
        assert_eq!(found(&[read(&[1, 2, 3])], 0), "");
        assert_eq!(found(&[read(&[1, 2, 3, 4, 5])], 0), "");
    }

    #[test]
    fn an_unknown_batch_may_come_between_two_last_reads() {
        let (before, after) = (read(&[1, 2, 3]), read(&[1, 2, 3, 4, 5]));
        assert_eq!(found(&[before.clone(), after.clone()], 0), "");
        assert_eq!(found(&[after, before], 0), "");
    }

    #[test]
    fn what_is_wrong_is_named() {
        assert!(found(&[read(&[1, 2])], 0).contains("lost: record 2"));
        assert!(found(&[read(&[1, 3, 2])], 0).contains("is another one"));
        assert!(found(&[read(&[1, 2, 3, 4])], 0).contains("torn"));
        assert!(found(&[read(&[1, 2, 3, 5, 4])], 0).contains("torn"));
        assert!(found(&[read(&[1, 2, 3, 3])], 0).contains("duplicate"));
        assert!(found(&[read(&[1, 2, 3, 6])], 0).contains("told that it did not happen"));
        assert!(found(&[read(&[1, 2, 3, 7])], 0).contains("nobody appended it"));
        assert!(found(&[read(&[1, 2, 3]), read(&[1, 3, 2])], 0).contains("different records"));
        assert!(found(&[read(&[1, 2, 3, 4, 5]), read(&[1, 2])], 0).contains("does not show record 2"));
        let mut gap = read(&[1, 2, 3]);
        gap.records[2].0 = 3;
        assert!(found(&[gap], 0).contains("behind record 1 comes record 3"));
        let mut stale = read(&[1, 2, 3]);
        stale.tail = 4;
        assert!(found(&[stale], 0).contains("the tail is 4"));
    }

    #[test]
    fn what_was_trimmed_need_not_be_there() {
        let mut trimmed = read(&[1, 2, 3]);
        trimmed.records.drain(..2);
        assert_eq!(found(std::slice::from_ref(&trimmed), 2), "");
        assert!(found(&[trimmed], 1).contains("from 1 on are not there"));
    }
}
