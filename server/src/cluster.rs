//! A node as one of several: its way to the others, and its lives as an owner of channels.
//!
//! Consensus and what members say about it run on threads of their own, with a port of their own. Requests for
//! channels go to another port, on the threads that serve clients.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use axum::Router;
use futures::stream::{self, Stream};
use millrace_api::id::{Incarnation, NodeId};
use millrace_raft::command::RegisterNode;
use millrace_raft::error::MetaError;
use millrace_raft::group::{Blocking, Fresh, GroupRuntime, MemberSlot, Meta, MetaOptions, Timing};
use millrace_raft::grpc::{self, Connect, GrpcTransport, Tls, TlsError};
use millrace_raft::identity::{ClusterId, DirectoryId, PeerAddress};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tonic::service::Routes;

use crate::admin::pb::admin_server::AdminServer;
use crate::admin::service::{AdminService, AdminSlot};
use crate::channel::recovery::Owner;
use crate::control::Control;
use crate::control::leases::LeaseTiming;
use crate::env::{BoxedIo, Env, Listener};
use crate::frontend::service::Lifecycle;
use crate::heart::Heart;
use crate::lease::Lease;
use crate::ownership::{Ownership, Parts, Wanted};
use crate::peer::directory::Peers;
use crate::peer::serve::PeerService;
use crate::zone_disk::serve::ZoneService;

/// How long a node that is to stop tries to tell the leader so, before it gives its channels back all the same.
const DEPARTURE_TIMEOUT: Duration = Duration::from_secs(1);
/// Pause after a failed accept, or a registration that the group did not take.
const PAUSE: Duration = Duration::from_millis(200);

/// What makes a node one of several.
#[derive(Debug, Clone)]
pub struct ClusterConfig {
    pub name: String,
    pub node: NodeId,
    pub zone: String,
    /// The members that form the group; empty to wait until a leader adds this node.
    pub peers: Vec<PeerAddress>,
    /// Where this node listens for members of the group, and how they reach it.
    pub cluster_addr: SocketAddr,
    pub cluster_advertise: String,
    /// The same for requests that other nodes pass on.
    pub forward_addr: SocketAddr,
    /// `None`: the host of `cluster_advertise`, with the port that is listened on.
    pub forward_advertise: Option<String>,
    pub tls: Option<TlsFiles>,
    pub lease: LeaseTiming,
    pub timing: Timing,
}

/// PEM files: the authority that signs every node, and this node's certificate and key.
#[derive(Debug, Clone)]
pub struct TlsFiles {
    pub authority: PathBuf,
    pub certificate: PathBuf,
    pub key: PathBuf,
}

