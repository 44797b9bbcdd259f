//! What goes wrong in a run, and when: drawn from the seed, put in between two steps, and taken away again.

use std::net::IpAddr;
use std::time::Duration;

use millrace_server::zones::EXPRESS_ZONES;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use turmoil::Sim;

use crate::cluster::{SimNode, World, host};
use crate::operator::{change_membership, restore_membership};
use crate::replacement::Replacement;
use crate::schedule::{Planned, Schedule, Whom};
use crate::store::{Store, Trouble};
use crate::zones::Lives;

/// The host that clients run on.
pub const CLIENTS: &str = "clients";
/// From the end of the last fault until nothing is left in a store that was replaced.
const REPLACED_WITHIN: Duration = Duration::from_secs(60);

/// Kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Kind {
    /// A process ends at once, and starts again later.
    Crash,
    /// All processes end at the same time.
    CrashAll,
    /// A machine loses power, and what was not synced.
    PowerLoss,
    /// All machines do.
    PowerLossAll,
    /// A process is asked to stop, and started again when it has.
    Restart,
    /// All processes are, one after the other.
    RestartRolling,
    /// Whatever a process sends or is sent is late, as when it is suspended and goes on where it stood.
    Pause,
    /// What is sent between a node and the other nodes is late, as when it is sent again and again.
    Hold,
    /// What is sent between a node and the other nodes is lost, and connections break.
    Partition,
    /// The same for one direction only.
    OneWay,
    /// What is sent between a node and clients is late.
    HoldClients,
    /// The store fails some requests, and loses some answers.
    StoreFlaky,
    /// The store takes long.
    StoreSlow,
    /// What a node and the store send each other is late.
    StoreHold,
    /// A node does not reach the store.
    StoreCut,
    /// The store answers nobody.
    StoreDown,
    /// An Express zone answers nobody.
    ZoneDark,
    /// Two of the three do not.
    ZonesDark,
    /// A node does not reach an Express zone.
    ZoneCut,
    /// An Express zone takes long.
    ZoneSlow,
    /// An Express zone fails some requests, and loses some answers.
    ZoneFlaky,
    /// What a node and an Express zone send each other is late.
    ZoneHold,
    /// The store of an Express zone is lost or given up, and replaced by an empty one.
    ZoneReplaced,
    /// A wall clock is set.
    ClockStep,
    /// The leader of the metadata group hands over, or a node has no vote for a while.
    Membership,
    /// The store says of a create that it was done, and throws away what stood there. No store may do that: whoever
    /// looks for faults must find this one. Never drawn.
    StoreLies,
}

/// A fault of a run.
#[derive(Debug, Clone)]
pub struct Fault {
    kind: Kind,
    /// Number of the node that it is about.
    node: u64,
    /// Who that is, if it is only known when the fault begins.
    whom: Option<Whom>,
    /// The only other one that it is about, likewise.
    with: Option<Whom>,
    /// The Express zone that it is about, from 0 on.
    zone: usize,
    /// The other nodes that it is about, where it is about connections.
    others: Vec<u64>,
    from: Duration,
    until: Duration,
    trouble: Trouble,
    step_ms: i64,
    /// Whatever else has to be decided.
    draw: u64,
}

/// All faults of a run.
pub struct Faults {
    coming: Vec<Fault>,
    installed: Vec<Fault>,
    replacements: Vec<Replacement>,
    until: Duration,
    /// When `step` was called last.
    stepped: Option<Duration>,
}

impl Kind {
    /// Those that a cluster has to stand, but for those of Express zones.
    pub fn fair() -> Vec<Self> {
        let all = <Self as clap::ValueEnum>::value_variants().iter().copied();
        all.filter(|kind| *kind != Self::StoreLies && !kind.is_of_zones())
            .collect()
    }

    /// Those of Express zones.
    pub fn of_zones() -> Vec<Self> {
        let all = <Self as clap::ValueEnum>::value_variants().iter().copied();
        all.filter(|kind| kind.is_of_zones()).collect()
    }

    pub fn is_of_zones(self) -> bool {
        self == Self::ZoneReplaced || self.area() == Self::ZoneDark.area()
    }

    /// Whether it is about a zone, whatever node asks it.
    fn is_of_a_zone_alone(self) -> bool {
        self.is_of_zones() && !matches!(self, Self::ZoneCut | Self::ZoneHold)
    }

