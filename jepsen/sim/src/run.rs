//! One run: a cluster, its clients and its faults, all in this thread, all decided by one number.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use anyhow::Context;
use millrace_api::config::StorageClass;
use millrace_jepsen::live::judge::judge;
use millrace_jepsen::workload::Workload;
use millrace_raft::group::Meta;
use millrace_server::zones::EXPRESS_ZONES;
use rand::rngs::{SmallRng, StdRng};
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use turmoil::{Builder, Sim};

use crate::ambient::Machine;
use crate::clients::{Clients, Phase, Seen};
use crate::cluster::{Shape, SimNode, World};
use crate::faults::{CLIENTS, Faults, Kind};
use crate::findings::Findings;
use crate::invariant::Invariants;
use crate::network::Wires;
use crate::schedule::Schedule;
use crate::store::Store;
use crate::trace::{self, Trace};
use crate::zones::Zones;

/// Messages that one connection may have on their way.
const TCP_CAPACITY: usize = 10_000;
/// Between two looks at the invariants.
const LOOKS_EVERY: Duration = Duration::from_millis(100);
/// Between two marks in the trace: where two runs part is found with them.
const MARKS_EVERY: Duration = Duration::from_millis(500);
/// Clients work undisturbed for so long at first.
const CALM: Duration = Duration::from_millis(500);
/// What is drawn about zones depends on the seed with this.
const ZONES_SEED: u64 = 0x5a4f_4e45;
/// Beyond the time for faults: no run takes longer than this.
const ENDS_WITHIN: Duration = Duration::from_secs(600);

/// What to run.
#[derive(Debug, Clone)]
pub struct Run {
    pub seed: u64,
    /// For so long things go wrong.
    pub disturbed: Duration,
    /// `None`: drawn.
    pub workload: Option<Workload>,
    /// Of all streams. `None`: drawn, or Express if the faults are about its zones.
    pub class: Option<StorageClass>,
    /// `None`: drawn.
    pub faults: Option<Vec<Kind>>,
    /// Instead of faults that are drawn.
    pub schedule: Option<Schedule>,
    /// Of all faults only these, counted from 0.
    pub keep: Option<Vec<usize>>,
    pub nodes: u64,
    /// Mean pause of a client between two operations.
    pub pause: Duration,
    /// Of a client with a request.
    pub patience: Duration,
    /// Of the network and of every host. What is sent in one arrives in a later one: it is the least latency there is.
    /// Shorter ones tell apart what is closer together, for more work per simulated second.
    pub step: Duration,
    /// Histories of what is wrong stay there.
    pub out: PathBuf,
}

/// What came of it.
pub struct Outcome {
    pub workload: Workload,
    pub operations: u64,
    pub findings: Vec<String>,
    /// Of streams with something wrong.
    pub histories: Vec<PathBuf>,
    pub simulated: Duration,
    pub healed_after: Duration,
    pub events: u64,
    pub hash: u64,
}

