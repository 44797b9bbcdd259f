//! A reply to a reader that carries encoded records as they are.

use std::fmt;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::encoding::{self, DecodeContext, WireType};
use prost::{DecodeError, Message};

use crate::position::StreamPosition;
use crate::proto::ReadBatch;
use crate::scan::encode_tail;

const BATCH_TAG: u32 = 1;

/// `millrace.v1.ReadResponse`, with its batch encoded.
///
/// The parts in order are the encoding of a `ReadBatch`; where they are cut means nothing. [`into_parts`] encodes without
/// a copy, [`Message::encode`] copies each part once; decoding gives one part, a slice of the buffer that was received, which it keeps alive. What is decoded is
/// not looked into: [`decode_batch`](Self::decode_batch) does that.
///
/// [`into_parts`]: Self::into_parts
#[derive(Clone, Default)]
pub struct ReadResponse {
    parts: Vec<Bytes>,
}

impl ReadResponse {
    /// Of encoded `ReadBatch.records` fields, and the tail.
    pub fn new(mut records: Vec<Bytes>, tail: Option<StreamPosition>) -> Self {
        records.extend(tail.map(encode_tail));
        Self { parts: records }
    }

    /// The encoded message in pieces: what comes before the batch, behind `prefix`, and then the parts as they are.
    pub fn into_parts(self, mut prefix: BytesMut) -> Vec<Bytes> {
        self.put_key_and_len(&mut prefix);
        let mut pieces = Vec::with_capacity(1 + self.parts.len());
        pieces.push(prefix.freeze());
        pieces.extend(self.parts);
        pieces
    }

    /// The encoded `ReadBatch`, as one slice: without a copy if there is but one part, as after decoding.
    pub fn into_batch_bytes(mut self) -> Bytes {
        match self.parts.len() {
            0 => Bytes::new(),
            1 => self.parts.remove(0),
            _ => self.concatenated(),
        }
    }

    /// Decodes the batch; its byte fields are slices of what was received.
    pub fn decode_batch(self) -> Result<ReadBatch, DecodeError> {
        ReadBatch::decode(self.into_batch_bytes())
    }

    /// Also when the batch is empty: that is a heartbeat, and not the lack of a batch.
    fn put_key_and_len(&self, out: &mut impl BufMut) {
        encoding::encode_key(BATCH_TAG, WireType::LengthDelimited, out);
        encoding::encode_varint(self.batch_len() as u64, out);
    }

    fn batch_len(&self) -> usize {
        self.parts.iter().map(Bytes::len).sum()
    }

    fn concatenated(&self) -> Bytes {
        let mut all = BytesMut::with_capacity(self.batch_len());
        for part in &self.parts {
            all.put_slice(part);
        }
        all.freeze()
    }
}

impl Message for ReadResponse {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        self.put_key_and_len(buf);
        for part in &self.parts {
            buf.put_slice(part);
        }
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        if tag != BATCH_TAG {
            return encoding::skip_field(wire_type, tag, buf, ctx);
        }
        let mut part = Bytes::new();
        encoding::bytes::merge(wire_type, &mut part, buf, ctx)?;
        // A message field that comes again is merged with the first, and its encodings one after the other say that.
        self.parts.push(part);
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        let len = self.batch_len();
        encoding::key_len(BATCH_TAG) + encoding::encoded_len_varint(len as u64) + len
    }

    fn clear(&mut self) {
        self.parts.clear();
    }
}

impl PartialEq for ReadResponse {
    fn eq(&self, other: &Self) -> bool {
        let bytes = |response: &Self| response.parts.clone().into_iter().flatten();
        self.batch_len() == other.batch_len() && bytes(self).eq(bytes(other))
    }
}

impl fmt::Debug for ReadResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadResponse")
            .field("batch_bytes", &self.batch_len())
            .finish_non_exhaustive()
    }
}
