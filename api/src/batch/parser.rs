//! The one pass over an append's wire form that finds its records and checks every limit.

use std::ops::Range;

use bytes::Bytes;

use super::{AppendBatch, AppendError, RecordSpan, TAIL_FIELD_LEN_MAX};
use crate::command::Command;
use crate::limits::{BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX, S2S_BODY_DECOMPRESSED_MAX};
use crate::name::FencingToken;
use crate::wire::{self, Reader, RecordFields, RecordKind, WireError};

pub(super) enum Parsed {
    Canonical(Parser),
    /// Valid, but its headers are not in the form that may be copied.
    Rewrite,
}

/// What has been read so far. A broken limit is noted and reading goes on, because bytes that do not decode take
/// precedence; nothing more is collected from then on.
pub(super) struct Parser {
    records: Vec<RecordSpan>,
    record_count: usize,
    commands: Vec<(usize, Command)>,
    metered_bytes: usize,
    encoded_len_max: usize,
    match_seq_num: Option<u64>,
    fencing_token: Option<Range<usize>>,
    canonical: bool,
    invalid: Option<AppendError>,
}

impl Parser {
    pub(super) fn parse(input: &[u8]) -> Result<Parsed, AppendError> {
        if u32::try_from(input.len()).is_err() {
            return Err(AppendError::BadProto("AppendInput of 4 GiB or more".into()));
        }
        let mut parser = Self {
            records: Vec::new(),
            record_count: 0,
            commands: Vec::new(),
            metered_bytes: 0,
            encoded_len_max: 0,
            match_seq_num: None,
            fencing_token: None,
            canonical: true,
            invalid: None,
        };
        let mut reader = Reader::new(input);
        while !reader.is_empty() {
            match reader.key()? {
                (1, wire) => {
                    let range = reader.expect_bytes(wire)?;
                    let record = wire::record_fields(input, range, RecordKind::Append)?;
                    parser.add(input, &record);
                }
                (2, wire) => parser.match_seq_num = Some(reader.expect_varint(wire)?),
                (3, wire) => {
                    let range = reader.expect_bytes(wire)?;
                    str::from_utf8(&input[range.clone()])
                        .map_err(|_| WireError("fencing token is not UTF-8"))?;
                    parser.fencing_token = Some(range);
                }
                (field, wire) => reader.skip(field, wire, wire::DEPTH_MAX)?,
            }
        }
        parser.check()
    }

    fn add(&mut self, input: &[u8], record: &RecordFields) {
        let index = self.record_count;
        self.record_count += 1;
        self.metered_bytes = self.metered_bytes.saturating_add(record.metered_bytes());
        if self.invalid.is_some() {
            return;
        }
        let span = RecordSpan::new(record);
        if let Err(error) = self.check_record(input, index, record, &span) {
            self.invalid = Some(error);
            return;
        }
        self.canonical &= record.headers_canonical;
        self.encoded_len_max += span.field_len_max();
        self.records.push(span);
    }

    fn check_record(
        &mut self,
        input: &[u8],
        index: usize,
        record: &RecordFields,
        span: &RecordSpan,
    ) -> Result<(), AppendError> {
        if index >= BATCH_RECORDS_MAX {
            return Err(AppendError::Invalid(format!(
                "a batch has at most {BATCH_RECORDS_MAX} records"
            )));
        }
        if self.metered_bytes > BATCH_METERED_BYTES_MAX {
            return Err(AppendError::Invalid(format!(
                "a batch has at most {BATCH_METERED_BYTES_MAX} metered bytes"
            )));
        }
        // Only reached by a record that consists of headers of a byte or two.
        if record.headers_canonical && span.field_len_max() + TAIL_FIELD_LEN_MAX > S2S_BODY_DECOMPRESSED_MAX {
            return Err(AppendError::Invalid(
                "a record has more headers than one frame can carry".into(),
            ));
        }
        if record.has_empty_name {
            let command = match record.header_count {
                1 => Command::parse(
                    &input[record.first_header.value.clone()],
                    &input[record.body.clone()],
                )?,
                _ => return Err(Command::not_alone().into()),
            };
            self.commands.push((index, command));
        }
        Ok(())
    }

    fn check(self) -> Result<Parsed, AppendError> {
        if self.record_count == 0 {
            return Err(AppendError::Invalid("a batch has at least one record".into()));
        }
        if let Some(error) = self.invalid {
            return Err(error);
        }
        match self.canonical {
            true => Ok(Parsed::Canonical(self)),
            false => Ok(Parsed::Rewrite),
        }
    }

    /// The batch in `input`, the very bytes that were parsed.
    pub(super) fn finish(self, input: Bytes) -> Result<AppendBatch, AppendError> {
        let fencing_token = match self.fencing_token {
            None => None,
            Some(range) => {
                let text = str::from_utf8(&input[range]).expect("checked where it was read");
                Some(FencingToken::new(text).map_err(|error| AppendError::Invalid(error.to_string()))?)
            }
        };
        Ok(AppendBatch {
            input,
            records: self.records,
            commands: self.commands,
            metered_bytes: self.metered_bytes,
            encoded_len_max: self.encoded_len_max,
            match_seq_num: self.match_seq_num,
            fencing_token,
        })
    }
}
