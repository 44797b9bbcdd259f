//! The nodes: machines that processes run on, one after the other.

use std::cell::{Cell, RefCell};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use millrace_raft::error::MetaError;
use millrace_raft::group::{Blocking, Meta};
use millrace_server::cluster::ClusterError;
use millrace_server::config::{NodeConfig, Settings};
use millrace_server::env::Env;
use millrace_server::node::{Ended, Node, NodeError};
use millrace_server::zones::standard::StoreError;
use rand::rngs::SmallRng;
use tokio::sync::Notify;
use turmoil::Sim;

use crate::ambient::Machine;
use crate::disk;
use crate::findings::Findings;
use crate::network::Wires;
use crate::operator::Orders;
use crate::store::{Store, StoresOf};
use crate::trace::{self, Trace};
use crate::zones::Zones;

const CLUSTER_PORT: u16 = 7000;
const FORWARD_PORT: u16 = 7001;
/// Where clients reach a node.
pub const HTTP_PORT: u16 = 8080;
/// A supervisor starts a process that has ended by itself again after this.
const STARTS_AGAIN_AFTER: Duration = Duration::from_millis(500);
/// What a node's lease is worth after it was last heard of, and an election.
const ELECTION_TIMEOUT: Duration = Duration::from_secs(1);

/// What every node of a run has in common.
#[derive(Clone)]
pub struct World {
    pub wires: Wires,
    /// Of Standard streams and of all segments.
    pub store: Store,
    /// Of Express streams; there are none if there is no Express.
    pub zones: Zones,
    pub trace: Trace,
    pub findings: Findings,
}

impl World {
    /// Does something with each store.
    pub fn stores(&self, mut f: impl FnMut(&Store)) {
        self.zones.each(&mut f);
        f(&self.store);
    }
}

/// What a node is configured with besides its place.
#[derive(Debug, Clone, Copy)]
pub struct Shape {
    pub nodes: u64,
    pub channels: u32,
    pub linger: Duration,
    pub idle_timeout: Duration,
    /// How long a record waits to be put into a segment.
    pub flush_interval: Duration,
}

/// One node.
pub struct SimNode {
    pub number: u64,
    pub machine: Machine,
    /// The metadata of the process that serves now.
    meta: Rc<RefCell<Option<Meta>>>,
    /// The process has ended by itself.
    ended: Rc<Cell<bool>>,
    /// Asks the process to stop.
    stop: Rc<Notify>,
    /// What else it is asked for.
    pub orders: Orders,
    /// The Express zones that its process was started with.
    express: Rc<RefCell<Option<String>>>,
    disk: PathBuf,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum State {
    Up,
    /// It ended by itself, and is started at this time.
    Ended(Duration),
    /// Its machine is off.
    Off,
}

/// The machine's name on the network.
pub fn host(node: u64) -> String {
    format!("node-{node}")
}

impl SimNode {
    /// Puts the machine on the network; its process starts with the next step. `dir` is its disk.
    pub fn new(
        sim: &mut Sim<'_>,
        number: u64,
        machine: Machine,
        shape: Shape,
        world: &World,
        dir: PathBuf,
    ) -> Self {
        let meta = Rc::new(RefCell::new(None));
        let ended = Rc::new(Cell::new(false));
        let stop = Rc::new(Notify::new());
        let env = Env {
            ambient: Arc::new(machine.clone()),
            network: Arc::new(world.wires.clone()),
            stores: Arc::new(StoresOf {
                standard: world.store.of(number),
                zones: world.zones.clone(),
            }),
            blocking: Blocking::Inline,
        };
        let (shown, world, over) = (meta.clone(), world.clone(), ended.clone());
        let orders = Orders::default();
        let (asked, ordered, disk) = (stop.clone(), orders.clone(), dir.clone());
        let express = Rc::new(RefCell::new(None));
        let started_with = express.clone();
        sim.host(host(number), move || {
            let urls = world.zones.urls();
            started_with.replace(urls.clone());
            let process = Process {
                express: urls,
                number,
                shape,
                dir: dir.clone(),
                env: env.clone(),
                meta: shown.clone(),
                stop: asked.clone(),
                orders: ordered.clone(),
                world: world.clone(),
            };
            let over = over.clone();
            over.set(false);
            async move {
                trace::begin_process(process.number);
                process.run().await;
                over.set(true);
                Ok(())
            }
        });
        Self {
            number,
            machine,
            meta,
            ended,
            stop,
            orders,
            express,
            disk,
            state: State::Up,
        }
    }

    /// What the process says of the metadata group, if it serves.
    pub fn meta(&self) -> Option<Meta> {
        self.meta.borrow().clone()
    }

    /// Whether its process, if there is one, was started with these Express zones.
    pub fn has_express(&self, urls: Option<&str>) -> bool {
        self.state != State::Up || self.express.borrow().as_deref() == urls
    }

    /// Whether the machine is on.
    pub fn is_on(&self) -> bool {
        self.state != State::Off
    }

    /// The process ends at once, wherever it stands. What it had written is there.
    pub fn crash(&mut self, sim: &mut Sim<'_>) {
        self.meta.borrow_mut().take();
        sim.crash(host(self.number));
        self.state = State::Off;
    }

