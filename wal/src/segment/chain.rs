//! A chain index: where segments of one stream are that follow each other, in an object of its own.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `MRWCHAIN` |
//! | 8 | 2 | format version: 1 |
//! | 10 | 2 | zero |
//! | 12 | 4 | channel |
//! | 16 | 8 | epoch |
//! | 24 | 8 | number of the index |
//! | 32 | 4 | part |
//! | 36 | 4 | number of entries, at least 1 |
//! | 40 | 16 | stream id, big-endian |
//! | 56 | 112 each | entries, in the order of their records |
//! | then | 4 | CRC32C of everything before |
//!
//! | offset in the entry | bytes | field |
//! |---|---|---|
//! | 0 | 8 | first sequence number |
//! | 8 | 8 | sequence number behind the last |
//! | 16 | 8 | first timestamp |
//! | 24 | 8 | last timestamp |
//! | 32 | 8 | metered bytes |
//! | 40 | 8 | offset in the object |
//! | 48 | 8 | length of the frames |
//! | 56 | 4 | length of the index behind them |
//! | 60 | 4 | channel of the object |
//! | 64 | 8 | its epoch |
//! | 72 | 8 | number of its flush or merge |
//! | 80 | 4 | its part |
//! | 84 | 1 | its origin: 1 flush, 2 merge |
//! | 85 | 1 | 1 if metadata have no row of the object, 0 if they have |
//! | 86 | 2 | zero |
//! | 88 | 8 | length of the object |
//! | 96 | 8 | when metadata came to name it, in milliseconds since 1970 |
//! | 104 | 8 | no record was appended later, in milliseconds since 1970 |

use bytes::{BufMut, Bytes, BytesMut};
use millrace_api::id::{ChannelId, Epoch, FlushSeq, StreamId};
use millrace_api::position::{SeqNum, Timestamp};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};

use crate::format::FormatError;
use crate::format::field::{array, put, u16_at, u32_at, u64_at};

const MAGIC: [u8; 8] = *b"MRWCHAIN";
const VERSION: u16 = 1;
const HEADER_LEN: usize = 56;
const ENTRY_LEN: usize = 112;
const CRC_LEN: usize = 4;

/// No chain index has more entries. A longer one is neither built nor believed.
pub const CHAIN_ENTRIES_MAX: usize = 4096;

/// A whole index.
///
/// - At least one entry and at most [`CHAIN_ENTRIES_MAX`]. Each begins where the one before it ends; timestamps never
///   decrease along them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainIndex {
    /// Of origin [`SegmentOrigin::Index`].
    pub id: SegmentObjectId,
    pub stream: StreamId,
    pub entries: Vec<ChainEntry>,
}

/// One segment, as a row of metadata would tell it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChainEntry {
    pub first_seq: SeqNum,
    /// Exclusive.
    pub end_seq: SeqNum,
    /// Of the first record.
    pub first_timestamp: Timestamp,
    /// Of the last record.
    pub last_timestamp: Timestamp,
    pub metered_bytes: u64,
    pub object: SegmentObjectId,
    /// From the start of the object, in bytes.
    pub offset: u64,
    /// Bytes of all frames, headers included. The run index follows at once.
    pub frames_len: u64,
    pub index_len: u32,
    /// Bytes of the whole object.
    pub object_len: u64,
    /// When metadata came to name the object.
    pub committed_at_ms: u64,
    /// No record of it was appended later.
    pub appended_before_ms: u64,
    /// Metadata have no row of the object.
    pub alone: bool,
}

impl ChainIndex {
    /// Bytes of an index with so many entries.
    pub const fn encoded_len(entries: usize) -> usize {
        HEADER_LEN + entries * ENTRY_LEN + CRC_LEN
    }

