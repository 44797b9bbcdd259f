//! Gives Express zones the segment objects that they lack, where a cell has no standard store.
//!
//! - What this node itself has stored without a zone is remembered and copied when the zone answers.
//! - When a zone answers again, is another one than before, or this node's share of the channels has changed, every live
//!   object of the share is looked for in the zone's listing; and from time to time without a reason.
//! - A copy that a reader found to be bad is looked for and replaced.
//!
//! An object is read from another zone, checked as a whole and compared with what metadata say of it, before it is copied.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, NodeId, ZoneGen};
use millrace_api::segment::{SEGMENT_PREFIX, SegmentObjectId};
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_raft::query::SegmentObjectRecord;
use millrace_wal::{Payload, ReadRange, StoreError, ZoneStore, verify_object};
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::express::ExpressZones;
use super::mirror::MirroredStore;
use super::{EXPRESS_ZONES, zone_numbers};
use crate::channels::Channels;
use crate::tasks::share::Share;
use crate::wals::Wals;

/// Between two looks.
const INTERVAL: Duration = Duration::from_secs(5);
/// Rows of metadata, and keys of a listing, in one step.
const PAGE: usize = 1000;
/// So much is copied a second.
const BYTES_PER_SECOND: u64 = 64 << 20;
/// After this long a zone has not answered; enough for the largest object.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);

/// What this node repairs.
pub struct SegmentRepair {
    pub node: NodeId,
    pub meta: Meta,
    pub wals: Wals,
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

/// Why it is not known what a zone lacks, or why it cannot be given to it. Passes.
#[derive(Debug, thiserror::Error)]
pub enum SegmentError {
    #[error("metadata: {0}")]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<millrace_raft::error::StoreError> for SegmentError {
    fn from(error: millrace_raft::error::StoreError) -> Self {
        Self::Meta(error.into())
    }
}

/// What the copy of an object in one zone is.
#[derive(Debug)]
pub enum Copy {
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

    async fn look(&self, zone: usize, looked: &mut Option<Looked>) -> Result<(), SegmentError> {
        let missed = self.mirror.missed(zone);
        if !self.zones.is_ok(zone) {
            // Nobody can say what it has. It lacks at least what was stored without it.
            *looked = None;
            self.zones.set_segment_backlog(zone, missed.len() as u64);
            return Ok(());
        }
        for key in &missed {
            self.missed(zone, key).await?;
        }
        let (Some(store), Some(share)) = (self.store(zone), Share::of_node(self.node, &self.meta.state())?)
        else {
            return Ok(());
        };
        let (zone_gen, store) = store;
        let now = Looked { share, zone_gen };
        if looked.as_ref() == Some(&now) {
            self.zones
                .set_segment_backlog(zone, self.mirror.missed(zone).len() as u64);
            return Ok(());
        }
        let mut copied = 0;
        let owned = self.channels.owned();
        let in_scope = |channel: ChannelId| share.has_channel(channel) || owned.contains_key(&channel);
        let mut lacking = Lacking::new(&self.meta, store.clone());
        while let Some(page) = lacking.next().await? {
            let page: Vec<_> = page
                .into_iter()
                .filter(|it| in_scope(it.object.channel))
                .collect();
            self.zones.set_segment_backlog(zone, page.len() as u64);
            for object in page {
                copied += u64::from(self.copy(zone, &*store, &object).await?);
            }
        }
        if copied > 0 {
            tracing::info!(
                zone = zone + 1,
                copied,
                "gave the zone segment objects that it lacked"
            );
        }
        self.zones.set_segment_backlog(zone, 0);
        *looked = Some(now);
        Ok(())
    }

    /// The zone's store as it is now, and which life that is.
    fn store(&self, zone: usize) -> Option<(ZoneGen, Arc<dyn ZoneStore>)> {
        let wal = self.wals.of_class(StorageClass::Express)?;
        wal.gens().into_iter().zip(wal.stores()).nth(zone)
    }

    /// An object that this node has stored without the zone.
    async fn missed(&self, zone: usize, key: &str) -> Result<(), SegmentError> {
        let Ok(id) = key.parse::<SegmentObjectId>() else {
            self.mirror.forget_missed(zone, key);
            return Ok(());
        };
        let Some((_, store)) = self.store(zone) else {
            return Ok(());
        };
        match self.meta.state().segment_object(id)? {
            Some(object) if object.dead_at_ms.is_none() => {
                if let Copy::Absent = look_at(&*store, &object, ReadRange::Suffix(0)).await? {
                    self.copy(zone, &*store, &object).await?;
                }
            }
            Some(_) => {}
            // Until its flush or merge is over it may yet be named.
            None if self.may_be_named(id)? => return Ok(()),
            None => {}
        }
        self.mirror.forget_missed(zone, key);
        Ok(())
    }