    /// Whether both cannot be there at the same time: they disturb the same.
    fn collides(self, other: Self) -> bool {
        let (a, b) = (self.area(), other.area());
        // A process that is suspended is cut off from everybody, and is not started or stopped.
        let everywhere = |area: u8| area == Self::Pause.area();
        let takes_part = |area: u8| matches!(area, 0 | 1 | 2 | 4 | 8);
        a == b || (everywhere(a) && takes_part(b)) || (everywhere(b) && takes_part(a))
    }

    fn area(self) -> u8 {
        match self {
            Self::Crash
            | Self::CrashAll
            | Self::PowerLoss
            | Self::PowerLossAll
            | Self::Restart
            | Self::RestartRolling => 0,
            Self::Hold | Self::Partition | Self::OneWay => 1,
            Self::HoldClients => 2,
            Self::StoreFlaky | Self::StoreSlow | Self::StoreLies => 3,
            Self::StoreCut | Self::StoreDown | Self::StoreHold => 4,
            Self::ClockStep => 5,
            Self::Membership => 6,
            Self::Pause => 7,
            // One zone at a time.
            Self::ZoneDark
            | Self::ZonesDark
            | Self::ZoneCut
            | Self::ZoneSlow
            | Self::ZoneFlaky
            | Self::ZoneHold => 8,
            // Another one may be dark meanwhile.
            Self::ZoneReplaced => 9,
        }
    }
}

impl Faults {
    /// Draws faults of these kinds for the time from `from` to `until`.
    pub fn draw(kinds: &[Kind], nodes: u64, from: Duration, until: Duration, rng: &mut SmallRng) -> Self {
        let mut coming: Vec<Fault> = Vec::new();
        if kinds.contains(&Kind::StoreLies) {
            // All the time: when it matters, nobody knows before.
            let mut lies = Fault::draw(Kind::StoreLies, nodes, from, until, rng);
            lies.until = until;
            coming.push(lies);
        }
        let mut at = from;
        while !kinds.is_empty() {
            at += Duration::from_millis(rng.random_range(100..2_500));
            if at >= until {
                break;
            }
            let fault = Fault::draw(kinds[rng.random_range(0..kinds.len())], nodes, at, until, rng);
            let collides = |other: &Fault| other.kind.collides(fault.kind) && other.until >= fault.from;
            if !coming.iter().any(collides) {
                coming.push(fault);
            }
        }
        Self {
            coming,
            installed: Vec::new(),
            replacements: Vec::new(),
            stepped: None,
            until,
        }
    }

    /// Those that somebody has planned; what is not said of them is drawn.
    pub fn planned(schedule: &Schedule, nodes: u64, began: Duration, rng: &mut SmallRng) -> Self {
        let fault = |planned: &Planned| {
            let drawn = Fault::draw(planned.kind, nodes, began, began, rng);
            let zone = match planned.kind.is_of_a_zone_alone() {
                true => Some(planned.whom),
                false => planned.with,
            };
            let zone = match zone {
                Some(Whom::Node(number)) if planned.kind.is_of_zones() => {
                    (number.max(1) as usize - 1) % EXPRESS_ZONES
                }
                _ => drawn.zone,
            };
            Fault {
                whom: Some(planned.whom),
                with: planned.with,
                zone,
                others: Vec::new(),
                from: began + planned.from,
                until: began + planned.until,
                ..drawn
            }
        };
        let coming: Vec<Fault> = schedule.0.iter().map(fault).collect();
        let until = coming.iter().map(|fault| fault.until).max();
        Self {
            coming,
            installed: Vec::new(),
            replacements: Vec::new(),
            stepped: None,
            until: until.unwrap_or(began),
        }
    }

    /// Leaves out all but these, counted from 0.
    pub fn keep(&mut self, kept: &[usize]) {
        let mut index = 0;
        self.coming.retain(|_| {
            index += 1;
            kept.contains(&(index - 1))
        });
    }

