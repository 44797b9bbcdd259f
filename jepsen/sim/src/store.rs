//! Object stores, each one for the whole cluster and as far away from every node as the network makes it.
//!
//! It is a party of its own: what a node asked of it happens whether or not the node is still there to hear of it. It
//! is strongly consistent and never loses anything, as object stores promise; but requests may fail before or after
//! they took effect, hang, or take their time.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use millrace_server::env::Stores;
use millrace_wal::{CreateOutcome, Payload, ReadRange, StoreError, ZoneStore};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::oneshot;
use twox_hash::XxHash3_64;

use crate::trace::{self, Trace};
use crate::zones::Zones;

const ASKED: u8 = 4;
const DONE: u8 = 5;

/// One way, in microseconds: at least, and most of the time at most.
const WAY_US: std::ops::Range<u64> = 500..4_000;
/// One request in so many takes this many times as long.
const SLOW_ONE_IN: u32 = 200;
const SLOW_TIMES: u64 = 20;
/// A request that fails has done so after this.
const FAILS_WITHIN_MS: u64 = 2_000;
/// A client that hears nothing gives up after this.
const PATIENCE: Duration = Duration::from_secs(4);

type Objects = BTreeMap<String, Bytes>;
type Act = Box<dyn FnOnce(&mut Objects) + Send>;

/// What a store may say.
trait Answer: Send + 'static {
    /// The trace has it in place of the answer, which may be long.
    fn hash(&self) -> u64;
}

impl Answer for () {
    fn hash(&self) -> u64 {
        0
    }
}

impl Answer for CreateOutcome {
    fn hash(&self) -> u64 {
        *self as u64
    }
}

impl Answer for Option<Bytes> {
    fn hash(&self) -> u64 {
        self.as_ref().map_or(0, |bytes| XxHash3_64::oneshot(bytes))
    }
}

impl Answer for Vec<String> {
    fn hash(&self) -> u64 {
        let add = |hash, key: &String| XxHash3_64::oneshot_with_seed(hash, key.as_bytes());
        self.iter().fold(self.len() as u64, add)
    }
}

/// Something on its way between a node and the store.
struct Coming {
    node: u64,
    act: Act,
}

/// What is wrong with the store.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Trouble {
    /// Chance of a request to fail without effect.
    pub fails: f64,
    /// Chance of a request to take effect and have its answer lost.
    pub loses_answer: f64,
    /// Everything takes so many times as long; 0 is as usual.
    pub slow: u64,
    /// A create replaces what stands there.
    pub lies: bool,
}

/// The store of a run. Clones share it.
#[derive(Clone)]
pub struct Store(Arc<Mutex<Inner>>);

struct Inner {
    objects: Objects,
    /// What is on its way to the store or back, by the time when it is there.
    coming: BTreeMap<(Duration, u64), Coming>,
    /// Nodes with which nothing is exchanged for now, and what waits for that to end.
    held: Vec<u64>,
    waiting: Vec<Coming>,
    next: u64,
    rng: SmallRng,
    trouble: Trouble,
    /// Nodes that do not reach it.
    cut_off: Vec<u64>,
    /// Nobody ever reaches it again.
    is_lost: bool,
    trace: Trace,
}

/// All stores as one node reaches them.
pub struct StoresOf {
    pub standard: StoreOf,
    /// Of Express.
    pub zones: Zones,
}

/// The store as one node reaches it.
#[derive(Clone)]
pub struct StoreOf {
    store: Store,
    node: u64,
}

impl Store {
    /// Empty.
    pub fn new(seed: u64, trace: Trace) -> Self {
        Self(Arc::new(Mutex::new(Inner {
            objects: Objects::new(),
            coming: BTreeMap::new(),
            held: Vec::new(),
            waiting: Vec::new(),
            next: 0,
            rng: SmallRng::seed_from_u64(seed),
            trouble: Trouble::default(),
            cut_off: Vec::new(),
            is_lost: false,
            trace,
        })))
    }

    /// As the node reaches it.
    pub fn of(&self, node: u64) -> StoreOf {
        StoreOf {
            store: self.clone(),
            node,
        }
    }

    /// From now on it is so.
    pub fn set_trouble(&self, trouble: Trouble) {
        self.lock().trouble = trouble;
    }

