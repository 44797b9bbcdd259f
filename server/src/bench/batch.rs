//! Batches to append, made cheaply: one is encoded in full, and for each that is sent only what differs is written
//! over, which is a mark of 16 bytes at the start of each body.
//!
//! A body is the record's index in its stream (8 bytes, big-endian), the time at which it was meant to be sent
//! ([`Nanos`], 8 bytes, big-endian), then bytes that do not compress, the same in every batch.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millrace_api::limits::{BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX};
use millrace_api::proto;
use millrace_api::record::metered_bytes;
use millrace_api::s2s::{Compression, Reconnect, encode_message};
use prost::Message;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

use super::chain::Chain;
use super::clock::Nanos;

/// Bytes at the start of each body.
pub const MARK_LEN: usize = 16;
/// Metered bytes of the smallest record that holds its mark.
pub const RECORD_BYTES_MIN: usize = metered_bytes(0, 0, MARK_LEN);
/// Head of an S2S frame: length and flags.
pub const FRAME_HEAD_LEN: usize = 4;

/// What every body begins with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Mark {
    /// Of the record in its stream, from 0.
    pub index: u64,
    /// When it was meant to be sent.
    pub intended: Nanos,
}

impl Mark {
    /// `None` if the body is too short to hold one.
    pub fn read(body: &[u8]) -> Option<Self> {
        let (index, rest) = body.split_first_chunk::<8>()?;
        let intended = rest.first_chunk::<8>()?;
        Some(Self {
            index: u64::from_be_bytes(*index),
            intended: u64::from_be_bytes(*intended),
        })
    }

    pub fn write(&self, body: &mut [u8]) {
        body[..8].copy_from_slice(&self.index.to_be_bytes());
        body[8..MARK_LEN].copy_from_slice(&self.intended.to_be_bytes());
    }
}

/// How large batches are: 1 to 1000 records of the same size, at most 1 MiB metered together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchShape {
    pub records: usize,
    /// Metered, of one record.
    pub record_bytes: usize,
}

impl BatchShape {
    /// `Err` says what no stream would take, or what leaves no room for the mark.
    pub fn new(records: usize, record_bytes: usize) -> Result<Self, String> {
        if record_bytes < RECORD_BYTES_MIN {
            return Err(format!(
                "a record has at least {RECORD_BYTES_MIN} metered bytes, for its mark"
            ));
        }
        if !(1..=BATCH_RECORDS_MAX).contains(&records) {
            return Err(format!("a batch has 1 to {BATCH_RECORDS_MAX} records"));
        }
        match records.checked_mul(record_bytes) {
            Some(bytes) if bytes <= BATCH_METERED_BYTES_MAX => Ok(Self {
                records,
                record_bytes,
            }),
            _ => Err(format!(
                "{records} records of {record_bytes} bytes exceed a batch's {BATCH_METERED_BYTES_MAX}"
            )),
        }
    }

    /// Metered bytes of a batch.
    pub fn bytes(&self) -> usize {
        self.records * self.record_bytes
    }
}

/// A batch ready to be sent, with what must be remembered until its acknowledgement.
#[derive(Debug, Clone)]
pub struct EncodedBatch {
    /// An S2S frame; from [`FRAME_HEAD_LEN`] on it is the protobuf `AppendInput`.
    pub frame: Bytes,
    /// Where each record's body starts in it.
    bodies: Arc<[usize]>,
    body_len: usize,
}

impl EncodedBatch {
    /// The records' bodies, for those that encode batches themselves; they share the frame's memory.
    pub fn bodies(&self) -> impl Iterator<Item = Bytes> + '_ {
        let body = |&at: &usize| self.frame.slice(at..at + self.body_len);
        self.bodies.iter().map(body)
    }
}

/// The batch that all others are made from.
#[derive(Debug, Clone)]
pub struct BatchTemplate {
    frame: Bytes,
    /// Where each record's body starts in the frame.
    bodies: Arc<[usize]>,
    body_len: usize,
}

