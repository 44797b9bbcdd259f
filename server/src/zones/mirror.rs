//! Segment objects on the Express zones, of a cell that has no standard store.
//!
//! - An object counts as stored when a quorum of the zones has it; what the others lack, [`segments`](super::segments)
//!   gives them.
//! - It is absent when every zone says so: a zone that was replaced knows nothing of what its former life had, so one
//!   that does not answer may have the only copy.
//! - A deletion counts when a quorum has made it; what is left in a zone that did not answer is an orphan, and a sweep
//!   finds it.
//!
//! Left out: conditions. Each key is written by one owner, always with the same bytes.

use std::collections::VecDeque;
use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use futures::future::join_all;
use futures::stream::FuturesUnordered;
use millrace_api::config::StorageClass;
use millrace_wal::{CreateOutcome, Payload, ReadRange, StoreError, Wal, ZoneStore};
use tokio::sync::Semaphore;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::EXPRESS_ZONES;
use crate::wals::Wals;

/// Bytes at which an object in the zones is closed. Smaller than elsewhere: what is on its way to three zones at a time
/// is in memory, and another node's disk takes no more than 64 MiB at once.
pub const OBJECT_BYTES: u64 = 16 << 20;
/// Objects on their way to one zone at a time.
const UPLOADS_PER_ZONE: usize = 2;
/// How long an upload that has its quorum waits for the zones that are left.
const LAGGARD_PATIENCE: Duration = Duration::from_secs(2);
/// A zone that failed or was given up on is passed over for so long, where there are enough others.
const PASSED_OVER: Duration = Duration::from_secs(10);
/// After this long a zone has not answered; and a second more for every 4 MiB.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a read waits for one zone before it asks the next one, too; and a second more for every 64 MiB.
const HEDGE_AFTER: Duration = Duration::from_millis(50);
/// Objects that a zone lacks which are remembered.
const MISSED_MAX: usize = 4096;
/// Objects of which a copy is doubted that are remembered.
const DOUBTED_MAX: usize = 256;

/// One per node.
pub struct MirroredStore {
    wals: Wals,
    zones: [Zone; EXPRESS_ZONES],
    doubted: Mutex<VecDeque<Doubt>>,
}

/// What is known of a zone, by its place.
struct Zone {
    uploads: Semaphore,
    failed_at: Mutex<Option<Instant>>,
    /// Objects that were stored without it, the newest last.
    missed: Mutex<VecDeque<String>>,
}

/// A zone gave bytes that are not those of the object, and nobody knows which.
struct Doubt {
    key: String,
    times: usize,
}

/// The zones as they are now.
struct Zones {
    stores: Vec<Arc<dyn ZoneStore>>,
    quorum: usize,
    near: usize,
}

impl MirroredStore {
    /// Over the zones that the Express WAL is written to, whichever lives they have at the moment.
    pub fn new(wals: Wals) -> Arc<Self> {
        let zone = || Zone {
            uploads: Semaphore::new(UPLOADS_PER_ZONE),
            failed_at: Mutex::default(),
            missed: Mutex::default(),
        };
        Arc::new(Self {
            wals,
            zones: std::array::from_fn(|_| zone()),
            doubted: Mutex::default(),
        })
    }

    /// The last objects that this node has stored without the zone at this place.
    pub fn missed(&self, zone: usize) -> Vec<String> {
        self.zones[zone].missed().iter().cloned().collect()
    }

    /// The zone has the object now, or need not have it.
    pub fn forget_missed(&self, zone: usize, key: &str) {
        self.zones[zone].missed().retain(|missed| missed != key);
    }

    /// Objects of which some copy is not what was written, as far as readers have found them, the oldest finding first.
    pub fn doubtful(&self) -> Vec<String> {
        self.doubted().iter().map(|doubt| doubt.key.clone()).collect()
    }

    /// Every copy of the object was looked at, and what was bad is not there any more.
    pub fn settled(&self, key: &str) {
        self.doubted().retain(|doubt| doubt.key != key);
    }

    fn now(&self) -> Result<Zones, StoreError> {
        let wal = self.wals.of_class(StorageClass::Express);
        let wal: Wal = wal.ok_or_else(|| {
            StoreError::Retry("the Express zones, which hold the segments, are not all registered yet".into())
        })?;
        Ok(Zones {
            stores: wal.stores(),
            quorum: wal.quorum(),
            near: wal.options().near.unwrap_or(0),
        })
    }

