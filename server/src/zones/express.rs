//! The Express zones of a node: looked at again and again, used when they are what metadata know, told of when not.
//!
//! - A zone is registered when it is first reached; the Express WAL exists once all are.
//! - A zone that does not answer stops nothing: two of three are enough.
//! - A store that turns out to be another one than was written to is never used. An operator says when it is to be.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::future::join_all;
use millrace_api::config::StorageClass;
use millrace_api::id::ZoneGen;
use millrace_raft::group::Meta;
use millrace_wal::{Wal, WalOptions, Zone};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::guard::Guard;
use super::look::Looking;
pub use super::look::ZoneState;
use super::source::Source;
use super::{EXPRESS_QUORUM, zone_numbers};
use crate::env::Env;
use crate::wals::Wals;

/// A zone that is as it should be is looked at this often: a store that knows nothing of lives may be emptied or
/// swapped under way.
const LOOK_INTERVAL: Duration = Duration::from_secs(5);
/// Pauses between looks at one that is not: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// How long a zone has to show that it is still the same before a channel's history is decided.
const CONFIRM_TIMEOUT: Duration = Duration::from_millis(500);

/// Clones share everything.
#[derive(Clone)]
pub struct ExpressZones {
    pub(super) shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) env: Env,
    pub(super) meta: Meta,
    wals: Wals,
    options: WalOptions,
    zones: Vec<ExpressZone>,
    /// Held while the WAL is made anew.
    making: Mutex<()>,
}

struct ExpressZone {
    number: u32,
    source: Arc<dyn Source>,
    state: watch::Sender<ZoneState>,
    /// Of the registered life.
    guard: ArcSwapOption<Guard>,
    look_now: Notify,
    /// Chunks that it lacks, of the channels that this node owns, and those that it was given.
    backlog: AtomicU64,
    /// The same of segment objects, where the zones hold them.
    segment_backlog: AtomicU64,
    repaired: AtomicU64,
}

/// What there is to tell of a zone.
#[derive(Debug, Clone)]
pub struct ZoneView {
    pub number: u32,
    pub store: String,
    /// As metadata have it.
    pub zone_gen: Option<ZoneGen>,
    pub state: ZoneState,
    /// Bytes of durable chunks that this node keeps in memory for the sake of the zone.
    pub lagging_bytes: u64,
    /// Chunks that it lacks, of the channels that this node owns, and segment objects, of those that it looks after,
    /// as of the last look.
    pub backlog: u64,
    /// Chunks and segment objects that this node gave it since the start.
    pub repaired: u64,
}

impl ExpressZones {
    /// Over as many sources as Express has zones, in the order of their numbers. Nothing is looked at before
    /// [`start`](Self::start).
    pub fn new(
        sources: Vec<Arc<dyn Source>>,
        meta: &Meta,
        env: &Env,
        wals: Wals,
        options: WalOptions,
    ) -> Self {
        let zones = zone_numbers(StorageClass::Express).zip(sources);
        let zones = zones.map(|(number, source)| ExpressZone {
            number,
            source,
            state: watch::Sender::new(ZoneState::Unknown),
            guard: ArcSwapOption::empty(),
            look_now: Notify::new(),
            backlog: AtomicU64::new(0),
            segment_backlog: AtomicU64::new(0),
            repaired: AtomicU64::new(0),
        });
        Self {
            shared: Arc::new(Shared {
                env: env.clone(),
                meta: meta.clone(),
                wals,
                options,
                zones: zones.collect(),
                making: Mutex::default(),
            }),
        }
    }

    /// Looks at every zone again and again, until `stop`.
    pub fn start(&self, tasks: &mut JoinSet<()>, stop: &CancellationToken) {
        // What metadata know already holds before anything answers.
        self.shared.make_wal();
        for at in 0..self.shared.zones.len() {
            let (shared, stop) = (self.shared.clone(), stop.clone());
            tasks.spawn(async move {
                stop.run_until_cancelled(shared.watch(at)).await;
            });
        }
    }

