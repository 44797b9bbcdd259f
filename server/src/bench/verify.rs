//! What a reader received, held against what must have been written: dense sequence numbers, the mark in each body,
//! and the hash chain.

use millrace_api::scan::{ReadBatchPart, ReadBatchScanner, ScanError};

use super::batch::Mark;
use super::chain::Chain;
use super::clock::Nanos;
use super::driver::Delivery;

/// The endpoint lost, repeated, reordered or changed a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Mismatch {
    #[error("record {expected} should come next, but the one delivered is {found}")]
    SeqNum { expected: u64, found: u64 },
    #[error("record {seq_num} holds what was written as record {found}")]
    Mark { seq_num: u64, found: u64 },
    #[error("record {seq_num} is too short to be one that was written")]
    NoMark { seq_num: u64 },
    #[error("the hash chain is {found}, but that of the writer is {expected}")]
    Chain { expected: Chain, found: Chain },
    #[error("the batch does not decode: {0}")]
    Damaged(#[from] ScanError),
}

/// What streams hold that are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content {
    /// Records of this bench, with marks.
    Marked,
    /// Anything: only sequence numbers are checked.
    Foreign,
}

/// One delivered batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Delivered {
    pub records: u64,
    /// Metered.
    pub bytes: u64,
}

/// Follows one stream from its first record. Of what is delivered it keeps only the chain.
#[derive(Debug, Clone)]
pub struct Verifier {
    content: Content,
    next: u64,
    chain: Chain,
}

impl Verifier {
    pub fn new(content: Content) -> Self {
        Self {
            content,
            next: 0,
            chain: Chain::default(),
        }
    }

    /// Sequence number of the record that must come next.
    pub fn next(&self) -> u64 {
        self.next
    }

    pub fn chain(&self) -> Chain {
        self.chain
    }

    /// Checks what was delivered next. `seen` learns when its records were meant to be sent, in order: a time, and how
    /// many records in a row have it. Of foreign content it learns nothing.
    pub fn delivery(
        &mut self,
        batch: &Delivery,
        seen: impl FnMut(Nanos, u64),
    ) -> Result<Delivered, Mismatch> {
        match batch {
            Delivery::Encoded(message) => self.batch(message, seen),
            Delivery::Records(records) => {
                let records = records
                    .iter()
                    .map(|record| Ok((record.seq_num, &record.body[..], record.metered_bytes())));
                self.records(records, seen)
            }
        }
    }

    /// The same for a protobuf `ReadBatch`.
    pub fn batch(&mut self, message: &[u8], seen: impl FnMut(Nanos, u64)) -> Result<Delivered, Mismatch> {
        let records = ReadBatchScanner::new(message).filter_map(|part| match part {
            Ok(ReadBatchPart::Tail(_)) => None,
            Ok(ReadBatchPart::Record(record)) => {
                Some(Ok((record.position.seq_num, record.body, record.metered_bytes)))
            }
            Err(error) => Some(Err(error)),
        });
        self.records(records, seen)
    }

    /// Of each record its sequence number, body and metered bytes.
    fn records<'a>(
        &mut self,
        records: impl Iterator<Item = Result<(u64, &'a [u8], usize), ScanError>>,
        mut seen: impl FnMut(Nanos, u64),
    ) -> Result<Delivered, Mismatch> {
        let mut delivered = Delivered::default();
        let mut run: Option<(Nanos, u64)> = None;
        for record in records {
            let (seq_num, body, metered_bytes) = record?;
            let intended = self.record(seq_num, body)?;
            delivered.records += 1;
            delivered.bytes += metered_bytes as u64;
            run = match (intended, run) {
                (Some(at), Some((same, count))) if at == same => Some((same, count + 1)),
                (next, last) => {
                    last.inspect(|&(at, count)| seen(at, count));
                    next.map(|at| (at, 1))
                }
            };
        }
        run.inspect(|&(at, count)| seen(at, count));
        Ok(delivered)
    }

    fn record(&mut self, seq_num: u64, body: &[u8]) -> Result<Option<Nanos>, Mismatch> {
        if seq_num != self.next {
            return Err(Mismatch::SeqNum {
                expected: self.next,
                found: seq_num,
            });
        }
        let intended = match self.content {
            Content::Foreign => None,
            Content::Marked => match Mark::read(body) {
                Some(mark) if mark.index == seq_num => Some(mark.intended),
                Some(Mark { index: found, .. }) => return Err(Mismatch::Mark { seq_num, found }),
                None => return Err(Mismatch::NoMark { seq_num }),
            },
        };
        self.chain.push(body);
        self.next += 1;
        Ok(intended)
    }

    /// Whether all that was delivered is what the writer sent so far.
    pub fn agrees(&self, writer: Chain) -> Result<(), Mismatch> {
        if self.chain == writer {
            return Ok(());
        }
        Err(Mismatch::Chain {
            expected: writer,
            found: self.chain,
        })
    }
}

