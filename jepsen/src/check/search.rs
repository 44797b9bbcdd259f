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
//! - Where no two records of a history have one hash, a read settles everything before it: what it saw is what happened,
//!   and no other way to the same hash needs to be tried.
//! - Behind the last read, batches of equal length and conditions cannot be told apart, and only one of them is tried.
//!
//! Few unknown outcomes are tried before many between one read and the next, an append that fills a gap by itself before
//! those that need others, the latest one first: that is how it mostly was. And since the hash of a stream can be
//! followed back over records that are known, the last gap before a read is known to be filled rightly or wrongly when
//! it is filled, and not only at the read.
//!
//! What a single pass can see to be wrong is looked for first: places that overlap, an order that real time forbids, and,
//! where all records are known, answers that name others.
//!
//! Configurations are remembered by a 128-bit hash, 16 bytes each, and there is a bound to how many, and to how many
//! candidates are looked at: beyond it nothing is decided.

use std::collections::HashSet;

use super::operations::{Kind, Operation};
use crate::history::{chain_hash, stream_hash, unchain_hash};
use crate::model::{Batch, State, Token};

/// Configurations that are remembered; with all else, well under 2 GiB, and half a minute.
pub const CONFIGURATIONS_MAX: usize = 10_000_000;
/// Candidates that are looked at, on average, for each of them.
const CANDIDATES_EACH: u64 = 200;
/// Where it is known that there is no order, the search is for the longest one, and for no longer than this.
const CONFIGURATIONS_OF_THE_IMPOSSIBLE_MAX: usize = 300_000;

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
    /// No record hash is there twice.
    distinct: bool,
    /// For each of `known`, the hash that the stream must have at its place for the next read to be right, if no gap
    /// is in between.
    required: Vec<Option<u64>>,
    /// For each of `known`, how many gaps there are behind its place before the next read is over.
    gaps: Vec<usize>,
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
    /// Stands for all batches that differ in nothing but their records.
    class: u128,
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
    turn: usize,
}

/// How many unknown outcomes may be put in order between two reads, for now.
struct Limit {
    outcomes: usize,
    /// Something was left out because of it.
    was_met: bool,
    /// Candidates that were looked at so far.
    looked_at: u64,
}

impl Default for Limit {
    fn default() -> Self {
        Self {
            outcomes: 1,
            was_met: false,
            looked_at: 0,
        }
    }
}

impl Limit {
    fn allows(&mut self, outcomes: usize) -> bool {
        let allowed = outcomes <= self.outcomes;
        self.was_met |= !allowed;
        allowed
    }

    fn raise(&mut self) {
        self.outcomes += 1;
        self.was_met = false;
    }

    /// Begins anew behind a read that settles what is before it.
    fn lower(&mut self) {
        self.outcomes = 1;
        self.was_met = false;
    }
}

/// Which unknown outcomes are in the order.
struct Used {
    is: Vec<bool>,
    /// Hash of which they are.
    set: u128,
    /// Hash of how many of each class there are.
    classes: u128,
}

