//! Gives Express zones the objects under `segments/` that they lack, where a cell has no standard store.
//!
//! - What this node itself has stored without a zone is remembered and copied when the zone answers.
//! - When a zone answers again, is another one than before, or this node's share of the channels has changed, its listing is
//!   compared with those of the others; and from time to time without a reason.
//! - A copy that a reader found to be bad is looked for and replaced.
//!
//! What the others have and nobody needs, by the proof that a sweep goes by, is not copied. Everything else is read from
//! another zone and checked as a whole before.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, NodeId, ZoneGen};
use millrace_api::segment::{SEGMENT_PREFIX, SegmentObjectId, SegmentOrigin};
use millrace_wal::segment::ChainIndex;
use millrace_wal::{Payload, ReadRange, StoreError, ZoneStore, verify_object};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::express::ExpressZones;
use super::mirror::MirroredStore;
use super::{EXPRESS_ZONES, zone_numbers};
use crate::channels::Channels;
use crate::storage::cell::{Area, Cell};
use crate::storage::sweep::{SweepError, needed};
use crate::tasks::share::Share;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// Keys of a listing in one step.
const PAGE: usize = 1000;
/// So much is copied a second.
const BYTES_PER_SECOND: u64 = 64 << 20;
/// After this long a zone has not answered; enough for the largest object.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What this node repairs.
pub struct SegmentRepair {
    pub node: NodeId,
    pub cell: Cell,
    pub channels: Channels,
    pub zones: ExpressZones,
    pub mirror: Arc<MirroredStore>,
    /// Everything is looked for this often, even without a reason.
    pub full_interval: Duration,
}

/// What there was when a zone was looked through last, and had everything then.
#[derive(PartialEq, Eq)]
struct Looked {
    share: Share,
    zone_gen: ZoneGen,
}

/// What the copy of an object in one zone is.
#[derive(Debug)]
enum Copy {
    Whole(Bytes),
    Absent,
    /// Not what was written, for this reason.
    Bad(String),
}