    fn may_be_named(&self, id: SegmentObjectId) -> Result<bool, SegmentError> {
        let channel = self.meta.state().channel(id.channel)?;
        Ok(channel.is_some_and(|channel| channel.epoch <= id.epoch))
    }

    /// Whether the zone has it now and had not before; not, if no other zone has it either.
    async fn copy(
        &self,
        zone: usize,
        store: &dyn ZoneStore,
        object: &SegmentObjectRecord,
    ) -> Result<bool, SegmentError> {
        let Some(bytes) = self.source(zone, object).await? else {
            return Ok(false);
        };
        let pause = Duration::from_secs(1).mul_f64(bytes.len() as f64 / BYTES_PER_SECOND as f64);
        put(store, object.object, bytes).await?;
        self.zones.repaired(zone, 1);
        sleep(pause).await;
        Ok(true)
    }

    /// The object as a zone other than this one has it; `None` if it is not alive any more.
    async fn source(&self, zone: usize, object: &SegmentObjectRecord) -> Result<Option<Bytes>, SegmentError> {
        let mut failed = None;
        for other in (0..EXPRESS_ZONES).filter(|other| *other != zone) {
            let Some((_, store)) = self.store(other) else {
                continue;
            };
            match look_at(&*store, object, ReadRange::Full).await {
                Ok(Copy::Whole(bytes)) => return Ok(Some(bytes)),
                Ok(Copy::Absent) => {}
                Ok(Copy::Bad(why)) => {
                    tracing::warn!(object = %object.object, zone = other + 1, why, "bad copy of a segment object");
                    failed = Some(StoreError::Corrupt(format!("{}: {why}", object.object)));
                }
                Err(error) => failed = Some(error),
            }
        }
        let still = self.meta.state().segment_object(object.object)?;
        match still.is_some_and(|it| it.dead_at_ms.is_none()) {
            false => Ok(None),
            true => Err(failed
                .unwrap_or_else(|| StoreError::Corrupt(format!("{} is in no other zone", object.object)))
                .into()),
        }
    }

    /// Looks at every copy of the objects that readers have found fault with, and replaces what is bad.
    async fn doubtful(&self) -> Result<(), SegmentError> {
        for key in self.mirror.doubtful() {
            let object = match key.parse::<SegmentObjectId>() {
                Ok(id) => self.meta.state().segment_object(id)?,
                Err(_) => None,
            };
            if let Some(object) = object {
                for zone in (0..EXPRESS_ZONES).filter(|zone| self.zones.is_ok(*zone)) {
                    let Some((_, store)) = self.store(zone) else {
                        continue;
                    };
                    if let Copy::Bad(why) = look_at(&*store, &object, ReadRange::Full).await? {
                        let Some(bytes) = self.source(zone, &object).await? else {
                            continue;
                        };
                        replace(&*store, object.object, bytes).await?;
                        self.zones.repaired(zone, 1);
                        tracing::warn!(object = %object.object, zone = zone + 1, why, "replaced a bad copy of a segment object");
                    }
                }
            }
            self.mirror.settled(&key);
        }
        Ok(())
    }
}

/// Live objects that a zone does not list, a page of metadata at a time.
pub struct Lacking<'a> {
    meta: &'a Meta,
    store: Arc<dyn ZoneStore>,
    after: Option<SegmentObjectId>,
    begun: bool,
}

impl<'a> Lacking<'a> {
    pub fn new(meta: &'a Meta, store: Arc<dyn ZoneStore>) -> Self {
        Self {
            meta,
            store,
            after: None,
            begun: false,
        }
    }

    /// Of the next page; `None` behind the last. All that was committed before the first call is in some page.
    pub async fn next(&mut self) -> Result<Option<Vec<SegmentObjectRecord>>, SegmentError> {
        if !std::mem::replace(&mut self.begun, true) {
            self.meta.linearize().await?;
        }
        let page = self.meta.state().segment_objects(None, self.after, PAGE)?;
        let Some(last) = page.last().map(|last| last.object) else {
            return Ok(None);
        };
        let listed = self.listed(last).await?;
        self.after = Some(last);
        let is_lacking = |it: &SegmentObjectRecord| it.dead_at_ms.is_none() && !listed.contains(&it.object);
        Ok(Some(page.into_iter().filter(is_lacking).collect()))
    }

