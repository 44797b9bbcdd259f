//! Chain indexes: whole, what metadata say that they are, and every segment in them there.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use millrace_raft::query::{ChainIndexRecord, ChainLink, PackedSegment};
use millrace_wal::ReadRange;
use millrace_wal::segment::{ChainEntry, Run, SegmentFooter, SegmentSuffix};
use tokio::sync::Semaphore;

use super::copies::{self, Looked, Named, READ_MIB_MAX};
use super::heal::Healed;
use super::objects::READS;
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
    pub healed: Vec<Healed>,
}

/// Checks an index that metadata named, and what only it names.
pub(super) async fn look_at(
    cell: &Cell,
    record: &ChainIndexRecord,
    repair: bool,
) -> Result<Seen, VerifyError> {
    let id = record.row.object;
    let room = Arc::new(Semaphore::new(READ_MIB_MAX as usize));
    let named = Named {
        id,
        object_len: record.object_len,
    };
    let of = *record;
    let check = move |bytes: &Bytes| chain::decode(&of, bytes).map_err(|error| error.to_string());
    let looked = copies::look_at(cell, named, repair, &room, check, || is_named(cell, record)).await?;
    let mut seen = Seen {
        objects: 1,
        bytes: looked.bytes,
        broken: looked.broken,
        healed: vec![looked.healed],
    };
    let Some(index) = looked.found else {
        return Ok(seen);
    };
    let packed: Vec<_> = index.entries.iter().map(chain::packed).collect();
    if PackedSegment::checksum(&packed) != record.row.checksum {
        let why = "its entries are not what metadata put into it";
        seen.broken.push(Broken::new(Promise::Agreed, id, why));
        return Ok(seen);
    }
    let looks = stream::iter(index.entries).map(|entry| segment(cell, record, entry, repair, room.clone()));
    let mut looks = looks.buffer_unordered(READS);
    while let Some(of_entry) = looks.try_next().await? {
        seen.objects += of_entry.objects;
        seen.bytes += of_entry.bytes;
        let left = FAULTS_MAX.saturating_sub(seen.broken.len());
        seen.broken.extend(of_entry.broken.into_iter().take(left));
        seen.healed.extend(of_entry.healed);
    }
    Ok(seen)
}

/// One segment. An object that metadata name is checked as a whole by those who look at objects.
async fn segment(
    cell: &Cell,
    record: &ChainIndexRecord,
    entry: ChainEntry,
    repair: bool,
    room: Arc<Semaphore>,
) -> Result<Seen, VerifyError> {
    let id = entry.object;
    let looked = match entry.alone {
        true => {
            let named = Named {
                id,
                object_len: entry.object_len,
            };
            let is_named = || is_named(cell, record);
            copies::look_at(cell, named, repair, &room, copies::footer(id), is_named).await?
        }
        false => read_footer(cell, record, &entry).await?,
    };
    let mut seen = Seen {
        objects: u64::from(entry.alone),
        bytes: looked.bytes,
        broken: looked.broken,
        healed: vec![looked.healed],
    };
    let agrees = |footer: &SegmentFooter| footer.runs.iter().any(|run| agree(run, record, &entry));
    if looked.found.is_some_and(|footer| !agrees(&footer)) {
        let why = format!(
            "chain index {} says that it holds records {}..{} of stream {} at {}, and it does not",
            record.row.object, entry.first_seq, entry.end_seq, record.stream, entry.offset
        );
        seen.broken.push(Broken::new(Promise::Agreed, id, why));
    }
    Ok(seen)
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

async fn read_footer(
    cell: &Cell,
    record: &ChainIndexRecord,
    entry: &ChainEntry,
) -> Result<Looked<SegmentFooter>, VerifyError> {
    let key = entry.object.to_string();
    let mut looked = Looked::default();
    let mut suffix_len = FOOTER_SUFFIX;
    loop {
        let range = ReadRange::Suffix(suffix_len);
        let suffix = insist(|| cell.segments.get(&key, range.clone())).await?;
        let Some(suffix) = suffix else {
            if is_named(cell, record).await? {
                let broken = Broken::new(Promise::Present, entry.object, "it is not in the store");
                looked.broken.push(broken);
            }
            return Ok(looked);
        };
        match SegmentFooter::decode(&suffix) {
            Ok(SegmentSuffix::Whole(footer)) => looked.found = Some(footer),
            Ok(SegmentSuffix::Longer { suffix_len: whole }) => {
                suffix_len = whole;
                continue;
            }
            Err(error) => looked
                .broken
                .push(Broken::new(Promise::Whole, entry.object, error)),
        }
        return Ok(looked);
    }
}

/// By metadata that are newer than the look at the store.
async fn is_named(cell: &Cell, record: &ChainIndexRecord) -> Result<bool, VerifyError> {
    cell.linearize().await?;
    let state = cell.meta.state();
    let link = state
        .chain(record.stream, record.row.first_seq, 1)?
        .into_iter()
        .next();
    Ok(matches!(link, Some(ChainLink::Index(now)) if now.row.object == record.row.object))
}
