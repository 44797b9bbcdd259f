//! An append, checked once at the gate and then carried as the client's own bytes.
//!
//! Decoding is one pass over the wire form that notes where each record's parts are. Sequencing a record copies
//! its headers and its body once, behind a few varints; nothing is parsed again. Input that a canonical encoder
//! would not have written is accepted and rewritten first, so that what is stored is always canonical.
//!
//! Not checked here: what depends on the stream, which is its conditions, timestamping mode, fence and cipher.

mod parser;

use bytes::{BufMut, Bytes};
use prost::Message;

use self::parser::{Parsed, Parser};
use crate::command::{Command, InvalidCommand};
use crate::error::ErrorCode;
use crate::name::FencingToken;
use crate::proto;
use crate::wire::{self, Prefix, Reader, RecordFields, WireError, bytes_field_len, varint_len};

/// Encoded bytes of a `ReadBatch.tail` at its widest.
pub(crate) const TAIL_FIELD_LEN_MAX: usize = 2 + 2 * (1 + 10);

const SEQ_NUM_KEY: u8 = 0x08;
const TIMESTAMP_KEY: u8 = 0x10;
const HEADER_KEY: u8 = 0x1a;
const BODY_KEY: u8 = 0x22;
const RECORDS_KEY: u8 = 0x0a;

/// Why an append was refused. Nothing was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendError {
    /// The bytes are not an `AppendInput`.
    #[error("{0}")]
    BadProto(String),
    /// They are one, but one that no stream takes.
    #[error("{0}")]
    Invalid(String),
}

impl AppendError {
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::BadProto(_) => ErrorCode::BadProto,
            Self::Invalid(_) => ErrorCode::Invalid,
        }
    }
}

impl From<WireError> for AppendError {
    fn from(error: WireError) -> Self {
        Self::BadProto(format!("not an AppendInput: {}", error.0))
    }
}

impl From<InvalidCommand> for AppendError {
    fn from(error: InvalidCommand) -> Self {
        Self::Invalid(error.to_string())
    }
}

/// A valid append: 1 to 1000 records, at most 1 MiB metered, every command well-formed.
///
/// Keeps the buffer that it was decoded from alive.
#[derive(Debug, Clone)]
pub struct AppendBatch {
    input: Bytes,
    records: Vec<RecordSpan>,
    commands: Vec<(usize, Command)>,
    metered_bytes: usize,
    encoded_len_max: usize,
    match_seq_num: Option<u64>,
    fencing_token: Option<FencingToken>,
}

/// Where a record's parts are in the input. The header fields are adjacent and canonical.
#[derive(Debug, Clone, Copy)]
struct RecordSpan {
    timestamp: Option<u64>,
    headers_start: u32,
    headers_len: u32,
    body_start: u32,
    body_len: u32,
}

impl AppendBatch {
    /// Parses and checks a protobuf `AppendInput`.
    ///
    /// Fields may come in any order, the last of a repeated scalar counts, unknown fields are passed over.
    /// Bytes that do not decode are [`AppendError::BadProto`] even where they also break a limit. Allocates for
    /// at most 1000 records whatever the input.
    pub fn decode(input: Bytes) -> Result<Self, AppendError> {
        match Parser::parse(&input)? {
            Parsed::Canonical(batch) => batch.finish(input),
            Parsed::Rewrite => {
                let decoded =
                    proto::AppendInput::decode(input).map_err(|e| AppendError::BadProto(e.to_string()))?;
                Self::from_proto(decoded)
            }
        }
    }

    /// The same gate for an input that came in another form.
    pub fn from_proto(input: proto::AppendInput) -> Result<Self, AppendError> {
        let input = Bytes::from(input.encode_to_vec());
        match Parser::parse(&input)? {
            Parsed::Canonical(batch) => batch.finish(input),
            Parsed::Rewrite => unreachable!("the generated encoder is canonical"),
        }
    }

    /// The protobuf `AppendInput` that decodes to this batch.
    pub fn input(&self) -> &Bytes {
        &self.input
    }

    /// Number of records, 1 to 1000.
    pub fn len(&self) -> usize {
        self.records.len()
    }

    /// Never true: an empty append is invalid.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Sum over all records; at most 1 MiB.
    pub fn metered_bytes(&self) -> usize {
        self.metered_bytes
    }

    /// Condition on the sequence number of the first record; `None` does not check, 0 is a value.
    pub fn match_seq_num(&self) -> Option<u64> {
        self.match_seq_num
    }

    /// Condition on the token in force before this batch; `None` does not check, empty is a value.
    pub fn fencing_token(&self) -> Option<&FencingToken> {
        self.fencing_token.as_ref()
    }