    /// Waits until every zone was looked at, but no longer than this.
    pub async fn looked(&self, patience: Duration) {
        let looked = self.shared.zones.iter().map(|zone| async {
            let mut state = zone.state.subscribe();
            // The sender is in `self`.
            let _ = state.wait_for(|state| *state != ZoneState::Unknown).await;
        });
        // Whoever has not answered by then is dark.
        let _ = timeout(patience, join_all(looked)).await;
    }

    /// Zones in use prove once more to be what they were. One that does not in time counts as unreachable until it has.
    /// To be called before what they say of a channel's history decides it.
    pub async fn confirm(&self) {
        let zones = self.shared.zones.iter().enumerate();
        let confirmed = zones.map(|(at, zone)| async move {
            let open = zone.guard.load_full().filter(|guard| guard.is_open());
            let Some(guard) = open.filter(|_| !zone.source.checks_gen()) else {
                return;
            };
            if timeout(CONFIRM_TIMEOUT, self.shared.look(at)).await.is_err() {
                guard.shut();
                zone.look_now.notify_one();
            }
        });
        join_all(confirmed).await;
    }

    pub fn views(&self) -> Vec<ZoneView> {
        let wal = self.shared.wals.of_class(StorageClass::Express);
        let lagging = wal.map(|wal| wal.lagging_bytes()).unwrap_or_default();
        let view = |(at, zone): (usize, &ExpressZone)| ZoneView {
            number: zone.number,
            store: zone.source.name(),
            zone_gen: self.shared.looking(zone).registered().ok().flatten(),
            state: zone.state.borrow().clone(),
            lagging_bytes: lagging.get(at).copied().unwrap_or(0),
            backlog: zone.backlog.load(Relaxed) + zone.segment_backlog.load(Relaxed),
            repaired: zone.repaired.load(Relaxed),
        };
        self.shared.zones.iter().enumerate().map(view).collect()
    }

    /// Whether the zone at this place is the one that metadata know, and answered when it was looked at last.
    pub(super) fn is_ok(&self, at: usize) -> bool {
        *self.shared.zones[at].state.borrow() == ZoneState::Ok
    }

    /// What the zones lack, by their places.
    pub(super) fn set_backlog(&self, backlog: &[u64]) {
        for (zone, backlog) in self.shared.zones.iter().zip(backlog) {
            zone.backlog.store(*backlog, Relaxed);
        }
    }

    /// Segment objects that a zone lacks.
    pub(super) fn set_segment_backlog(&self, at: usize, backlog: u64) {
        self.shared.zones[at].segment_backlog.store(backlog, Relaxed);
    }

    pub(super) fn repaired(&self, at: usize, objects: u64) {
        self.shared.zones[at].repaired.fetch_add(objects, Relaxed);
    }

    pub(super) fn looking_at(&self, number: u32) -> Option<Looking<'_>> {
        let zone = self.shared.zones.iter().find(|zone| zone.number == number)?;
        Some(self.shared.looking(zone))
    }
}

impl Shared {
    fn looking<'a>(&'a self, zone: &'a ExpressZone) -> Looking<'a> {
        Looking {
            number: zone.number,
            source: &*zone.source,
            meta: &self.meta,
            env: &self.env,
        }
    }

    async fn watch(&self, at: usize) {
        let zone = &self.zones[at];
        let mut changed = self.meta.channels_changed();
        let mut pause = PAUSE_MIN;
        loop {
            let registered = self.looking(zone).registered().ok().flatten();
            self.look(at).await;
            let wait = match *zone.state.borrow() {
                ZoneState::Ok => {
                    pause = PAUSE_MIN;
                    LOOK_INTERVAL
                }
                _ => {
                    pause = (2 * pause).min(PAUSE_MAX);
                    pause
                }
            };
            let until = Instant::now() + wait;
            // Another life of the zone may be registered at any time.
            loop {
                tokio::select! {
                    () = sleep(until.saturating_duration_since(Instant::now())) => break,
                    () = zone.look_now.notified() => break,
                    Ok(()) = changed.changed() => {
                        self.make_wal();
                        let another = self.looking(zone).registered().ok().flatten() != registered;
                        // A node that has just come may be the one that it is on.
                        if another || *zone.state.borrow() != ZoneState::Ok {
                            sleep(PAUSE_MIN).await;
                            break;
                        }
                    }
                }
            }
        }
    }