#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    #[error("cannot listen on {addr} for other nodes: {cause}")]
    Listen { addr: SocketAddr, cause: io::Error },
    #[error("cannot read {path}: {cause}")]
    File { path: PathBuf, cause: io::Error },
    #[error("the identity of this node in the cluster is not usable: {0}")]
    Tls(#[from] TlsError),
    #[error("metadata: {0}")]
    Meta(#[from] MetaError),
}

/// The way to the other nodes of the cluster.
pub struct Cluster {
    pub meta: Meta,
    /// What operators are answered with, beside metadata.
    pub admin: AdminSlot,
    /// This node's disk, if it is a zone for the others.
    pub disk: ZoneService,
    config: ClusterConfig,
    env: Env,
    slot: MemberSlot,
    tls: Option<Tls>,
}

impl Cluster {
    /// Becomes a member of the metadata group, with the data in `dir`. Waits until the group has a leader and this
    /// node's state is as new as the group's was then.
    pub async fn open(config: ClusterConfig, env: Env, dir: PathBuf) -> Result<Self, ClusterError> {
        let tls = config.tls.as_ref().map(read_tls).transpose()?;
        let slot = MemberSlot::default();
        let runtime = GroupRuntime::start(env.blocking)?;
        let transport =
            GrpcTransport::new(Connector(env.clone()), tls.clone(), slot.clone(), runtime.clone());
        let listener = listen(&env, config.cluster_addr).await?;
        let admin = AdminSlot::default();
        let service = AdminService {
            cluster: config.name.clone(),
            member: slot.clone(),
            node: admin.clone(),
        };
        runtime.spawn(grpc::serve(
            accepted(listener),
            grpc::service(slot.clone()).add_service(AdminServer::new(service)),
            slot.clone(),
            tls.clone(),
        ));
        let fresh = match config.peers.is_empty() {
            true => Fresh::Join,
            false => Fresh::Form {
                peers: config.peers.clone(),
            },
        };
        let options = MetaOptions {
            cluster: Some(ClusterId::of_name(&config.name)),
            directory: Some(DirectoryId(env.random_u128())),
            address: config.cluster_advertise.clone(),
            transport: Arc::new(transport),
            fresh,
            blocking: env.blocking,
            runtime: Some(runtime),
            slot: slot.clone(),
            timing: config.timing,
            ..MetaOptions::new(dir, config.node)
        };
        let meta = Meta::open(options).await?;
        let mut told = false;
        while let Err(error) = meta.linearize().await {
            if !error.retryable() {
                return Err(error.into());
            }
            if !told {
                tracing::info!(%error, "waiting for the metadata group");
                told = true;
            }
            sleep(PAUSE).await;
        }
        Ok(Self {
            meta,
            admin,
            disk: ZoneService::default(),
            config,
            env,
            slot,
            tls,
        })
    }

    pub fn config(&self) -> &ClusterConfig {
        &self.config
    }

    /// The way to the channels of other nodes.
    pub fn peers(&self, stop: CancellationToken) -> Result<Peers, ClusterError> {
        // Driven by the threads that serve clients, not by those of consensus.
        let runtime = GroupRuntime::start(Blocking::Inline)?;
        let connector = Connector(self.env.clone());
        let transport = GrpcTransport::new(connector, self.tls.clone(), self.slot.clone(), runtime);
        Ok(Peers::new(self.meta.clone(), transport, stop))
    }

    /// Takes in what other nodes ask of this one, until `stop`; answers the address under which they reach it.
    pub async fn serve(&self, service: PeerService, stop: CancellationToken) -> Result<String, ClusterError> {
        self.serve_calls(service.router().merge(self.disk.clone().router()), stop)
            .await
    }

    pub(crate) async fn serve_calls(
        &self,
        calls: Router,
        stop: CancellationToken,
    ) -> Result<String, ClusterError> {
        let listener = listen(&self.env, self.config.forward_addr).await?;
        let port = listener.local_addr().map_err(|cause| ClusterError::Listen {
            addr: self.config.forward_addr,
            cause,
        })?;
        let host = self
            .config
            .cluster_advertise
            .rsplit_once(':')
            .map_or("", |(host, _)| host);
        let address = self
            .config
            .forward_advertise
            .clone()
            .unwrap_or_else(|| format!("{host}:{}", port.port()));
        let served = grpc::serve(
            accepted(listener),
            Routes::from(calls),
            self.slot.clone(),
            self.tls.clone(),
        );
        tokio::spawn(async move {
            tokio::select! {
                () = served => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(address)
    }
}

async fn listen(env: &Env, addr: SocketAddr) -> Result<Box<dyn Listener>, ClusterError> {
    let listener = env.network.listen(addr).await;
    listener.map_err(|cause| ClusterError::Listen { addr, cause })
}

/// The identity that the files hold.
pub(crate) fn read_tls(files: &TlsFiles) -> Result<Tls, ClusterError> {
    let read = |path: &PathBuf| {
        std::fs::read(path).map_err(|cause| ClusterError::File {
            path: path.clone(),
            cause,
        })
    };
    let (authority, certificate, key) = (
        read(&files.authority)?,
        read(&files.certificate)?,
        read(&files.key)?,
    );
    Ok(Tls::from_pem(&authority, &certificate, &key)?)
}

fn accepted(listener: Box<dyn Listener>) -> impl Stream<Item = io::Result<BoxedIo>> + Send + 'static {
    stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(io, _peer)| io);
        if accepted.is_err() {
            sleep(PAUSE).await;
        }
        Some((accepted, listener))
    })
}

