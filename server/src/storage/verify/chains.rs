//! Chain indexes: whole, what metadata say that they are, and every segment in them there.

use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use millrace_raft::query::{ChainIndexRecord, ChainLink, PackedSegment};
use millrace_wal::ReadRange;
use millrace_wal::segment::{ChainEntry, ChainIndex, Run, SegmentFooter, SegmentSuffix};
use tokio::sync::Semaphore;

use super::objects::{READ_MIB_MAX, READS, Read, read_whole};
use super::{Broken, FAULTS_MAX, Promise, VerifyError};
use crate::chain;
use crate::storage::cell::{Cell, insist};

/// What is read of an object's end at first.
const FOOTER_SUFFIX: u64 = 64 << 10;

/// What came of one index.
#[derive(Default)]
pub(super) struct Seen {
    /// The index, and those of its objects that metadata do not name.
    pub objects: u64,
    pub bytes: u64,
    pub broken: Vec<Broken>,
}

/// Checks an index that metadata named, and what only it names.
pub(super) async fn look_at(cell: &Cell, record: &ChainIndexRecord) -> Result<Seen, VerifyError> {
    let id = record.row.object;
    let key = id.to_string();
    let range = ReadRange::Range(0..record.object_len.saturating_add(1));
    let bytes = insist(|| cell.segments.get(&key, range.clone())).await?;
    let Some(bytes) = bytes else {
        return gone(
            cell,
            record,
            Broken::new(Promise::Present, id, "it is not in the store"),
        )
        .await;
    };
    let mut seen = Seen {
        objects: 1,
        bytes: bytes.len() as u64,
        broken: Vec::new(),
    };
    let index: ChainIndex = match chain::decode(record, &bytes) {
        Ok(index) => index,
        Err(error) => {
            seen.broken.push(Broken::new(Promise::Whole, id, error));
            return Ok(seen);
        }
    };
    let packed: Vec<_> = index.entries.iter().map(chain::packed).collect();
    if PackedSegment::checksum(&packed) != record.row.checksum {
        let why = "its entries are not what metadata put into it";
        seen.broken.push(Broken::new(Promise::Agreed, id, why));
        return Ok(seen);
    }
    let room = Arc::new(Semaphore::new(READ_MIB_MAX as usize));
    let looks = stream::iter(index.entries).map(|entry| segment(cell, record, entry, room.clone()));
    let mut looks = looks.buffer_unordered(READS);
    while let Some(of_entry) = looks.try_next().await? {
        seen.objects += of_entry.objects;
        seen.bytes += of_entry.bytes;
        let left = FAULTS_MAX.saturating_sub(seen.broken.len());
        seen.broken.extend(of_entry.broken.into_iter().take(left));
    }
    Ok(seen)
}

/// One segment. An object that metadata name is checked as a whole by those who look at objects.
async fn segment(
    cell: &Cell,
    record: &ChainIndexRecord,
    entry: ChainEntry,
    room: Arc<Semaphore>,
) -> Result<Seen, VerifyError> {
    let id = entry.object;
    let read = match entry.alone {
        true => read_whole(cell, id, entry.object_len, &room).await?,
        false => read_footer(cell, &entry).await?,
    };
    let (bytes, footer) = match read {
        Read::Missing => {
            return gone(
                cell,
                record,
                Broken::new(Promise::Present, id, "it is not in the store"),
            )
            .await;
        }
        Read::Faulty(bytes, broken) => {
            return Ok(Seen {
                objects: u64::from(entry.alone),
                bytes,
                broken: vec![broken],
            });
        }
        Read::Whole(bytes, footer) => (bytes, footer),
    };
    let agrees = footer.runs.iter().any(|run| agree(run, record, &entry));
    let broken = (!agrees).then(|| {
        let why = format!(
            "chain index {} says that it holds records {}..{} of stream {} at {}, and it does not",
            record.row.object, entry.first_seq, entry.end_seq, record.stream, entry.offset
        );
        Broken::new(Promise::Agreed, id, why)
    });
    Ok(Seen {
        objects: u64::from(entry.alone),
        bytes,
        broken: broken.into_iter().collect(),
    })
}

fn agree(run: &Run, record: &ChainIndexRecord, entry: &ChainEntry) -> bool {
    run.stream == record.stream
        && run.offset == entry.offset
        && run.first_seq == entry.first_seq
        && run.end_seq == entry.end_seq
        && run.first_timestamp == entry.first_timestamp
        && run.last_timestamp == entry.last_timestamp
        && run.frames_len == entry.frames_len
        && run.index_len == entry.index_len
        && run.metered_bytes == entry.metered_bytes
}

async fn read_footer(cell: &Cell, entry: &ChainEntry) -> Result<Read, VerifyError> {
    let key = entry.object.to_string();
    let mut suffix_len = FOOTER_SUFFIX;
    loop {
        let range = ReadRange::Suffix(suffix_len);
        let suffix = insist(|| cell.segments.get(&key, range.clone())).await?;
        let Some(suffix) = suffix else {
            return Ok(Read::Missing);
        };
        match SegmentFooter::decode(&suffix) {
            Ok(SegmentSuffix::Whole(footer)) => return Ok(Read::Whole(0, footer)),
            Ok(SegmentSuffix::Longer { suffix_len: whole }) => suffix_len = whole,
            Err(error) => {
                let broken = Broken::new(Promise::Whole, entry.object, error);
                return Ok(Read::Faulty(0, broken));
            }
        }
    }
}

/// No fault, if metadata that are newer than the look at the store do not name the index any more.
async fn gone(cell: &Cell, record: &ChainIndexRecord, broken: Broken) -> Result<Seen, VerifyError> {
    cell.linearize().await?;
    let state = cell.meta.state();
    let link = state
        .chain(record.stream, record.row.first_seq, 1)?
        .into_iter()
        .next();
    let named = matches!(link, Some(ChainLink::Index(now)) if now.row.object == record.row.object);
    Ok(Seen {
        broken: named.then_some(broken).into_iter().collect(),
        ..Seen::default()
    })
}