impl Used {
    fn toggle(&mut self, index: usize, it: &Unknown<'_>, is_used: bool) {
        self.is[index] = is_used;
        self.set ^= it.mark;
        self.classes = match is_used {
            true => self.classes.wrapping_add(it.class),
            false => self.classes.wrapping_sub(it.class),
        };
    }
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
                        class: class(batch),
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
            impossible: impossible(operations, &known, records),
            distinct: distinct(operations),
            required: required(operations, &known),
            gaps: gaps(operations, &known),
            known,
            unknown,
        })
    }

    fn run(&mut self, configurations_max: usize) -> Found {
        let configurations_max = match self.impossible {
            Some(_) => configurations_max.min(CONFIGURATIONS_OF_THE_IMPOSSIBLE_MAX),
            None => configurations_max,
        };
        let candidates_max = (configurations_max as u64).saturating_mul(CANDIDATES_EACH);
        let mut point = Point {
            done: 0,
            state: State::default(),
        };
        let mut order: Vec<usize> = Vec::new();
        let mut used = Used {
            is: vec![false; self.unknown.len()],
            set: 0,
            classes: 0,
        };
        let mut choices: Vec<Choice> = Vec::new();
        let mut visited = HashSet::new();
        let mut steps = 0;
        let mut limit = Limit::default();
        let mut furthest: Option<(usize, Blocked)> = None;
        let goal = self
            .impossible
            .as_ref()
            .map_or(self.known.len(), |(index, _)| *index);
        loop {
            let settled = point.done;
            let mut stuck = self.advance(goal, &mut point, &mut order).err();
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
            if self.distinct && self.known[settled..point.done].iter().any(|it| self.is_read(it)) {
                choices.clear();
                visited.clear();
                limit.lower();
            }
            // The next candidate to try here, or behind the last choice that has another one.
            let mut turn = 0;
            if stuck.is_none() {
                if steps >= configurations_max || limit.looked_at >= candidates_max {
                    return self.given_up(point, order);
                }
                steps += 1;
                if !visited.insert(self.configuration(point, &used)) {
                    turn = usize::MAX;
                }
            }
            loop {
                let candidate = match stuck {
                    Some(_) => None,
                    None => self.candidate(point, &used, turn, choices.len(), &mut limit),
                };
                if let Some((turn, chosen)) = candidate {
                    let it = &self.unknown[chosen];
                    let state = point.state.append(it.batch);
                    choices.push(Choice {
                        before: point,
                        order_len: order.len(),
                        chosen,
                        turn,
                    });
                    order.push(it.operation);
                    used.toggle(chosen, it, true);
                    point.state = state.expect("a candidate's conditions hold");
                    break;
                }
                if furthest.as_ref().is_none_or(|(done, _)| point.done > *done) {
                    let blocked = Blocked {
                        order: order.clone(),
                        state: point.state,
                        operation: self.known[point.done].operation,
                        reason: stuck.take().unwrap_or_else(|| self.gap(point)),
                    };
                    furthest = Some((point.done, blocked));
                }
                let Some(choice) = choices.pop() else {
                    if limit.was_met {
                        limit.raise();
                        visited.clear();
                        turn = 0;
                        continue;
                    }
                    let (_, blocked) = furthest.expect("the search was blocked somewhere");
                    return Found::Nothing(blocked);
                };
                used.toggle(choice.chosen, &self.unknown[choice.chosen], false);
                order.truncate(choice.order_len);
                point = choice.before;
                stuck = None;
                turn = choice.turn + 1;
            }
        }
    }

    /// There is no time to go on from here.
    fn given_up(&self, point: Point, order: Vec<usize>) -> Found {
        match &self.impossible {
            None => Found::Undecided,
            Some((index, reason)) => Found::Nothing(Blocked {
                order,
                state: point.state,
                operation: self.known[*index].operation,
                reason: reason.clone(),
            }),
        }
    }

    fn is_read(&self, known: &Known) -> bool {
        matches!(self.operations[known.operation].kind, Kind::Read { .. })
    }

    /// Puts operations of known outcome in order, up to `goal`, as long as nothing has to be filled in. An error if
    /// this cannot go on, whatever is filled in.
    fn advance(&self, goal: usize, point: &mut Point, order: &mut Vec<usize>) -> Result<(), String> {
        while point.done < goal && self.known[point.done].place == point.state.tail {
            let index = self.known[point.done].operation;
            let state = point.state;
            match &self.operations[index].kind {
                Kind::CheckTail { .. } => {}
                Kind::Read { stream_hash, .. } if *stream_hash == state.stream_hash => {}
                Kind::Read { .. } => return Err("it read other records than were appended".into()),
                Kind::Append { batch, .. } => {
                    if !self.shown(state.tail, batch) {
                        return Err("other records are at its place".into());
                    }
                    match state.append(batch) {
                        Some(behind) => point.state = behind,
                        None => return Err("it carried a fencing token that was not in force".into()),
                    }
                }
            }
            order.push(index);
            point.done += 1;
        }
        Ok(())
    }

    /// The first unknown outcome from the given turn on that can come next, with its turn. First all that fill the
    /// gap alone have their turn, then all others, the latest of each first.
    ///
    /// `chosen` unknown outcomes were put in order since the last read.
    fn candidate(
        &self,
        point: Point,
        used: &Used,
        from: usize,
        chosen: usize,
        limit: &mut Limit,
    ) -> Option<(usize, usize)> {
        let next = &self.known[point.done];
        let room = next.place - point.state.tail;
        let fits = |index: usize| {
            let it = &self.unknown[index];
            !used.is[index]
                && it.began < next.ends_first
                && it.batch.len() <= room
                && point.state.admits(it.batch)
                && self.shown(point.state.tail, it.batch)
        };
        let count = self.unknown.len();
        let blind = point.done >= self.hashes_until;
        let limited = self.distinct && !blind;
        let right = |index: usize| {
            let batch = self.unknown[index].batch;
            let required = self.required[point.done].filter(|_| batch.len() == room);
            let behind = || point.state.append(batch).map(|state| state.stream_hash);
            required.is_none() || required == behind()
        };
        let twin = |index: usize| {
            let later = index + 1..count;
            let alike = |other: &usize| self.unknown[*other].class == self.unknown[index].class;
            later.filter(alike).any(fits)
        };
        (from..2 * count).find_map(|turn| {
            limit.looked_at += 1;
            let index = count - 1 - turn % count;
            let alone = self.unknown[index].batch.len() == room;
            if alone != (turn < count) || !fits(index) || !right(index) || (blind && twin(index)) {
                return None;
            }
            let needed = chosen + 1 + usize::from(!alone) + self.gaps[point.done];
            if limited && !limit.allows(needed) {
                return None;
            }
            Some((turn, index))
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

    fn configuration(&self, point: Point, used: &Used) -> u128 {
        let (hash, used) = match point.done < self.hashes_until {
            true => (point.state.stream_hash, used.set),
            false => (0, used.classes),
        };
        let token = u64::from(point.state.token.0) << 32;
        used ^ mark(hash).rotate_left(1)
            ^ mark(point.state.tail).rotate_left(2)
            ^ mark(token ^ point.done as u64).rotate_left(3)
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
/// another place, answers about other records than those that are known.
fn impossible(operations: &[Operation], known: &[Known], records: Option<&[u64]>) -> Option<(usize, String)> {
    let records = records.unwrap_or_default();
    // Behind each number of records.
    let hashes: Vec<u64> = std::iter::once(stream_hash([]))
        .chain(records.iter().scan(stream_hash([]), |hash, record| {
            *hash = chain_hash(*hash, *record);
            Some(*hash)
        }))
        .collect();
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
        let is_shown = match &operation.kind {
            Kind::Append { batch, .. } => {
                let at = usize::try_from(it.place).unwrap_or(usize::MAX);
                let there = records.iter().skip(at);
                there.zip(&batch.record_hashes).all(|(there, own)| there == own)
            }
            Kind::Read { tail, stream_hash } => {
                let behind = usize::try_from(*tail).ok().and_then(|tail| hashes.get(tail));
                behind.is_none_or(|hash| hash == stream_hash)
            }
            Kind::CheckTail { .. } => true,
        };
        if !is_shown {
            let reason = "the records that were read at the end are others";
            return Some((index, reason.into()));
        }
    }
    None
}

/// Where the stream ends behind a known operation.
fn end(operations: &[Operation], known: &Known) -> u64 {
    match &operations[known.operation].kind {
        Kind::Append { batch, .. } => known.place + batch.len(),
        _ => known.place,
    }
}

fn required(operations: &[Operation], known: &[Known]) -> Vec<Option<u64>> {
    let mut required = vec![None; known.len()];
    for (index, it) in known.iter().enumerate().rev() {
        let next = known
            .get(index + 1)
            .filter(|next| next.place == end(operations, it));
        let behind = next.and_then(|_| required[index + 1]);
        required[index] = match &operations[it.operation].kind {
            Kind::Read { stream_hash, .. } => Some(*stream_hash),
            Kind::CheckTail { .. } => behind,
            Kind::Append { batch, .. } => {
                let records = batch.record_hashes.iter().rev();
                behind.map(|hash| records.fold(hash, |hash, record| unchain_hash(hash, *record)))
            }
        };
    }
    required
}

fn gaps(operations: &[Operation], known: &[Known]) -> Vec<usize> {
    let mut gaps = vec![0; known.len()];
    for (index, it) in known.iter().enumerate().rev() {
        let is_read = matches!(operations[it.operation].kind, Kind::Read { .. });
        if let Some(next) = known.get(index + 1).filter(|_| !is_read) {
            gaps[index] = gaps[index + 1] + usize::from(next.place > end(operations, it));
        }
    }
    gaps
}

fn distinct(operations: &[Operation]) -> bool {
    let mut seen = HashSet::new();
    operations.iter().all(|operation| match &operation.kind {
        Kind::Append { batch, .. } => batch.record_hashes.iter().all(|hash| seen.insert(*hash)),
        _ => true,
    })
}

/// The same for batches that differ in nothing but their records.
fn class(batch: &Batch) -> u128 {
    let token = |token: Option<Token>| token.map_or(0, |token| u64::from(token.0) + 1);
    [
        batch.len(),
        token(batch.sets),
        token(batch.token),
        batch.match_seq_num.map_or(0, |seq_num| seq_num + 1),
    ]
    .into_iter()
    .fold(1, |class: u128, part| {
        mark(part ^ (class >> 64) as u64 ^ class as u64)
    })
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
