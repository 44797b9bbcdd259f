//! What the streams must hold, kept by the test across all restarts.
//!
//! A record's bytes follow from `(seed, writer, number, index)`, so the model keeps no payloads: a record that is
//! read names its batch, and the expected bytes are made again and compared. For each settled record one digest of
//! position and content stays, so that the whole stream can be compared once more at the end.

use std::collections::HashMap;

use anyhow::{Result, bail, ensure};
use bytes::Bytes;
use rand::rngs::SmallRng;
use rand::{Rng, RngCore, SeedableRng};
use s2_sdk::types::{AppendRecord, Header, SequencedRecord};

/// One batch, named for ever: numbers of a writer only grow, across restarts too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct BatchId {
    pub writer: u32,
    pub number: u64,
}

/// What the client learnt about a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Acknowledged: records `start..end`.
    Acked { start: u64, end: u64 },
    /// No answer, or one that promises nothing: all of it or none of it.
    Unknown,
    /// Never sent, or an answer that promises that nothing was applied.
    Refused,
}

/// One append, as its client saw it.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    pub id: BatchId,
    pub count: u32,
    pub outcome: Outcome,
}

const HEAD_LEN: usize = 8 + 4 + 8 + 4 + 4;
const HASH_LEN: usize = 8;

/// Contents of record `index` of a batch of `count`: who and which, then filler, then a hash of all that.
pub fn record(seed: u64, id: BatchId, index: u32, count: u32, large: bool) -> AppendRecord {
    let mut rng = SmallRng::seed_from_u64(hash(&[
        &seed.to_le_bytes(),
        &id.writer.to_le_bytes(),
        &id.number.to_le_bytes(),
        &index.to_le_bytes(),
    ]));
    let filler = match rng.random_range(0..20) {
        0 => 0,
        1..=15 => rng.random_range(1..512),
        _ if large => rng.random_range(4_096..65_536),
        _ => rng.random_range(512..4_096),
    };
    let mut body = Vec::with_capacity(HEAD_LEN + filler + HASH_LEN);
    body.extend_from_slice(&seed.to_le_bytes());
    body.extend_from_slice(&id.writer.to_le_bytes());
    body.extend_from_slice(&id.number.to_le_bytes());
    body.extend_from_slice(&index.to_le_bytes());
    // The top bit of the count says how the filler was drawn.
    body.extend_from_slice(&(count | u32::from(large) << 31).to_le_bytes());
    body.resize(HEAD_LEN + filler, 0);
    rng.fill_bytes(&mut body[HEAD_LEN..]);
    let sum = hash(&[&body]);
    body.extend_from_slice(&sum.to_le_bytes());

    let record = AppendRecord::new(body).expect("within the record limit");
    if rng.random_range(0..4) == 0 {
        let headers = [
            Header::new("writer", id.writer.to_string()),
            Header::new("writer", Bytes::new()),
        ];
        record.with_headers(headers).expect("within the record limit")
    } else {
        record
    }
}

/// Which batch a record says it belongs to.
struct Origin {
    id: BatchId,
    index: u32,
    count: u32,
}

/// Names the origin of a record, after comparing every byte of it with what that origin wrote.
fn origin(seed: u64, read: &SequencedRecord) -> Result<Origin> {
    let body = &read.body;
    let at = read.seq_num;
    ensure!(
        body.len() >= HEAD_LEN + HASH_LEN,
        "record {at} has {} bytes: nobody wrote that",
        body.len()
    );
    let u32_at = |i: usize| u32::from_le_bytes(body[i..i + 4].try_into().expect("4 bytes"));
    let u64_at = |i: usize| u64::from_le_bytes(body[i..i + 8].try_into().expect("8 bytes"));
    let (whole, sum) = body.split_at(body.len() - HASH_LEN);
    ensure!(
        sum == hash(&[whole]).to_le_bytes(),
        "record {at}: its bytes do not match their hash"
    );
    ensure!(u64_at(0) == seed, "record {at} was written by another run");
    let id = BatchId {
        writer: u32_at(8),
        number: u64_at(12),
    };
    let (index, count, large) = (u32_at(20), u32_at(24) & !(1 << 31), u32_at(24) >> 31 == 1);
    let expected = record(seed, id, index, count, large);
    ensure!(
        expected.body() == &body[..],
        "record {at}: body is not what {id:?}/{index} wrote"
    );
    ensure!(
        expected.headers() == &read.headers[..],
        "record {at}: headers are not what {id:?}/{index} wrote"
    );
    Ok(Origin { id, index, count })
}

