//! A cell on the test's own runtime, and short ways to call its nodes.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use millrace_api::batch::AppendBatch;
use millrace_api::name::{BasinName, StreamName};
use millrace_api::proto;
use millrace_api::read::{ReadLimits, ReadRequest, ReadStart};
use millrace_raft::group::Meta;
use millrace_server::config::{NodeConfig, Settings};
use millrace_server::env::Env;
use millrace_server::error::ServiceError;
use millrace_server::frontend::service::Frontend;
use millrace_server::frontend::service::types::{AppendAck, CreateBasin, CreateStream};
use millrace_server::node::{Ended, Node};
use millrace_wal::ZoneStore;
use millrace_wal::fault::Faults;
use prost::Message;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::ports::Ports;
use crate::stored::Stored;
use crate::wire::{Wire, World};

/// Longer than anything here takes unless it hangs.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// One node that runs.
pub struct Running {
    pub frontend: Arc<Frontend>,
    pub meta: Meta,
    http: SocketAddr,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Ended>,
}

/// Three nodes on one store.
pub struct Cell {
    _dir: tempfile::TempDir,
    places: Vec<Place>,
    pub wire: Wire,
    pub nodes: Vec<Option<Running>>,
    pub basin: BasinName,
    _ports: Ports,
}

/// What stays of a node when it stops.
pub struct Place {
    path: PathBuf,
    /// Of the metadata group; in order of the nodes.
    cluster_addrs: Vec<SocketAddr>,
    forward_addr: SocketAddr,
    node: usize,
    change: fn(Settings) -> Settings,
    world: World,
    faults: Faults,
}

impl Cell {
    /// Starts three nodes at once, each in a zone of its own; all of them serve when this returns.
    pub async fn start() -> Self {
        Self::start_with(|settings| settings).await
    }

    /// The same with other settings.
    pub async fn start_with(change: fn(Settings) -> Settings) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        let ports = free_ports(6);
        let addrs: Vec<_> = ports.iter().copied().map(at).collect();
        let wire = Wire::default();
        let place = |node: usize| {
            let (cluster_addrs, forward_addr) = (addrs[..3].to_vec(), addrs[3 + node]);
            wire.knows(cluster_addrs[node], node);
            wire.knows(forward_addr, node);
            Place {
                path: dir.path().to_owned(),
                cluster_addrs,
                forward_addr,
                node,
                change,
                world: World::new(node, wire.clone()),
                faults: Faults::new(node as u64),
            }
        };
        let places: Vec<_> = (0..3).map(place).collect();
        let started = futures::future::join_all(places.iter().map(Place::start)).await;
        let cell = Self {
            _dir: dir,
            places,
            wire: wire.clone(),
            nodes: started.into_iter().map(Some).collect(),
            basin: BasinName::new("three-nodes").unwrap(),
            _ports: ports,
        };
        let config = CreateBasin::default();
        cell.node(0)
            .ensure_basin(cell.basin.clone(), config)
            .await
            .unwrap();
        cell
    }

    pub fn node(&self, node: usize) -> &Arc<Frontend> {
        &self.nodes[node].as_ref().expect("the node runs").frontend
    }

    /// What the node knows of the metadata.
    pub fn meta(&self, node: usize) -> &Meta {
        &self.nodes[node].as_ref().expect("the node runs").meta
    }

    /// The store as it is, past the nodes' ways to it.
    pub fn store(&self) -> Arc<dyn ZoneStore> {
        let url = self.places[0].store_url();
        Env::system().stores.open(&url).expect("a directory")
    }

    /// A counter, summed over the nodes that run.
    pub async fn counted(&self, counter: &str) -> u64 {
        let mut sum = 0;
        for running in self.nodes.iter().flatten() {
            let metrics = reqwest::get(format!("http://{}/metrics", running.http))
                .await
                .unwrap();
            let metrics = metrics.text().await.unwrap();
            let line = metrics.lines().find_map(|line| line.strip_prefix(counter));
            let value = line.unwrap_or_else(|| panic!("{counter} is not among\n{metrics}"));
            sum += value.trim().parse::<u64>().unwrap();
        }
        sum
    }

    pub async fn restart(&mut self, node: usize) {
        assert!(self.nodes[node].is_none());
        self.nodes[node] = Some(self.places[node].start().await);
    }

    /// The machine that the node is on.
    pub fn world(&self, node: usize) -> &World {
        &self.places[node].world
    }

    /// The node's way to the store.
    pub fn faults(&self, node: usize) -> &Faults {
        &self.places[node].faults
    }

    /// Stops gracefully.
    pub async fn stop(&mut self, node: usize) {
        let running = self.nodes[node].take().expect("the node runs");
        drop((running.stop, running.frontend, running.meta));
        let ended = running.ended.await.expect("the node does not panic");
        assert!(matches!(ended, Ended::Stopped), "{ended:?}");
    }

    pub async fn stop_all(mut self) {
        let running = std::mem::take(&mut self.nodes).into_iter().flatten();
        let stops = running.map(|running| async {
            drop((running.stop, running.frontend, running.meta));
            running.ended.await.expect("the node does not panic")
        });
        futures::future::join_all(stops).await;
    }

    pub async fn create(&self, node: usize, stream: &StreamName) {
        let created = self
            .node(node)
            .create_stream(&self.basin, stream.clone(), CreateStream::default());
        created.await.expect("a stream");
    }

    pub async fn append(
        &self,
        node: usize,
        stream: &StreamName,
        body: &str,
    ) -> Result<AppendAck, ServiceError> {
        let appended = self.node(node).append(&self.basin, stream, batch(body));
        tokio::time::timeout(PATIENCE, appended)
            .await
            .expect("an answer in time")
    }

    /// The bodies of records from the first on, as many as one read gives, through a node.
    pub async fn bodies(&self, node: usize, stream: &StreamName) -> Vec<String> {
        self.bodies_from(node, stream, 0).await
    }

    pub async fn bodies_from(&self, node: usize, stream: &StreamName, from: u64) -> Vec<String> {
        let request = ReadRequest {
            start: ReadStart::SeqNum(from),
            clamp: false,
            limits: ReadLimits::default(),
            wait: None,
        };
        let read = self.node(node).read(&self.basin, stream, request);
        let read = tokio::time::timeout(PATIENCE, read)
            .await
            .expect("an answer in time");
        let mut bodies = Vec::new();
        for part in read.expect("records").parts {
            let decoded = proto::ReadBatch::decode(part).expect("records as stored");
            let text = |record: proto::SequencedRecord| String::from_utf8(record.body.to_vec()).unwrap();
            bodies.extend(decoded.records.into_iter().map(text));
        }
        bodies
    }
}

