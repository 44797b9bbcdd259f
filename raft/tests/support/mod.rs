//! A cluster in one process, whose members talk over loopback TCP.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::stream;
use millrace_api::config::{BasinConfig, StreamConfig};
use millrace_api::id::{BasinId, Incarnation, NodeId, StreamId};
use millrace_api::name::{BasinName, StreamName};
use millrace_raft::command::{CreateBasin, CreateMode, CreateStream, PurgeBasin, RegisterNode};
use millrace_raft::error::MetaError;
use millrace_raft::group::{Blocking, Fresh, GroupRuntime, MemberSlot, Meta, MetaOptions, Role, Timing};
use millrace_raft::grpc::{self, Connect, GrpcTransport, Io, OperatorTransport, Tls};
use millrace_raft::identity::{ClusterId, DirectoryId, PeerAddress};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

pub const PROPOSE_TIMEOUT: Duration = Duration::from_secs(6);

/// Nodes that are cut off from the others, both ways.
#[derive(Clone)]
struct Cuts(Arc<watch::Sender<Vec<u64>>>);

impl Cuts {
    fn is_cut(&self, node: u64) -> bool {
        self.0.borrow().contains(&node)
    }

    /// A connection of a node, which breaks when the node is cut off.
    fn guard(&self, node: u64, io: TcpStream) -> Box<dyn Io> {
        let mut cuts = self.0.subscribe();
        let (near, mut far) = tokio::io::duplex(1 << 20);
        tokio::spawn(async move {
            let mut io = io;
            tokio::select! {
                _ = cuts.wait_for(|cuts| cuts.contains(&node)) => {}
                _ = tokio::io::copy_bidirectional(&mut io, &mut far) => {}
            }
        });
        Box::new(near)
    }
}

struct Tcp {
    node: u64,
    cuts: Cuts,
}

#[async_trait]
impl Connect for Tcp {
    #[allow(clippy::disallowed_methods)] // A test's own network.
    async fn connect(&self, address: &str) -> std::io::Result<Box<dyn Io>> {
        if self.cuts.is_cut(self.node) {
            return Err(std::io::Error::other("cut off"));
        }
        let io = TcpStream::connect(address).await?;
        io.set_nodelay(true)?;
        Ok(self.cuts.guard(self.node, io))
    }
}

pub struct Cluster {
    root: tempfile::TempDir,
    addresses: BTreeMap<u64, String>,
    listeners: Arc<Mutex<BTreeMap<u64, Arc<TcpListener>>>>,
    founders: u64,
    cuts: Cuts,
    pub tls: Option<Tls>,
}

/// How one node starts.
pub struct Seat {
    pub node: u64,
    pub dir: PathBuf,
    pub cluster: ClusterId,
    pub directory: DirectoryId,
    pub address: String,
    pub peers: Vec<PeerAddress>,
    /// Instead of forming a group with the peers.
    pub fresh: Option<Fresh>,
    pub tls: Option<Tls>,
    listener: Arc<TcpListener>,
    cuts: Cuts,
}

#[allow(clippy::disallowed_methods)] // A test's own network.
async fn listen() -> (Arc<TcpListener>, String) {
    let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
    let listener = TcpListener::bind(any).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    (Arc::new(listener), address)
}

impl Cluster {
    /// Seats for so many founders, and for a few who may come later.
    pub async fn new(founders: u64) -> Self {
        let (mut addresses, mut listeners) = (BTreeMap::new(), BTreeMap::new());
        for node in 1..=founders + 2 {
            let (listener, address) = listen().await;
            addresses.insert(node, address);
            listeners.insert(node, listener);
        }
        Self {
            root: tempfile::tempdir().unwrap(),
            addresses,
            listeners: Arc::new(Mutex::new(listeners)),
            founders,
            cuts: Cuts(Arc::new(watch::Sender::new(Vec::new()))),
            tls: None,
        }
    }

    pub fn address(&self, node: u64) -> String {
        self.addresses[&node].clone()
    }

    pub fn peer(&self, node: u64) -> PeerAddress {
        PeerAddress {
            node: NodeId(node),
            address: self.address(node),
        }
    }

    pub fn fresh_dir(&self) -> PathBuf {
        let taken = std::fs::read_dir(self.root.path()).unwrap().count();
        let dir = self.root.path().join(format!("other-{taken}"));
        std::fs::create_dir(&dir).unwrap();
        dir
    }

    pub fn seat(&self, node: u64) -> Seat {
        Seat {
            node,
            dir: self.root.path().join(node.to_string()),
            cluster: ClusterId::of_name("test"),
            directory: DirectoryId(u128::from(node) * 11),
            address: self.address(node),
            peers: (1..=self.founders).map(|node| self.peer(node)).collect(),
            fresh: None,
            tls: self.tls.clone(),
            listener: self.listeners.lock().unwrap()[&node].clone(),
            cuts: self.cuts.clone(),
        }
    }

    pub async fn start_all(&self) -> Vec<Meta> {
        let starting = (1..=self.founders).map(|node| self.seat(node).start());
        let started = futures::future::join_all(starting).await;
        started.into_iter().map(Result::unwrap).collect()
    }

