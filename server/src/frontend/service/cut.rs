//! From stored frames to batches within a request's limits.
//!
//! A frame that is wanted whole is passed on as it is. Only frames at an edge (the start, a limit) are looked into.

use millrace_api::limits::{BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX};
use millrace_api::position::{SeqNum, Timestamp};
use millrace_api::read::ReadLimits;
use millrace_api::scan::{self, CutLimits, CutStop, ScanError};
use millrace_wal::Frame;

use super::types::RecordBatch;

/// The first record wanted: at least this sequence number, and at least this timestamp.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Wanted {
    pub seq_num: SeqNum,
    pub timestamp: Option<Timestamp>,
}

/// What is left of a read's limits.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remaining {
    count: Option<usize>,
    bytes: Option<usize>,
    until: Option<Timestamp>,
    /// The next record is beyond a limit.
    ended: bool,
}

impl Remaining {
    pub fn new(limits: &ReadLimits) -> Self {
        Self {
            count: limits.count,
            bytes: limits.bytes,
            until: limits.until,
            ended: false,
        }
    }

    pub fn is_exhausted(&self) -> bool {
        self.ended || self.count == Some(0) || self.bytes == Some(0)
    }

    pub fn records(&self) -> usize {
        self.count.unwrap_or(usize::MAX)
    }

    pub fn metered_bytes(&self) -> usize {
        self.bytes.unwrap_or(usize::MAX)
    }

    fn spend(&mut self, records: usize, metered_bytes: usize) {
        self.count = self.count.map(|count| count - records);
        self.bytes = self.bytes.map(|bytes| bytes - metered_bytes);
    }
}

/// What became of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Taken {
    /// Nothing of it is left.
    Whole,
    /// The rest belongs into the next batch, or is beyond a limit.
    InPart,
}

/// Fills one batch.
pub struct Cutter<'a> {
    wanted: Wanted,
    remaining: &'a mut Remaining,
    room: CutLimits,
    batch: RecordBatch,
}

impl<'a> Cutter<'a> {
    pub fn new(wanted: Wanted, remaining: &'a mut Remaining) -> Self {
        let room = CutLimits {
            until: remaining.until,
            ..CutLimits::default()
        };
        Self {
            wanted,
            remaining,
            room,
            batch: RecordBatch::default(),
        }
    }

    /// Adds what is wanted of the next frame of the stream and fits.
    pub fn take(&mut self, frame: &Frame) -> Result<Taken, ScanError> {
        if self.remaining.is_exhausted() {
            return Ok(Taken::InPart);
        }
        let header = &frame.header;
        let (records, metered) = (header.record_count as usize, header.metered_bytes as usize);
        let inside = header.first_seq >= self.wanted.seq_num
            && self
                .wanted
                .timestamp
                .is_none_or(|timestamp| header.first_timestamp >= timestamp)
            && self
                .remaining
                .until
                .is_none_or(|until| header.last_timestamp < until)
            && records <= self.remaining.records()
            && metered <= self.remaining.metered_bytes();
        let body = frame.body();
        if inside && self.has_room(records, metered, body.len()) {
            let last = header.first_seq + u64::from(header.record_count) - 1;
            self.add(body, records, metered, last);
            return Ok(Taken::Whole);
        }
        if inside && self.batch.count > 0 {
            return Ok(Taken::InPart);
        }
        self.take_part(&body)
    }

    fn take_part(&mut self, body: &bytes::Bytes) -> Result<Taken, ScanError> {
        let by_seq_num = scan::seek_seq_num(body, self.wanted.seq_num)?;
        let start = match self.wanted.timestamp {
            Some(timestamp) => by_seq_num.max(scan::seek_timestamp(body, timestamp)?),
            None => by_seq_num,
        };
        let limits = CutLimits {
            records: self.room.records.min(self.remaining.records()),
            metered_bytes: self.room.metered_bytes.min(self.remaining.metered_bytes()),
            ..self.room
        };
        let cut = scan::cut(&body[start..], &limits)?;
        if let Some(last) = cut.last {
            self.add(
                body.slice(start..start + cut.end),
                cut.records,
                cut.metered_bytes,
                last.seq_num,
            );
        }
        // The room left in the batch and what is left of the request shrank alike: the smaller one was the limit.
        self.remaining.ended |= match cut.stop {
            CutStop::Until => true,
            CutStop::Records => self
                .remaining
                .count
                .is_some_and(|count| count <= self.room.records),
            CutStop::MeteredBytes => self
                .remaining
                .bytes
                .is_some_and(|bytes| bytes <= self.room.metered_bytes),
            CutStop::Input | CutStop::EncodedBytes => false,
        };
        Ok(if cut.stop == CutStop::Input {
            Taken::Whole
        } else {
            Taken::InPart
        })
    }

    fn has_room(&self, records: usize, metered_bytes: usize, encoded_bytes: usize) -> bool {
        records <= self.room.records
            && metered_bytes <= self.room.metered_bytes
            && encoded_bytes <= self.room.encoded_bytes
    }

    fn add(&mut self, part: bytes::Bytes, records: usize, metered_bytes: usize, last: SeqNum) {
        self.remaining.spend(records, metered_bytes);
        self.room.records -= records;
        self.room.metered_bytes -= metered_bytes;
        self.room.encoded_bytes -= part.len();
        self.batch.parts.push(part);
        self.batch.count += records;
        self.batch.metered_bytes += metered_bytes;
        self.batch.last_seq_num = last;
    }

    pub fn finish(self) -> RecordBatch {
        debug_assert!(self.batch.count <= BATCH_RECORDS_MAX);
        debug_assert!(self.batch.metered_bytes <= BATCH_METERED_BYTES_MAX);
        self.batch
    }
}