impl SegmentRepair {
    /// Until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            let mut looked: [Option<Looked>; EXPRESS_ZONES] = Default::default();
            let mut full_at = Instant::now() + self.full_interval;
            loop {
                sleep(INTERVAL).await;
                if Instant::now() >= full_at {
                    looked = Default::default();
                    full_at = Instant::now() + self.full_interval;
                }
                if let Err(error) = self.doubtful().await {
                    tracing::info!(%error, "bad copies of segment objects are not replaced at the moment");
                }
                for (zone, looked) in looked.iter_mut().enumerate() {
                    if let Err(error) = self.look(zone, looked).await {
                        tracing::info!(zone = zone + 1, %error, "the zone does not get the segments that it lacks at the moment");
                    }
                }
            }
        })
        .await;
    }

    async fn look(&self, zone: usize, looked: &mut Option<Looked>) -> Result<(), SweepError> {
        if !self.zones.is_ok(zone) {
            // Nobody can say what it has. It lacks at least what was stored without it.
            *looked = None;
            let missed = self.mirror.missed(zone).len();
            self.zones.set_segment_backlog(zone, missed as u64);
            return Ok(());
        }
        self.missed(zone).await?;
        let share = Share::of_node(self.node, &self.cell.meta.state())
            .map_err(millrace_raft::error::MetaError::from)?;
        let (Some((zone_gen, store)), Some(share)) = (self.store(zone), share) else {
            return Ok(());
        };
        let now = Looked { share, zone_gen };
        if looked.as_ref() == Some(&now) {
            let missed = self.mirror.missed(zone).len();
            self.zones.set_segment_backlog(zone, missed as u64);
            return Ok(());
        }
        let (mut copied, mut left) = (0, 0);
        let owned = self.channels.owned();
        let in_scope = |channel: ChannelId| share.has_channel(channel) || owned.contains_key(&channel);
        let mut lacking = Lacking::new(self.cell.clone(), zone)?;
        while let Some(mut page) = lacking.next().await? {
            page.retain(|id| in_scope(id.channel));
            self.zones.set_segment_backlog(zone, left + page.len() as u64);
            for id in page {
                match self.copy(zone, &*store, id).await {
                    Ok(is_new) => copied += u64::from(is_new),
                    // The others get theirs nevertheless.
                    Err(SweepError::Store(StoreError::Corrupt(why))) => {
                        tracing::error!(object = %id, zone = zone + 1, why, "the zone lacks an object of which no zone has a good copy");
                        left += 1;
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        if copied > 0 {
            tracing::info!(
                zone = zone + 1,
                copied,
                "gave the zone segment objects that it lacked"
            );
        }
        self.zones.set_segment_backlog(zone, left);
        *looked = (lacking.is_complete && left == 0).then_some(now);
        Ok(())
    }

    /// The zone's store as it is now, and which life that is.
    fn store(&self, zone: usize) -> Option<(ZoneGen, Arc<dyn ZoneStore>)> {
        let wal = self.cell.wals.of_class(StorageClass::Express)?;
        wal.gens().into_iter().zip(wal.stores()).nth(zone)
    }

    /// Gives the zone what this node has stored without it.
    async fn missed(&self, zone: usize) -> Result<(), SweepError> {
        let missed = self.mirror.missed(zone);
        let (Some((_, store)), false) = (self.store(zone), missed.is_empty()) else {
            return Ok(());
        };
        let wanted = needed(&self.cell, area(zone), missed.clone()).await?;
        for key in missed {
            if wanted.contains(&key)
                && let Ok(id) = key.parse()
                && within(store.get(&key, ReadRange::Suffix(0))).await?.is_none()
            {
                self.copy(zone, &*store, id).await?;
            }
            self.mirror.forget_missed(zone, &key);
        }
        Ok(())
    }

    /// Whether the zone has it now and had not before; not, if nobody needs it any more.
    async fn copy(
        &self,
        zone: usize,
        store: &dyn ZoneStore,
        id: SegmentObjectId,
    ) -> Result<bool, SweepError> {
        let Some(bytes) = self.source(zone, id).await? else {
            return Ok(false);
        };
        let pause = Duration::from_secs(1).mul_f64(bytes.len() as f64 / BYTES_PER_SECOND as f64);
        put(store, id, bytes).await?;
        self.zones.repaired(zone, 1);
        sleep(pause).await;
        Ok(true)
    }

    /// The object as a zone other than this one has it; `None` if nobody needs it any more.
    async fn source(&self, zone: usize, id: SegmentObjectId) -> Result<Option<Bytes>, SweepError> {
        let mut failed = None;
        for other in (0..EXPRESS_ZONES).filter(|other| *other != zone) {
            let Some((_, store)) = self.store(other) else {
                continue;
            };
            match look_at(&*store, id).await {
                Ok(Copy::Whole(bytes)) => return Ok(Some(bytes)),
                Ok(Copy::Absent) => {}
                Ok(Copy::Bad(why)) => {
                    tracing::warn!(object = %id, zone = other + 1, why, "bad copy of a segment object");
                    failed = Some(StoreError::Corrupt(format!("{id}: {why}")));
                }
                Err(error) => failed = Some(error),
            }
        }
        if needed(&self.cell, area(zone), vec![id.to_string()])
            .await?
            .is_empty()
        {
            return Ok(None);
        }
        Err(failed
            .unwrap_or_else(|| StoreError::Retry(format!("{id} is in no other zone")))
            .into())
    }

    /// Looks at every copy of the objects that readers have found fault with, and replaces what is bad.
    async fn doubtful(&self) -> Result<(), SweepError> {
        for key in self.mirror.doubtful() {
            let Ok(id) = key.parse::<SegmentObjectId>() else {
                self.mirror.settled(&key);
                continue;
            };
            for zone in (0..EXPRESS_ZONES).filter(|zone| self.zones.is_ok(*zone)) {
                let Some((_, store)) = self.store(zone) else {
                    continue;
                };
                if let Copy::Bad(why) = look_at(&*store, id).await? {
                    let Some(bytes) = self.source(zone, id).await? else {
                        continue;
                    };
                    // Readers find it in the other zones meanwhile, and nobody takes its absence for an answer.
                    within(store.delete(&key)).await?;
                    put(&*store, id, bytes).await?;
                    self.zones.repaired(zone, 1);
                    tracing::warn!(object = %id, zone = zone + 1, why, "replaced a bad copy of a segment object");
                }
            }
            self.mirror.settled(&key);
        }
        Ok(())
    }
}

/// What is needed of a zone's area.
fn area(place: usize) -> Area {
    let zone = zone_numbers(StorageClass::Express).start + place as u32;
    Area::Segments { zone }
}

/// Objects that other zones have and one lacks, a step of their listings at a time.
pub struct Lacking {
    cell: Cell,
    place: usize,
    stores: Vec<Arc<dyn ZoneStore>>,
    after: Option<String>,
    /// Every other zone was listed, too.
    pub is_complete: bool,
}

impl Lacking {
    /// Of the zone at this place.
    pub fn new(cell: Cell, place: usize) -> Result<Self, StoreError> {
        let wal = cell.wals.of_class(StorageClass::Express);
        let wal = wal.ok_or_else(|| StoreError::Retry("the Express zones are not all registered".into()))?;
        Ok(Self {
            cell,
            place,
            stores: wal.stores(),
            after: None,
            is_complete: true,
        })
    }

    /// Of the next step; `None` behind the last.
    pub async fn next(&mut self) -> Result<Option<Vec<SegmentObjectId>>, SweepError> {
        let (mut there, mut end, mut failed) = (BTreeSet::new(), None::<String>, None);
        let mut answers = 0;
        for (_, store) in self.stores.iter().enumerate().filter(|(at, _)| *at != self.place) {
            match within(store.list(SEGMENT_PREFIX, self.after.as_deref(), PAGE)).await {
                Ok(keys) => {
                    answers += 1;
                    if let Some(last) = keys.last().filter(|_| keys.len() == PAGE) {
                        end = Some(end.map_or(last.clone(), |end| end.min(last.clone())));
                    }
                    there.extend(keys);
                }
                Err(error) => failed = Some(error),
            }
        }
        match failed {
            Some(error) if answers == 0 => return Err(error.into()),
            Some(_) => self.is_complete = false,
            None => {}
        }
        // Behind the end of the shortest page nobody has looked yet.
        there.retain(|key| end.as_ref().is_none_or(|end| key <= end));
        let Some(last) = there.last().cloned() else {
            return Ok(None);
        };
        let own = self.own(&last).await?;
        self.after = Some(last);
        let missing: Vec<String> = there.difference(&own).cloned().collect();
        let needed = match missing.is_empty() {
            true => Vec::new(),
            false => needed(&self.cell, area(self.place), missing).await?,
        };
        Ok(Some(needed.iter().filter_map(|key| key.parse().ok()).collect()))
    }

    /// What the zone itself lists behind the last step, up to this key.
    async fn own(&self, last: &String) -> Result<BTreeSet<String>, StoreError> {
        let store = &self.stores[self.place];
        let (mut own, mut after) = (BTreeSet::new(), self.after.clone());
        loop {
            let keys = within(store.list(SEGMENT_PREFIX, after.as_deref(), PAGE)).await?;
            let end = keys.last().cloned();
            own.extend(keys);
            match end {
                Some(end) if end < *last => after = Some(end),
                _ => return Ok(own),
            }
        }
    }
}

/// How many objects the zone with this number lacks, up to a step of them: while there are any, one more zone that is
/// lost may take records with it. None where segments are in the standard store. An error while any zone does not
/// answer: it may have what no other has.
pub async fn lacking(cell: &Cell, number: u32) -> Result<usize, SweepError> {
    if cell.wals.has_standard() {
        return Ok(0);
    }
    let place = zone_numbers(StorageClass::Express).position(|zone| zone == number);
    let place = place.ok_or_else(|| StoreError::Invalid(format!("there is no Express zone {number}")))?;
    let mut lacking = Lacking::new(cell.clone(), place)?;
    while let Some(step) = lacking.next().await? {
        if !step.is_empty() {
            return Ok(step.len());
        }
    }
    match lacking.is_complete {
        true => Ok(0),
        false => Err(StoreError::Retry("not every zone answers".into()).into()),
    }
}

/// The copy of an object in one zone.
async fn look_at(store: &dyn ZoneStore, id: SegmentObjectId) -> Result<Copy, StoreError> {
    let bytes = match within(store.get(&id.to_string(), ReadRange::Full)).await {
        Ok(None) => return Ok(Copy::Absent),
        Ok(Some(bytes)) => bytes,
        // Stores that check what they read.
        Err(StoreError::Corrupt(why)) => return Ok(Copy::Bad(why)),
        Err(error) => return Err(error),
    };
    let checked = tokio::task::spawn_blocking(move || match fault(&bytes, id) {
        None => Copy::Whole(bytes),
        Some(why) => Copy::Bad(why),
    });
    checked
        .await
        .map_err(|_| StoreError::Retry("the node is stopping".into()))
}

/// Why these are not the bytes of the object.
fn fault(bytes: &Bytes, id: SegmentObjectId) -> Option<String> {
    let found = match id.origin {
        SegmentOrigin::Index => ChainIndex::decode(bytes).map(|index| index.id),
        SegmentOrigin::Flush | SegmentOrigin::Merge => verify_object(bytes).map(|footer| footer.id),
    };
    match found {
        Ok(found) if found == id => None,
        Ok(found) => Some(format!("another object is under its key: {found}")),
        Err(error) => Some(error.to_string()),
    }
}

/// Puts an object where there is none.
async fn put(store: &dyn ZoneStore, id: SegmentObjectId, bytes: Bytes) -> Result<(), StoreError> {
    within(store.upload(&id.to_string(), &Payload::from(bytes))).await
}

async fn within<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let unanswered = |_| StoreError::Retry(format!("no answer within {ANSWER_TIMEOUT:?}"));
    timeout(ANSWER_TIMEOUT, asked).await.map_err(unanswered)?
}
