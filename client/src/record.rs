//! Records on their way to a stream.

use bytes::Bytes;
use millrace_api::command::Command;
use millrace_api::limits::{BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX};
use millrace_api::name::FencingToken;
use millrace_api::position::{SeqNum, Timestamp};
use millrace_api::proto::{AppendInput, AppendRecord, Header};
use prost::Message;

use crate::error::Error;

/// One record to append.
#[derive(Debug, Clone, PartialEq)]
pub struct Record(pub(crate) AppendRecord);

impl Record {
    /// A record with this body and no headers.
    pub fn new(body: impl Into<Bytes>) -> Self {
        Self(AppendRecord {
            timestamp: None,
            headers: Vec::new(),
            body: body.into(),
        })
    }

    /// Adds a header, behind those it has. Names may repeat and must not be empty.
    #[must_use]
    pub fn header(mut self, name: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        self.0.headers.push(Header {
            name: name.into(),
            value: value.into(),
        });
        self
    }

    /// The record's timestamp, in milliseconds since the Unix epoch; what becomes of it is for the stream's
    /// configuration to say. Without it the server chooses.
    #[must_use]
    pub fn timestamp(mut self, timestamp: Timestamp) -> Self {
        self.0.timestamp = Some(timestamp);
        self
    }

    /// What it is accounted for: 8 bytes, 2 per header, and the lengths of names, values and body.
    pub fn metered_bytes(&self) -> usize {
        self.0.metered_bytes()
    }

    pub(crate) fn command(command: &Command) -> Self {
        Self(command.to_record())
    }
}

impl<T: Into<Bytes>> From<T> for Record {
    fn from(body: T) -> Self {
        Self::new(body)
    }
}

/// Records that are appended together, one behind the other, or not at all: 1 to 1000 of them, 1 MiB metered.
#[derive(Debug, Clone, PartialEq)]
pub struct Batch {
    input: AppendInput,
    metered_bytes: usize,
}

impl Batch {
    /// # Errors
    /// [`Error::Invalid`] if there is no record, if there are more than 1000, or if they weigh more than 1 MiB.
    pub fn new<R: Into<Record>>(records: impl IntoIterator<Item = R>) -> Result<Self, Error> {
        let records: Vec<_> = records
            .into_iter()
            .take(BATCH_RECORDS_MAX + 1)
            .map(|record| record.into().0)
            .collect();
        if records.is_empty() {
            return Err(Error::invalid("a batch has at least one record"));
        }
        if records.len() > BATCH_RECORDS_MAX {
            return Err(Error::invalid(format!(
                "a batch has at most {BATCH_RECORDS_MAX} records"
            )));
        }
        let metered_bytes = records.iter().map(AppendRecord::metered_bytes).sum();
        if metered_bytes > BATCH_METERED_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a batch has at most {BATCH_METERED_BYTES_MAX} metered bytes, this one {metered_bytes}"
            )));
        }
        Ok(Self {
            input: AppendInput {
                records,
                match_seq_num: None,
                fencing_token: None,
            },
            metered_bytes,
        })
    }

    /// Appends only if the first record gets this sequence number; else fails with [`Error::SeqNumMismatch`].
    #[must_use]
    pub fn match_seq_num(mut self, seq_num: SeqNum) -> Self {
        self.input.match_seq_num = Some(seq_num);
        self
    }

    /// Appends only if the stream is fenced with this token; else fails with [`Error::FencingTokenMismatch`]. An empty
    /// token asks for a stream that is not fenced.
    #[must_use]
    pub fn fencing_token(mut self, token: &FencingToken) -> Self {
        self.input.fencing_token = Some(token.to_string());
        self
    }

    /// Number of records, 1 to 1000.
    pub fn records(&self) -> usize {
        self.input.records.len()
    }

    /// Sum over the records, at most 1 MiB.
    pub fn metered_bytes(&self) -> usize {
        self.metered_bytes
    }

    pub(crate) fn is_matched(&self) -> bool {
        self.input.match_seq_num.is_some()
    }

    pub(crate) fn one(record: Record) -> Result<Self, Error> {
        Self::new([record])
    }

    /// The bytes that are sent, however often.
    pub(crate) fn encode(&self) -> Bytes {
        self.input.encode_to_vec().into()
    }

    pub(crate) fn encoded_len(&self) -> usize {
        self.input.encoded_len()
    }
}

impl TryFrom<Record> for Batch {
    type Error = Error;

    fn try_from(record: Record) -> Result<Self, Error> {
        Self::one(record)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_batch_that_no_stream_takes_is_refused() {
        assert!(Batch::new::<Record>([]).is_err());
        assert!(Batch::new(vec!["x"; 1000]).is_ok());
        assert!(Batch::new(vec!["x"; 1001]).is_err());
        assert!(Batch::new(std::iter::repeat("x")).is_err());
        assert!(Batch::new([vec![0; BATCH_METERED_BYTES_MAX - 8]]).is_ok());
        assert!(Batch::new([vec![0; BATCH_METERED_BYTES_MAX - 7]]).is_err());
    }
}