/// Position and content of a record in eight bytes.
pub fn digest(record: &SequencedRecord) -> u64 {
    hash(&[
        &record.seq_num.to_le_bytes(),
        &record.timestamp.to_le_bytes(),
        &record.body,
    ])
}

/// FNV-1a over the parts.
fn hash(parts: &[&[u8]]) -> u64 {
    parts
        .iter()
        .flat_map(|part| part.iter())
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
            (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        })
}

/// One stream as the test knows it.
#[derive(Debug)]
pub struct StreamModel {
    pub name: String,
    seed: u64,
    settled: Vec<u64>,
    last_timestamp: u64,
}

impl StreamModel {
    pub fn new(name: String, seed: u64) -> Self {
        Self {
            name,
            seed,
            settled: Vec::new(),
            last_timestamp: 0,
        }
    }

    /// The next sequence number that has not been read after a restart.
    pub fn next_seq(&self) -> u64 {
        self.settled.len() as u64
    }

    /// Timestamp of the last settled record; 0 for none.
    pub fn last_timestamp(&self) -> u64 {
        self.last_timestamp
    }

    /// Begins to take in what a restart left behind, given what this round's clients know.
    pub fn settle(&mut self, attempts: Vec<Attempt>) -> Settling<'_> {
        Settling {
            first: self.next_seq(),
            model: self,
            attempts: attempts.iter().map(|attempt| (attempt.id, *attempt)).collect(),
            order: attempts.iter().map(|attempt| attempt.id).collect(),
            found: HashMap::new(),
            open: None,
        }
    }

    /// Compares a record of a later read with what was settled.
    pub fn check_settled(&self, record: &SequencedRecord, expected_seq: u64) -> Result<()> {
        ensure!(
            record.seq_num == expected_seq,
            "{}: record {} where {expected_seq} was due",
            self.name,
            record.seq_num
        );
        match self.settled.get(expected_seq as usize) {
            Some(known) if *known == digest(record) => Ok(()),
            Some(_) => bail!(
                "{}: record {expected_seq} has changed since it was first read",
                self.name
            ),
            None => bail!(
                "{}: record {expected_seq} appeared where the stream had ended",
                self.name
            ),
        }
    }

    /// Compares what a follower saw before the kill: it must still be there, and the same.
    pub fn check_observed(&self, first_seq: u64, observed: &[u64]) -> Result<()> {
        for (seq, seen) in (first_seq..).zip(observed) {
            match self.settled.get(seq as usize) {
                Some(known) if known == seen => {}
                Some(_) => bail!("{}: a reader saw another record {seq} before the kill", self.name),
                None => bail!(
                    "{}: a reader saw record {seq} before the kill, and it is gone",
                    self.name
                ),
            }
        }
        Ok(())
    }
}

/// What one restart left behind, record by record.
pub struct Settling<'a> {
    model: &'a mut StreamModel,
    first: u64,
    attempts: HashMap<BatchId, Attempt>,
    order: Vec<BatchId>,
    found: HashMap<BatchId, u64>,
    open: Option<(BatchId, u32)>,
}