    /// # Panics
    /// If the entries are not as the type says: an error of the caller.
    pub fn encode(&self) -> Bytes {
        assert_eq!(self.id.origin, SegmentOrigin::Index, "an index is named as one");
        assert!(self.check().is_ok(), "entries follow each other");
        let mut out = BytesMut::with_capacity(Self::encoded_len(self.entries.len()));
        out.put_slice(&MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_u32_le(self.id.channel.0);
        out.put_u64_le(self.id.epoch.0);
        out.put_u64_le(self.id.seq.0);
        out.put_u32_le(self.id.part);
        out.put_u32_le(self.entries.len() as u32);
        out.put_slice(&self.stream.to_bytes());
        for entry in &self.entries {
            out.put_slice(&entry.encode());
        }
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    /// Reads a whole index. Magic is judged first, then the version, then the CRC. `Ok` means that these are the bytes
    /// that [`encode`](Self::encode) made; whether it is the index that was asked for is the caller's to compare.
    /// Memory use is bounded by the length of `bytes`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let have = bytes.len() as u64;
        let Some(header) = bytes.first_chunk::<HEADER_LEN>() else {
            return Err(FormatError::Truncated {
                need: HEADER_LEN as u64,
                have,
            });
        };
        if header[..MAGIC.len()] != MAGIC {
            return Err(FormatError::BadMagic { what: "chain index" });
        }
        match u16_at(header, 8) {
            VERSION => {}
            version => return Err(FormatError::UnknownVersion(version)),
        }
        let count = u32_at(header, 36) as usize;
        if count > CHAIN_ENTRIES_MAX {
            return Err(FormatError::TooLarge {
                len: count as u64,
                max: CHAIN_ENTRIES_MAX as u64,
            });
        }
        let expected = Self::encoded_len(count);
        if expected as u64 != have {
            return Err(FormatError::Length {
                expected: expected as u64,
                have,
            });
        }
        let (covered, crc) = bytes.split_at(expected - CRC_LEN);
        if crc32c::crc32c(covered) != u32_at(crc, 0) {
            return Err(FormatError::BadCrc { what: "chain index" });
        }
        if u16_at(header, 10) != 0 {
            return Err(FormatError::BadField {
                what: "chain index reserved",
            });
        }
        let entries = covered[HEADER_LEN..].chunks_exact(ENTRY_LEN);
        let index = Self {
            id: SegmentObjectId {
                channel: ChannelId(u32_at(header, 12)),
                epoch: Epoch(u64_at(header, 16)),
                origin: SegmentOrigin::Index,
                seq: FlushSeq(u64_at(header, 24)),
                part: u32_at(header, 32),
            },
            stream: StreamId::from_bytes(array(header, 40)),
            entries: entries.map(ChainEntry::decode).collect::<Result<_, _>>()?,
        };
        index.check()?;
        Ok(index)
    }

    fn check(&self) -> Result<(), FormatError> {
        let whole = |entry: &ChainEntry| {
            entry.first_seq < entry.end_seq
                && entry.first_timestamp <= entry.last_timestamp
                && entry.object.origin != SegmentOrigin::Index
        };
        let follow = |pair: &[ChainEntry]| {
            pair[0].end_seq == pair[1].first_seq && pair[0].last_timestamp <= pair[1].first_timestamp
        };
        let sound = (1..=CHAIN_ENTRIES_MAX).contains(&self.entries.len())
            && self.entries.iter().all(whole)
            && self.entries.windows(2).all(follow);
        match sound {
            true => Ok(()),
            false => Err(FormatError::BadField {
                what: "chain index entry",
            }),
        }
    }
}

impl ChainEntry {
    fn encode(&self) -> [u8; ENTRY_LEN] {
        let mut out = [0; ENTRY_LEN];
        put(&mut out, 0, self.first_seq.to_le_bytes());
        put(&mut out, 8, self.end_seq.to_le_bytes());
        put(&mut out, 16, self.first_timestamp.to_le_bytes());
        put(&mut out, 24, self.last_timestamp.to_le_bytes());
        put(&mut out, 32, self.metered_bytes.to_le_bytes());
        put(&mut out, 40, self.offset.to_le_bytes());
        put(&mut out, 48, self.frames_len.to_le_bytes());
        put(&mut out, 56, self.index_len.to_le_bytes());
        put(&mut out, 60, self.object.channel.0.to_le_bytes());
        put(&mut out, 64, self.object.epoch.0.to_le_bytes());
        put(&mut out, 72, self.object.seq.0.to_le_bytes());
        put(&mut out, 80, self.object.part.to_le_bytes());
        out[84] = match self.object.origin {
            SegmentOrigin::Flush => 1,
            SegmentOrigin::Merge => 2,
            SegmentOrigin::Index => unreachable!("checked: no index is in an index"),
        };
        out[85] = self.alone.into();
        put(&mut out, 88, self.object_len.to_le_bytes());
        put(&mut out, 96, self.committed_at_ms.to_le_bytes());
        put(&mut out, 104, self.appended_before_ms.to_le_bytes());
        out
    }

