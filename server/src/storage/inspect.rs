//! Tells what is in a stored object: a chunk or seal of the WAL, a segment object, a chain index, or a store's marker.
//!
//! Reads as far as it can: an object that is damaged is told about up to where it is, and behind it where its footer
//! says what is there.

use bytes::Bytes;
use millrace_wal::format::{
    CHUNK_HEADER_LEN, ChunkKind, Footer, FooterSuffix, FrameKind, decode_chunk, decode_header,
};
use millrace_wal::segment::{
    ChainIndex, Run, RunIndex, SEGMENT_HEADER_LEN, SegmentFooter, SegmentSuffix, decode_segment_header,
};
use millrace_wal::{FormatError, Frame, FrameHeader, Marker, verify_object};
use serde::{Serialize, Serializer};
use serde_json::Value;

const CHUNK_MAGIC: &[u8] = b"MRWCHUNK";
const SEGMENT_MAGIC: &[u8] = b"MRWSEGMT";
const CHAIN_MAGIC: &[u8] = b"MRWCHAIN";
const MARKER_MAGIC: &[u8] = b"MRZONE\0\0";

/// What an object says of itself.
#[derive(Debug, Serialize)]
pub struct Inspection {
    /// `chunk`, `adopted chunk`, `seal`, `segment object`, `chain index`, `zone marker`, or `unknown`.
    pub kind: &'static str,
    pub bytes: u64,
    /// What its header says, or its footer where the header cannot be read.
    #[serde(serialize_with = "as_map")]
    pub header: Vec<(&'static str, Value)>,
    /// In the order in which they stand.
    pub parts: Vec<Part>,
    /// What is wrong with it; `None` if every check passes.
    pub fault: Option<String>,
}

/// A frame, a run of frames and their index, or what an index says of a segment: then `offset` and `bytes` are in the
/// object that it names.
#[derive(Debug, Serialize)]
pub struct Part {
    pub what: &'static str,
    /// Where it is, if not here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// From the start of the object.
    pub offset: u64,
    pub bytes: u64,
    /// What is said of its records; `None` if it cannot be read.
    #[serde(flatten)]
    pub records: Option<Records>,
    /// What is wrong with it.
    pub fault: Option<String>,
}

/// Records of one stream that follow each other.
#[derive(Debug, Serialize)]
pub struct Records {
    pub stream: String,
    pub first_seq: u64,
    /// Exclusive.
    pub end_seq: u64,
    pub first_timestamp: u64,
    pub last_timestamp: u64,
    pub metered_bytes: u64,
}

impl Inspection {
    /// Of a whole object. `frames` of runs, too: there may be many.
    pub fn of(bytes: &Bytes, frames: bool) -> Self {
        if bytes.starts_with(CHUNK_MAGIC) {
            chunk(bytes)
        } else if bytes.starts_with(SEGMENT_MAGIC) {
            segment_object(bytes, frames)
        } else if bytes.starts_with(CHAIN_MAGIC) {
            chain_index(bytes)
        } else if bytes.starts_with(MARKER_MAGIC) {
            marker(bytes)
        } else if let Ok(FooterSuffix::Whole(_)) = Footer::decode(bytes) {
            chunk(bytes)
        } else if let Ok(SegmentSuffix::Whole(_)) = SegmentFooter::decode(bytes) {
            segment_object(bytes, frames)
        } else {
            Self::new(
                "unknown",
                bytes,
                Some("neither its first bytes nor its last are ours".into()),
            )
        }
    }

    fn new(kind: &'static str, bytes: &Bytes, fault: Option<String>) -> Self {
        Self {
            kind,
            bytes: bytes.len() as u64,
            header: Vec::new(),
            parts: Vec::new(),
            fault,
        }
    }