    /// The machine loses power: as [`crash`](Self::crash), and what was not synced is not all there.
    ///
    /// # Errors
    /// Of the file system that the disk is on.
    pub fn lose_power(&mut self, sim: &mut Sim<'_>, rng: &mut SmallRng) -> std::io::Result<u64> {
        self.crash(sim);
        match self.disk.is_dir() {
            true => disk::lose_power(&self.disk, rng),
            false => Ok(0),
        }
    }

    /// Asks the process to stop; it is started again when it has.
    pub fn ask_to_stop(&self) {
        if self.meta.borrow().is_some() {
            self.stop.notify_waiters();
        }
    }

    /// A process starts on the machine.
    pub fn start(&mut self, sim: &mut Sim<'_>) {
        self.meta.borrow_mut().take();
        sim.bounce(host(self.number));
        self.state = State::Up;
    }

    /// Starts the process again after it ended by itself.
    pub fn supervise(&mut self, sim: &mut Sim<'_>, now: Duration) {
        match self.state {
            State::Up if self.ended.get() => {
                self.state = State::Ended(now + STARTS_AGAIN_AFTER);
            }
            State::Ended(until) if now >= until => self.start(sim),
            _ => {}
        }
    }
}

/// One life of a node.
struct Process {
    number: u64,
    shape: Shape,
    dir: PathBuf,
    env: Env,
    meta: Rc<RefCell<Option<Meta>>>,
    stop: Rc<Notify>,
    orders: Orders,
    /// The URLs of its Express zones.
    express: Option<String>,
    world: World,
}

impl Process {
    async fn run(self) {
        let config = match self.config() {
            Ok(config) => config,
            Err(error) => return self.wrong(&format!("is not configured: {error}")),
        };
        let node = match Node::start(config, self.env.clone()).await {
            Ok(node) => node,
            Err(error) if passing(&error) => {
                self.world
                    .trace
                    .line(&format!("node {} did not start: {error}", self.number));
                return;
            }
            Err(error) => return self.wrong(&format!("did not start: {error}")),
        };
        self.world.trace.line(&format!("node {} serves", self.number));
        self.meta.replace(Some(node.meta().clone()));
        let (meta, express) = (node.meta().clone(), node.express().cloned());
        let orders = self.orders.carry_out(meta, express, &self.world.trace);
        let running = node.run(self.stop.notified());
        let ended = tokio::select! {
            biased;
            ended = running => ended,
            () = orders => return,
        };
        self.meta.take();
        match ended {
            Ended::Stopped => self
                .world
                .trace
                .line(&format!("node {} has stopped", self.number)),
            Ended::Failed(why) => self.wrong(&format!("ended by itself: {why}")),
        }
    }

    fn wrong(&self, what: &str) {
        self.world.findings.add(format!("node {} {what}", self.number));
    }

    fn config(&self) -> Result<NodeConfig, millrace_server::config::ConfigError> {
        let peers: Vec<String> = (1..=self.shape.nodes)
            .map(|node| format!("{node}={}:{CLUSTER_PORT}", host(node)))
            .collect();
        let any = |port: u16| Some(([0, 0, 0, 0], port).into());
        let settings = Settings {
            node_id: Some(self.number),
            cluster: Some("sim".into()),
            peers: Some(peers.join(",")),
            cluster_addr: any(CLUSTER_PORT),
            cluster_plain: Some(true),
            forward_addr: any(FORWARD_PORT),
            forward_advertise: Some(format!("{}:{FORWARD_PORT}", host(self.number))),
            http_addr: any(HTTP_PORT),
            zone: Some(format!("zone-{}", self.number)),
            election_timeout: Some(ELECTION_TIMEOUT),
            data_dir: Some(self.dir.clone()),
            store: Some("sim://store".into()),
            express: self.express.clone(),
            channels: Some(self.shape.channels),
            linger: Some(self.shape.linger),
            idle_timeout: Some(self.shape.idle_timeout),
            flush_interval: Some(self.shape.flush_interval),
            // Little enough to fetch pages again, and to see readers whose objects were deleted.
            cache_bytes: Some(bytesize::ByteSize::mib(1)),
            reader_grace: Some(Duration::from_secs(1)),
            housekeeping_interval: Some(Duration::from_secs(1)),
            deletion_grace: Some(Duration::from_secs(1)),
            append_timeout: Some(Duration::from_secs(10)),
            ..Settings::default()
        };
        Ok(NodeConfig {
            // Relative, so that no run has the name of its directory in what it does.
            data_dir: self.dir.clone(),
            ..NodeConfig::resolve(settings)?
        })
    }
}

/// Whether a start may fail like this while stores and the group are disturbed.
fn passing(error: &NodeError) -> bool {
    let meta = |error: &MetaError| error.retryable();
    match error {
        NodeError::Store(StoreError::Unusable { .. }) => true,
        NodeError::Store(StoreError::Meta(error)) | NodeError::Meta(error) => meta(error),
        NodeError::Cluster(ClusterError::Meta(error)) => meta(error),
        _ => false,
    }
}