    /// From now on the node does not reach it, or does again.
    pub fn cut_off(&self, node: u64, cut: bool) {
        let mut inner = self.lock();
        inner.cut_off.retain(|other| *other != node);
        if cut {
            inner.cut_off.push(node);
        }
    }

    /// It is gone for good. What is under way may still take effect, which nobody will see.
    pub fn lose(&self) {
        self.lock().is_lost = true;
    }

    /// From now on nothing gets through between the node and the store, in either direction; it is late, and not lost.
    pub fn hold(&self, node: u64) {
        self.lock().held.push(node);
    }

    /// What was held gets through from now on, in its order.
    pub fn release(&self, node: u64, now: Duration) {
        let mut inner = self.lock();
        inner.held.retain(|other| *other != node);
        let (over, still) = std::mem::take(&mut inner.waiting)
            .into_iter()
            .partition(|it: &Coming| it.node == node);
        inner.waiting = still;
        let over: Vec<Coming> = over;
        for it in over {
            inner.at(now, it);
        }
    }

    /// The first bytes of an object, at most so many.
    pub fn peek(&self, key: &str, len: usize) -> Option<Bytes> {
        let object = self.lock().objects.get(key).cloned()?;
        Some(object.slice(..object.len().min(len)))
    }

    /// Puts an object there at once.
    #[cfg(test)]
    pub fn put(&self, key: String, bytes: Bytes) {
        self.lock().objects.insert(key, bytes);
    }

    /// How many objects it holds.
    pub fn objects(&self) -> usize {
        self.lock().objects.len()
    }

    /// Does what has come to it by now.
    pub fn step(&self, now: Duration) {
        loop {
            let mut inner = self.lock();
            let Some(first) = inner.coming.first_entry() else {
                return;
            };
            if first.key().0 > now {
                return;
            }
            let coming = first.remove();
            if inner.held.contains(&coming.node) {
                inner.waiting.push(coming);
                continue;
            }
            let Inner { objects, .. } = &mut *inner;
            (coming.act)(objects);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Inner {
    fn way(&mut self) -> Duration {
        let mut us = self.rng.random_range(WAY_US);
        if self.rng.random_ratio(1, SLOW_ONE_IN) {
            us *= SLOW_TIMES;
        }
        Duration::from_micros(us * self.trouble.slow.max(1))
    }

    fn at(&mut self, time: Duration, coming: Coming) {
        self.next += 1;
        self.coming.insert((time, self.next), coming);
    }
}

impl StoreOf {
    /// Sends a request and waits for its answer.
    async fn ask<T: Answer>(
        &self,
        what: String,
        act: impl FnOnce(&mut Objects) -> T + Send + 'static,
    ) -> Result<T, StoreError> {
        let retry = |why: &str| Err(StoreError::Retry(why.to_owned()));
        let answered = self.send(what, act);
        let deadline = tokio::time::Instant::now() + PATIENCE;
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            // The request or its answer went lost, and only the clock tells.
            Ok(Err(_)) => {
                tokio::time::sleep_until(deadline).await;
                retry("no answer")
            }
            Err(_) => retry("no answer in time"),
        }
    }

    fn send<T: Answer>(
        &self,
        what: String,
        act: impl FnOnce(&mut Objects) -> T + Send + 'static,
    ) -> oneshot::Receiver<Result<T, StoreError>> {
        let (answer, answered) = oneshot::channel();
        let mut inner = self.store.lock();
        let trace = inner.trace.clone();
        trace.absorb(ASKED, format!("{} {what}", self.node).as_bytes());
        if inner.is_lost || inner.cut_off.contains(&self.node) {
            return answered;
        }
        let node = self.node;
        let from = |act: Act| Coming { node, act };
        let (there, back) = (inner.way(), inner.way());
        let (arrives, answers) = (trace::now() + there, trace::now() + there + back);
        let draw: f64 = inner.rng.random();
        let Trouble {
            fails, loses_answer, ..
        } = inner.trouble;
        if draw < fails {
            let refusal = Err(StoreError::Retry("503".into()));
            // Some say so at once, others after a while.
            let answers = match inner.rng.random() {
                true => answers,
                false => answers + Duration::from_millis(inner.rng.random_range(0..FAILS_WITHIN_MS)),
            };
            // Nobody may wait any more.
            inner.at(answers, from(Box::new(move |_| drop(answer.send(refusal)))));
            return answered;
        }
        let done = Arc::new(Mutex::new(None));
        let arrival = done.clone();
        let arrive = move |objects: &mut Objects| {
            let result = act(objects);
            trace.absorb(DONE, format!("{what} {:016x}", result.hash()).as_bytes());
            *arrival.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        };
        inner.at(arrives, from(Box::new(arrive)));
        if draw >= fails + loses_answer {
            let answer = move |_: &mut Objects| {
                let result = done.lock().unwrap_or_else(PoisonError::into_inner).take();
                if let Some(result) = result {
                    // Nobody may wait any more.
                    let _ = answer.send(Ok(result));
                }
            };
            inner.at(answers, from(Box::new(answer)));
        }
        answered
    }
}

impl fmt::Debug for StoreOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "StoreOf(node {})", self.node)
    }
}