    /// The founder that is neither this member nor that node.
    pub fn other_than(&self, member: &Meta, node: NodeId) -> NodeId {
        let taken = [member.introduction().identity.node, node];
        let founders = (1..=self.founders).map(NodeId);
        founders.into_iter().find(|node| !taken.contains(node)).unwrap()
    }

    /// The way of an operator of the cluster that has the name. To be asked for inside a runtime.
    pub fn operator(&self, tls: Option<Tls>, name: &str) -> OperatorTransport {
        let tcp = Tcp {
            node: 0,
            cuts: self.cuts.clone(),
        };
        let runtime = GroupRuntime::start(Blocking::Inline).unwrap();
        OperatorTransport::new(tcp, tls, ClusterId::of_name(name), runtime)
    }

    /// From here on nothing gets to a node or from it.
    pub fn cut(&self, node: u64) {
        self.cuts.0.send_modify(|cuts| cuts.push(node));
    }
}

impl Seat {
    pub fn peer(&self) -> PeerAddress {
        PeerAddress {
            node: NodeId(self.node),
            address: self.address.clone(),
        }
    }

    pub async fn listen_elsewhere(&mut self) {
        (self.listener, self.address) = listen().await;
    }

    pub async fn start(self) -> Result<Meta, MetaError> {
        let runtime = GroupRuntime::start(Blocking::Pool)?;
        let slot = MemberSlot::default();
        let tcp = Tcp {
            node: self.node,
            cuts: self.cuts.clone(),
        };
        let (listener, cuts, node) = (self.listener, self.cuts, self.node);
        let incoming = stream::unfold((listener, cuts), move |(listener, cuts)| async move {
            let accepted = listener.accept().await.map(|(io, _)| {
                let _ = io.set_nodelay(true);
                cuts.guard(node, io)
            });
            Some((accepted, (listener, cuts)))
        });
        runtime.spawn(grpc::serve(
            incoming,
            grpc::service(slot.clone()),
            slot.clone(),
            self.tls.clone(),
        ));
        let mut options = MetaOptions::new(self.dir, NodeId(self.node));
        options.cluster = Some(self.cluster);
        options.directory = Some(self.directory);
        options.address = self.address;
        options.transport = Arc::new(GrpcTransport::new(tcp, self.tls, slot.clone(), runtime.clone()));
        options.fresh = self.fresh.unwrap_or(Fresh::Form { peers: self.peers });
        options.runtime = Some(runtime);
        options.slot = slot;
        options.snapshot_entries = 300;
        options.timing = Timing {
            heartbeat_interval: Duration::from_millis(100),
            election_timeout_min: Duration::from_millis(500),
            election_timeout_max: Duration::from_millis(1000),
            propose_timeout: PROPOSE_TIMEOUT,
        };
        Meta::open(options).await
    }
}

pub fn leads(meta: &Meta) -> bool {
    meta.metrics().role == Role::Leader
}

pub async fn within(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let all = async {
        while !done().await {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    if tokio::time::timeout(Duration::from_secs(30), all).await.is_err() {
        panic!("not within 30 s: {what}");
    }
}

pub fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let to = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy_dir(&entry.path(), &to),
            false => drop(std::fs::copy(entry.path(), to).unwrap()),
        }
    }
}

pub fn register(node: NodeId, incarnation: Incarnation) -> RegisterNode {
    RegisterNode {
        node,
        incarnation,
        zone: String::new(),
        address: String::new(),
        proves_old_dead: true,
        now_ms: 1,
    }
}

pub fn name(id: u128) -> BasinName {
    BasinName::new(format!("basin-{id:06}")).unwrap()
}

/// Refused if it is applied a second time.
pub fn create(id: u128) -> CreateBasin {
    CreateBasin {
        name: name(id),
        id: BasinId(id),
        config: BasinConfig::default(),
        location: None,
        mode: CreateMode::CreateOnly { request_key: None },
        now_ms: 1,
    }
}

pub fn stream(prefix: &str, id: u128) -> CreateStream {
    CreateStream {
        basin: name(1),
        name: StreamName::new(format!("{prefix}-{id}")).unwrap(),
        id: StreamId(id + prefix.len() as u128 * 1_000_000),
        config: StreamConfig::default(),
        mode: CreateMode::CreateOnly { request_key: None },
        now_ms: 1,
    }
}

/// Changes nothing.
pub fn purge(id: u128) -> PurgeBasin {
    PurgeBasin {
        basin: BasinId(1_000_000 + id),
    }
}

/// Signs certificates for loopback.
pub struct Authority {
    certificate: rcgen::Certificate,
    issuer: rcgen::Issuer<'static, rcgen::KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let key = rcgen::KeyPair::generate().unwrap();
        let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        let certificate = params.self_signed(&key).unwrap();
        Self {
            certificate,
            issuer: rcgen::Issuer::new(params, key),
        }
    }

    pub fn tls(&self) -> Tls {
        let key = rcgen::KeyPair::generate().unwrap();
        let params = rcgen::CertificateParams::new(vec!["127.0.0.1".into()]).unwrap();
        let signed = params.signed_by(&key, &self.issuer).unwrap();
        Tls::from_pem(
            self.certificate.pem().as_bytes(),
            signed.pem().as_bytes(),
            key.serialize_pem().as_bytes(),
        )
        .unwrap()
    }
}
