//! The one place where a node is wired: metadata, store, channels, frontend, listener, background work.

use std::collections::BTreeSet;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, Incarnation, NodeId};
use millrace_raft::command::{CreateChannel, RegisterNode};
use millrace_raft::error::MetaError;
use millrace_raft::group::{Meta, MetaOptions};
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::admin::service::AdminParts;
use crate::cache::PageCache;
use crate::channel::flush::FlushLimits;
use crate::channel::recovery::{Owner, RecoveryError};
use crate::channel::state::ChannelLimits;
use crate::channels::Channels;
use crate::cluster::{Cluster, ClusterError, Lives};
use crate::config::{ConfigError, NodeConfig};
use crate::control::Control;
use crate::data_dir::{DataDir, DataDirError};
use crate::env::Env;
use crate::frontend::grpc;
use crate::frontend::http::{self, HttpOptions};
use crate::frontend::listener::Server;
use crate::frontend::service::{Frontend, Lifecycle, ServiceLimits};
use crate::init_file::{Declaration, InitError};
use crate::lease::Lease;
use crate::ownership::{ClassLimits, Ownership, Parts, Trouble, Wanted};
use crate::peer::directory::Peers;
use crate::peer::serve::{PeerParts, PeerService};
use crate::storage::caretaker::Caretaker;
use crate::storage::{Disks, Storage};
use crate::telemetry::{Metrics, Sources};
use crate::tls::{self, TlsError};
use crate::wals::Wals;
use crate::zones::alone::Replacement;
use crate::zones::express::ExpressZones;
use crate::zones::replace::ReplaceError;
use crate::zones::standard::{self, StoreError};
use crate::zones::{self, class_is_there};

/// A channel that storage takes nothing of for this long is left to another node.
const STUCK_AFTER: Duration = Duration::from_secs(10);

/// A node that starts waits so long for its Express zones to show what they are, and serves without those that do not.
const ZONES_PATIENCE: Duration = Duration::from_secs(2);

/// A node that is alone waits so long for its Express channels before it serves without them.
const EXPRESS_PATIENCE: Duration = Duration::from_secs(5);

/// How long a node that is to stop waits for another to lead.
const HAND_OVER_TIMEOUT: Duration = Duration::from_secs(2);

/// A node that is alone.
const NODE: NodeId = NodeId(1);

