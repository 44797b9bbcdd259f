//! The log of one channel over three zones, with owners that follow each other, and nothing else: what a cluster on one
//! store never gets to see.
//!
//! Owners are replaced while they live on; zones are dark, slow, late, lose answers, and one is replaced by a blank one.
//! Metadata are the real rules of `apply` over a state in memory. Whatever was acknowledged by anybody at any time must
//! be in what every later owner finds, and what one owner found stays as it was.

mod group;
mod owner;
mod truth;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use anyhow::ensure;
use millrace_api::id::ZoneGen;
use millrace_wal::{Wal, WalOptions, Zone};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::task::{JoinHandle, LocalSet};
use tokio::time::{Instant, sleep, timeout};

use self::group::Group;
use self::truth::Truth;
use crate::findings::Findings;
use crate::store::{Store, Trouble};
use crate::trace::{self, Trace};

const ZONES: usize = 3;
const QUORUM: usize = 2;
/// Owners of a run, at most.
const OWNERS_MAX: u64 = 60;
/// One step of the zones.
const TICK: Duration = Duration::from_micros(500);
/// From the end of the last fault until an owner has taken over and written.
const HEALS_WITHIN: Duration = Duration::from_secs(120);

/// What to run.
#[derive(Debug, Clone, Copy)]
pub struct LogRun {
    pub seed: u64,
    /// For so long things go wrong.
    pub disturbed: Duration,
}

/// What came of it.
pub struct LogOutcome {
    pub owners: u64,
    pub acknowledged: u64,
    pub recoveries: u64,
    pub findings: Vec<String>,
    pub simulated: Duration,
    pub hash: u64,
}

/// What owners share.
pub(in crate::log) struct World {
    group: RefCell<Group>,
    zones: RefCell<Vec<(Store, ZoneGen)>>,
    truth: RefCell<Truth>,
    rng: RefCell<SmallRng>,
    next_record: Cell<u64>,
    trace: Trace,
}

impl World {
    /// The zones as the owner reaches them.
    fn wal(&self, owner: u64) -> anyhow::Result<Wal> {
        let zones = self.zones.borrow();
        let zones = zones
            .iter()
            .map(|(store, zone_gen)| Zone::new(std::sync::Arc::new(store.of(owner)), *zone_gen));
        let options = WalOptions {
            inflight_chunks: 4,
            create_timeout: Duration::from_secs(1),
            read_timeout: Duration::from_secs(1),
            zone_patience: Duration::from_millis(30),
            hedge_after: Duration::from_millis(20),
            retry_max: Duration::from_millis(500),
            seed: self.draw(),
            ..WalOptions::default()
        };
        Ok(Wal::new(zones.collect(), QUORUM, options)?)
    }

    fn draw(&self) -> u64 {
        self.rng.borrow_mut().random()
    }

    fn pause(&self, ms: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.rng.borrow_mut().random_range(ms))
    }
}

impl LogRun {
    /// Runs to the end.
    ///
    /// # Errors
    /// What kept the simulator itself from going on.
    pub fn run(self, trace: &Trace, findings: &Findings) -> anyhow::Result<LogOutcome> {
        let mut rng = SmallRng::seed_from_u64(self.seed);
        let zones: Vec<_> = (0..ZONES)
            .map(|zone| (Store::new(rng.random(), trace.clone()), ZoneGen(zone as u128 + 1)))
            .collect();
        let gens: Vec<_> = zones.iter().map(|(_, zone_gen)| *zone_gen).collect();
        let world = Rc::new(World {
            group: RefCell::new(Group::new(&gens)?),
            zones: RefCell::new(zones),
            truth: RefCell::new(Truth::new(findings.clone())),
            next_record: Cell::new(1),
            rng: RefCell::new(SmallRng::seed_from_u64(rng.random())),
            trace: trace.clone(),
        });
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()?;
        let local = LocalSet::new();
        let began = Cell::new(Duration::ZERO);
        let (done, owners) = local.block_on(&runtime, async {
            let start = Instant::now();
            // Stores that were replaced go on as well: nobody hears of it.
            let stores: Rc<RefCell<Vec<Store>>> = Rc::default();
            stores
                .borrow_mut()
                .extend(world.zones.borrow().iter().map(|(store, _)| store.clone()));
            let pumped = stores.clone();
            tokio::task::spawn_local(async move {
                loop {
                    sleep(TICK).await;
                    trace::set_step(start.elapsed());
                    let stores = pumped.borrow().clone();
                    stores.iter().for_each(|store| store.step(start.elapsed()));
                }
            });
            let mut play = Play {
                world: world.clone(),
                rng: SmallRng::seed_from_u64(rng.random()),
                stores,
                owners: Vec::new(),
                replaced: false,
                start,
            };
            let done = play.run(self.disturbed, findings).await;
            began.set(start.elapsed());
            (done, play.owners.len() as u64)
        });
        done?;
        let truth = world.truth.borrow();
        Ok(LogOutcome {
            owners,
            acknowledged: truth.acknowledged(),
            recoveries: truth.recoveries(),
            findings: findings.list(),
            simulated: began.get(),
            hash: trace.hash(),
        })
    }
}