impl Settling<'_> {
    /// Takes the next record.
    pub fn push(&mut self, read: &SequencedRecord) -> Result<()> {
        let name = &self.model.name;
        let due = self.model.settled.len() as u64;
        ensure!(
            read.seq_num == due,
            "{name}: record {} where {due} was due",
            read.seq_num
        );
        ensure!(
            read.timestamp >= self.model.last_timestamp,
            "{name}: the timestamp falls at record {due}, from {} to {}",
            self.model.last_timestamp,
            read.timestamp
        );
        let Origin { id, index, count } = origin(self.model.seed, read)?;
        match self.open.take() {
            None => {
                ensure!(
                    index == 0,
                    "{name}: {id:?} begins at its record {index}, at {due}"
                );
                let Some(attempt) = self.attempts.get(&id) else {
                    bail!("{name}: {id:?} at {due} was not written since the last restart");
                };
                ensure!(
                    attempt.count == count,
                    "{name}: {id:?} claims {count} records, sent {}",
                    attempt.count
                );
                ensure!(
                    self.found.insert(id, due).is_none(),
                    "{name}: {id:?} is there twice, again at {due}"
                );
            }
            Some((open, next)) => {
                ensure!(
                    open == id && next == index,
                    "{name}: {open:?} is torn before its record {next}, at {due}"
                );
            }
        }
        if index + 1 < count {
            self.open = Some((id, index + 1));
        }
        self.model.last_timestamp = read.timestamp;
        self.model.settled.push(digest(read));
        Ok(())
    }

    /// Holds the whole against what the clients know. Returns how many records were taken.
    pub fn finish(self) -> Result<u64> {
        let name = &self.model.name;
        let end = self.model.settled.len() as u64;
        if let Some((id, next)) = self.open {
            bail!("{name}: {id:?} is torn: the stream ends at {end}, before its record {next}");
        }
        // Per writer: where its batches were found, in the order it sent them.
        let mut last: HashMap<u32, (BatchId, Option<u64>)> = HashMap::new();
        for id in &self.order {
            let attempt = &self.attempts[id];
            let found = self.found.get(id).copied();
            match (attempt.outcome, found) {
                (Outcome::Acked { start, end }, Some(at)) => {
                    ensure!(
                        at == start,
                        "{name}: {id:?} was acknowledged at {start} and is at {at}"
                    );
                    ensure!(
                        end - start == u64::from(attempt.count),
                        "{name}: the ack of {id:?} says {start}..{end} for {} records",
                        attempt.count
                    );
                }
                (Outcome::Acked { start, .. }, None) => {
                    bail!("{name}: LOST: {id:?} was acknowledged at {start}; the stream ends at {end}")
                }
                (Outcome::Refused, Some(at)) => {
                    bail!("{name}: {id:?} was refused as not applied and is at {at}")
                }
                (Outcome::Unknown, _) | (Outcome::Refused, None) => {}
            }
            if attempt.outcome == Outcome::Refused {
                continue;
            }
            if let Some((earlier, before)) = last.insert(id.writer, (*id, found))
                && let Some(at) = found
            {
                match before {
                    Some(before) => ensure!(
                        before < at,
                        "{name}: {earlier:?} at {before} after {id:?} at {at}"
                    ),
                    None => bail!("{name}: {id:?} at {at} without {earlier:?}, which was sent before it"),
                }
            }
        }
        Ok(end - self.first)
    }
}

/// The model must see what it is there to see: each test feeds it one bad history.
mod tests {
    use super::*;

    const SEED: u64 = 7;

    fn sequenced(id: BatchId, index: u32, count: u32, seq_num: u64, timestamp: u64) -> SequencedRecord {
        let record = record(SEED, id, index, count, false);
        SequencedRecord::from_parts(
            seq_num,
            timestamp,
            record.headers().to_vec(),
            record.body().to_vec(),
        )
    }

    fn id(number: u64) -> BatchId {
        BatchId { writer: 1, number }
    }

    fn attempt(number: u64, count: u32, outcome: Outcome) -> Attempt {
        Attempt {
            id: id(number),
            count,
            outcome,
        }
    }

    fn settle(attempts: Vec<Attempt>, records: &[SequencedRecord]) -> Result<u64> {
        let mut model = StreamModel::new("s".into(), SEED);
        let mut settling = model.settle(attempts);
        for record in records {
            settling.push(record)?;
        }
        settling.finish()
    }

    fn refuses(attempts: Vec<Attempt>, records: &[SequencedRecord], why: &str) {
        let error = settle(attempts, records).expect_err(why).to_string();
        assert!(error.contains(why), "{error}");
    }

