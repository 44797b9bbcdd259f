//! The index of a log file that is complete, in a file beside it: spares a start from reading the log.
//!
//! Magic `MRDISKIX`, the log file's number, the number of records, then for each of them kind (1 byte), bytes of the
//! key (2), sequence, offset, bytes of the body, target (8 each) and the key; at the end the CRC32C of all that. It
//! may be missing, and one that is damaged is as good as missing.

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;

use super::format::{Kind, u64_at};
use super::scan::RecordMeta;

const MAGIC: [u8; 8] = *b"MRDISKIX";
const HEAD_LEN: usize = 24;
const ENTRY_HEAD_LEN: usize = 35;

/// Writes the index of file `number` to `path`, whole or not at all.
pub(super) fn write(path: &Path, number: u64, records: &[RecordMeta]) -> io::Result<()> {
    let new = path.with_extension("new");
    let mut file = File::create(&new)?;
    file.write_all(&encode(number, records))?;
    file.sync_data()?;
    fs::rename(&new, path)
}

/// The records of file `number`; `None` if there is no good index of it.
pub(super) fn read(path: &Path, number: u64) -> io::Result<Option<Vec<RecordMeta>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(decode(&bytes, number)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn encode(number: u64, records: &[RecordMeta]) -> Vec<u8> {
    let keys: usize = records.iter().map(|record| record.key.len()).sum();
    let mut out = Vec::with_capacity(HEAD_LEN + records.len() * ENTRY_HEAD_LEN + keys + 4);
    out.extend_from_slice(&MAGIC);
    out.extend_from_slice(&number.to_le_bytes());
    out.extend_from_slice(&(records.len() as u64).to_le_bytes());
    for record in records {
        out.push(record.kind as u8);
        let key_len = u16::try_from(record.key.len()).expect("keys are checked");
        out.extend_from_slice(&key_len.to_le_bytes());
        for number in [record.seq, record.offset, record.body_len, record.target] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(record.key.as_bytes());
    }
    let crc = crc32c::crc32c(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8], number: u64) -> Option<Vec<RecordMeta>> {
    let (bytes, crc) = bytes.split_last_chunk::<4>()?;
    if crc32c::crc32c(bytes).to_le_bytes() != *crc {
        return None;
    }
    let head = bytes.get(..HEAD_LEN)?;
    if head[..8] != MAGIC || u64_at(head, 8) != number {
        return None;
    }
    let mut rest = &bytes[HEAD_LEN..];
    let mut records = Vec::new();
    for _ in 0..u64_at(head, 16) {
        let (entry, behind) = rest.split_at_checked(ENTRY_HEAD_LEN)?;
        let key_len = usize::from(u16::from_le_bytes([entry[1], entry[2]]));
        let (key, behind) = behind.split_at_checked(key_len)?;
        records.push(RecordMeta {
            kind: Kind::from_number(entry[0])?,
            key: std::str::from_utf8(key).ok()?.into(),
            seq: u64_at(entry, 3),
            offset: u64_at(entry, 11),
            body_len: u64_at(entry, 19),
            target: u64_at(entry, 27),
        });
        rest = behind;
    }
    rest.is_empty().then_some(records)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_index_is_none() {
        let record = |seq, key: &str| RecordMeta {
            kind: Kind::Delete,
            key: key.into(),
            seq,
            offset: 4096 * seq,
            body_len: 5,
            target: 2,
        };
        let records = vec![record(1, "a"), record(2, "wal/b")];
        let bytes = encode(9, &records);
        assert_eq!(decode(&bytes, 9), Some(records));
        assert_eq!(decode(&bytes, 8), None);
        for i in 0..bytes.len() {
            let mut bad = bytes.clone();
            bad[i] ^= 1;
            assert_eq!(decode(&bad, 9), None, "byte {i}");
            assert_eq!(decode(&bytes[..i], 9), None, "cut at {i}");
        }
    }
}
