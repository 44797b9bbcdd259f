//! The search for an order of operations that a single stream could have gone through.
//!
//! It is the depth-first search of Wing and Gong with Lowe's memoisation: a configuration is the set of operations
//! that were put in order so far, together with the state of the stream behind them; each configuration is visited
//! once. What makes it fast is what is special about a stream:
//!
//! - Its tail only grows, and each answer names it. So every operation whose outcome is known has one tail that it can
//!   begin at, its *place*. They can only be ordered by place; at one place reads and tail checks come first (they
//!   change nothing, and commute), then at most one append. Whether that order goes together with real time is a matter
//!   of one pass, and has nothing to do with what else is put in between.
//! - What is left to find is which appends of unknown outcome fill the gaps between places, in which order. Such an
//!   append may go anywhere behind its start: before an operation at place `p` it fits if it began before the first
//!   end of all operations from `p` on. Reads tell right from wrong soon, by the hash of the whole stream.
//! - Behind the last read that shows a hash, batches of equal length and conditions cannot be told apart, and only the
//!   first of them is tried.
//!
//! Configurations are remembered by a 128-bit hash, 16 bytes each, and there is a bound to how many.

use std::collections::HashSet;

use super::operations::{Kind, Operation};
use crate::model::{Batch, State};

/// Configurations that are remembered; with all else, well under 2 GiB.
pub const CONFIGURATIONS_MAX: usize = 50_000_000;

/// What the search found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// An order, as indices of operations. Unknown outcomes that are not in it did not happen.
    Order(Vec<usize>),
    /// There is none.
    Nothing(Blocked),
    /// Too many possibilities; nothing is known.
    Undecided,
}

/// How far the longest attempt came.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Blocked {
    /// Operations in an order that works, the longest that was found.
    pub order: Vec<usize>,
    /// The stream behind them.
    pub state: State,
    /// The operation that nothing can be put before to make it fit.
    pub operation: usize,
    /// Why.
    pub reason: String,
}

/// Looks for an order of `operations`. `records`, if they are known, are the hashes of all records of the stream
/// in order, and leave little to search for.
pub fn search(operations: &[Operation], records: Option<&[u64]>, configurations_max: usize) -> Found {
    match Search::new(operations, records) {
        Ok(mut search) => search.run(configurations_max),
        Err(blocked) => Found::Nothing(blocked),
    }
}

struct Search<'a> {
    operations: &'a [Operation],
    records: Option<&'a [u64]>,
    /// Indices of operations of known outcome, in the only order that there is.
    known: Vec<Known>,
    /// Index in `known` of the last read, plus one: behind it, hashes decide nothing.
    hashes_until: usize,
    /// Appends of unknown outcome, in the order in which they began.
    unknown: Vec<Unknown<'a>>,
    /// Index in `known` of the first operation that fits nowhere, whatever is filled in, and why.
    impossible: Option<(usize, String)>,
}

struct Known {
    operation: usize,
    place: u64,
    /// The first end among this operation and all behind it.
    ends_first: usize,
}

struct Unknown<'a> {
    operation: usize,
    began: usize,
    batch: &'a Batch,
    /// Stands for it in the hash of a set.
    mark: u128,
}

/// Where the search stands.
#[derive(Clone, Copy)]
struct Point {
    /// How many of `known` are in order.
    done: usize,
    state: State,
}

/// A choice that can be taken back.
struct Choice {
    before: Point,
    order_len: usize,
    chosen: usize,
}