    fn doubted(&self) -> MutexGuard<'_, VecDeque<Doubt>> {
        self.doubted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Places in the order in which a read asks them: the near one first, unless a copy is doubted, and those that
    /// fail last.
    fn order(&self, key: &str, near: usize) -> Vec<usize> {
        let doubts = self
            .doubted()
            .iter()
            .find(|doubt| doubt.key == key)
            .map(|it| it.times);
        let first = near + doubts.unwrap_or(0);
        let mut order: Vec<_> = (first..first + EXPRESS_ZONES)
            .map(|at| at % EXPRESS_ZONES)
            .collect();
        order.sort_by_key(|at| self.zones[*at].is_failing());
        order
    }

    /// Asks one zone after the other, and the next one early where one is slow, until one has the object.
    async fn first<T, F>(
        &self,
        key: &str,
        len: u64,
        ask: impl Fn(Arc<dyn ZoneStore>) -> F,
    ) -> Result<Option<T>, StoreError>
    where
        F: Future<Output = Result<Option<T>, StoreError>>,
    {
        let zones = self.now()?;
        let mut order = self.order(key, zones.near).into_iter();
        let limit = ANSWER_TIMEOUT + transfer(len, 4 << 20);
        let hedge_after = HEDGE_AFTER + transfer(len, 64 << 20);
        let one = |at: usize| {
            let asked = ask(zones.stores[at].clone());
            async move { (at, within(limit, asked).await) }
        };
        let mut running = FuturesUnordered::new();
        let mut failed = None;
        loop {
            if running.is_empty() {
                match order.next() {
                    Some(at) => running.push(one(at)),
                    None => break,
                }
            }
            tokio::select! {
                biased;
                Some((at, answer)) = running.next() => match answer {
                    Ok(Some(found)) => {
                        self.zones[at].answered();
                        return Ok(Some(found));
                    }
                    Ok(None) => self.zones[at].answered(),
                    Err(error) => {
                        self.zones[at].failed();
                        failed = Some(worse(failed, error));
                    }
                },
                () = sleep(hedge_after), if order.len() > 0 => running.extend(order.next().map(&one)),
            }
        }
        failed.map_or(Ok(None), Err)
    }

    async fn upload_to(
        &self,
        at: usize,
        store: &dyn ZoneStore,
        key: &str,
        payload: &Payload,
    ) -> Result<(), StoreError> {
        let _turn = self.zones[at]
            .uploads
            .acquire()
            .await
            .expect("it is never closed");
        let limit = ANSWER_TIMEOUT + transfer(payload.len(), 4 << 20);
        within(limit, store.upload(key, payload)).await
    }
}

impl Zone {
    fn is_failing(&self) -> bool {
        let failed_at = *self.failed_at();
        failed_at.is_some_and(|at| at.elapsed() < PASSED_OVER)
    }

    fn failed(&self) {
        *self.failed_at() = Some(Instant::now());
    }

    fn answered(&self) {
        *self.failed_at() = None;
    }

    fn miss(&self, key: &str) {
        let mut missed = self.missed();
        if missed.len() == MISSED_MAX {
            // A zone that lacks so many is looked through when it answers again.
            missed.pop_front();
        }
        missed.push_back(key.to_owned());
    }

    fn missed(&self) -> MutexGuard<'_, VecDeque<String>> {
        self.missed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn failed_at(&self) -> MutexGuard<'_, Option<Instant>> {
        self.failed_at.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for MirroredStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the Express zones")
    }
}

#[async_trait]
impl ZoneStore for MirroredStore {
    /// Refused: see [`upload`](Self::upload).
    async fn create(&self, key: &str, _: &Payload) -> Result<CreateOutcome, StoreError> {
        Err(StoreError::Invalid(format!(
            "{key}: nothing is created in several zones at once"
        )))
    }

