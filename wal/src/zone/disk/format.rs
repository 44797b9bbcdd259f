//! The bytes of a log file.
//!
//! A file is a sequence of blocks of 4 KiB. The first holds the file's head, the others records one behind the other:
//!
//! | offset | bytes | field of a record |
//! |---|---|---|
//! | 0 | 4 | magic `MRDR` |
//! | 4 | 1 | kind: 1 object, 2 deletion, 3 end |
//! | 5 | 1 | 1 if it is the last of its commit: the next record begins a block |
//! | 6 | 2 | bytes of the key |
//! | 8 | 8 | number of the file |
//! | 16 | 8 | offset of the record in the file |
//! | 24 | 8 | sequence: the higher of two records of a key counts |
//! | 32 | 8 | bytes of the body |
//! | 40 | 8 | of a deletion: the file in which the object lies that it removes |
//! | 48 | 8 | number of the commit within the file |
//! | 56 | 4 | CRC32C of the body |
//! | 60 | 4 | CRC32C of bytes 0 to 60 and of the key |
//! | 64 | | the key, and behind it the body |
//!
//! All numbers are little-endian. Numbers of files are never used twice, so that what a file held in an earlier use is
//! no record of it.

use crate::zone::KEY_LEN_MAX;

/// Commits begin and end at multiples of this: no sector that holds a committed record is written again.
pub(super) const BLOCK: u64 = 4096;
pub(super) const RECORD_HEAD_LEN: usize = 64;
/// Of the longest head with its key.
pub(super) const RECORD_HEAD_LEN_MAX: usize = RECORD_HEAD_LEN + KEY_LEN_MAX;

pub(super) const RECORD_MAGIC: [u8; 4] = *b"MRDR";
const FILE_MAGIC: [u8; 8] = *b"MRDISK\0\0";
const VERSION: u16 = 1;

/// Where the next block begins.
pub(super) fn block_end(offset: u64) -> u64 {
    offset.next_multiple_of(BLOCK)
}

/// The first block of a file.
pub(super) fn encode_file_head(file: u64) -> Vec<u8> {
    let mut head = Vec::with_capacity(BLOCK as usize);
    head.extend_from_slice(&FILE_MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&[0; 6]);
    head.extend_from_slice(&file.to_le_bytes());
    let crc = crc32c::crc32c(&head);
    head.extend_from_slice(&crc.to_le_bytes());
    head.resize(BLOCK as usize, 0);
    head
}

/// The number of the file that begins like this; `None` if no file does.
pub(super) fn decode_file_head(block: &[u8]) -> Option<u64> {
    let head = block.get(..24)?;
    let crc = block.get(24..28)?;
    let good = head[..8] == FILE_MAGIC
        && head[8..10] == VERSION.to_le_bytes()
        && crc32c::crc32c(head).to_le_bytes() == crc;
    good.then(|| u64_at(head, 16))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Object = 1,
    Delete = 2,
    /// Nothing follows in the file.
    End = 3,
}

impl Kind {
    pub(super) fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Object),
            2 => Some(Self::Delete),
            3 => Some(Self::End),
            _ => None,
        }
    }
}

/// What a record says about itself, without its key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RecordHead {
    pub kind: Kind,
    pub last: bool,
    pub file: u64,
    pub offset: u64,
    pub seq: u64,
    pub body_len: u64,
    /// 0 unless it is a deletion.
    pub target: u64,
    pub commit: u64,
    pub body_crc: u32,
}

impl RecordHead {
    /// The head with the key behind it.
    pub(super) fn encode(&self, key: &str) -> Vec<u8> {
        let mut out = Vec::with_capacity(RECORD_HEAD_LEN + key.len());
        out.extend_from_slice(&RECORD_MAGIC);
        out.push(self.kind as u8);
        out.push(u8::from(self.last));
        let key_len = u16::try_from(key.len()).expect("keys are checked");
        out.extend_from_slice(&key_len.to_le_bytes());
        for number in [
            self.file,
            self.offset,
            self.seq,
            self.body_len,
            self.target,
            self.commit,
        ] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        out.extend_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32c::crc32c_append(crc32c::crc32c(&out), key.as_bytes());
        out.extend_from_slice(&crc.to_le_bytes());
        out.extend_from_slice(key.as_bytes());
        out
    }

    /// The record and its key that `bytes` begin with; `None` if it is not one that was written at this place.
    pub(super) fn decode(bytes: &[u8], file: u64, offset: u64) -> Option<(Self, &str)> {
        let head = bytes.get(..RECORD_HEAD_LEN)?;
        if head[..4] != RECORD_MAGIC || head[5] > 1 {
            return None;
        }
        let key_len = usize::from(u16::from_le_bytes([head[6], head[7]]));
        let key = bytes.get(RECORD_HEAD_LEN..RECORD_HEAD_LEN + key_len)?;
        let crc = crc32c::crc32c_append(crc32c::crc32c(&head[..60]), key);
        if crc.to_le_bytes() != head[60..] {
            return None;
        }
        let record = Self {
            kind: Kind::from_number(head[4])?,
            last: head[5] == 1,
            file: u64_at(head, 8),
            offset: u64_at(head, 16),
            seq: u64_at(head, 24),
            body_len: u64_at(head, 32),
            target: u64_at(head, 40),
            commit: u64_at(head, 48),
            body_crc: u32::from_le_bytes(head[56..60].try_into().expect("4 bytes")),
        };
        let key = std::str::from_utf8(key).ok()?;
        (record.file == file && record.offset == offset).then_some((record, key))
    }
}

/// Bytes of a record.
pub(super) fn record_len(key: &str, body_len: u64) -> u64 {
    (RECORD_HEAD_LEN + key.len()) as u64 + body_len
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: RecordHead = RecordHead {
        kind: Kind::Object,
        last: true,
        file: 3,
        offset: 4096,
        seq: 7,
        body_len: 10,
        target: 0,
        commit: 1,
        body_crc: 0x0102_0304,
    };

    #[test]
    fn a_record_that_was_changed_or_moved_is_none() {
        let bytes = HEAD.encode("wal/a");
        assert_eq!(RecordHead::decode(&bytes, 3, 4096), Some((HEAD, "wal/a")));
        assert_eq!(RecordHead::decode(&bytes, 4, 4096), None);
        assert_eq!(RecordHead::decode(&bytes, 3, 8192), None);
        for i in 0..bytes.len() {
            assert_eq!(RecordHead::decode(&bytes[..i], 3, 4096), None, "cut at {i}");
            for bit in 0..8 {
                let mut bad = bytes.clone();
                bad[i] ^= 1 << bit;
                assert_eq!(RecordHead::decode(&bad, 3, 4096), None, "byte {i}");
            }
        }
    }

    #[test]
    fn the_head_of_a_file_gives_its_number() {
        let head = encode_file_head(0x0102_0304_0506);
        assert_eq!(head.len() as u64, BLOCK);
        assert_eq!(decode_file_head(&head), Some(0x0102_0304_0506));
        for i in 0..28 {
            let mut bad = head.clone();
            bad[i] ^= 4;
            assert_eq!(decode_file_head(&bad), None, "byte {i}");
        }
    }

    #[test]
    fn the_bytes_of_a_record_stay_as_they_are() {
        let bytes = HEAD.encode("k");
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let expected = [
            "4d524452",
            "01",
            "01",
            "0100",
            "0300000000000000",
            "0010000000000000",
            "0700000000000000",
            "0a00000000000000",
            "0000000000000000",
            "0100000000000000",
            "04030201",
            "4ed76cbb",
            "6b",
        ];
        assert_eq!(hex, expected.concat());
    }
}