impl BatchTemplate {
    pub fn new(shape: BatchShape, seed: u64) -> Self {
        let mut filler = SmallRng::seed_from_u64(seed);
        let body_len = shape.record_bytes - metered_bytes(0, 0, 0);
        let mut message = BytesMut::new();
        let mut bodies = Vec::with_capacity(shape.records);
        for _ in 0..shape.records {
            let mut body = vec![0; body_len];
            filler.fill_bytes(&mut body[MARK_LEN..]);
            // A repeated field is the concatenation of its elements, and a body comes last in its record.
            let one = proto::AppendInput {
                records: vec![proto::AppendRecord {
                    body: body.into(),
                    ..Default::default()
                }],
                ..Default::default()
            };
            one.encode(&mut message).expect("a growing buffer takes all");
            bodies.push(FRAME_HEAD_LEN + message.len() - body_len);
        }
        let parts = encode_message(&[message.freeze()], Compression::None, Reconnect::NotAdvised)
            .expect("a batch of this shape fits in a frame");
        Self {
            frame: parts.concat().into(),
            bodies: bodies.into(),
            body_len,
        }
    }

    /// The batch whose first record has the index `first`. `chain` goes on over its bodies. `spare` is the buffer
    /// of an earlier batch of this template, if there is one to be had.
    pub fn make(
        &self,
        first: u64,
        intended: Nanos,
        chain: &mut Chain,
        spare: Option<BytesMut>,
    ) -> EncodedBatch {
        let mut frame = spare.unwrap_or_else(|| BytesMut::from(&self.frame[..]));
        debug_assert_eq!(frame.len(), self.frame.len());
        for (index, &at) in (first..).zip(self.bodies.iter()) {
            let body = &mut frame[at..at + self.body_len];
            Mark { index, intended }.write(body);
            chain.push(body);
        }
        EncodedBatch {
            frame: frame.freeze(),
            bodies: self.bodies.clone(),
            body_len: self.body_len,
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_api::batch::AppendBatch;
    use millrace_api::s2s::{Frame, FrameDecoder};

    use super::*;

    fn decode(batch: &EncodedBatch) -> AppendBatch {
        let mut input = batch.frame.clone();
        let Some(Frame::Message(message)) = FrameDecoder::new().decode(&mut input).unwrap() else {
            panic!("not a message");
        };
        assert!(input.is_empty());
        AppendBatch::decode(message).unwrap()
    }

    #[test]
    fn batches_carry_marks_and_differ_in_nothing_else() {
        let shape = BatchShape::new(3, 100).unwrap();
        let template = BatchTemplate::new(shape, 7);
        let mut chain = Chain::default();
        let first = template.make(0, 11, &mut chain, None);
        let kept = decode(&first);
        let bodies: Vec<_> = first.bodies().collect();
        assert_eq!(bodies, [0, 1, 2].map(|n| kept.record(n).body));
        let reused = first.frame.try_into_mut().ok();
        // The decoded batch still holds the buffer, so that it cannot be written over.
        assert!(reused.is_none());
        let second = decode(&template.make(3, 12, &mut chain, None));
        for (batch, first, intended) in [(&kept, 0, 11), (&second, 3, 12)] {
            assert_eq!(batch.len(), 3);
            assert_eq!(batch.metered_bytes(), 300);
            for n in 0..3 {
                let mark = Mark::read(&batch.record(n).body).unwrap();
                let index = first + n as u64;
                assert_eq!(mark, Mark { index, intended });
            }
        }
        assert_eq!(kept.record(1).body[MARK_LEN..], second.record(1).body[MARK_LEN..]);
        assert_ne!(kept.record(0).body[MARK_LEN..], kept.record(1).body[MARK_LEN..]);
    }

    #[test]
    fn a_spare_buffer_gives_the_same_batch() {
        let template = BatchTemplate::new(BatchShape::new(5, 64).unwrap(), 7);
        let (mut fresh, mut reused) = (Chain::default(), Chain::default());
        let spare = template.make(90, 1, &mut Chain::default(), None);
        let spare = spare.frame.try_into_mut().unwrap();
        let a = template.make(5, 2, &mut fresh, None);
        let b = template.make(5, 2, &mut reused, Some(spare));
        assert_eq!(a.frame, b.frame);
        assert_eq!(fresh, reused);
    }

    #[test]
    fn shapes_that_no_stream_takes_are_refused() {
        assert!(BatchShape::new(1000, 1048).is_ok());
        assert!(BatchShape::new(1, 1024 * 1024).is_ok());
        assert!(BatchShape::new(1, RECORD_BYTES_MIN).is_ok());
        for (records, bytes) in [(0, 100), (1001, 100), (1, 23), (2, 1024 * 1024), (2, usize::MAX)] {
            assert!(BatchShape::new(records, bytes).is_err(), "{records} {bytes}");
        }
        let largest = BatchTemplate::new(BatchShape::new(1, 1024 * 1024).unwrap(), 1);
        decode(&largest.make(0, 0, &mut Chain::default(), None));
    }
}