impl Run {
    /// Runs to the end. The working directory is where the machines' disks are: it must be empty.
    ///
    /// # Errors
    /// What kept the simulator itself from going on. That is no verdict, and never a good one.
    pub fn run(&self, trace: &Trace, findings: &Findings) -> anyhow::Result<Outcome> {
        let mut rng = StdRng::seed_from_u64(self.seed);
        let workload = self.workload.unwrap_or_else(|| draw_workload(&mut rng));
        let mut drawn = SmallRng::seed_from_u64(rng.random());
        // Drawn apart, so that a run over one store does not depend on there being zones.
        let mut of_zones = SmallRng::seed_from_u64(self.seed ^ ZONES_SEED);
        let class = self.class.unwrap_or_else(|| self.draw_class(&mut of_zones));
        let kinds = self.faults.clone().unwrap_or_else(|| {
            let mut kinds = draw_kinds(&mut drawn);
            if class == StorageClass::Express {
                let zones = Kind::of_zones();
                kinds.push(zones[of_zones.random_range(0..zones.len())]);
            }
            kinds
        });
        let shape = Shape {
            nodes: self.nodes,
            channels: rng.random_range(1..=4),
            linger: Duration::from_millis(rng.random_range(1..20)),
            idle_timeout: Duration::from_millis(rng.random_range(500..5_000)),
            flush_interval: Duration::from_millis(rng.random_range(200..4_000)),
        };
        trace.line(&format!(
            "seed {}, {workload:?}, {class:?}, {shape:?}, faults {kinds:?}",
            self.seed
        ));
        let planned = self.schedule.iter().flat_map(|schedule| &schedule.0);
        let planned = planned.map(|planned| planned.until).max().unwrap_or_default();
        let mut sim = network(&mut rng, self.step, self.disturbed.max(planned) + ENDS_WITHIN);
        let world = World {
            wires: Wires::new(trace.clone()),
            store: Store::new(rng.random(), trace.clone()),
            zones: match class {
                StorageClass::Standard => Zones::default(),
                StorageClass::Express => {
                    Zones::new((0..EXPRESS_ZONES).map(|_| Store::new(of_zones.random(), trace.clone())))
                }
            },
            trace: trace.clone(),
            findings: findings.clone(),
        };
        let mut nodes = (1..=self.nodes)
            .map(|number| {
                let machine = Machine::new(rng.random(), rng.random_range(-100..100));
                let disk = Path::new(&format!("disk-{number}")).to_owned();
                SimNode::new(&mut sim, number, machine, shape, &world, disk)
            })
            .collect::<Vec<_>>();
        let ready = Rc::new(Cell::new(class == StorageClass::Standard));
        let (phase, mut phases) = watch::channel(Phase::Starting);
        let seen = Rc::new(RefCell::new(Seen::default()));
        let clients = Clients {
            world: world.clone(),
            nodes: self.nodes,
            workload,
            seed: rng.random(),
            pause: self.pause,
            patience: self.patience,
            phase: phase.clone(),
            ready: ready.clone(),
            seen: seen.clone(),
        };
        sim.client(CLIENTS, async move {
            clients.run().await;
            Ok(())
        });

        let mut faults: Option<Faults> = None;
        let mut invariants = Invariants::default();
        let mut looked = Duration::ZERO;
        let mut marked = Duration::ZERO;
        loop {
            let over = sim.step().map_err(|error| anyhow::anyhow!("{error}"))?;
            let now = sim.elapsed();
            trace::set_step(now);
            world.stores(|store| store.step(now));
            if over {
                break;
            }
            for node in &mut nodes {
                node.supervise(&mut sim, now);
            }
            if phases.has_changed()? && *phases.borrow_and_update() == Phase::Working {
                let (from, until) = (now + CALM, now + CALM + self.disturbed);
                let mut coming = match &self.schedule {
                    Some(schedule) => Faults::planned(schedule, self.nodes, now, &mut drawn),
                    None => Faults::draw(&kinds, self.nodes, from, until, &mut drawn),
                };
                if let Some(kept) = &self.keep {
                    coming.keep(kept);
                }
                faults = Some(coming);
            }
            if let Some(faults) = &mut faults
                && *phase.borrow() == Phase::Working
            {
                faults.step(now, &mut sim, &mut nodes, &world);
                if faults.are_over(now) {
                    trace.line("no fault any more");
                    phase.send_replace(Phase::Healed);
                }
            }
            if now >= looked + LOOKS_EVERY {
                looked = now;
                let serving = serving(&nodes);
                invariants.check(&serving, findings);
                if class == StorageClass::Express {
                    ready.set(ready.get() || has_express(&serving));
                    invariants.check_zones(now, &serving, &world.zones.all(), findings);
                }
            }
            if now >= marked + MARKS_EVERY {
                marked = now;
                trace.line(&format!("mark {:016x}", trace.hash()));
            }
        }
        if invariants.comparisons() == 0 {
            findings.add("replicas were never compared".into());
        }
        if class == StorageClass::Express && !invariants.zones_were_used() {
            findings.add("nothing was written to the Express zones".into());
        }
        let simulated = sim.elapsed();
        for node in &mut nodes {
            if node.is_on() {
                node.crash(&mut sim);
            }
        }
        drop(sim);
        let seen = seen.take();
        let (operations, histories) = self.judged(&seen, findings)?;
        trace.line(&format!(
            "{operations} operations, {} objects, {} comparisons of replicas",
            world.store.objects(),
            invariants.comparisons()
        ));
        Ok(Outcome {
            workload,
            operations,
            findings: findings.list(),
            histories,
            simulated,
            healed_after: seen.healed_after,
            events: trace.events(),
            hash: trace.hash(),
        })
    }