    /// Puts in and takes away what is due.
    pub fn step(&mut self, now: Duration, sim: &mut Sim<'_>, nodes: &mut [SimNode], world: &World) {
        let (over, still) = self.installed.drain(..).partition(|fault| fault.until <= now);
        self.installed = still;
        let over: Vec<Fault> = over;
        for fault in over {
            world.trace.line(&format!("over: {}", fault.text()));
            fault.remove(sim, nodes, world);
        }
        while self.coming.first().is_some_and(|fault| fault.from <= now) {
            let mut fault = self.coming.remove(0);
            // Until nothing is left in a former store, one more zone that is lost may take records with it.
            let is_early = !self.replacements.iter().all(Replacement::is_settled);
            if fault.kind == Kind::ZoneReplaced && is_early {
                world
                    .trace
                    .line("fault: none, for a zone that was replaced is not settled yet");
                continue;
            }
            fault.choose(nodes);
            world.trace.line(&format!("fault: {}", fault.text()));
            fault.install(sim, nodes, world);
            if fault.kind == Kind::ZoneReplaced {
                self.replacements.extend(fault.replace(now, world));
            }
            self.installed.push(fault);
        }
        for replacement in &mut self.replacements {
            replacement.step(now, nodes, world);
        }
        if now >= self.until + REPLACED_WITHIN {
            for replacement in self.replacements.drain(..).filter(|it| !it.is_settled()) {
                world
                    .findings
                    .add(format!("{REPLACED_WITHIN:?} after the last fault {replacement}"));
            }
        }
        let before = self.stepped.replace(now);
        for rolling in self.installed.iter().filter(|it| it.kind == Kind::RestartRolling) {
            let turn = rolling.roll(before, now, nodes);
            nodes
                .iter()
                .filter(|node| Some(node.number) == turn)
                .for_each(SimNode::ask_to_stop);
        }
    }

    /// Their time is over, and none is there.
    pub fn are_over(&self, now: Duration) -> bool {
        now >= self.until
            && self.coming.is_empty()
            && self.installed.is_empty()
            && self.replacements.iter().all(Replacement::is_settled)
    }
}

impl Fault {
    fn draw(kind: Kind, nodes: u64, from: Duration, end: Duration, rng: &mut SmallRng) -> Self {
        let node = rng.random_range(1..=nodes);
        let everybody_else: Vec<u64> = (1..=nodes).filter(|other| *other != node).collect();
        // Mostly from all of them; now and then from one, so that the group has a way around.
        let others = match rng.random_ratio(1, 3) {
            true => vec![everybody_else[rng.random_range(0..everybody_else.len())]],
            false => everybody_else,
        };
        let lasts = match rng.random_ratio(1, 2) {
            true => rng.random_range(50..1_500),
            false => rng.random_range(1_500..10_000),
        };
        let slow = match kind {
            Kind::StoreSlow | Kind::ZoneSlow => rng.random_range(5..60),
            _ => 0,
        };
        let flaky = match kind {
            Kind::StoreFlaky | Kind::ZoneFlaky => 0.3,
            _ => 0.0,
        };
        let whom = match rng.random_range(0..4) {
            0 => Some(Whom::Leader),
            1 => Some(Whom::Owner),
            _ => None,
        };
        let trouble = Trouble {
            fails: rng.random::<f64>() * flaky,
            loses_answer: rng.random::<f64>() * flaky,
            slow,
            lies: kind == Kind::StoreLies,
        };
        let step_ms = rng.random_range(-3_000..3_000);
        let draw: u64 = rng.random();
        Self {
            kind,
            node,
            // Every other time it is one who has most to lose.
            whom,
            with: None,
            others,
            from,
            until: (from + Duration::from_millis(lasts)).min(end),
            trouble,
            step_ms,
            draw,
            zone: draw as usize % EXPRESS_ZONES,
        }
    }

    fn choose(&mut self, nodes: &[SimNode]) {
        if let Some(whom) = self.whom {
            self.node = whom.number(nodes);
            let others = nodes.iter().map(|node| node.number);
            let others: Vec<u64> = others.filter(|other| *other != self.node).collect();
            let with = self.with.map(|with| with.number(nodes));
            let with = with.map(|with| match with == self.node {
                true => others[self.draw as usize % others.len()],
                false => with,
            });
            self.others = match self.others.len() {
                _ if with.is_some() => with.into_iter().collect(),
                1 => vec![others[self.draw as usize % others.len()]],
                _ => others,
            };
        }
    }

