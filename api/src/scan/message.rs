//! A whole `ReadBatch` as it was received, read in place: what a reader of many records wants that looks at each
//! and keeps none.

use prost::Message;

use super::ScanError;
use crate::position::StreamPosition;
use crate::proto;
use crate::wire::{self, Reader, RecordKind, WireError, WireType};

/// One field of a `ReadBatch`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadBatchPart<'a> {
    Record(ReadRecord<'a>),
    /// The stream's tail, as of this batch.
    Tail(StreamPosition),
}

/// A record of the batch. Its headers are counted and passed over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRecord<'a> {
    pub position: StreamPosition,
    pub body: &'a [u8],
    pub metered_bytes: usize,
}

/// Iterates over the fields of an encoded `ReadBatch` in their order; fields that it does not know are passed
/// over. Ends after the first error. Accepts any encoding that a protobuf decoder accepts.
#[derive(Debug, Clone)]
pub struct ReadBatchScanner<'a> {
    message: &'a [u8],
    reader: Reader<'a>,
}

impl<'a> ReadBatchScanner<'a> {
    pub fn new(message: &'a [u8]) -> Self {
        Self {
            message,
            reader: Reader::new(message),
        }
    }

    fn read(&mut self) -> Result<Option<ReadBatchPart<'a>>, WireError> {
        while !self.reader.is_empty() {
            match self.reader.key()? {
                (1, wire) => {
                    let range = self.reader.expect_bytes(wire)?;
                    let fields = wire::record_fields(self.message, range, RecordKind::Sequenced)?;
                    let position = StreamPosition::new(fields.seq_num, fields.timestamp.unwrap_or(0));
                    return Ok(Some(ReadBatchPart::Record(ReadRecord {
                        position,
                        metered_bytes: fields.metered_bytes(),
                        body: &self.message[fields.body],
                    })));
                }
                (2, wire) => {
                    let range = self.reader.expect_bytes(wire)?;
                    let tail = proto::StreamPosition::decode(&self.message[range])
                        .map_err(|_| WireError("the tail is not a position"))?;
                    return Ok(Some(ReadBatchPart::Tail(tail.into())));
                }
                (field, wire) => self.skip(field, wire)?,
            }
        }
        Ok(None)
    }

    fn skip(&mut self, field: u32, wire: WireType) -> Result<(), WireError> {
        self.reader.skip(field, wire, wire::DEPTH_MAX)
    }
}

impl<'a> Iterator for ReadBatchScanner<'a> {
    type Item = Result<ReadBatchPart<'a>, ScanError>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.reader.position();
        match self.read() {
            Ok(part) => part.map(Ok),
            Err(WireError(reason)) => {
                self.reader = Reader::new(&[]);
                Some(Err(ScanError { at, reason }))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Header, SequencedRecord};

    #[test]
    fn records_and_tail_are_what_a_decoder_gives() {
        let batch = proto::ReadBatch {
            records: vec![
                SequencedRecord {
                    seq_num: 7,
                    timestamp: 9,
                    headers: vec![],
                    body: "abc".into(),
                },
                SequencedRecord {
                    seq_num: 8,
                    timestamp: 10,
                    headers: vec![Header {
                        name: "n".into(),
                        value: "vv".into(),
                    }],
                    body: "".into(),
                },
            ],
            tail: Some(proto::StreamPosition {
                seq_num: 9,
                timestamp: 10,
            }),
        };
        let mut message = batch.encode_to_vec();
        // A field that does not exist yet.
        message.extend_from_slice(&[0x78, 1]);
        let parts: Result<Vec<_>, _> = ReadBatchScanner::new(&message).collect();
        assert_eq!(
            parts.unwrap(),
            [
                ReadBatchPart::Record(ReadRecord {
                    position: StreamPosition::new(7, 9),
                    body: b"abc",
                    metered_bytes: 11,
                }),
                ReadBatchPart::Record(ReadRecord {
                    position: StreamPosition::new(8, 10),
                    body: b"",
                    metered_bytes: 13,
                }),
                ReadBatchPart::Tail(StreamPosition::new(9, 10)),
            ]
        );
    }

    #[test]
    fn a_batch_that_was_cut_ends_in_an_error() {
        let batch = proto::ReadBatch {
            records: vec![SequencedRecord {
                body: "abc".into(),
                ..Default::default()
            }],
            tail: None,
        };
        let message = batch.encode_to_vec();
        for len in 1..message.len() {
            let mut scanner = ReadBatchScanner::new(&message[..len]);
            assert!(scanner.next().unwrap().is_err(), "{len}");
            assert_eq!(scanner.next(), None);
        }
    }
}
