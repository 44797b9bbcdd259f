//! Segment objects: whole, and what metadata say that they are.

use std::sync::Arc;

use futures::stream::{self, Stream, TryStreamExt};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_raft::error::StoreError as StateError;
use millrace_raft::group::Meta;
use millrace_raft::query::{ChainLink, SegmentObjectRecord, SegmentRecord, View};
use millrace_wal::segment::{Run, SegmentFooter};
use tokio::sync::Semaphore;

use super::copies::{self, Named, READ_MIB_MAX};
use super::heal::Healed;
use super::{Broken, FAULTS_MAX, Phase, Progress, Promise, Report, Verify, VerifyError, blocking};
use crate::storage::cell::Cell;

/// Rows of metadata read in one step.
const PAGE: usize = 1000;
/// Objects read at a time.
pub(super) const READS: usize = 8;

/// What came of one object.
#[derive(Default)]
struct Seen {
    bytes: u64,
    live_runs: u64,
    broken: Vec<Broken>,
    healed: Healed,
}

impl Verify {
    pub(super) async fn objects(&self, report: &mut Report) -> Result<(), VerifyError> {
        let total = Some(self.count_objects().await?);
        let mut done = 0;
        let phase = Phase::Objects;
        report.progress(Progress { phase, done, total }).await?;
        let room = Arc::new(Semaphore::new(READ_MIB_MAX as usize));
        let cell = self.cell.clone();
        let repair = self.repair;
        let looks = live(self.cell.meta.clone())
            .map_ok(move |object| look_at(cell.clone(), object, repair, room.clone()));
        let seen = looks.try_buffer_unordered(READS);
        futures::pin_mut!(seen);
        while let Some(seen) = seen.try_next().await? {
            done += 1;
            report.checked.objects += 1;
            report.checked.object_bytes += seen.bytes;
            report.checked.runs += seen.live_runs;
            report.broken(seen.broken).await?;
            report.healed(seen.healed).await?;
            report.progress(Progress { phase, done, total }).await?;
        }
        Ok(())
    }

    async fn count_objects(&self) -> Result<u64, VerifyError> {
        let state = self.cell.meta.state();
        let counted = blocking(move || {
            let (mut count, mut after) = (0, None);
            loop {
                let page = state.segment_objects(None, after, PAGE)?;
                let Some(last) = page.last() else {
                    return Ok::<_, StateError>(count);
                };
                after = Some(last.object);
                count += page.iter().filter(|object| is_live(object)).count() as u64;
            }
        });
        Ok(counted.await??)
    }
}

/// Objects that are live as their page is read, in order of their names.
fn live(meta: Meta) -> impl Stream<Item = Result<SegmentObjectRecord, VerifyError>> {
    let pages = stream::try_unfold((meta, None), |(meta, after)| async move {
        let page = meta.state().segment_objects(None, after, PAGE)?;
        let last = page.last().map(|last| last.object);
        Ok::<_, VerifyError>(last.map(|last| (page, (meta, Some(last)))))
    });
    pages
        .map_ok(|page| stream::iter(page.into_iter().filter(is_live).map(Ok)))
        .try_flatten()
}

/// Indexes are looked at with their streams.
fn is_live(object: &SegmentObjectRecord) -> bool {
    object.dead_at_ms.is_none() && object.object.origin != SegmentOrigin::Index
}

async fn look_at(
    cell: Cell,
    record: SegmentObjectRecord,
    repair: bool,
    room: Arc<Semaphore>,
) -> Result<Seen, VerifyError> {
    let id = record.object;
    let named = Named {
        id,
        object_len: record.len,
    };
    let still_live = || still_live(&cell, id);
    let looked = copies::look_at(&cell, named, repair, &room, copies::footer(id), still_live).await?;
    let mut seen = Seen {
        bytes: looked.bytes,
        live_runs: 0,
        broken: looked.broken,
        healed: looked.healed,
    };
    if let Some(footer) = looked.found {
        let state = cell.meta.state();
        let compared = blocking(move || state.at_once(|view| compare(view, id, &footer)));
        let (live_runs, broken) = compared.await??;
        seen.live_runs = live_runs;
        seen.broken.extend(broken);
    }
    Ok(seen)
}

/// By metadata that are newer than the look at the store.
async fn still_live(cell: &Cell, id: SegmentObjectId) -> Result<bool, VerifyError> {
    cell.linearize().await?;
    let record = cell.meta.state().segment_object(id)?;
    Ok(record.is_some_and(|record| is_live(&record)))
}

/// What metadata say of an object at one moment, against what it says itself: its live runs, and what does not agree.
fn compare(
    view: View<'_>,
    id: SegmentObjectId,
    footer: &SegmentFooter,
) -> Result<(u64, Vec<Broken>), StateError> {
    let Some(record) = view.segment_object(id)?.filter(is_live) else {
        return Ok((0, Vec::new()));
    };
    let (mut live, mut broken) = (Live::default(), Vec::new());
    for run in &footer.runs {
        let named = match view.chain(run.stream, run.first_seq, 1) {
            Ok(links) => links.first().and_then(ChainLink::segment).copied(),
            // Found again by those who look at streams.
            Err(StateError::Corrupt { .. }) => None,
            Err(error) => return Err(error),
        };
        let named = named.filter(|named| named.row.object == id && named.row.offset == run.offset);
        if let Some(named) = named {
            live.runs += 1;
            live.bytes += named.row.bytes();
            if !agree(run, &named) && broken.len() < FAULTS_MAX {
                broken.push(Broken::new(Promise::Agreed, id, disagreement(run, &named)));
            }
        }
    }
    broken.extend(live.miscounted(&record));
    Ok((live.runs, broken))
}

/// What segments name of an object, but for those that are in an index.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Live {
    pub runs: u64,
    pub bytes: u64,
}

impl Live {
    pub fn miscounted(&self, record: &SegmentObjectRecord) -> Option<Broken> {
        let runs = record.live_runs.saturating_sub(record.packed_runs);
        let bytes = record.live_bytes.saturating_sub(record.packed_bytes);
        let same = self.runs == runs && self.bytes == bytes;
        let why = format!(
            "metadata count {runs} live runs of {bytes} bytes; of what it holds, segments name {} of {}",
            self.runs, self.bytes
        );
        (!same).then(|| Broken::new(Promise::Counted, record.object, why))
    }
}

fn agree(run: &Run, named: &SegmentRecord) -> bool {
    let row = &named.row;
    run.first_seq == row.first_seq
        && run.end_seq == named.end_seq
        && run.first_timestamp == row.first_timestamp
        && run.last_timestamp == row.last_timestamp
        && run.frames_len == row.frames_len
        && run.index_len == row.index_len
        && run.metered_bytes == row.metered_bytes
}

fn disagreement(run: &Run, named: &SegmentRecord) -> String {
    let row = &named.row;
    format!(
        "its run at {} holds records {}..{} of stream {} in {} + {} bytes, with timestamps {}..={}, {} metered; metadata \
         say {}..{} in {} + {}, {}..={}, {}",
        run.offset,
        run.first_seq,
        run.end_seq,
        run.stream,
        run.frames_len,
        run.index_len,
        run.first_timestamp,
        run.last_timestamp,
        run.metered_bytes,
        row.first_seq,
        named.end_seq,
        row.frames_len,
        row.index_len,
        row.first_timestamp,
        row.last_timestamp,
        row.metered_bytes,
    )
}
