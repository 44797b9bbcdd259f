//! Segment objects: whole, and what metadata say that they are.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, Stream, TryStreamExt};
use millrace_api::segment::SegmentObjectId;
use millrace_raft::error::StoreError as StateError;
use millrace_raft::group::Meta;
use millrace_raft::query::{SegmentObjectRecord, SegmentRecord, View};
use millrace_wal::segment::{Run, SegmentFooter};
use millrace_wal::{ReadRange, StoreError, verify_object};
use tokio::sync::Semaphore;

use super::heal::{Healed, Wanting, heal};
use super::{Broken, FAULTS_MAX, Phase, Progress, Promise, Report, Verify, VerifyError, blocking};
use crate::storage::cell::{Cell, Place, insist};

/// Rows of metadata read in one step.
const PAGE: usize = 1000;
/// Objects read at a time, and their bytes in memory: one that is larger is read alone.
const READS: usize = 8;
const READ_MIB_MAX: u32 = 256;

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

fn is_live(object: &SegmentObjectRecord) -> bool {
    object.dead_at_ms.is_none()
}

async fn look_at(
    cell: Cell,
    record: SegmentObjectRecord,
    repair: bool,
    room: Arc<Semaphore>,
) -> Result<Seen, VerifyError> {
    let id = record.object;
    let mib = u32::try_from(record.len >> 20)
        .unwrap_or(u32::MAX)
        .saturating_add(1);
    let (areas, quorum) = cell.segment_copies();
    // One copy that is good is kept while another is looked at.
    let held = mib.saturating_mul(if areas.len() > 1 { 2 } else { 1 });
    let _room = room
        .acquire_many(held.min(READ_MIB_MAX))
        .await
        .expect("it is never closed");
    let (mut seen, mut copies, mut silent) = (Seen::default(), 0, 0);
    let (mut good, mut wanting) = (None, Vec::new());
    let several = areas.len() > 1;
    for area in areas {
        let place = Place {
            area,
            key: id.to_string(),
        };
        match copy(&cell, &place, &record).await? {
            Copy::Whole { bytes, footer } => {
                copies += 1;
                seen.bytes += record.len;
                good.get_or_insert((bytes, footer));
            }
            Copy::Absent => wanting.push(Wanting { place, bad: false }),
            Copy::Bad(why) => {
                seen.broken.push(Broken::new(Promise::Whole, &place, why));
                wanting.push(Wanting { place, bad: true });
            }
            Copy::Silent(error) => {
                silent += 1;
                seen.broken.push(Broken::new(Promise::Copied, &place, error));
            }
        }
    }
    let lacking = wanting.iter().filter(|wanting| !wanting.bad);
    if copies >= quorum {
        seen.broken.extend(lacking.map(|wanting| {
            let why = "other zones have it: it is copied from there by itself";
            Broken::new(Promise::Copied, &wanting.place, why)
        }));
    } else if lacking.count() > 0 {
        let why = match several {
            false => "it is not in the store".to_owned(),
            true => format!("it is in {copies} zones, not in {quorum}"),
        };
        seen.broken.push(Broken::new(Promise::Present, id, why));
    }
    let Some((bytes, footer)) = good else {
        if !seen.broken.is_empty() && !still_live(&cell, id).await? {
            seen.broken.clear();
        }
        return Ok(seen);
    };
    if !wanting.is_empty() && !still_live(&cell, id).await? {
        return Ok(Seen::default());
    }
    if repair {
        let promises = seen.broken.len() - silent;
        seen.healed = heal(&cell, wanting, promises, &bytes).await;
    }
    drop(bytes);
    let state = cell.meta.state();
    let compared = blocking(move || state.at_once(|view| compare(view, id, &footer))).await??;
    seen.live_runs = compared.0;
    seen.broken.extend(compared.1);
    Ok(seen)
}

/// What one zone has of an object.
enum Copy {
    Whole {
        bytes: Bytes,
        footer: SegmentFooter,
    },
    Absent,
    Bad(String),
    /// The zone does not answer, and the cell can do without.
    Silent(StoreError),
}

async fn copy(cell: &Cell, place: &Place, record: &SegmentObjectRecord) -> Result<Copy, VerifyError> {
    let store = cell.store(place.area);
    // One byte more, to see that there is none.
    let range = ReadRange::Range(0..record.len.saturating_add(1));
    let found = match store {
        Ok(store) => insist(|| store.get(&place.key, range.clone())).await,
        Err(error) => Err(error),
    };
    let bytes = match found {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Copy::Absent),
        Err(StoreError::Corrupt(why)) if place.area.is_one_of_several() => return Ok(Copy::Bad(why)),
        Err(error) if place.area.is_one_of_several() => return Ok(Copy::Silent(error)),
        Err(error) => return Err(error.into()),
    };
    let (id, expected) = (record.object, record.len);
    blocking(move || {
        let len = bytes.len() as u64;
        if len != expected {
            return Copy::Bad(format!(
                "metadata say that it has {expected} bytes, and it has {}",
                at_least(len, expected)
            ));
        }
        match verify_object(&bytes) {
            Ok(footer) if footer.id == id => Copy::Whole { bytes, footer },
            Ok(footer) => Copy::Bad(format!("another object is under its key: {}", footer.id)),
            Err(error) => Copy::Bad(error.to_string()),
        }
    })
    .await
}

fn at_least(len: u64, expected: u64) -> String {
    match len > expected {
        true => "more".to_owned(),
        false => len.to_string(),
    }
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
        let named = match view.segments(run.stream, run.first_seq, 1) {
            Ok(segments) => segments.into_iter().next(),
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

/// What segments name of an object.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Live {
    pub runs: u64,
    pub bytes: u64,
}

impl Live {
    pub fn miscounted(&self, record: &SegmentObjectRecord) -> Option<Broken> {
        let same = self.runs == record.live_runs && self.bytes == record.live_bytes;
        let why = format!(
            "metadata count {} live runs of {} bytes; of what it holds, segments name {} of {}",
            record.live_runs, record.live_bytes, self.runs, self.bytes
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