    /// Looks at one zone and takes what it says.
    async fn look(&self, at: usize) {
        let zone = &self.zones[at];
        let (life, state) = self.looking(zone).look().await;
        self.make_wal();
        if let Some(guard) = zone
            .guard
            .load_full()
            .filter(|guard| Some(guard.zone_gen()) == life)
        {
            match state {
                ZoneState::Ok if guard.is_open() => {}
                ZoneState::Ok => match zone.source.open(life).await {
                    Ok(store) => guard.admit(store),
                    Err(error) => {
                        tracing::debug!(zone = zone.number, %error, "the zone's store cannot be opened")
                    }
                },
                ZoneState::Blank | ZoneState::Foreign(_) => guard.shut(),
                ZoneState::Dark(_) | ZoneState::Unknown => {}
            }
        }
        if let (ZoneState::Ok, Some(life)) = (&state, life) {
            zone.source.admitted(life);
        }
        let before = zone.state.send_replace(state.clone());
        if before.name() != state.name() {
            self.tell(zone, life.is_some(), &state);
        }
    }

    fn tell(&self, zone: &ExpressZone, is_registered: bool, state: &ZoneState) {
        let (number, store) = (zone.number, zone.source.name());
        match state {
            ZoneState::Unknown => {}
            ZoneState::Dark(why) if !is_registered => {
                tracing::info!(
                    zone = number,
                    store,
                    why,
                    "Express begins when the zone was reached once"
                );
            }
            ZoneState::Ok => tracing::info!(zone = number, store, "the zone is in use"),
            ZoneState::Dark(why) => {
                tracing::warn!(
                    zone = number,
                    store,
                    why,
                    "the zone does not answer; Express goes on while two do"
                );
            }
            ZoneState::Blank => tracing::error!(
                zone = number,
                store,
                "the zone's store is blank, and what was written to the zone is not in it: it is not used. Give back \
                 the former store, or accept this one with `millrace cluster zones replace {number}` (a node that \
                 is alone: start it with --express-replace {number})"
            ),
            ZoneState::Foreign(why) => tracing::error!(
                zone = number,
                store,
                why,
                "the zone's store is not the one that was written to: it is not used. Give back the former store, or \
                 configure an empty one on every node and accept it with `millrace cluster zones replace {number}` (a \
                 node that is alone: start it with --express-replace {number})"
            ),
        }
    }

    /// Makes the WAL of the registered lives of the zones, if there is one of each and that is not the WAL already.
    fn make_wal(&self) {
        let _making: MutexGuard<'_, ()> = self.making.lock().unwrap_or_else(PoisonError::into_inner);
        let registered = |zone| self.looking(zone).registered().ok().flatten();
        let Some(gens) = self.zones.iter().map(registered).collect::<Option<Vec<_>>>() else {
            return;
        };
        if self.wals.gens(StorageClass::Express) == gens {
            return;
        }
        let mut zones = Vec::with_capacity(gens.len());
        for (zone, zone_gen) in self.zones.iter().zip(&gens) {
            let known = zone.guard.load_full();
            let guard = match known {
                Some(known) if known.zone_gen() == *zone_gen => known,
                former => {
                    if let Some(former) = former {
                        former.shut();
                    }
                    let guard = Arc::new(Guard::new(zone.number, *zone_gen));
                    zone.guard.store(Some(guard.clone()));
                    // What was seen of the zone before there was a guard has not opened it.
                    zone.look_now.notify_one();
                    guard
                }
            };
            zones.push(Zone::new(guard, *zone_gen));
        }
        match Wal::new(zones, EXPRESS_QUORUM, self.options.clone()) {
            Ok(wal) => {
                tracing::info!(?gens, "Express is written to these lives of its zones");
                self.wals.set_express(wal);
            }
            Err(error) => tracing::error!(%error, "the registered Express zones make no WAL"),
        }
    }
}