    fn draw_class(&self, rng: &mut SmallRng) -> StorageClass {
        let kinds = self.faults.iter().flatten().copied();
        let planned = self.schedule.iter().flat_map(|schedule| &schedule.0);
        let mut kinds = kinds.chain(planned.map(|planned| planned.kind));
        match kinds.any(Kind::is_of_zones) || rng.random() {
            true => StorageClass::Express,
            false => StorageClass::Standard,
        }
    }

    /// Judges every stream; how many operations there were, and the histories of those with something wrong.
    fn judged(&self, seen: &Seen, findings: &Findings) -> anyhow::Result<(u64, Vec<PathBuf>)> {
        std::fs::create_dir_all(&self.out).with_context(|| format!("cannot make {}", self.out.display()))?;
        let (mut operations, mut histories) = (0, Vec::new());
        for (number, (track, reads)) in seen.tracks.iter().enumerate() {
            let path = self.out.join(format!("history-{}-{number}", self.seed));
            let judged = judge(track, reads, &path)?;
            operations += judged.operations;
            for text in &judged.findings {
                findings.add(format!("{}: {text}", judged.stream));
            }
            let history = path.with_extension("jsonl");
            match judged.findings.is_empty() {
                true => std::fs::remove_file(history)?,
                false => histories.push(history),
            }
        }
        if operations == 0 {
            findings.add("clients did nothing".into());
        }
        Ok((operations, histories))
    }
}

fn network(rng: &mut StdRng, step: Duration, at_most: Duration) -> Sim<'static> {
    let most = Duration::from_millis(rng.random_range(2..30));
    Builder::new()
        .rng_seed(rng.random())
        .epoch(std::time::UNIX_EPOCH)
        .simulation_duration(at_most)
        .tick_duration(step)
        .min_message_latency(Duration::from_micros(200))
        .max_message_latency(most)
        .tcp_capacity(TCP_CAPACITY)
        .enable_random_order()
        .build()
}

fn serving(nodes: &[SimNode]) -> Vec<(u64, Meta)> {
    let serving = nodes.iter().filter_map(|node| Some((node.number, node.meta()?)));
    serving.collect()
}

/// Whether somebody serves streams of class Express.
fn has_express(serving: &[(u64, Meta)]) -> bool {
    let channels = serving
        .iter()
        .filter_map(|(_, meta)| meta.state().channels().ok());
    let mut channels = channels.flatten();
    channels.any(|channel| channel.class == StorageClass::Express && channel.activated)
}

fn draw_workload(rng: &mut StdRng) -> Workload {
    use Workload::{Fenced, Followers, Many, Matched, Plain, Recreate, Sessions, Trims, Watched};
    let all = [
        Plain, Matched, Fenced, Sessions, Followers, Trims, Recreate, Many, Watched,
    ];
    all[rng.random_range(0..all.len())]
}

/// A few kinds: with all of them at once hardly anything gets done.
fn draw_kinds(rng: &mut SmallRng) -> Vec<Kind> {
    let mut kinds = Kind::fair();
    let keep = rng.random_range(1..=4);
    while kinds.len() > keep {
        kinds.remove(rng.random_range(0..kinds.len()));
    }
    kinds
}