    fn text(&self) -> String {
        let Self {
            kind, node, others, ..
        } = self;
        match kind {
            Kind::Crash => format!("crash of node {node}"),
            Kind::CrashAll => "crash of all nodes".into(),
            Kind::PowerLoss => format!("node {node} loses power"),
            Kind::PowerLossAll => "all nodes lose power".into(),
            Kind::Restart => format!("node {node} is asked to stop"),
            Kind::RestartRolling => "nodes are asked to stop, one after the other".into(),
            Kind::Pause => format!("node {node} is suspended"),
            Kind::StoreHold => format!("what node {node} and the store send each other is late"),
            Kind::Membership => format!("the membership of node {node} changes"),
            Kind::Hold => format!("what nodes {node} and {others:?} send each other is late"),
            Kind::Partition => format!("what nodes {node} and {others:?} send each other is lost"),
            Kind::OneWay => format!("what node {node} sends to {others:?} is lost"),
            Kind::HoldClients => format!("what node {node} and clients send each other is late"),
            Kind::StoreFlaky | Kind::StoreSlow | Kind::StoreLies => {
                format!("the store has {:?}", self.trouble)
            }
            Kind::StoreCut => format!("node {node} does not reach the store"),
            Kind::StoreDown => "nobody reaches the store".into(),
            Kind::ZoneDark => format!("nobody reaches {}", self.zone_name()),
            Kind::ZoneReplaced => format!("{} is replaced, {}", self.zone_name(), self.farewell()),
            Kind::ZonesDark => format!("nobody reaches any zone but {}", self.zone_name()),
            Kind::ZoneCut => format!("node {node} does not reach {}", self.zone_name()),
            Kind::ZoneSlow | Kind::ZoneFlaky => format!("{} has {:?}", self.zone_name(), self.trouble),
            Kind::ZoneHold => {
                format!(
                    "what node {node} and {} send each other is late",
                    self.zone_name()
                )
            }
            Kind::ClockStep => format!("the clock of node {node} is set by {} ms", self.step_ms),
        }
    }

    fn install(&self, sim: &mut Sim<'_>, nodes: &mut [SimNode], world: &World) {
        match self.kind {
            Kind::Crash | Kind::CrashAll => {
                for node in self.crashed(nodes) {
                    node.crash(sim);
                }
            }
            Kind::PowerLoss | Kind::PowerLossAll => {
                let mut rng = SmallRng::seed_from_u64(self.draw);
                for node in self.crashed(nodes) {
                    match node.lose_power(sim, &mut rng) {
                        Ok(bytes) => world
                            .trace
                            .line(&format!("node {} lost {bytes} bytes", node.number)),
                        Err(error) => world.findings.add(format!("the simulated disk: {error}")),
                    }
                }
            }
            Kind::Restart => self.crashed(nodes).for_each(|node| node.ask_to_stop()),
            // Whose turn it is depends on the time.
            Kind::RestartRolling => {}
            Kind::Pause => {
                self.everybody(nodes, |a, b| sim.hold(a, b));
                world.stores(|store| store.hold(self.node));
            }
            Kind::StoreHold => world.store.hold(self.node),
            Kind::Membership => change_membership(self.node, self.draw, nodes),
            Kind::Hold => self.pairs(|a, b| sim.hold(a, b)),
            Kind::Partition => self.pairs(|a, b| sim.partition(a, b)),
            Kind::OneWay => self.pairs(|a, b| sim.partition_oneway(a, b)),
            Kind::HoldClients => sim.hold(host(self.node), CLIENTS),
            Kind::StoreFlaky | Kind::StoreSlow | Kind::StoreLies => world.store.set_trouble(self.trouble),
            Kind::StoreCut => world.store.cut_off(self.node, true),
            Kind::StoreDown => nodes
                .iter()
                .for_each(|node| world.store.cut_off(node.number, true)),
            Kind::ZoneDark | Kind::ZonesDark | Kind::ZoneCut => self.cut_zones(world, nodes, true),
            // That takes its time.
            Kind::ZoneReplaced => {}
            Kind::ZoneSlow | Kind::ZoneFlaky => {
                self.zone(world)
                    .iter()
                    .for_each(|zone| zone.set_trouble(self.trouble));
            }
            Kind::ZoneHold => self.zone(world).iter().for_each(|zone| zone.hold(self.node)),
            Kind::ClockStep => {
                let stepped = nodes.iter().find(|node| node.number == self.node);
                stepped
                    .into_iter()
                    .for_each(|node| node.machine.step_clock(self.step_ms));
            }
        }
    }