impl<'a> Search<'a> {
    fn new(operations: &'a [Operation], records: Option<&'a [u64]>) -> Result<Self, Blocked> {
        let mut known = Vec::new();
        let mut unknown = Vec::new();
        for (index, operation) in operations.iter().enumerate() {
            let place = match &operation.kind {
                Kind::Append { batch, tail: None } => {
                    unknown.push(Unknown {
                        operation: index,
                        began: operation.began,
                        batch,
                        mark: mark(index as u64),
                    });
                    continue;
                }
                Kind::Append {
                    batch,
                    tail: Some(tail),
                } => tail.checked_sub(batch.len()).ok_or_else(|| Blocked {
                    order: Vec::new(),
                    state: State::default(),
                    operation: index,
                    reason: format!("{} records do not end at {tail}", batch.len()),
                })?,
                Kind::Read { tail, .. } | Kind::CheckTail { tail } => *tail,
            };
            known.push(Known {
                operation: index,
                place,
                ends_first: operation.ended.unwrap_or(usize::MAX),
            });
        }
        known.sort_by_key(|it| {
            let operation = &operations[it.operation];
            let appends = matches!(operation.kind, Kind::Append { .. });
            (it.place, appends, operation.began)
        });
        let mut ends_first = usize::MAX;
        for it in known.iter_mut().rev() {
            ends_first = ends_first.min(it.ends_first);
            it.ends_first = ends_first;
        }
        let reads = |it: &Known| matches!(operations[it.operation].kind, Kind::Read { .. });
        Ok(Self {
            operations,
            records,
            hashes_until: known.iter().rposition(reads).map_or(0, |last| last + 1),
            impossible: impossible(operations, &known),
            known,
            unknown,
        })
    }

    fn run(&mut self, configurations_max: usize) -> Found {
        let mut point = Point {
            done: 0,
            state: State::default(),
        };
        let mut order: Vec<usize> = Vec::new();
        let mut used = vec![false; self.unknown.len()];
        let mut used_hash = 0u128;
        let mut choices: Vec<Choice> = Vec::new();
        let mut visited = HashSet::new();
        let mut furthest: Option<(usize, Blocked)> = None;
        let goal = self
            .impossible
            .as_ref()
            .map_or(self.known.len(), |(index, _)| *index);
        loop {
            let mut stuck = self.advance(goal, &mut point, &mut order);
            if point.done == goal {
                return match &self.impossible {
                    None => Found::Order(order),
                    Some((index, reason)) => Found::Nothing(Blocked {
                        order,
                        state: point.state,
                        operation: self.known[*index].operation,
                        reason: reason.clone(),
                    }),
                };
            }
            // The next candidate to try here, or behind the last choice that has another one.
            let mut from = 0;
            if stuck.is_none() {
                if visited.len() >= configurations_max {
                    return Found::Undecided;
                }
                if !visited.insert(used_hash ^ self.configuration(point)) {
                    from = self.unknown.len();
                }
            }
            loop {
                let candidate = match stuck {
                    Some(_) => None,
                    None => self.candidate(point, &used, from),
                };
                if let Some(chosen) = candidate {
                    let it = &self.unknown[chosen];
                    let state = point
                        .state
                        .append(it.batch)
                        .expect("a candidate's conditions hold");
                    choices.push(Choice {
                        before: point,
                        order_len: order.len(),
                        chosen,
                    });
                    order.push(it.operation);
                    used[chosen] = true;
                    used_hash ^= it.mark;
                    point.state = state;
                    break;
                }
                if furthest.as_ref().is_none_or(|(done, _)| point.done > *done) {
                    let reason = stuck.take().unwrap_or_else(|| self.gap(point));
                    let blocked = Blocked {
                        order: order.clone(),
                        state: point.state,
                        operation: self.known[point.done].operation,
                        reason,
                    };
                    furthest = Some((point.done, blocked));
                }
                let Some(choice) = choices.pop() else {
                    let (_, blocked) = furthest.expect("the search was blocked somewhere");
                    return Found::Nothing(blocked);
                };
                used[choice.chosen] = false;
                used_hash ^= self.unknown[choice.chosen].mark;
                order.truncate(choice.order_len);
                point = choice.before;
                stuck = None;
                from = choice.chosen + 1;
            }
        }
    }