    /// What the zone lists behind the last page, up to this object.
    async fn listed(&self, last: SegmentObjectId) -> Result<BTreeSet<SegmentObjectId>, StoreError> {
        let (last, mut listed) = (last.to_string(), BTreeSet::new());
        let mut after = self.after.map(|after| after.to_string());
        loop {
            let keys = within(self.store.list(SEGMENT_PREFIX, after.as_deref(), PAGE)).await?;
            listed.extend(keys.iter().filter_map(|key| key.parse::<SegmentObjectId>().ok()));
            match keys.last() {
                Some(key) if *key < last => after = Some(key.clone()),
                _ => return Ok(listed),
            }
        }
    }
}

/// How many live objects the zone with this number lacks, up to a page of them: while there are any, one more zone that
/// is lost may take records with it.
pub async fn lacking(meta: &Meta, wals: &Wals, number: u32) -> Result<usize, SegmentError> {
    let zones = zone_numbers(StorageClass::Express);
    let place = zones.clone().position(|zone| zone == number);
    let wal = wals.of_class(StorageClass::Express);
    let store = place
        .zip(wal)
        .and_then(|(place, wal)| wal.stores().into_iter().nth(place));
    let store = store.ok_or_else(|| StoreError::Invalid(format!("there is no Express zone {number}")))?;
    let mut lacking = Lacking::new(meta, store);
    while let Some(page) = lacking.next().await? {
        if !page.is_empty() {
            return Ok(page.len());
        }
    }
    Ok(0)
}

/// The copy of an object in one zone. With an empty range only whether there is one.
pub async fn look_at(
    store: &dyn ZoneStore,
    object: &SegmentObjectRecord,
    range: ReadRange,
) -> Result<Copy, StoreError> {
    let is_whole = range == ReadRange::Full;
    let found = within(store.get(&object.object.to_string(), range)).await;
    Ok(match found {
        Ok(None) => Copy::Absent,
        Ok(Some(bytes)) if is_whole => match fault(&bytes, object).await? {
            Some(why) => Copy::Bad(why),
            None => Copy::Whole(bytes),
        },
        Ok(Some(bytes)) => Copy::Whole(bytes),
        // Stores that check what they read.
        Err(StoreError::Corrupt(why)) => Copy::Bad(why),
        Err(error) => return Err(error),
    })
}

/// Why these are not the bytes of the object.
async fn fault(bytes: &Bytes, object: &SegmentObjectRecord) -> Result<Option<String>, StoreError> {
    if bytes.len() as u64 != object.len {
        let why = format!("it has {} bytes, not {}", bytes.len(), object.len);
        return Ok(Some(why));
    }
    let (bytes, id) = (bytes.clone(), object.object);
    let verified = tokio::task::spawn_blocking(move || verify_object(&bytes)).await;
    let verified = verified.map_err(|_| StoreError::Retry("the node is stopping".into()))?;
    Ok(match verified {
        Ok(footer) if footer.id == id => None,
        Ok(footer) => Some(format!("another object is under its key: {}", footer.id)),
        Err(error) => Some(error.to_string()),
    })
}

/// Puts an object where there is none.
pub async fn put(store: &dyn ZoneStore, object: SegmentObjectId, bytes: Bytes) -> Result<(), StoreError> {
    within(store.upload(&object.to_string(), &Payload::from(bytes))).await
}

/// Puts an object in the place of a bad copy. Readers find it in the other zones meanwhile, and nobody takes its absence
/// for an answer.
pub async fn replace(store: &dyn ZoneStore, object: SegmentObjectId, bytes: Bytes) -> Result<(), StoreError> {
    within(store.delete(&object.to_string())).await?;
    put(store, object, bytes).await
}

async fn within<T>(asked: impl Future<Output = Result<T, StoreError>>) -> Result<T, StoreError> {
    let unanswered = |_| StoreError::Retry(format!("no answer within {ANSWER_TIMEOUT:?}"));
    timeout(ANSWER_TIMEOUT, asked).await.map_err(unanswered)?
}