    fn remove(&self, sim: &mut Sim<'_>, nodes: &mut [SimNode], world: &World) {
        match self.kind {
            Kind::Crash | Kind::CrashAll | Kind::PowerLoss | Kind::PowerLossAll => {
                for node in self.crashed(nodes) {
                    node.start(sim);
                }
            }
            // They start again by themselves.
            Kind::Restart | Kind::RestartRolling => {}
            Kind::Pause => {
                self.everybody(nodes, |a, b| sim.release(a, b));
                let now = sim.elapsed();
                world.stores(|store| store.release(self.node, now));
            }
            Kind::StoreHold => world.store.release(self.node, sim.elapsed()),
            Kind::Membership => restore_membership(nodes),
            Kind::Hold => self.pairs(|a, b| sim.release(a, b)),
            Kind::Partition | Kind::OneWay => {
                self.pairs(|a, b| {
                    match self.kind {
                        Kind::OneWay => sim.repair_oneway(a, b),
                        _ => sim.repair(a, b),
                    }
                    let between: (IpAddr, IpAddr) = (sim.lookup(a), sim.lookup(b));
                    world.wires.reset(between);
                });
            }
            Kind::HoldClients => sim.release(host(self.node), CLIENTS),
            Kind::StoreFlaky | Kind::StoreSlow | Kind::StoreLies => {
                world.store.set_trouble(Trouble::default());
            }
            Kind::StoreCut => world.store.cut_off(self.node, false),
            Kind::StoreDown => nodes
                .iter()
                .for_each(|node| world.store.cut_off(node.number, false)),
            Kind::ZoneDark | Kind::ZonesDark | Kind::ZoneCut => self.cut_zones(world, nodes, false),
            // It goes on by itself.
            Kind::ZoneReplaced => {}
            Kind::ZoneSlow | Kind::ZoneFlaky => {
                let zone = self.zone(world);
                zone.iter().for_each(|zone| zone.set_trouble(Trouble::default()));
            }
            Kind::ZoneHold => {
                let now = sim.elapsed();
                self.zone(world)
                    .iter()
                    .for_each(|zone| zone.release(self.node, now));
            }
            // Clocks stay as they are.
            Kind::ClockStep => {}
        }
    }

    fn zone_name(&self) -> String {
        format!("zone {}", self.zone + 1)
    }

    /// The zone's stores; none if there is no Express.
    fn zone(&self, world: &World) -> Lives {
        world.zones.of(self.zone)
    }

    /// Whether the store that is replaced has gone already.
    fn is_lost(&self) -> bool {
        self.step_ms < 0
    }

    fn farewell(&self) -> &'static str {
        match self.is_lost() {
            true => "which was lost",
            false => "and used until then",
        }
    }

    /// Another store is there for the zone; `None` if there is no Express.
    fn replace(&self, now: Duration, world: &World) -> Option<Replacement> {
        let former = world.zones.of(self.zone).pop()?;
        if self.is_lost() {
            former.lose();
        }
        let store = Store::new(self.draw, world.trace.clone());
        world.zones.replace(self.zone, store);
        Some(Replacement::new(self.zone as u32 + 1, former, now))
    }

    /// Takes zones away from whom it is about, or gives them back.
    fn cut_zones(&self, world: &World, nodes: &[SimNode], cut: bool) {
        let (own, all_others) = (self.zone, self.kind == Kind::ZonesDark);
        let zones = world.zones.all().into_iter().enumerate();
        let zones = zones.filter(|(at, _)| (*at == own) != all_others);
        for zone in zones.flat_map(|(_, lives)| lives) {
            let whom = nodes.iter().map(|node| node.number);
            let whom = whom.filter(|number| self.kind != Kind::ZoneCut || *number == self.node);
            whom.for_each(|number| zone.cut_off(number, cut));
        }
    }

    fn crashed<'a>(&self, nodes: &'a mut [SimNode]) -> impl Iterator<Item = &'a mut SimNode> {
        let all = matches!(self.kind, Kind::CrashAll | Kind::PowerLossAll);
        let number = self.node;
        nodes.iter_mut().filter(move |node| all || node.number == number)
    }

    /// All that the node exchanges anything with.
    fn everybody(&self, nodes: &[SimNode], mut each: impl FnMut(&str, &str)) {
        let others = nodes.iter().map(|node| node.number);
        for other in others.filter(|other| *other != self.node) {
            each(&host(self.node), &host(other));
        }
        each(&host(self.node), CLIENTS);
    }

    /// One node after the other has its turn while the fault lasts: whose begins behind `before`, and not behind `now`.
    fn roll(&self, before: Option<Duration>, now: Duration, nodes: &[SimNode]) -> Option<u64> {
        let turn = ((self.until - self.from) / (nodes.len() as u32 + 1)).max(Duration::from_millis(1));
        let number = |at: Duration| {
            let since = at.checked_sub(self.from)?;
            u64::try_from(since.as_nanos() / turn.as_nanos()).ok()
        };
        let number_now = number(now)?;
        let begins = before.and_then(number) != Some(number_now);
        (begins && number_now < nodes.len() as u64).then_some(number_now + 1)
    }

    fn pairs(&self, mut each: impl FnMut(&str, &str)) {
        for other in &self.others {
            each(&host(self.node), &host(*other));
        }
    }
}