    /// Puts operations of known outcome in order, up to `goal`, as long as nothing has to be filled in. `Some` if this
    /// cannot go on, whatever is filled in.
    fn advance(&self, goal: usize, point: &mut Point, order: &mut Vec<usize>) -> Option<String> {
        while point.done < goal && self.known[point.done].place == point.state.tail {
            let index = self.known[point.done].operation;
            let state = point.state;
            match &self.operations[index].kind {
                Kind::CheckTail { .. } => {}
                Kind::Read { stream_hash, .. } if *stream_hash == state.stream_hash => {}
                Kind::Read { .. } => return Some("it read other records than were appended".into()),
                Kind::Append { batch, .. } => {
                    if !self.shown(state.tail, batch) {
                        return Some("other records are at its place".into());
                    }
                    match state.append(batch) {
                        Some(behind) => point.state = behind,
                        None => return Some("it carried a fencing token that was not in force".into()),
                    }
                }
            }
            order.push(index);
            point.done += 1;
        }
        None
    }

    /// The first unknown outcome from `from` on that can come next.
    fn candidate(&self, point: Point, used: &[bool], from: usize) -> Option<usize> {
        let next = &self.known[point.done];
        let room = next.place - point.state.tail;
        let fits = |index: &usize| {
            let it = &self.unknown[*index];
            !used[*index]
                && it.began < next.ends_first
                && it.batch.len() <= room
                && point.state.admits(it.batch)
                && self.shown(point.state.tail, it.batch)
        };
        let blind = point.done >= self.hashes_until;
        let same = |a: &Batch, b: &Batch| {
            (a.len(), a.sets, a.token, a.match_seq_num) == (b.len(), b.sets, b.token, b.match_seq_num)
        };
        (from..self.unknown.len()).filter(fits).find(|index| {
            // Where hashes decide nothing, of several that are alike the first is as good as any.
            let batch = self.unknown[*index].batch;
            let twin = |other: &usize| same(self.unknown[*other].batch, batch) && fits(other);
            !blind || !(0..*index).any(|other| twin(&other))
        })
    }

    /// Whether the batch is what is known to stand at `place`; also if nothing is known.
    fn shown(&self, place: u64, batch: &Batch) -> bool {
        let Some(records) = self.records else { return true };
        let place = usize::try_from(place).unwrap_or(usize::MAX);
        let shown = records.get(place..).unwrap_or_default();
        let len = shown.len().min(batch.record_hashes.len());
        shown[..len] == batch.record_hashes[..len]
    }

    fn configuration(&self, point: Point) -> u128 {
        let hash = match point.done < self.hashes_until {
            true => point.state.stream_hash,
            false => 0,
        };
        let token = u64::from(point.state.token.0) << 32;
        mark(hash).rotate_left(1)
            ^ mark(point.state.tail).rotate_left(2)
            ^ mark(token | point.done as u64).rotate_left(3)
    }

    fn gap(&self, point: Point) -> String {
        let place = self.known[point.done].place;
        format!(
            "no append of unknown outcome can bring the tail from {} to {place}",
            point.state.tail
        )
    }
}

/// What contradicts itself without any search: places that overlap, an order that real time forbids, a condition on
/// another place.
fn impossible(operations: &[Operation], known: &[Known]) -> Option<(usize, String)> {
    let mut tail = 0;
    for (index, it) in known.iter().enumerate() {
        let operation = &operations[it.operation];
        if operation.began > it.ends_first {
            let reason = "an operation that saw a higher tail had ended before this one began";
            return Some((index, reason.into()));
        }
        if it.place < tail {
            return Some((
                index,
                format!(
                    "its place {} was taken: an append up to {tail} is there",
                    it.place
                ),
            ));
        }
        if let Kind::Append { batch, .. } = &operation.kind {
            if let Some(seq_num) = batch.match_seq_num.filter(|seq_num| *seq_num != it.place) {
                let reason = format!("it asked for the sequence number {seq_num} and got {}", it.place);
                return Some((index, reason));
            }
            tail = it.place + batch.len();
        }
    }
    None
}

/// 128 bits that look random, the same for the same number (SplitMix64, twice).
fn mark(number: u64) -> u128 {
    let mix = |mut z: u64| {
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    };
    let first = mix(number.wrapping_add(0x9e37_79b9_7f4a_7c15));
    let second = mix(first ^ number.wrapping_mul(0xd6e8_feb8_6659_fd93) ^ 0x5851_f42d_4c95_7f2d);
    u128::from(first) << 64 | u128::from(second)
}