    /// The commands among the records, each with its record's index, in order.
    pub fn commands(&self) -> &[(usize, Command)] {
        &self.commands
    }

    /// Each record's timestamp as the client gave it.
    pub fn timestamps(&self) -> impl ExactSizeIterator<Item = Option<u64>> + '_ {
        self.records.iter().map(|record| record.timestamp)
    }

    /// The record as a value that shares the batch's buffer; for streams that transform what they store.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len).
    pub fn record(&self, index: usize) -> proto::AppendRecord {
        let span = self.records[index];
        proto::AppendRecord {
            timestamp: span.timestamp,
            headers: self.headers(span),
            body: self.input.slice(span.body()),
        }
    }

    /// No less than the sum of what [`encode_record`](Self::encode_record) appends for every record, whatever the
    /// sequence numbers and timestamps.
    pub fn encoded_len_max(&self) -> usize {
        self.encoded_len_max
    }

    /// Appends record `index` to `out` as one `records` field of a `ReadBatch`: key, length, and the canonical
    /// encoding of the `SequencedRecord`. Any number of these after each other is a `ReadBatch`.
    ///
    /// # Panics
    /// If `index` is not below [`len`](Self::len), or if `out` is of fixed size and full.
    #[inline]
    pub fn encode_record(&self, index: usize, seq_num: u64, timestamp: u64, out: &mut impl BufMut) {
        let span = &self.records[index];
        let mut prefix = Prefix::new();
        prefix.byte(RECORDS_KEY);
        prefix.varint(span.encoded_len(seq_num, timestamp) as u64);
        prefix.varint_field(SEQ_NUM_KEY, seq_num);
        prefix.varint_field(TIMESTAMP_KEY, timestamp);
        out.put_slice(prefix.as_slice());
        if span.headers_len != 0 {
            put_headers(&self.input[span.headers()], out);
        }
        if span.body_len != 0 {
            let mut prefix = Prefix::new();
            prefix.byte(BODY_KEY);
            prefix.varint(span.body_len.into());
            out.put_slice(prefix.as_slice());
            out.put_slice(&self.input[span.body()]);
        }
    }

    fn headers(&self, span: RecordSpan) -> Vec<proto::Header> {
        let mut headers = Vec::new();
        let mut reader = Reader::within(&self.input, span.headers());
        while !reader.is_empty() {
            let header = next_header(&mut reader);
            let (fields, _) = wire::header_fields(&self.input, header).expect(CHECKED);
            headers.push(proto::Header {
                name: self.input.slice(fields.name),
                value: self.input.slice(fields.value),
            });
        }
        headers
    }
}

const CHECKED: &str = "headers were read when the batch was decoded";

fn next_header(reader: &mut Reader<'_>) -> std::ops::Range<usize> {
    reader.key().expect(CHECKED);
    reader.bytes().expect(CHECKED)
}

/// Header fields keep their bytes; only their number differs between the two record messages.
fn put_headers(headers: &[u8], out: &mut impl BufMut) {
    let mut reader = Reader::new(headers);
    while !reader.is_empty() {
        let after_key = reader.position() + 1;
        let header = next_header(&mut reader);
        out.put_u8(HEADER_KEY);
        out.put_slice(&headers[after_key..header.end]);
    }
}

impl RecordSpan {
    fn new(record: &RecordFields) -> Self {
        let narrow = |n: usize| u32::try_from(n).expect("the input's length fits in 32 bits");
        Self {
            timestamp: record.timestamp,
            headers_start: narrow(record.headers.start),
            headers_len: narrow(record.headers.len()),
            body_start: narrow(record.body.start),
            body_len: narrow(record.body.len()),
        }
    }

    fn headers(&self) -> std::ops::Range<usize> {
        self.headers_start as usize..self.headers_start as usize + self.headers_len as usize
    }

    fn body(&self) -> std::ops::Range<usize> {
        self.body_start as usize..self.body_start as usize + self.body_len as usize
    }

    #[inline]
    fn encoded_len(&self, seq_num: u64, timestamp: u64) -> usize {
        wire::varint_field_len(seq_num)
            + wire::varint_field_len(timestamp)
            + self.headers_len as usize
            + bytes_field_len(self.body_len as usize)
    }

    /// Of the whole field, with the widest sequence number and timestamp.
    fn field_len_max(&self) -> usize {
        let len = self.encoded_len(u64::MAX, u64::MAX);
        1 + varint_len(len as u64) + len
    }
}

#[cfg(test)]
mod tests;
