//! Batches for readers, made by writing over what differs in one that was encoded once.
//!
//! Sequence numbers are written as varints of full length, which every protobuf decoder takes, so that they can be
//! replaced in place.

use bytes::{BufMut, Bytes, BytesMut};
use millrace_api::record::metered_bytes;
use prost::encoding::{encode_varint, encoded_len_varint};
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};

use crate::bench::batch::{BatchShape, FRAME_HEAD_LEN, Mark};

/// Longest varint.
const VARINT_LEN: usize = 10;
const RECORDS_KEY: u8 = 0x0a;
const SEQ_NUM_KEY: u8 = 0x08;
const BODY_KEY: u8 = 0x22;

/// A `ReadBatch` in its S2S frame, of which all that are delivered are copies.
#[derive(Debug)]
pub struct ReadTemplate {
    frame: Bytes,
    records: Vec<Place>,
}

/// Where a record has what differs.
#[derive(Debug, Clone, Copy)]
struct Place {
    seq_num: usize,
    body: usize,
    /// One past its last byte.
    end: usize,
}

impl ReadTemplate {
    pub fn new(shape: BatchShape, seed: u64) -> Self {
        let mut filler = SmallRng::seed_from_u64(seed);
        let body_len = shape.record_bytes - metered_bytes(0, 0, 0);
        let mut frame = BytesMut::zeroed(FRAME_HEAD_LEN);
        let mut records = Vec::with_capacity(shape.records);
        for _ in 0..shape.records {
            frame.put_u8(RECORDS_KEY);
            let record_len = 1 + VARINT_LEN + 1 + encoded_len_varint(body_len as u64) + body_len;
            encode_varint(record_len as u64, &mut frame);
            frame.put_u8(SEQ_NUM_KEY);
            let seq_num = frame.len();
            frame.put_bytes(0, VARINT_LEN);
            frame.put_u8(BODY_KEY);
            encode_varint(body_len as u64, &mut frame);
            let body = frame.len();
            frame.put_bytes(0, body_len);
            filler.fill_bytes(&mut frame[body..]);
            let end = frame.len();
            records.push(Place { seq_num, body, end });
        }
        Self {
            frame: frame.freeze(),
            records,
        }
    }

    /// The frame of at most `records` records from `first` on, and how many it has: no more than the template.
    pub fn make(&self, first: u64, records: u64) -> (Bytes, u64) {
        let count = self
            .records
            .len()
            .min(usize::try_from(records).unwrap_or(usize::MAX));
        let end = self.records[..count]
            .last()
            .map_or(FRAME_HEAD_LEN, |place| place.end);
        let mut frame = BytesMut::from(&self.frame[..end]);
        put_head(&mut frame);
        for (index, place) in (first..).zip(&self.records[..count]) {
            put_varint(index, &mut frame[place.seq_num..][..VARINT_LEN]);
            let mark = Mark { index, intended: 0 };
            mark.write(&mut frame[place.body..place.end]);
        }
        (frame.freeze(), count as u64)
    }
}

/// Length and flags of the frame that fills `frame`.
pub fn put_head(frame: &mut BytesMut) {
    let len = u32::try_from(frame.len() - 3).expect("a batch fits in a frame");
    frame[..3].copy_from_slice(&len.to_be_bytes()[1..]);
    frame[3] = 0;
}

/// At full length whatever the value.
fn put_varint(value: u64, out: &mut [u8]) {
    let (last, others) = out.split_last_mut().expect("ten bytes");
    for (n, byte) in others.iter_mut().enumerate() {
        *byte = (value >> (7 * n)) as u8 | 0x80;
    }
    *last = (value >> 63) as u8;
}

#[cfg(test)]
mod tests {
    use millrace_api::proto::ReadBatch;
    use millrace_api::s2s::{Frame, FrameDecoder};
    use prost::Message;

    use super::*;
    use crate::bench::verify::{Content, Verifier};

    #[test]
    fn generated_batches_are_what_a_reader_expects() {
        let template = ReadTemplate::new(BatchShape::new(3, 100).unwrap(), 7);
        let mut verifier = Verifier::new(Content::Marked);
        for (first, asked, given) in [(0, 100, 3), (3, 3, 3), (6, 2, 2)] {
            let (mut frame, count) = template.make(first, asked);
            assert_eq!(count, given);
            let Some(Frame::Message(message)) = FrameDecoder::new().decode(&mut frame).unwrap() else {
                panic!("not a message");
            };
            assert!(frame.is_empty());
            let delivered = verifier.batch(&message, |_, _| {}).unwrap();
            assert_eq!((delivered.records, delivered.bytes), (given, 100 * given));
            let decoded = ReadBatch::decode(message).unwrap();
            assert_eq!(decoded.records[0].seq_num, first);
        }
    }

    #[test]
    fn varints_of_full_length_keep_every_value() {
        for value in [0, 1, 127, 128, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = [0; VARINT_LEN];
            put_varint(value, &mut bytes);
            assert_eq!(prost::encoding::decode_varint(&mut &bytes[..]), Ok(value));
        }
    }
}
