//! Records that were read.

use bytes::Bytes;
use millrace_api::limits::{BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX};
use millrace_api::position::{SeqNum, StreamPosition};
use millrace_api::proto;
use millrace_api::record::SequencedRecord;
use millrace_api::scan::RecordScanner;
use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint};

use crate::error::Error;

const RECORDS_TAG: u32 = 1;

/// Records in order, with ascending sequence numbers.
///
/// Names, values and bodies are slices of the buffer that the batch was received in, about as large as the batch. A
/// record that is kept keeps that buffer; copy what is kept for long.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ReadBatch {
    records: Vec<SequencedRecord>,
    tail: Option<StreamPosition>,
    metered_bytes: usize,
}

impl ReadBatch {
    /// Takes at most what a batch may hold: the number of records and what they weigh are checked before anything is
    /// decoded, so that a few bytes cannot become many.
    pub(crate) fn decode(encoded: Bytes) -> Result<Self, Error> {
        let (records_len, count) = records_part(&encoded)?;
        if count > BATCH_RECORDS_MAX {
            return Err(Error::corrupt(format!("a batch of {count} records")));
        }
        let mut metered_bytes = 0;
        let mut next = 0;
        for record in RecordScanner::new(&encoded[..records_len]) {
            let record = record.map_err(|error| Error::corrupt(error.to_string()))?;
            if record.seq_num < next {
                return Err(Error::corrupt(format!("record {} comes late", record.seq_num)));
            }
            next = record
                .seq_num
                .checked_add(1)
                .ok_or_else(|| Error::corrupt("a sequence number out of range"))?;
            metered_bytes += record.metered_bytes;
        }
        if metered_bytes > BATCH_METERED_BYTES_MAX {
            return Err(Error::corrupt(format!(
                "a batch of {metered_bytes} metered bytes"
            )));
        }
        let batch = proto::ReadBatch::decode(encoded).map_err(|error| Error::corrupt(error.to_string()))?;
        Ok(Self {
            records: batch.records,
            tail: batch.tail.map(StreamPosition::from),
            metered_bytes,
        })
    }

    /// The records.
    pub fn records(&self) -> &[SequencedRecord] {
        &self.records
    }

    /// The records, for keeps.
    pub fn into_records(self) -> Vec<SequencedRecord> {
        self.records
    }

    /// Whether it has no records.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Number of records.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Sum over the records.
    pub fn metered_bytes(&self) -> usize {
        self.metered_bytes
    }

    /// The stream's tail, where the server says so: near the end.
    pub fn tail(&self) -> Option<StreamPosition> {
        self.tail
    }

    /// One past the last record.
    pub fn end_seq_num(&self) -> Option<SeqNum> {
        self.records.last().map(|record| record.seq_num + 1)
    }

    /// Whether there was nothing behind it when it was sent.
    pub fn is_caught_up(&self) -> bool {
        self.tail
            .is_some_and(|tail| self.end_seq_num().is_none_or(|end| end >= tail.seq_num))
    }
}

impl IntoIterator for ReadBatch {
    type Item = SequencedRecord;
    type IntoIter = std::vec::IntoIter<SequencedRecord>;

    fn into_iter(self) -> Self::IntoIter {
        self.records.into_iter()
    }
}

/// Length of the leading `records` fields, and how many there are. Nothing behind them is another one.
fn records_part(encoded: &[u8]) -> Result<(usize, usize), Error> {
    let malformed = || Error::corrupt("not a batch");
    let mut rest = encoded;
    let mut count = 0;
    let mut len = 0;
    let mut others = false;
    while !rest.is_empty() {
        let (tag, wire_type) = decode_key(&mut rest).map_err(|_| malformed())?;
        if wire_type != WireType::LengthDelimited {
            return Err(malformed());
        }
        let size = decode_varint(&mut rest).map_err(|_| malformed())?;
        let size = usize::try_from(size).map_err(|_| malformed())?;
        rest = rest.get(size..).ok_or_else(malformed)?;
        match tag {
            RECORDS_TAG if others => return Err(malformed()),
            RECORDS_TAG => {
                count += 1;
                len = encoded.len() - rest.len();
            }
            _ => others = true,
        }
    }
    Ok((len, count))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn encoded(seq_nums: &[u64], tail: Option<u64>) -> Bytes {
        let records = seq_nums.iter().map(|seq_num| SequencedRecord {
            seq_num: *seq_num,
            body: Bytes::from(format!("body {seq_num}")),
            ..Default::default()
        });
        let batch = proto::ReadBatch {
            records: records.collect(),
            tail: tail.map(|seq_num| proto::StreamPosition {
                seq_num,
                timestamp: 1,
            }),
        };
        batch.encode_to_vec().into()
    }

    #[test]
    fn bodies_are_slices_of_what_was_received() {
        let received = encoded(&[3, 4], Some(5));
        let within = received.as_ptr_range();
        let batch = ReadBatch::decode(received.clone()).unwrap();
        assert_eq!(batch.len(), 2);
        assert!(
            batch
                .records()
                .iter()
                .all(|record| within.contains(&record.body.as_ptr()))
        );
        assert_eq!(batch.end_seq_num(), Some(5));
    }

    #[test]
    fn a_batch_knows_whether_it_reaches_the_tail() {
        let caught_up =
            |seq_nums: &[u64], tail| ReadBatch::decode(encoded(seq_nums, tail)).unwrap().is_caught_up();
        assert!(caught_up(&[3, 4], Some(5)));
        assert!(!caught_up(&[3, 4], Some(6)));
        assert!(!caught_up(&[3, 4], None));
        assert!(caught_up(&[], Some(5)));
        assert!(!caught_up(&[], None));
    }

    #[test]
    fn more_than_a_batch_holds_is_refused_before_it_is_decoded() {
        let many: Vec<_> = (0..1001).collect();
        assert!(ReadBatch::decode(encoded(&many[..1000], None)).is_ok());
        assert!(ReadBatch::decode(encoded(&many, None)).is_err());
        let empty_records = Bytes::from([0x0a, 0x00].repeat(1_000_000));
        assert!(ReadBatch::decode(empty_records).is_err());
    }

    #[test]
    fn records_out_of_order_are_refused() {
        assert!(ReadBatch::decode(encoded(&[3, 3], None)).is_err());
        assert!(ReadBatch::decode(encoded(&[4, 3], None)).is_err());
        assert!(ReadBatch::decode(encoded(&[u64::MAX], None)).is_err());
    }

    proptest! {
        #[test]
        fn damage_is_refused_or_read_and_never_worse(at: prop::sample::Index, byte: u8) {
            let mut damaged = encoded(&[1, 2, 3], Some(4)).to_vec();
            let at = at.index(damaged.len());
            damaged[at] = byte;
            let _ = ReadBatch::decode(damaged[..at].to_vec().into());
            let _ = ReadBatch::decode(damaged.into());
        }
    }
}