#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Wal(#[from] millrace_wal::WalError),
    #[error("metadata: {0}")]
    Meta(#[from] MetaError),
    #[error("channel {channel} cannot be recovered: {cause}")]
    Recovery {
        channel: ChannelId,
        cause: RecoveryError,
    },
    #[error("{0}")]
    Channels(String),
    #[error(transparent)]
    Cluster(#[from] ClusterError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("cannot listen on {addr}: {cause}")]
    Listen { addr: SocketAddr, cause: std::io::Error },
    #[error(transparent)]
    Init(#[from] InitError),
    #[error("--express-replace: {0}")]
    Replace(#[from] ReplaceError),
}

/// How a node ended.
#[derive(Debug)]
pub enum Ended {
    /// Asked to: what was accepted is durable and answered.
    Stopped,
    /// It must not or cannot go on; the text says why and is meant for the operator.
    Failed(String),
}

/// A node that serves.
pub struct Node {
    _data_dir: DataDir,
    config: NodeConfig,
    meta: Meta,
    frontend: Arc<Frontend>,
    express: Option<ExpressZones>,
    lifecycle: Lifecycle,
    http: Server,
    ownership: JoinHandle<Result<(), Trouble>>,
    stop_channels: CancellationToken,
    stop_tasks: CancellationToken,
    /// What other nodes ask of this one.
    stop_serving: CancellationToken,
    tasks: JoinSet<()>,
}

impl Node {
    /// Starts a node; it serves when this returns. What a former process acknowledged on the same data is there.
    pub async fn start(config: NodeConfig, env: Env) -> Result<Self, NodeError> {
        let data_dir = lock_patiently(&config.data_dir).await?;
        let metadata_dir = match config.is_in_memory() {
            true => data_dir.metadata_in_memory()?,
            false => data_dir.metadata(),
        };
        let cluster = match config.cluster.clone() {
            Some(cluster) => Some(Cluster::open(cluster, env.clone(), metadata_dir.clone()).await?),
            None => None,
        };
        let meta = match &cluster {
            Some(cluster) => cluster.meta.clone(),
            None => {
                let options = MetaOptions {
                    blocking: env.blocking,
                    ..MetaOptions::new(metadata_dir, NODE)
                };
                Meta::open(options).await?
            }
        };
        let started = Self::start_on(config, env, data_dir, meta.clone(), cluster).await;
        if started.is_err() {
            meta.shutdown().await;
        }
        started
    }

    async fn start_on(
        config: NodeConfig,
        env: Env,
        data_dir: DataDir,
        meta: Meta,
        cluster: Option<Cluster>,
    ) -> Result<Self, NodeError> {
        let zone = match &config.store {
            Some(url) => Some(standard::open(url, &meta, &env).await?),
            None => {
                standard::none(&meta).await?;
                None
            }
        };
        let stop_serving = CancellationToken::new();
        let neighbours = match &cluster {
            Some(cluster) => Some(cluster.neighbours(stop_serving.clone())?),
            None => None,
        };
        let peers = match &cluster {
            Some(cluster) => Some(cluster.peers(stop_serving.clone())?),
            None => None,
        };
        let disks = cluster.as_ref().zip(peers.clone()).map(|(cluster, peers)| Disks {
            node: cluster.config().node,
            directory: data_dir.zone(),
            service: cluster.disk.clone(),
            peers,
            stop: stop_serving.clone(),
        });
        let storage = Storage::new(zone, disks, neighbours, &config, &meta, &env)?;
        let node = config.cluster.as_ref().map_or(NODE, |cluster| cluster.node);
        let channels = Channels::new(node, meta.clone());
        let classes = usize::from(config.store.is_some()) + usize::from(config.express.is_some());
        let standard = ChannelLimits {
            chunk_bytes: config.chunk_bytes,
            linger: config.linger,
            recent_bytes: config.recent_bytes / (classes * config.channels as usize),
            flush: FlushLimits::new(config.flush_bytes as u64, config.flush_interval),
        };
        let express = ChannelLimits {
            linger: config
                .express
                .as_ref()
                .map_or(config.linger, |express| express.linger),
            ..standard.clone()
        };
        let limits = ClassLimits { standard, express };
        let parts = Parts {
            env: env.clone(),
            meta: meta.clone(),
            wals: storage.wals.clone(),
            express: storage.express.clone(),
            flusher: storage.flusher.clone(),
            reaper: storage.reaper.clone(),
            limits,
            idle_timeout: config.idle_timeout,
            channels: channels.clone(),
            lease: Lease::always(),
            stuck_after: None,
        };
        let lifecycle = Lifecycle::default();
        let stop_channels = CancellationToken::new();
        let limits = ServiceLimits {
            append_bytes_in_flight: config.append_bytes_in_flight,
            append_timeout: config.append_timeout,
            standard_streams: config.store.is_some(),
        };
        let frontend = Arc::new(Frontend::new(
            env.clone(),
            meta.clone(),
            channels.clone(),
            storage.chunks.clone(),
            storage.segments.clone(),
            limits,
            lifecycle.clone(),
        ));
        let stop_tasks = CancellationToken::new();
        let mut tasks = JoinSet::new();
        if let Some(zones) = &storage.express {
            zones.start(&mut tasks, &stop_serving);
            // Among others nobody waits: their disks may be zones, and they may wait for this one.
            if cluster.is_none() {
                zones.looked(ZONES_PATIENCE).await;
            }
            if let Some(number) = config.express.as_ref().and_then(|express| express.replace) {
                let replacement = Replacement::begin(zones.clone(), number).await?;
                tasks.spawn(replacement.tell_of_end(storage.cell(&meta), stop_tasks.clone()));
            }
        }
        let ownership = match cluster.as_ref().zip(peers) {
            None => own_all(parts, &config, stop_channels.clone()).await?,
            Some((cluster, peers)) => {
                let among = Among {
                    cluster,
                    peers,
                    storage: Caretaker::new(storage.cell(&meta), config.reader_grace),
                    cache: storage.cache.clone(),
                    config: &config,
                    frontend: &frontend,
                    lifecycle: &lifecycle,
                    parts,
                };
                let (control, lives) = among.others(stop_serving.clone()).await?;
                tasks.spawn(control.run(stop_tasks.clone()));
                among_others(lives, stop_channels.clone()).await
            }
        };
        if let Some(path) = &config.init_file {
            let converged = Declaration::read(path)?.apply(&frontend).await?;
            tracing::info!(?converged, path = %path.display(), "applied the init file");
        }
        let metrics = Metrics::new(Sources {
            channels: channels.clone(),
            wals: storage.wals.clone(),
            express: storage.express.clone(),
            cache: storage.cache.clone(),
            meta: meta.clone(),
            append_room: frontend.append_room(),
        });
        let http = listen(&config, &env, &frontend, metrics).await?;
        let express = storage.express.clone();
        storage.tend(node, channels, &config, (&meta, &env), &mut tasks, &stop_tasks);
        lifecycle.set_ready();
        let store = config.store.as_deref().map_or("none".to_owned(), zones::redacted);
        tracing::info!(http = %http.local_addr(), store, "serving");
        Ok(Self {
            _data_dir: data_dir,
            config,
            meta,
            frontend,
            express,
            lifecycle,
            http,
            ownership,
            stop_channels,
            stop_tasks,
            stop_serving,
            tasks,
        })
    }

    /// Where the HTTP API is; has the real port when the one asked for was 0.
    pub fn http_addr(&self) -> SocketAddr {
        self.http.local_addr()
    }

    /// The operations of the API without a network between.
    pub fn frontend(&self) -> &Arc<Frontend> {
        &self.frontend
    }

    /// What this node knows of the metadata group.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// The Express zones; `None` if the node has none.
    pub fn express(&self) -> Option<&ExpressZones> {
        self.express.as_ref()
    }

    /// Serves until `stop` resolves, then stops gracefully; or until the node cannot go on.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Ended {
        let failure = tokio::select! {
            () = stop => None,
            ended = &mut self.ownership => Some(channel_failure(ended)),
            why = self.meta.failed() => Some(format!("the metadata group has failed: {why}")),
        };
        match failure {
            None => {
                tracing::info!("stopping: new requests are refused, accepted ones are finished");
                let clients_timeout = self.config.stop_timeout;
                self.stop(clients_timeout).await;
                tracing::info!("stopped");
                Ended::Stopped
            }
            Some(why) => {
                tracing::error!(why, "the node cannot go on and stops");
                self.stop(Duration::from_secs(1)).await;
                Ended::Failed(why)
            }
        }
    }

    /// Sessions end once what they accepted is answered, then channels write out what they hold, then metadata.
    async fn stop(mut self, clients_timeout: Duration) {
        self.lifecycle.drain();
        self.stop_tasks.cancel();
        // The others need not find out by themselves that their leader has gone.
        match tokio::time::timeout(HAND_OVER_TIMEOUT, self.meta.hand_over()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::info!(%error, "the lead was not handed over; the others elect one"),
            Err(_) => tracing::info!("the lead was not handed over in time; the others elect one"),
        }
        self.http.stop(clients_timeout).await;
        self.stop_channels.cancel();
        if !self.ownership.is_finished()
            && tokio::time::timeout(self.config.append_timeout, &mut self.ownership)
                .await
                .is_err()
        {
            tracing::warn!("storage did not take the last chunks; unacknowledged appends may be lost");
            self.ownership.abort();
        }
        self.stop_serving.cancel();
        self.tasks.shutdown().await;
        self.meta.shutdown().await;
    }
}

/// Why the node stops when a channel has ended by itself.
fn channel_failure(ended: Result<Result<(), Trouble>, JoinError>) -> String {
    match ended {
        Ok(Err(Trouble::Fenced { channel, by })) => format!(
            "fenced: another process has taken over channel {channel} ({by}); this node acknowledges nothing more"
        ),
        Ok(Err(Trouble::Recovery { channel, cause })) => {
            format!("channel {channel} cannot be recovered: {cause}")
        }
        Ok(Err(Trouble::Unflushable { channel, why })) => {
            format!("channel {channel} cannot be flushed: {why}")
        }
        Ok(Err(Trouble::Panicked(panic))) => format!("a channel has failed: {panic}"),
        Ok(Ok(())) => "the channels have stopped".into(),
        Err(panic) => format!("a channel has failed: {panic}"),
    }
}

/// Takes over every channel, as a node does that is alone, and keeps them until `stop`. Answers when all are served.
async fn own_all(
    parts: Parts,
    config: &NodeConfig,
    stop: CancellationToken,
) -> Result<JoinHandle<Result<(), Trouble>>, NodeError> {
    let incarnation = register(&parts.meta, &parts.env).await?;
    let (meta, wals) = (parts.meta.clone(), parts.wals.clone());
    let asked = config.channels;
    let ids = match wals.has_standard() {
        true => create_channels(&meta, StorageClass::Standard, asked).await?,
        false => BTreeSet::new(),
    };
    let express = express_channels(&meta, asked).await?;
    let channels = parts.channels.clone();
    let owner = Owner {
        node: NODE,
        incarnation,
    };
    let (wanted, wants) = watch::channel(Wanted {
        channels: ids.union(&express).copied().collect(),
    });
    let ownership = Ownership::new(parts, owner, wants, watch::Sender::default());
    let mut ownership = tokio::spawn(async move {
        tokio::select! {
            ended = ownership.run(stop) => ended,
            never = want_express(&meta, &wals, asked, wanted) => match never {},
        }
    });
    tokio::select! {
        () = channels.wait_owned(&ids) => {}
        ended = &mut ownership => return Err(not_owned(ended)),
    }
    if timeout(EXPRESS_PATIENCE, channels.wait_owned(&express))
        .await
        .is_err()
    {
        tracing::warn!("the Express zones do not answer: streams of that class wait until two of them do");
    }
    Ok(ownership)
}

/// Wants the Express channels, too, when there are zones for them.
async fn want_express(meta: &Meta, wals: &Wals, asked: u32, wanted: watch::Sender<Wanted>) -> Infallible {
    let mut changed = wals.changed();
    loop {
        match express_channels(meta, asked).await {
            Ok(ids) => wanted.send_if_modified(|wanted| {
                let before = wanted.channels.len();
                wanted.channels.extend(ids);
                wanted.channels.len() != before
            }),
            Err(error) => {
                tracing::warn!(%error, "the Express channels are not created yet");
                sleep(ZONES_PATIENCE).await;
                continue;
            }
        };
        if changed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

/// What makes a node one among others.
struct Among<'a> {
    cluster: &'a Cluster,
    peers: Peers,
    storage: Caretaker,
    cache: Arc<PageCache>,
    config: &'a NodeConfig,
    frontend: &'a Arc<Frontend>,
    lifecycle: &'a Lifecycle,
    parts: Parts,
}

impl Among<'_> {
    /// Opens the ways from and to other nodes, until `stop`.
    async fn others(self, stop: CancellationToken) -> Result<(Control, Lives), NodeError> {
        let Self {
            cluster,
            peers,
            storage,
            cache,
            config,
            frontend,
            lifecycle,
            parts,
        } = self;
        let settings = cluster.config();
        let control = Control::new(cluster.meta.clone(), settings.lease, config.channels);
        parts.channels.reach_others(peers.clone());
        let answering = PeerParts {
            meta: cluster.meta.clone(),
            channels: parts.channels.clone(),
            room: frontend.room(),
            heartbeats: Arc::new(control.clone()),
        };
        let mut services = PeerService::new(answering, stop.clone())
            .router()
            .merge(cluster.disk.clone().router());
        if let Some(pages) = cache.service(stop.clone()) {
            services = services.merge(pages);
        }
        let parts_for_operators = AdminParts {
            control: control.clone(),
            lifecycle: lifecycle.clone(),
            storage,
            express: parts.express.clone(),
        };
        cluster.admin.fill(parts_for_operators, stop.clone());
        let address = cluster.serve(services, stop).await?;
        let lives = Lives {
            node: settings.node,
            zone: settings.zone.clone(),
            address,
            env: parts.env.clone(),
            control: control.clone(),
            peers,
            lifecycle: lifecycle.clone(),
            margin: settings.lease.margin,
            parts: Parts {
                stuck_after: Some(STUCK_AFTER),
                ..parts
            },
            registered: watch::Sender::new(false),
        };
        Ok((control, lives))
    }
}

/// Owns what the leader wants this node to own, until `stop`. Answers when the node is registered.
async fn among_others(lives: Lives, stop: CancellationToken) -> JoinHandle<Result<(), Trouble>> {
    let mut registered = lives.registered.subscribe();
    let ownership = tokio::spawn(async move {
        lives.run(stop).await;
        Ok(())
    });
    // An error: the lives have ended, which is for the one who waits for them.
    let _ = registered.wait_for(|registered| *registered).await;
    ownership
}

/// Why a node does not start whose channels were not taken over.
fn not_owned(ended: Result<Result<(), Trouble>, JoinError>) -> NodeError {
    match ended {
        Ok(Err(Trouble::Recovery { channel, cause })) => NodeError::Recovery { channel, cause },
        ended => NodeError::Channels(channel_failure(ended)),
    }
}

/// A former process that was killed may take a moment to end; the lock is its until then.
async fn lock_patiently(path: &Path) -> Result<DataDir, DataDirError> {
    const PATIENCE: Duration = Duration::from_secs(3);
    const PAUSE: Duration = Duration::from_millis(50);
    let deadline = tokio::time::Instant::now() + PATIENCE;
    loop {
        match DataDir::lock(path) {
            Err(DataDirError::InUse { .. }) if tokio::time::Instant::now() < deadline => {
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Of those that are there, and of those that are asked for once their zones are registered.
async fn express_channels(meta: &Meta, asked: u32) -> Result<BTreeSet<ChannelId>, MetaError> {
    let registered = meta.state().zones()?;
    let asked = match class_is_there(StorageClass::Express, &registered) {
        true => asked,
        false => 0,
    };
    create_channels(meta, StorageClass::Express, asked).await
}

/// The channels of the class that are asked for, and those that are there already: streams are on them.
async fn create_channels(
    meta: &Meta,
    class: StorageClass,
    asked: u32,
) -> Result<BTreeSet<ChannelId>, MetaError> {
    let known = meta.state().channels()?;
    let last = known.iter().map(|channel| channel.channel.0).max().unwrap_or(0);
    let own = known.iter().filter(|channel| channel.class == class);
    let mut ids: BTreeSet<_> = own.map(|channel| channel.channel).collect();
    let missing = asked.saturating_sub(ids.len() as u32);
    for channel in (1..=missing).map(|more| ChannelId(last + more)) {
        meta.propose(CreateChannel { channel, class }).await?;
        ids.insert(channel);
    }
    Ok(ids)
}

/// Begins a life of this node. That the metadata directory is open here proves that the former process has ended.
async fn register(meta: &Meta, env: &Env) -> Result<Incarnation, MetaError> {
    let incarnation = Incarnation(env.random_u128());
    meta.propose(RegisterNode {
        node: NODE,
        incarnation,
        zone: String::new(),
        address: String::new(),
        proves_old_dead: true,
        now_ms: env.now_ms(),
    })
    .await?;
    Ok(incarnation)
}

async fn listen(
    config: &NodeConfig,
    env: &Env,
    frontend: &Arc<Frontend>,
    metrics: Metrics,
) -> Result<Server, NodeError> {
    let tls = tls::acceptor(&config.tls)?;
    let addr = config.http_addr;
    let listener = env
        .network
        .listen(addr)
        .await
        .map_err(|cause| NodeError::Listen { addr, cause })?;
    let options = HttpOptions {
        basin_domain: config.basin_domain.clone(),
        cors: config.cors,
        metrics: Arc::new(move || metrics.render()),
    };
    let router = http::router(frontend.clone(), options).merge(grpc::router(frontend.clone()));
    Server::start(listener, tls, router, config.connections_max)
        .map_err(|cause| NodeError::Listen { addr, cause })
}