    /// `bytes` is an entry under a good CRC.
    fn decode(bytes: &[u8]) -> Result<Self, FormatError> {
        let origin = match bytes[84] {
            1 => SegmentOrigin::Flush,
            2 => SegmentOrigin::Merge,
            value => {
                let what = "segment object";
                return Err(FormatError::UnknownKind { what, value });
            }
        };
        if bytes[85] > 1 || u16_at(bytes, 86) != 0 {
            return Err(FormatError::BadField {
                what: "chain index entry",
            });
        }
        Ok(Self {
            first_seq: u64_at(bytes, 0),
            end_seq: u64_at(bytes, 8),
            first_timestamp: u64_at(bytes, 16),
            last_timestamp: u64_at(bytes, 24),
            metered_bytes: u64_at(bytes, 32),
            object: SegmentObjectId {
                channel: ChannelId(u32_at(bytes, 60)),
                epoch: Epoch(u64_at(bytes, 64)),
                origin,
                seq: FlushSeq(u64_at(bytes, 72)),
                part: u32_at(bytes, 80),
            },
            offset: u64_at(bytes, 40),
            frames_len: u64_at(bytes, 48),
            index_len: u32_at(bytes, 56),
            object_len: u64_at(bytes, 88),
            committed_at_ms: u64_at(bytes, 96),
            appended_before_ms: u64_at(bytes, 104),
            alone: bytes[85] == 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(origin: SegmentOrigin, seq: u64) -> SegmentObjectId {
        SegmentObjectId {
            channel: ChannelId(0x0102_0304),
            epoch: Epoch(5),
            origin,
            seq: FlushSeq(seq),
            part: 7,
        }
    }

    fn entry(n: u64) -> ChainEntry {
        ChainEntry {
            first_seq: 10 * n,
            end_seq: 10 * n + 10,
            first_timestamp: 1000 + n,
            last_timestamp: 1001 + n,
            metered_bytes: 80,
            object: id(
                if n == 1 {
                    SegmentOrigin::Merge
                } else {
                    SegmentOrigin::Flush
                },
                n + 1,
            ),
            offset: 40 + n,
            frames_len: 300,
            index_len: 32,
            object_len: 500,
            committed_at_ms: 7000 + n,
            appended_before_ms: 6000 + n,
            alone: n != 2,
        }
    }

    fn index() -> ChainIndex {
        ChainIndex {
            id: id(SegmentOrigin::Index, 9),
            stream: StreamId(0xa << 100),
            entries: (0..3).map(entry).collect(),
        }
    }

    /// What version 1 looked like when it was released. The file never changes; a later version adds its own.
    #[test]
    fn version_1_still_reads_and_writes_as_it_did() {
        let kept = include_bytes!("../../testdata/v1/chain.bin");
        assert_eq!(index().encode(), kept.as_slice());
        assert_eq!(ChainIndex::decode(kept), Ok(index()));
        assert_eq!(kept.len(), ChainIndex::encoded_len(3));
    }

    #[test]
    fn every_flipped_bit_and_every_truncation_is_found() {
        let bytes = index().encode();
        for at in 0..bytes.len() {
            for bit in 0..8 {
                let mut bad = bytes.to_vec();
                bad[at] ^= 1 << bit;
                assert!(ChainIndex::decode(&bad).is_err(), "bit {bit} of byte {at}");
            }
            assert!(ChainIndex::decode(&bytes[..at]).is_err(), "cut to {at}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(ChainIndex::decode(&longer).is_err());
    }

    #[test]
    fn what_does_not_follow_is_refused_under_a_good_crc() {
        let good = index().encode();
        // An end, a start, a timestamp, an origin, a flag, what is reserved.
        for (at, value) in [
            (64, 9),
            (56, 200),
            (80, 0xff),
            (140, 3),
            (141, 2),
            (142, 1),
            (10, 1),
        ] {
            let mut bad = good.to_vec();
            bad[at] = value;
            let end = bad.len() - CRC_LEN;
            let crc = crc32c::crc32c(&bad[..end]);
            bad[end..].copy_from_slice(&crc.to_le_bytes());
            assert!(ChainIndex::decode(&bad).is_err(), "{value} at {at}");
        }
    }

    #[test]
    fn another_version_is_reported_as_such_and_impossible_lengths_cost_no_memory() {
        let mut bytes = index().encode().to_vec();
        bytes[8] = 2;
        let error = ChainIndex::decode(&bytes).expect_err("a later version");
        assert!(error.is_from_later_release(), "{error}");
        bytes[8] = 1;
        bytes[36..40].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(matches!(
            ChainIndex::decode(&bytes),
            Err(FormatError::TooLarge { .. })
        ));
    }
}