    /// `Ok`: a quorum of the zones has it. Waits a little for the others, and passes over one that failed lately.
    async fn upload(&self, key: &str, payload: &Payload) -> Result<(), StoreError> {
        let zones = self.now()?;
        let (spare, well): (Vec<_>, Vec<_>) =
            (0..zones.stores.len()).partition(|at| self.zones[*at].is_failing());
        let mut spare = spare.into_iter();
        let one = |at: usize| {
            let store = &zones.stores[at];
            async move { (at, self.upload_to(at, &**store, key, payload).await) }
        };
        let mut running: FuturesUnordered<_> = well.into_iter().map(one).collect();
        let (mut lacking, mut failed) = ((0..zones.stores.len()).collect::<Vec<_>>(), None);
        let mut patience_ends = None;
        loop {
            let is_stored = zones.stores.len() - lacking.len() >= zones.quorum;
            if is_stored && patience_ends.is_none() {
                patience_ends = Some(Instant::now() + LAGGARD_PATIENCE);
            }
            if running.is_empty() {
                let next = if is_stored { None } else { spare.next() };
                match next {
                    Some(at) => running.push(one(at)),
                    None => break,
                }
            }
            tokio::select! {
                biased;
                Some((at, uploaded)) = running.next() => match uploaded {
                    Ok(()) => {
                        self.zones[at].answered();
                        lacking.retain(|zone| *zone != at);
                    }
                    Err(error) => {
                        self.zones[at].failed();
                        failed = Some(worse(failed, error));
                    }
                },
                () = sleep_until(patience_ends.unwrap_or_else(Instant::now)), if patience_ends.is_some() => break,
            }
        }
        if zones.stores.len() - lacking.len() < zones.quorum {
            return Err(failed.unwrap_or_else(|| StoreError::Retry("too few zones answer".into())));
        }
        for at in lacking {
            // One that was not asked has not failed again: else nobody would ever ask it while there are uploads.
            if !spare.as_slice().contains(&at) {
                self.zones[at].failed();
            }
            self.zones[at].miss(key);
        }
        Ok(())
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        let len = match &range {
            ReadRange::Full => OBJECT_BYTES,
            ReadRange::Range(range) => range.end.saturating_sub(range.start).min(4 * OBJECT_BYTES),
            ReadRange::Suffix(len) => *len,
        };
        let ask = |store: Arc<dyn ZoneStore>| {
            let range = range.clone();
            async move { store.get(key, range).await }
        };
        self.first(key, len, ask).await
    }

    async fn get_pieces(
        &self,
        key: &str,
        range: Range<u64>,
        piece_len: usize,
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        let len = range.end.saturating_sub(range.start);
        let ask = |store: Arc<dyn ZoneStore>| {
            let range = range.clone();
            async move { store.get_pieces(key, range, piece_len).await }
        };
        self.first(key, len, ask).await
    }

    /// Of all zones that answer, which are so many that one of them has every object that is stored.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        let zones = self.now()?;
        let lists = zones
            .stores
            .iter()
            .map(|store| within(ANSWER_TIMEOUT, store.list(prefix, after, limit)));
        let (mut keys, mut answers, mut failed) = (Vec::new(), 0, None);
        for listed in join_all(lists).await {
            match listed {
                Ok(listed) => {
                    answers += 1;
                    keys.extend(listed);
                }
                Err(error) => failed = Some(worse(failed, error)),
            }
        }
        match failed {
            Some(error) if answers + zones.quorum <= zones.stores.len() => Err(error),
            _ => {
                keys.sort_unstable();
                keys.dedup();
                keys.truncate(limit);
                Ok(keys)
            }
        }
    }

    /// `Ok`: a quorum of the zones has it no more.
    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let zones = self.now()?;
        let all = 0..zones.stores.len();
        let mut asked: Vec<_> = all.clone().filter(|at| !self.zones[*at].is_failing()).collect();
        if asked.len() < zones.quorum {
            asked = all.collect();
        }
        let deletes = asked
            .iter()
            .map(|at| within(ANSWER_TIMEOUT, zones.stores[*at].delete(key)));
        let (mut gone, mut failed) = (0, None);
        for (at, deleted) in asked.iter().zip(join_all(deletes).await) {
            match deleted {
                Ok(()) => gone += 1,
                Err(error) => {
                    self.zones[*at].failed();
                    failed = Some(worse(failed, error));
                }
            }
        }
        match failed {
            Some(error) if gone < zones.quorum => Err(error),
            _ => Ok(()),
        }
    }

    fn doubt(&self, key: &str) {
        let mut doubted = self.doubted();
        if let Some(doubt) = doubted.iter_mut().find(|doubt| doubt.key == key) {
            doubt.times += 1;
            return;
        }
        if doubted.len() == DOUBTED_MAX {
            doubted.pop_front();
        }
        doubted.push_back(Doubt {
            key: key.to_owned(),
            times: 1,
        });
    }
}

/// Time for `bytes` at so many a second.
fn transfer(bytes: u64, per_second: u64) -> Duration {
    Duration::from_secs_f64(bytes as f64 / per_second as f64)
}

async fn within<T>(
    limit: Duration,
    asked: impl Future<Output = Result<T, StoreError>>,
) -> Result<T, StoreError> {
    let unanswered = |_| StoreError::Retry(format!("no answer within {limit:?}"));
    timeout(limit, asked).await.map_err(unanswered)?
}

/// What to tell of two failures: that asking again may help, if one of them says so.
fn worse(before: Option<StoreError>, error: StoreError) -> StoreError {
    match before {
        Some(before) if before.retryable() => before,
        _ => error,
    }
}

#[cfg(test)]
mod tests;