#[cfg(test)]
mod tests {
    use millrace_api::proto::{ReadBatch, SequencedRecord};
    use prost::Message;

    use super::*;

    fn body(index: u64, intended: Nanos, filler: u8) -> Vec<u8> {
        let mut body = vec![filler; 40];
        Mark { index, intended }.write(&mut body);
        body
    }

    /// Records of a stream as (sequence number, body).
    fn message(records: impl IntoIterator<Item = (u64, Vec<u8>)>) -> Vec<u8> {
        let records = records.into_iter().map(|(seq_num, body)| SequencedRecord {
            seq_num,
            body: body.into(),
            ..Default::default()
        });
        ReadBatch {
            records: records.collect(),
            tail: None,
        }
        .encode_to_vec()
    }

    fn good(range: std::ops::Range<u64>) -> Vec<(u64, Vec<u8>)> {
        range.map(|n| (n, body(n, 100 + n / 2, 7))).collect()
    }

    fn written(count: u64) -> Chain {
        let mut chain = Chain::default();
        good(0..count).iter().for_each(|(_, body)| chain.push(body));
        chain
    }

    #[test]
    fn what_was_written_passes_in_any_batches() {
        let mut verifier = Verifier::new(Content::Marked);
        let mut seen = Vec::new();
        for range in [0..1, 1..4, 4..4, 4..10] {
            let delivered = verifier
                .batch(&message(good(range.clone())), |at, n| seen.push((at, n)))
                .unwrap();
            assert_eq!(delivered.records, range.end - range.start);
            assert_eq!(delivered.bytes, 48 * delivered.records);
        }
        verifier.agrees(written(10)).unwrap();
        assert_eq!(seen, [(100, 1), (100, 1), (101, 2), (102, 2), (103, 2), (104, 2)]);
    }

    #[test]
    fn a_dropped_record_is_caught() {
        let mut records = good(0..10);
        records.remove(4);
        let result = Verifier::new(Content::Marked).batch(&message(records), |_, _| {});
        assert_eq!(
            result,
            Err(Mismatch::SeqNum {
                expected: 4,
                found: 5
            })
        );
    }

    #[test]
    fn a_dropped_record_is_caught_where_numbers_close_the_gap() {
        let bodies = good(0..10).into_iter().map(|(_, body)| body);
        let records = (0..).zip(bodies.enumerate().filter(|(n, _)| *n != 4).map(|(_, body)| body));
        let result = Verifier::new(Content::Marked).batch(&message(records), |_, _| {});
        assert_eq!(result, Err(Mismatch::Mark { seq_num: 4, found: 5 }));
    }

    #[test]
    fn reordered_records_are_caught() {
        let mut records = good(0..10);
        records.swap(2, 3);
        let result = Verifier::new(Content::Marked).batch(&message(records.clone()), |_, _| {});
        assert!(matches!(
            result,
            Err(Mismatch::SeqNum {
                expected: 2,
                found: 3
            })
        ));
        // Numbered anew, as by a server that sequences in another order than it acknowledges.
        let renumbered = (0..).zip(records.into_iter().map(|(_, body)| body));
        let result = Verifier::new(Content::Marked).batch(&message(renumbered), |_, _| {});
        assert!(matches!(result, Err(Mismatch::Mark { seq_num: 2, found: 3 })));
    }

    #[test]
    fn a_repeated_record_is_caught() {
        let mut records = good(0..3);
        records.push(records[2].clone());
        let result = Verifier::new(Content::Marked).batch(&message(records), |_, _| {});
        assert!(matches!(
            result,
            Err(Mismatch::SeqNum {
                expected: 3,
                found: 2
            })
        ));
    }

    #[test]
    fn a_changed_byte_and_a_missing_end_are_caught_by_the_chain() {
        let mut records = good(0..10);
        records[3].1[30] ^= 1;
        for records in [records, good(0..9)] {
            let mut verifier = Verifier::new(Content::Marked);
            verifier.batch(&message(records), |_, _| {}).unwrap();
            assert!(matches!(
                verifier.agrees(written(10)),
                Err(Mismatch::Chain { .. })
            ));
        }
    }

    #[test]
    fn foreign_records_need_no_mark_but_their_numbers() {
        let mut verifier = Verifier::new(Content::Foreign);
        let records = message([(0, vec![]), (1, b"x".to_vec())]);
        verifier.batch(&records, |_, _| panic!("no times")).unwrap();
        assert!(verifier.batch(&message([(3, vec![])]), |_, _| {}).is_err());
        let short = Verifier::new(Content::Marked).batch(&records, |_, _| {});
        assert_eq!(short, Err(Mismatch::NoMark { seq_num: 0 }));
    }
}