/// What happens to owners and zones.
struct Play {
    world: Rc<World>,
    rng: SmallRng,
    stores: Rc<RefCell<Vec<Store>>>,
    owners: Vec<JoinHandle<()>>,
    replaced: bool,
    start: Instant,
}

impl Play {
    async fn run(&mut self, disturbed: Duration, findings: &Findings) -> anyhow::Result<()> {
        self.begin_owner();
        sleep(Duration::from_millis(300)).await;
        // One zone at a time is not well, so that something can be done all the time.
        let mut unwell: Option<(Store, Instant)> = None;
        let mut held: Vec<(Store, u64, Instant)> = Vec::new();
        while self.start.elapsed() < disturbed {
            sleep(Duration::from_millis(self.rng.random_range(20..700))).await;
            let now = Instant::now();
            if let Some((store, _)) = unwell.take_if(|(_, until)| *until <= now) {
                self.well(&store);
            }
            for (store, owner, _) in held.extract_if(.., |(_, _, until)| *until <= now) {
                store.release(owner, self.start.elapsed());
            }
            match self.rng.random_range(0..20) {
                0..7 => {
                    self.begin_owner();
                }
                7..9 => self.end_owner(),
                9..14 if unwell.is_none() => {
                    let store = self.any_zone();
                    self.unwell(&store);
                    unwell = Some((store, now + self.lasting()));
                }
                14..19 => {
                    let (store, owner) = (self.any_zone(), self.any_owner());
                    self.world
                        .trace
                        .line(&format!("owner {owner} and a zone hear of each other late"));
                    store.hold(owner);
                    held.push((store, owner, now + self.lasting()));
                }
                19 if !self.replaced && unwell.is_none() => {
                    let store = self.replace_zone().await?;
                    unwell = Some((store, Instant::now() + self.lasting()));
                }
                _ => {}
            }
        }
        if let Some((store, _)) = unwell {
            self.well(&store);
        }
        for (store, owner, _) in held {
            store.release(owner, self.start.elapsed());
        }
        self.world.trace.line("no fault any more");
        let last = self.begin_owner();
        let world = self.world.clone();
        let written = async {
            while !world.truth.borrow().has_written_since(last) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        if timeout(HEALS_WITHIN, written).await.is_err() {
            findings.add(format!(
                "no owner has written {HEALS_WITHIN:?} after the last fault"
            ));
        }
        // What was late has come now; one more owner finds all of it.
        sleep(Duration::from_secs(5)).await;
        let last = self.begin_owner();
        let written = async {
            while !world.truth.borrow().has_written_since(last) {
                sleep(Duration::from_millis(10)).await;
            }
        };
        ensure!(
            timeout(HEALS_WITHIN, written).await.is_ok() || !findings.list().is_empty(),
            "the last owner did not come to write"
        );
        self.owners.iter().for_each(JoinHandle::abort);
        Ok(())
    }

    /// Another owner takes over, while the others live on. Answers its number.
    fn begin_owner(&mut self) -> u64 {
        let number = self.owners.len() as u64 + 1;
        if number <= OWNERS_MAX {
            self.world.trace.line(&format!("owner {number} begins"));
            let owner = owner::live(self.world.clone(), number);
            self.owners.push(tokio::task::spawn_local(owner));
        }
        self.owners.len() as u64
    }

    fn end_owner(&mut self) {
        let number = self.any_owner();
        self.world.trace.line(&format!("owner {number} dies"));
        self.owners[number as usize - 1].abort();
    }

    /// Mostly one of the newest.
    fn any_owner(&mut self) -> u64 {
        let newest = self.owners.len() as u64;
        newest.saturating_sub(self.rng.random_range(0..3)).max(1)
    }

    fn any_zone(&mut self) -> Store {
        let zone = self.rng.random_range(0..ZONES);
        self.zone(zone)
    }

    fn lasting(&mut self) -> Duration {
        Duration::from_millis(match self.rng.random() {
            true => self.rng.random_range(50..800),
            false => self.rng.random_range(800..6_000),
        })
    }

    fn unwell(&mut self, store: &Store) {
        let trouble = match self.rng.random_range(0..4) {
            0 => Trouble {
                slow: self.rng.random_range(5..100),
                ..Trouble::default()
            },
            1 => Trouble {
                fails: 0.4,
                loses_answer: 0.3,
                ..Trouble::default()
            },
            _ => Trouble::default(),
        };
        self.world.trace.line(&format!("a zone is not well: {trouble:?}"));
        match trouble == Trouble::default() {
            true => (1..=OWNERS_MAX).for_each(|owner| store.cut_off(owner, true)),
            false => store.set_trouble(trouble),
        }
    }

    fn well(&self, store: &Store) {
        self.world.trace.line("the zone is well again");
        store.set_trouble(Trouble::default());
        (1..=OWNERS_MAX).for_each(|owner| store.cut_off(owner, false));
    }

    /// A blank zone takes the place of one that nobody hears of any more, at a bad time: what an owner wrote last is
    /// there, and in no other zone or in one that is dark just then. Answers that one.
    async fn replace_zone(&mut self) -> anyhow::Result<Store> {
        self.replaced = true;
        let zone = self.rng.random_range(0..ZONES);
        let others: Vec<Store> = (1..ZONES).map(|by| self.zone((zone + by) % ZONES)).collect();
        let owner = self.owners.len() as u64;
        let missing = &others[..self.rng.random_range(1..=others.len())];
        missing.iter().for_each(|store| store.cut_off(owner, true));
        sleep(Duration::from_millis(self.rng.random_range(50..400))).await;
        self.world.trace.line(&format!(
            "owner {owner} dies, and {} zones do not know what it wrote",
            missing.len()
        ));
        self.owners[owner as usize - 1].abort();
        missing.iter().for_each(|store| store.cut_off(owner, false));
        if missing.len() == others.len() {
            // Time for the next owner to save what it finds.
            let next = self.begin_owner();
            let world = self.world.clone();
            let saved = async {
                while !world.truth.borrow().has_written_since(next) {
                    sleep(Duration::from_millis(10)).await;
                }
            };
            // An owner that does not come to write is found out at the end.
            let _ = timeout(Duration::from_secs(10), saved).await;
        }
        let store = Store::new(self.rng.random(), self.world.trace.clone());
        let zone_gen = ZoneGen(ZONES as u128 + 1);
        self.world.trace.line(&format!("zone {zone} is replaced"));
        self.world
            .group
            .borrow_mut()
            .register_zone(ZONES as u32, zone_gen)?;
        self.stores.borrow_mut().push(store.clone());
        let (former, _) = std::mem::replace(&mut self.world.zones.borrow_mut()[zone], (store, zone_gen));
        (1..=OWNERS_MAX).for_each(|owner| former.cut_off(owner, true));
        let dark = others[others.len() - 1].clone();
        (1..=OWNERS_MAX).for_each(|owner| dark.cut_off(owner, true));
        self.begin_owner();
        Ok(dark)
    }

    fn zone(&self, zone: usize) -> Store {
        self.world.zones.borrow()[zone].0.clone()
    }
}
