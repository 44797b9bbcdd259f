//! The fields of one record, found in its wire form.

use std::ops::Range;

use super::{DEPTH_MAX, Reader, WireError, WireType, bytes_field_len, varint_len};

/// The two record messages differ by one leading field, so one parser reads both.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RecordKind {
    /// `AppendRecord`: timestamp 1, headers 2, body 3.
    Append,
    /// `SequencedRecord`: seq_num 1, timestamp 2, headers 3, body 4.
    Sequenced,
}

/// What one record consists of, as ranges of the input it was read from.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct RecordFields {
    pub(crate) seq_num: u64,
    pub(crate) timestamp: Option<u64>,
    /// First to last header field, keys included; all headers and nothing else if `headers_canonical`.
    pub(crate) headers: Range<usize>,
    pub(crate) headers_canonical: bool,
    pub(crate) header_count: usize,
    /// Names and values of all headers.
    pub(crate) header_bytes: usize,
    pub(crate) first_header: HeaderFields,
    pub(crate) has_empty_name: bool,
    pub(crate) body: Range<usize>,
}

impl RecordFields {
    pub(crate) fn metered_bytes(&self) -> usize {
        crate::record::metered_bytes(self.header_count, self.header_bytes, self.body.len())
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct HeaderFields {
    pub(crate) name: Range<usize>,
    pub(crate) value: Range<usize>,
}

/// Reads the record in `range` of `input`, which is nested once in its batch.
pub(crate) fn record_fields(
    input: &[u8],
    range: Range<usize>,
    kind: RecordKind,
) -> Result<RecordFields, WireError> {
    let mut record = RecordFields {
        headers_canonical: true,
        ..RecordFields::default()
    };
    let mut reader = Reader::within(input, range);
    let shift = match kind {
        RecordKind::Append => 0,
        RecordKind::Sequenced => 1,
    };
    while !reader.is_empty() {
        let field_start = reader.position();
        let (field, wire) = reader.key()?;
        // Field number 0 cannot occur, so that 0 here is the leading field of a sequenced record.
        match field - shift {
            0 => record.seq_num = reader.expect_varint(wire)?,
            1 => record.timestamp = Some(reader.expect_varint(wire)?),
            2 => add_header(&mut record, &mut reader, field_start, wire)?,
            3 => record.body = reader.expect_bytes(wire)?,
            _ => reader.skip(field, wire, DEPTH_MAX - 1)?,
        }
    }
    Ok(record)
}

fn add_header(
    record: &mut RecordFields,
    reader: &mut Reader<'_>,
    field_start: usize,
    wire: WireType,
) -> Result<(), WireError> {
    let range = reader.expect_bytes(wire)?;
    let key_len = 1;
    let (header, canonical) = header_fields(reader.input, range.clone())?;
    let adjacent = record.header_count == 0 || record.headers.end == field_start;
    let short = range.start - field_start == key_len + varint_len(range.len() as u64);
    record.headers_canonical &= canonical && adjacent && short;
    if record.header_count == 0 {
        record.headers.start = field_start;
    }
    record.headers.end = range.end;
    record.header_count += 1;
    record.header_bytes += header.name.len() + header.value.len();
    record.has_empty_name |= header.name.is_empty();
    if record.header_count == 1 {
        record.first_header = header;
    }
    Ok(())
}

/// Name and value of the header in `range`, and whether its bytes are the ones a canonical encoder writes.
pub(crate) fn header_fields(input: &[u8], range: Range<usize>) -> Result<(HeaderFields, bool), WireError> {
    let mut header = HeaderFields::default();
    let mut reader = Reader::within(input, range.clone());
    while !reader.is_empty() {
        match reader.key()? {
            (1, wire) => header.name = reader.expect_bytes(wire)?,
            (2, wire) => header.value = reader.expect_bytes(wire)?,
            (field, wire) => reader.skip(field, wire, DEPTH_MAX - 2)?,
        }
    }
    // Each field that counts takes its key, its length and its bytes. If that is all there is, and the name is
    // first, nothing was repeated, padded, empty or unknown.
    let canonical_len = bytes_field_len(header.name.len()) + bytes_field_len(header.value.len());
    let ordered = header.name.is_empty() || header.value.is_empty() || header.name.end < header.value.start;
    Ok((header, ordered && canonical_len == range.len()))
}
