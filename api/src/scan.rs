//! Encoded `ReadBatch.records` fields, one after the other: where each record starts and ends, where it stands in
//! its stream, and how long a prefix may be delivered. Records are passed over, never decoded.
//!
//! Chunks, segments, cached pages and replies all hold this form. Input that is not it gives [`ScanError`].

mod message;

use bytes::{Bytes, BytesMut};
use prost::Message;

use crate::batch::TAIL_FIELD_LEN_MAX;
use crate::error::ErrorCode;
use crate::limits::{BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX, S2S_BODY_DECOMPRESSED_MAX};
use crate::position::{SeqNum, StreamPosition, Timestamp};
use crate::proto;
use crate::wire::{self, Reader, RecordFields, RecordKind, WireError, WireType};

pub use message::{ReadBatchPart, ReadBatchScanner, ReadRecord};

/// The bytes are not encoded records; they were damaged where they were kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("encoded records are corrupt at byte {at}: {reason}")]
pub struct ScanError {
    /// Start of the record that does not read.
    pub at: usize,
    reason: &'static str,
}

impl ScanError {
    pub fn code(&self) -> ErrorCode {
        ErrorCode::Storage
    }
}

/// One record of the scanned bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordSpan {
    /// First byte of the field, its key included.
    pub start: usize,
    /// One past its last byte.
    pub end: usize,
    pub seq_num: SeqNum,
    pub timestamp: Timestamp,
    pub metered_bytes: usize,
}

impl RecordSpan {
    pub fn position(&self) -> StreamPosition {
        StreamPosition::new(self.seq_num, self.timestamp)
    }
}

/// Iterates over the records of `encoded`; ends after the first error.
#[derive(Debug, Clone)]
pub struct RecordScanner<'a> {
    encoded: &'a [u8],
    at: usize,
}

impl<'a> RecordScanner<'a> {
    pub fn new(encoded: &'a [u8]) -> Self {
        Self { encoded, at: 0 }
    }

    /// The next record with its parts, for those that look inside.
    pub(crate) fn next_fields(&mut self) -> Option<Result<(RecordSpan, RecordFields), ScanError>> {
        if self.at == self.encoded.len() {
            return None;
        }
        let start = self.at;
        Some(match self.read(start) {
            Ok((end, fields)) => {
                self.at = end;
                let span = RecordSpan {
                    start,
                    end,
                    seq_num: fields.seq_num,
                    timestamp: fields.timestamp.unwrap_or(0),
                    metered_bytes: fields.metered_bytes(),
                };
                Ok((span, fields))
            }
            Err(WireError(reason)) => {
                self.at = self.encoded.len();
                Err(ScanError { at: start, reason })
            }
        })
    }

    fn read(&self, start: usize) -> Result<(usize, RecordFields), WireError> {
        let mut reader = Reader::within(self.encoded, start..self.encoded.len());
        let range = match reader.key()? {
            (1, WireType::Bytes) => reader.bytes()?,
            _ => return Err(WireError("not a record")),
        };
        let end = range.end;
        Ok((
            end,
            wire::record_fields(self.encoded, range, RecordKind::Sequenced)?,
        ))
    }
}

impl Iterator for RecordScanner<'_> {
    type Item = Result<RecordSpan, ScanError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.next_fields().map(|record| record.map(|(span, _)| span))
    }
}

impl std::iter::FusedIterator for RecordScanner<'_> {}

/// How much may go into one delivery. The default is the most that one batch may ever hold.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CutLimits {
    pub records: usize,
    pub metered_bytes: usize,
    /// Keeps the batch, with a tail, inside one S2S frame. A record that was accepted fits alone.
    pub encoded_bytes: usize,
    /// Exclusive: the first record at or past it ends the cut.
    pub until: Option<Timestamp>,
}

impl Default for CutLimits {
    fn default() -> Self {
        Self {
            records: BATCH_RECORDS_MAX,
            metered_bytes: BATCH_METERED_BYTES_MAX,
            encoded_bytes: S2S_BODY_DECOMPRESSED_MAX - TAIL_FIELD_LEN_MAX,
            until: None,
        }
    }
}

/// The longest prefix within the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cut {
    /// One past the last byte of the last record taken; 0 if there is none.
    pub end: usize,
    pub records: usize,
    pub metered_bytes: usize,
    /// Position of the last record taken.
    pub last: Option<StreamPosition>,
    pub stop: CutStop,
}

/// What kept the next record out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutStop {
    /// There is none: all of the input was taken.
    Input,
    Records,
    MeteredBytes,
    EncodedBytes,
    Until,
}

/// Takes whole records from the start of `encoded` until one does not fit; never overshoots a limit.
///
/// Where several limits exclude the same record, the first of `until`, records, metered, encoded is named. Only
/// the records taken and the one after them are looked at.
pub fn cut(encoded: &[u8], limits: &CutLimits) -> Result<Cut, ScanError> {
    let mut cut = Cut {
        end: 0,
        records: 0,
        metered_bytes: 0,
        last: None,
        stop: CutStop::Input,
    };
    for record in RecordScanner::new(encoded) {
        let record = record?;
        let metered_bytes = cut.metered_bytes + record.metered_bytes;
        cut.stop = match () {
            () if limits.until.is_some_and(|until| record.timestamp >= until) => CutStop::Until,
            () if cut.records >= limits.records => CutStop::Records,
            () if metered_bytes > limits.metered_bytes => CutStop::MeteredBytes,
            () if record.end > limits.encoded_bytes => CutStop::EncodedBytes,
            () => CutStop::Input,
        };
        if cut.stop != CutStop::Input {
            break;
        }
        cut.end = record.end;
        cut.records += 1;
        cut.metered_bytes = metered_bytes;
        cut.last = Some(record.position());
    }
    Ok(cut)
}

/// Offset of the first record whose sequence number is `seq_num` or more; the length of `encoded` if none is.
pub fn seek_seq_num(encoded: &[u8], seq_num: SeqNum) -> Result<usize, ScanError> {
    seek(encoded, |record| record.seq_num >= seq_num)
}

/// Offset of the first record whose timestamp is `timestamp` or more; the length of `encoded` if none is.
pub fn seek_timestamp(encoded: &[u8], timestamp: Timestamp) -> Result<usize, ScanError> {
    seek(encoded, |record| record.timestamp >= timestamp)
}

fn seek(encoded: &[u8], found: impl Fn(&RecordSpan) -> bool) -> Result<usize, ScanError> {
    for record in RecordScanner::new(encoded) {
        let record = record?;
        if found(&record) {
            return Ok(record.start);
        }
    }
    Ok(encoded.len())
}

/// The `tail` field of a `ReadBatch`: behind encoded records, or alone as a heartbeat.
pub fn encode_tail(tail: StreamPosition) -> Bytes {
    let mut out = BytesMut::with_capacity(TAIL_FIELD_LEN_MAX);
    proto::ReadBatch {
        records: Vec::new(),
        tail: Some(tail.into()),
    }
    .encode(&mut out)
    .expect("a growing buffer takes all");
    out.freeze()
}

#[cfg(test)]
mod tests;