    fn say(&mut self, what: &'static str, value: impl Into<Value>) {
        self.header.push((what, value.into()));
    }
}

fn as_map<S: Serializer>(header: &[(&'static str, Value)], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_map(header.iter().map(|(what, value)| (what, value)))
}

fn fault<T>(result: Result<T, FormatError>) -> Option<String> {
    result.err().map(|error| error.to_string())
}

fn marker(bytes: &Bytes) -> Inspection {
    match Marker::decode(bytes) {
        Ok(marker) => {
            let mut seen = Inspection::new("zone marker", bytes, None);
            seen.say("cell", format!("{:032x}", marker.cell));
            seen.say("zone_generation", marker.zone_gen.to_string());
            seen
        }
        Err(error) => Inspection::new("zone marker", bytes, Some(error.to_string())),
    }
}

fn chunk(bytes: &Bytes) -> Inspection {
    let mut seen = Inspection::new("chunk", bytes, fault(decode_chunk(bytes.clone())));
    let footer = match Footer::decode(bytes) {
        Ok(FooterSuffix::Whole(footer)) => Some(footer),
        _ => None,
    };
    let header = decode_header(bytes).map(|header| (header.meta, header.len));
    let header = header
        .ok()
        .or(footer.as_ref().map(|footer| (footer.meta, footer.len)));
    if let Some((meta, len)) = header {
        seen.say("key", meta.id.key());
        seen.say("channel", meta.id.channel.0);
        seen.say("epoch", meta.id.epoch.0);
        seen.say("slot", meta.id.slot.0);
        seen.say("writer", meta.nonce.to_string());
        seen.say("length", len);
        match meta.kind {
            ChunkKind::Chunk => {}
            ChunkKind::Adopted { source } => {
                seen.kind = "adopted chunk";
                seen.say("adopted_from", source.key());
            }
            ChunkKind::Seal { by } => {
                seen.kind = "seal";
                seen.say("sealed_by_epoch", by.0);
            }
        }
    }
    let offset = CHUNK_HEADER_LEN as u64;
    seen.parts = match footer {
        None => frames_from(bytes, offset, bytes.len() as u64),
        Some(footer) => {
            let entries = footer.entries.iter();
            entries
                .map(|entry| frame_at(bytes, entry.offset, &entry.header))
                .collect()
        }
    };
    seen
}

fn segment_object(bytes: &Bytes, frames: bool) -> Inspection {
    let mut seen = Inspection::new("segment object", bytes, fault(verify_object(bytes)));
    let footer = match SegmentFooter::decode(bytes) {
        Ok(SegmentSuffix::Whole(footer)) => Some(footer),
        _ => None,
    };
    let id = decode_segment_header(bytes);
    if let Some(id) = id.ok().or(footer.as_ref().map(|footer| footer.id)) {
        seen.say("key", id.to_string());
        seen.say("channel", id.channel.0);
        seen.say("epoch", id.epoch.0);
        seen.say("origin", format!("{:?}", id.origin).to_lowercase());
        seen.say("number", id.seq.0);
        seen.say("part", id.part);
    }
    let Some(footer) = footer else {
        seen.parts = frames_from(bytes, SEGMENT_HEADER_LEN as u64, bytes.len() as u64);
        return seen;
    };
    seen.say("length", footer.len);
    seen.say("runs", footer.runs.len());
    for run in &footer.runs {
        let inside = frames_from(bytes, run.offset, run.index_offset());
        seen.parts.push(run_part(bytes, run, &inside));
        if frames {
            seen.parts.extend(inside);
        }
    }
    seen
}

/// Nothing is told of one that fails its check: no part of it can be trusted by itself.
fn chain_index(bytes: &Bytes) -> Inspection {
    let index = match ChainIndex::decode(bytes) {
        Ok(index) => index,
        Err(error) => return Inspection::new("chain index", bytes, Some(error.to_string())),
    };
    let mut seen = Inspection::new("chain index", bytes, None);
    seen.say("key", index.id.to_string());
    seen.say("channel", index.id.channel.0);
    seen.say("epoch", index.id.epoch.0);
    seen.say("number", index.id.seq.0);
    seen.say("part", index.id.part);
    seen.say("stream", index.stream.to_string());
    seen.say("segments", index.entries.len());
    let parts = index.entries.iter().map(|entry| Part {
        what: match entry.alone {
            true => "segment, alone in its object",
            false => "segment",
        },
        object: Some(entry.object.to_string()),
        offset: entry.offset,
        bytes: entry.frames_len.saturating_add(entry.index_len.into()),
        records: Some(Records {
            stream: index.stream.to_string(),
            first_seq: entry.first_seq,
            end_seq: entry.end_seq,
            first_timestamp: entry.first_timestamp,
            last_timestamp: entry.last_timestamp,
            metered_bytes: entry.metered_bytes,
        }),
        fault: None,
    });
    seen.parts = parts.collect();
    seen
}

fn run_part(bytes: &Bytes, run: &Run, frames: &[Part]) -> Part {
    let index = slice(bytes, run.index_offset(), run.end()).and_then(|index| RunIndex::decode(&index));
    let bad_frame = frames.iter().find_map(|frame| frame.fault.clone());
    Part {
        what: "run",
        object: None,
        offset: run.offset,
        bytes: run.end() - run.offset,
        records: Some(Records {
            stream: run.stream.to_string(),
            first_seq: run.first_seq,
            end_seq: run.end_seq,
            first_timestamp: run.first_timestamp,
            last_timestamp: run.last_timestamp,
            metered_bytes: run.metered_bytes,
        }),
        fault: bad_frame.or(fault(index)),
    }
}

/// Frames that follow each other, up to the first whose header cannot be read.
fn frames_from(bytes: &Bytes, from: u64, end: u64) -> Vec<Part> {
    let (mut parts, mut offset) = (Vec::new(), from);
    while offset < end {
        let header = match slice(bytes, offset, end).and_then(|rest| FrameHeader::decode(&rest)) {
            Ok(header) => header,
            Err(error) => {
                parts.push(Part::unreadable(offset, end, &error));
                break;
            }
        };
        parts.push(frame_at(bytes, offset, &header));
        offset += header.frame_len();
    }
    parts
}

/// The frame that should be there.
fn frame_at(bytes: &Bytes, offset: u64, header: &FrameHeader) -> Part {
    let end = offset.saturating_add(header.frame_len());
    let frame = slice(bytes, offset, end).and_then(|frame| Frame::decode(&frame));
    let checked = frame.and_then(|frame| match frame.header == *header {
        true => Ok(()),
        false => Err(FormatError::Mismatch { what: "frame header" }),
    });
    Part {
        what: match header.kind {
            FrameKind::Records => "records",
            FrameKind::Open => "open",
        },
        object: None,
        offset,
        bytes: header.frame_len(),
        records: Some(Records {
            stream: header.stream.to_string(),
            first_seq: header.first_seq,
            end_seq: header.end_seq(),
            first_timestamp: header.first_timestamp,
            last_timestamp: header.last_timestamp,
            metered_bytes: header.metered_bytes,
        }),
        fault: fault(checked),
    }
}

impl Part {
    fn unreadable(offset: u64, end: u64, error: &FormatError) -> Self {
        Self {
            what: "unreadable",
            object: None,
            offset,
            bytes: end - offset,
            records: None,
            fault: Some(error.to_string()),
        }
    }
}

/// Offsets are input.
fn slice(bytes: &Bytes, from: u64, end: u64) -> Result<Bytes, FormatError> {
    let have = bytes.len() as u64;
    if from > end || end > have {
        return Err(FormatError::Truncated { need: end, have });
    }
    Ok(bytes.slice(from as usize..end as usize))
}

#[cfg(test)]
mod tests {
    use super::*;

    const CHUNK: &[u8] = include_bytes!("../../../wal/testdata/v1/chunk.bin");
    const ADOPTED: &[u8] = include_bytes!("../../../wal/testdata/v1/adopted.bin");
    const SEAL: &[u8] = include_bytes!("../../../wal/testdata/v1/seal.bin");
    const SEGMENT: &[u8] = include_bytes!("../../../wal/testdata/v1/segment.bin");
    const CHAIN: &[u8] = include_bytes!("../../../wal/testdata/v1/chain.bin");

    fn inspect(bytes: &[u8]) -> Inspection {
        Inspection::of(&Bytes::copy_from_slice(bytes), true)
    }

    #[test]
    fn every_kind_of_object_is_known_and_whole() {
        let kinds = [
            (CHUNK, "chunk"),
            (ADOPTED, "adopted chunk"),
            (SEAL, "seal"),
            (SEGMENT, "segment object"),
            (CHAIN, "chain index"),
        ];
        for (bytes, kind) in kinds {
            let seen = inspect(bytes);
            assert_eq!((seen.kind, seen.fault.as_deref()), (kind, None));
            assert_eq!(seen.bytes, bytes.len() as u64);
            assert!(seen.header.iter().any(|(what, _)| *what == "key"));
            assert!(seen.parts.iter().all(|part| part.fault.is_none()), "{seen:?}");
            assert_eq!(seen.parts.is_empty(), kind == "seal");
        }
        assert_eq!(inspect(b"something else").kind, "unknown");
    }

    #[test]
    fn runs_tell_what_frames_they_hold() {
        let with = inspect(SEGMENT);
        let without = Inspection::of(&Bytes::from_static(SEGMENT), false);
        assert!(without.parts.iter().all(|part| part.what == "run"));
        let runs: Vec<_> = with.parts.iter().filter(|part| part.what == "run").collect();
        assert_eq!(runs.len(), without.parts.len());
        let records = |parts: &[Part], what: &str| -> u64 {
            let of_kind = parts.iter().filter(|part| part.what == what);
            let held = of_kind.flat_map(|part| &part.records);
            held.map(|records| records.end_seq - records.first_seq).sum()
        };
        assert_eq!(records(&with.parts, "run"), records(&with.parts, "records"));
    }

    #[test]
    fn a_flipped_bit_is_told_of_wherever_it_is() {
        for bytes in [CHUNK, ADOPTED, SEAL, SEGMENT, CHAIN] {
            for at in 0..bytes.len() {
                let mut bad = bytes.to_vec();
                bad[at] ^= 0x04;
                let seen = inspect(&bad);
                assert!(seen.fault.is_some(), "byte {at} of {}", seen.kind);
            }
            for len in 0..bytes.len() {
                assert!(inspect(&bytes[..len]).fault.is_some(), "cut to {len}");
            }
        }
    }

    #[test]
    fn the_damaged_frame_is_named_and_the_others_are_told() {
        let good = inspect(CHUNK);
        assert!(good.parts.len() > 1);
        let first = &good.parts[0];
        let mut bad = CHUNK.to_vec();
        bad[(first.offset + first.bytes - 1) as usize] ^= 1;
        let seen = inspect(&bad);
        let faulty: Vec<bool> = seen.parts.iter().map(|part| part.fault.is_some()).collect();
        assert_eq!(seen.parts.len(), good.parts.len());
        assert_eq!(faulty.iter().position(|faulty| *faulty), Some(0));
        assert_eq!(faulty.iter().filter(|faulty| **faulty).count(), 1);
    }
}