impl Stores for StoresOf {
    fn open(&self, url: &str) -> Result<Arc<dyn ZoneStore>, StoreError> {
        Ok(Arc::new(match self.zones.at(url) {
            Some(zone) => zone.of(self.standard.node),
            None => self.standard.clone(),
        }))
    }
}

#[async_trait]
impl ZoneStore for StoreOf {
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        let (name, bytes) = (key.to_owned(), payload.to_bytes());
        let lies = self.store.lock().trouble.lies;
        let create = move |objects: &mut Objects| match objects.entry(name) {
            Entry::Vacant(entry) => {
                entry.insert(bytes);
                CreateOutcome::Created
            }
            Entry::Occupied(mut entry) if lies => {
                entry.insert(bytes);
                CreateOutcome::Created
            }
            Entry::Occupied(_) => CreateOutcome::Exists,
        };
        self.ask(format!("create {key} {}", payload.len()), create).await
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        let name = key.to_owned();
        let what = format!("get {key} {range:?}");
        let get = move |objects: &mut Objects| {
            objects.get(&name).map(|bytes| {
                let range = range.within(bytes.len() as u64);
                bytes.slice(range.start as usize..range.end as usize)
            })
        };
        self.ask(what, get).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        let (prefix, after) = (prefix.to_owned(), after.map(str::to_owned));
        let what = format!("list {prefix} {after:?} {limit}");
        let list = move |objects: &mut Objects| -> Vec<String> {
            let from = match &after {
                Some(after) if *after >= prefix => Bound::Excluded(after.as_str()),
                _ => Bound::Included(prefix.as_str()),
            };
            objects
                .range::<str, _>((from, Bound::Unbounded))
                .map(|(key, _)| key)
                .take_while(|key| key.starts_with(&prefix))
                .take(limit)
                .cloned()
                .collect()
        };
        self.ask(what, list).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        let name = key.to_owned();
        let delete = move |objects: &mut Objects| drop(objects.remove(&name));
        self.ask(format!("delete {key}"), delete).await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    const LATER: Duration = Duration::from_secs(1);

    fn create(store: &Store, node: u64) -> oneshot::Receiver<Result<CreateOutcome, StoreError>> {
        let create = |objects: &mut Objects| match objects.insert("key".into(), Bytes::new()) {
            None => CreateOutcome::Created,
            Some(_) => CreateOutcome::Exists,
        };
        store.of(node).send("create key".into(), create)
    }

    #[test]
    fn what_was_asked_happens_though_nobody_waits_for_it() {
        let store = Store::new(1, Trace::new(false));
        drop(create(&store, 1));
        assert_eq!(store.objects(), 0);
        store.step(LATER);
        assert_eq!(store.objects(), 1);
    }

    #[test]
    fn an_answer_that_is_lost_has_its_effect() {
        let store = Store::new(1, Trace::new(false));
        store.set_trouble(Trouble {
            loses_answer: 1.0,
            ..Trouble::default()
        });
        let answer = create(&store, 1);
        store.step(LATER);
        assert_eq!(store.objects(), 1);
        assert!(answer.now_or_never().expect("it is lost by now").is_err());
    }

    #[test]
    fn a_node_that_is_cut_off_changes_nothing() {
        let store = Store::new(1, Trace::new(false));
        store.cut_off(1, true);
        let (cut, other) = (create(&store, 1), create(&store, 2));
        store.step(LATER);
        assert!(cut.now_or_never().expect("it is lost by now").is_err());
        let answer = other.now_or_never().expect("it is there by now");
        assert_eq!(answer.expect("it was answered"), Ok(CreateOutcome::Created));
    }
}
