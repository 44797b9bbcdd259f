//! Bodies of a read. Servers write them straight from encoded records; clients read them as values.

use serde::{Deserialize, Serialize};

use super::Format;
use crate::position::{SeqNum, StreamPosition, Timestamp};
use crate::scan::{RecordScanner, ScanError};
use crate::wire::{self, Reader, RecordFields};

/// Appends the JSON of a `ReadBatch` with the records that are encoded in the parts of `encoded`, each part whole
/// records. Empty headers and bodies are left out, and so is a tail of `None`. On an error `out` is as it was.
pub fn write_read_batch<'a>(
    out: &mut Vec<u8>,
    encoded: impl IntoIterator<Item = &'a [u8]>,
    tail: Option<StreamPosition>,
    format: Format,
) -> Result<(), ScanError> {
    let start = out.len();
    out.extend_from_slice(b"{\"records\":[");
    let mut first = true;
    for part in encoded {
        if let Err(error) = write_records(out, part, &mut first, format) {
            out.truncate(start);
            return Err(error);
        }
    }
    out.push(b']');
    if let Some(tail) = tail {
        out.extend_from_slice(b",\"tail\":");
        write_json(out, &tail);
    }
    out.push(b'}');
    Ok(())
}

fn write_records(out: &mut Vec<u8>, part: &[u8], first: &mut bool, format: Format) -> Result<(), ScanError> {
    let mut records = RecordScanner::new(part);
    while let Some(record) = records.next_fields() {
        let (span, fields) = record?;
        if !std::mem::take(first) {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"seq_num\":");
        write_json(out, &span.seq_num);
        out.extend_from_slice(b",\"timestamp\":");
        write_json(out, &span.timestamp);
        if fields.header_count != 0 {
            out.extend_from_slice(b",\"headers\":[");
            write_headers(out, part, &fields, format);
            out.push(b']');
        }
        if !fields.body.is_empty() {
            out.extend_from_slice(b",\"body\":");
            format.write(out, &part[fields.body]);
        }
        out.push(b'}');
    }
    Ok(())
}

fn write_headers(out: &mut Vec<u8>, part: &[u8], fields: &RecordFields, format: Format) {
    const SCANNED: &str = "the scanner read it";
    const HEADERS_FIELD: u32 = 3;
    let mut reader = Reader::within(part, fields.headers.clone());
    let mut first = true;
    while !reader.is_empty() {
        let (field, wire) = reader.key().expect(SCANNED);
        if field != HEADERS_FIELD {
            reader.skip(field, wire, wire::DEPTH_MAX).expect(SCANNED);
            continue;
        }
        let (header, _) = wire::header_fields(part, reader.bytes().expect(SCANNED)).expect(SCANNED);
        out.extend_from_slice(if std::mem::take(&mut first) { b"[" } else { b",[" });
        format.write(out, &part[header.name]);
        out.push(b',');
        format.write(out, &part[header.value]);
        out.push(b']');
    }
}

fn write_json(out: &mut Vec<u8>, value: &impl Serialize) {
    serde_json::to_writer(out, value).expect("the type has a JSON form and memory does not fail to write");
}

/// The records of a read, their bytes in their text form.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ReadBatch {
    pub records: Vec<SequencedRecord>,
    /// Present near the tail only.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tail: Option<StreamPosition>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SequencedRecord {
    pub seq_num: SeqNum,
    pub timestamp: Timestamp,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
}