impl Place {
    fn store_url(&self) -> String {
        format!("file://{}", self.path.join("store").display())
    }

    async fn start(&self) -> Running {
        let peers = self.cluster_addrs.iter().enumerate();
        let peers: Vec<_> = peers.map(|(node, addr)| format!("{}={addr}", node + 1)).collect();
        let settings = Settings {
            node_id: Some(self.node as u64 + 1),
            peers: Some(peers.join(",")),
            cluster_addr: Some(self.cluster_addrs[self.node]),
            forward_addr: Some(self.forward_addr),
            cluster_plain: Some(true),
            zone: Some(format!("zone-{}", self.node)),
            election_timeout: Some(Duration::from_millis(1000)),
            data_dir: Some(self.path.join(format!("node-{}", self.node))),
            store: Some(self.store_url()),
            http_addr: Some(([127, 0, 0, 1], 0).into()),
            channels: Some(2),
            deletion_grace: Some(Duration::from_millis(10)),
            // Whatever happens here happens around flushes too.
            flush_interval: Some(Duration::from_millis(150)),
            flush_bytes: Some(ByteSize::kib(256)),
            reader_grace: Some(Duration::from_millis(300)),
            housekeeping_interval: Some(Duration::from_millis(500)),
            ..Settings::default()
        };
        let config = NodeConfig::resolve((self.change)(settings)).expect("a valid configuration");
        let env = self.world.env(Arc::new(Stored(self.faults.clone())));
        let started = tokio::time::timeout(PATIENCE, Node::start(config, env));
        let node = started.await.expect("a start in time").expect("the node starts");
        let (frontend, meta, http) = (node.frontend().clone(), node.meta().clone(), node.http_addr());
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(node.run(async { drop(stopped.await) }));
        Running {
            frontend,
            meta,
            http,
            stop,
            ended,
        }
    }
}

/// Ports of this test's own.
pub fn free_ports(count: usize) -> Ports {
    Ports::reserve(count).expect("ports that nobody has")
}

pub fn batch(body: &str) -> AppendBatch {
    let record = proto::AppendRecord {
        timestamp: None,
        headers: vec![],
        body: body.as_bytes().to_vec().into(),
    };
    AppendBatch::from_proto(proto::AppendInput {
        records: vec![record],
        match_seq_num: None,
        fencing_token: None,
    })
    .expect("a batch")
}

pub fn stream(name: impl std::fmt::Display) -> StreamName {
    StreamName::new(name.to_string()).expect("a name")
}