/// Connections as the environment makes them.
pub(crate) struct Connector(pub Env);

#[async_trait]
impl Connect for Connector {
    async fn connect(&self, address: &str) -> io::Result<Box<dyn grpc::Io>> {
        Ok(Box::new(self.0.network.connect(address).await?))
    }
}

/// The node's lives as an owner of channels, one after the other.
pub struct Lives {
    pub node: NodeId,
    pub zone: String,
    /// Under which other nodes reach this one.
    pub address: String,
    pub env: Env,
    pub control: Control,
    pub peers: Peers,
    pub lifecycle: Lifecycle,
    pub margin: Duration,
    /// What channels are made with; each life has a lease of its own.
    pub parts: Parts,
    /// Set while the node is registered.
    pub registered: watch::Sender<bool>,
}

impl Lives {
    /// Until `stop`; then every channel has stopped and was given back.
    pub async fn run(self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let incarnation = Incarnation(self.env.random_u128());
            tokio::select! {
                () = self.register(incarnation) => {}
                () = stop.cancelled() => return,
            }
            self.registered.send_replace(true);
            if self.live(incarnation, &stop).await {
                return;
            }
            self.registered.send_replace(false);
            tracing::warn!("the group has ended this node's ownership; it begins anew, with no channel");
        }
    }

    /// Whoever held this directory before has ended, and so have all channels of this process's former life.
    async fn register(&self, incarnation: Incarnation) {
        let command = RegisterNode {
            node: self.node,
            incarnation,
            zone: self.zone.clone(),
            address: self.address.clone(),
            proves_old_dead: true,
            now_ms: self.env.now_ms(),
        };
        let begun = async || {
            self.parts.meta.remember_life(incarnation).await?;
            self.parts.meta.propose(command.clone()).await
        };
        while let Err(error) = begun().await {
            tracing::warn!(%error, "the group did not register this node yet");
            sleep(PAUSE).await;
        }
    }

    /// One life. `true` when it ended because it was to stop.
    async fn live(&self, incarnation: Incarnation, stop: &CancellationToken) -> bool {
        let lease = Lease::granted_by_leader(self.env.ambient.clone(), self.margin);
        let (wanted, wants) = watch::channel(Wanted::default());
        let (avoids, avoid) = watch::channel(BTreeSet::new());
        let (told, mut departure) = watch::channel(false);
        let parts = Parts {
            lease: lease.clone(),
            ..self.parts.clone()
        };
        let owner = Owner {
            node: self.node,
            incarnation,
        };
        let heart = Heart {
            node: self.node,
            incarnation,
            env: self.env.clone(),
            meta: self.parts.meta.clone(),
            control: self.control.clone(),
            peers: self.peers.clone(),
            channels: self.parts.channels.clone(),
            lease,
            wanted,
            avoid,
            lifecycle: self.lifecycle.clone(),
            told,
        };
        // The heart beats until the channels have stopped: what they still answer needs the lease.
        let (stop_owning, stop_heart) = (CancellationToken::new(), CancellationToken::new());
        let ownership = Ownership::new(parts, owner, wants, avoids).run(stop_owning.clone());
        let ownership = async {
            let ended = ownership.await;
            stop_heart.cancel();
            ended
        };
        let heart = async {
            let beaten = heart.run(stop_heart.clone()).await;
            stop_owning.cancel();
            beaten
        };
        // A leader that does not know it would give the channels back to this node.
        let depart = async {
            tokio::select! {
                () = stop.cancelled() => {}
                () = stop_owning.cancelled() => return,
            }
            // Whatever came of it: the node stops.
            let _ = timeout(DEPARTURE_TIMEOUT, departure.wait_for(|told| *told)).await;
            stop_owning.cancel();
        };
        let (owned, beaten, ()) = tokio::join!(ownership, heart, depart);
        if let Err(trouble) = owned {
            tracing::error!(?trouble, "a channel has failed; the node begins anew");
        }
        beaten.is_ok() && stop.is_cancelled()
    }
}
