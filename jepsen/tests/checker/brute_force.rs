//! Another way to the same answer, too slow for anything but a few operations: try everything.
//!
//! It shares nothing with the checker but the form of histories. States are whole streams.

use std::collections::BTreeMap;

use millrace_jepsen::history::{Append, Event, Finish, Phase, Start, stream_hash};

struct Operation {
    start: Start,
    began: usize,
    finish: Option<Finish>,
    ended: usize,
}

#[derive(Clone, Default)]
struct Stream {
    hashes: Vec<u64>,
    token: String,
}

/// Whether some order explains the events.
pub fn is_linearizable(events: &[Event]) -> bool {
    let mut operations: BTreeMap<u64, Operation> = BTreeMap::new();
    for (index, event) in events.iter().enumerate() {
        match &event.event {
            Phase::Start(start) => {
                let operation = Operation {
                    start: start.clone(),
                    began: index,
                    finish: None,
                    ended: usize::MAX,
                };
                operations.insert(event.op_id, operation);
            }
            Phase::Finish(Finish::AppendIndefiniteFailure) => {}
            Phase::Finish(finish) => {
                let operation = operations.get_mut(&event.op_id).unwrap();
                operation.finish = Some(*finish);
                operation.ended = index;
            }
        }
    }
    let operations: Vec<_> = operations.into_values().collect();
    explained(
        &operations,
        &mut vec![false; operations.len()],
        &Stream::default(),
    )
}

fn explained(operations: &[Operation], done: &mut [bool], stream: &Stream) -> bool {
    let left = || (0..operations.len()).filter(|index| !done[*index]);
    if left().all(|index| operations[index].finish.is_none()) {
        return true;
    }
    let ends_first = left().map(|index| operations[index].ended).min().unwrap();
    let next: Vec<usize> = left()
        .filter(|index| operations[*index].began < ends_first)
        .collect();
    for index in next {
        if let Some(behind) = step(&operations[index], stream) {
            done[index] = true;
            let explained = explained(operations, done, &behind);
            done[index] = false;
            if explained {
                return true;
            }
        }
    }
    false
}

fn step(operation: &Operation, stream: &Stream) -> Option<Stream> {
    let tail = stream.hashes.len() as u64;
    match (&operation.start, operation.finish) {
        (Start::Append(append), None) => append_to(stream, append),
        (Start::Append(append), Some(Finish::AppendSuccess { tail })) => {
            append_to(stream, append).filter(|behind| behind.hashes.len() as u64 == tail)
        }
        (
            _,
            Some(Finish::ReadSuccess {
                tail: seen,
                stream_hash: hash,
            }),
        ) => (seen == tail && hash == stream_hash(stream.hashes.iter().copied())).then(|| stream.clone()),
        (_, Some(Finish::CheckTailSuccess { tail: seen })) => (seen == tail).then(|| stream.clone()),
        _ => Some(stream.clone()),
    }
}

fn append_to(stream: &Stream, append: &Append) -> Option<Stream> {
    let tail = stream.hashes.len() as u64;
    if append.match_seq_num.is_some_and(|seq_num| seq_num != tail) {
        return None;
    }
    if append
        .fencing_token
        .as_ref()
        .is_some_and(|token| *token != stream.token)
    {
        return None;
    }
    let mut behind = stream.clone();
    behind.hashes.extend(&append.record_hashes);
    if let Some(token) = &append.set_fencing_token {
        behind.token = token.clone();
    }
    Some(behind)
}