    #[test]
    fn model_accepts_acked_batches_and_whole_unknown_ones() {
        let acked = Outcome::Acked { start: 0, end: 2 };
        let attempts = vec![
            attempt(1, 2, acked),
            attempt(2, 1, Outcome::Unknown),
            attempt(3, 1, Outcome::Unknown),
        ];
        let records = [
            sequenced(id(1), 0, 2, 0, 5),
            sequenced(id(1), 1, 2, 1, 5),
            sequenced(id(2), 0, 1, 2, 6),
        ];
        assert_eq!(settle(attempts, &records).expect("a good history"), 3);
    }

    #[test]
    fn model_sees_a_lost_acknowledged_batch() {
        refuses(
            vec![attempt(1, 1, Outcome::Acked { start: 0, end: 1 })],
            &[],
            "LOST",
        );
    }

    #[test]
    fn model_sees_an_acknowledged_batch_elsewhere() {
        let attempts = vec![
            attempt(1, 1, Outcome::Unknown),
            attempt(2, 1, Outcome::Acked { start: 0, end: 1 }),
        ];
        let records = [sequenced(id(1), 0, 1, 0, 1), sequenced(id(2), 0, 1, 1, 1)];
        refuses(attempts, &records, "was acknowledged at 0 and is at 1");
    }

    #[test]
    fn model_sees_a_torn_batch() {
        refuses(
            vec![attempt(1, 2, Outcome::Unknown)],
            &[sequenced(id(1), 0, 2, 0, 1)],
            "torn",
        );
    }

    #[test]
    fn model_sees_a_duplicate() {
        let records = [sequenced(id(1), 0, 1, 0, 1), sequenced(id(1), 0, 1, 1, 1)];
        refuses(vec![attempt(1, 1, Outcome::Unknown)], &records, "twice");
    }

    #[test]
    fn model_sees_a_batch_of_an_earlier_round_turn_up_late() {
        refuses(
            vec![],
            &[sequenced(id(1), 0, 1, 0, 1)],
            "not written since the last restart",
        );
    }

    #[test]
    fn model_sees_a_refused_batch() {
        refuses(
            vec![attempt(1, 1, Outcome::Refused)],
            &[sequenced(id(1), 0, 1, 0, 1)],
            "refused as not applied",
        );
    }

    #[test]
    fn model_sees_a_gap_in_sequence_numbers() {
        refuses(
            vec![attempt(1, 1, Outcome::Unknown)],
            &[sequenced(id(1), 0, 1, 1, 1)],
            "where 0 was due",
        );
    }

    #[test]
    fn model_sees_a_falling_timestamp() {
        let attempts = vec![attempt(1, 1, Outcome::Unknown), attempt(2, 1, Outcome::Unknown)];
        let records = [sequenced(id(1), 0, 1, 0, 9), sequenced(id(2), 0, 1, 1, 8)];
        refuses(attempts, &records, "timestamp falls");
    }

    #[test]
    fn model_sees_a_hole_in_a_writers_order() {
        let attempts = vec![attempt(1, 1, Outcome::Unknown), attempt(2, 1, Outcome::Unknown)];
        refuses(
            attempts,
            &[sequenced(id(2), 0, 1, 0, 1)],
            "which was sent before it",
        );
    }

    #[test]
    fn model_sees_swapped_batches_of_one_writer() {
        let attempts = vec![attempt(1, 1, Outcome::Unknown), attempt(2, 1, Outcome::Unknown)];
        let records = [sequenced(id(2), 0, 1, 0, 1), sequenced(id(1), 0, 1, 1, 1)];
        refuses(attempts, &records, "after");
    }

    #[test]
    fn model_sees_a_changed_byte() {
        let mut record = sequenced(id(1), 0, 1, 0, 1);
        let mut body = record.body.to_vec();
        body[30] ^= 1;
        record.body = body.into();
        refuses(
            vec![attempt(1, 1, Outcome::Unknown)],
            &[record],
            "do not match their hash",
        );
    }

    #[test]
    fn model_sees_what_a_reader_saw_disappear() {
        let model = StreamModel::new("s".into(), SEED);
        let seen = [digest(&sequenced(id(1), 0, 1, 0, 1))];
        let error = model
            .check_observed(0, &seen)
            .expect_err("nothing is settled")
            .to_string();
        assert!(error.contains("it is gone"), "{error}");
    }
}
