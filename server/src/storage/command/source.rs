//! Where the events of a check or a sweep come from: a node of a cluster, or this process, on the directory of a node
//! that is stopped.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, bail};
use futures::stream::StreamExt;
use millrace_api::config::StorageClass;
use millrace_api::id::NodeId;
use millrace_raft::group::{Meta, MetaOptions};
use millrace_wal::{Wal, WalOptions};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::args::Source;
use crate::admin::client::Client;
use crate::admin::pb;
use crate::config::{NodeConfig, Settings};
use crate::data_dir::{DataDir, DataDirError};
use crate::env::Env;
use crate::storage::caretaker::{Caretaker, SweepEvents, VerifyEvents};
use crate::storage::cell::Cell;
use crate::wals::Wals;
use crate::zones::express::ExpressZones;
use crate::zones::mirror::MirroredStore;
use crate::zones::{class_is_there, standard};

/// A command that goes through everything takes as long as it takes.
const NO_TIMEOUT: Duration = Duration::from_secs(365 * 24 * 3600);
/// How long Express zones have to show what they are.
const ZONES_PATIENCE: Duration = Duration::from_secs(5);
/// A node that is alone.
const NODE: NodeId = NodeId(1);

/// Somebody who looks after storage.
pub enum Worker {
    Node { client: Box<Client>, address: String },
    Here(Box<Here>),
}

/// A node's directory and store, without the node.
pub struct Here {
    meta: Meta,
    caretaker: Caretaker,
    _looking: JoinSet<()>,
    _data_dir: DataDir,
}

impl Worker {
    pub async fn new(source: &Source, env: Env) -> anyhow::Result<Self> {
        match &source.data_dir {
            Some(dir) => Here::open(dir, source, env).await.map(Box::new).map(Self::Here),
            None => {
                let timeout = source.reach.timeout.unwrap_or(NO_TIMEOUT);
                let client = Client::new(source.reach.resolve()?, env, timeout)?;
                let address = client.first().await.context(
                    "nobody to ask. For a node that is alone, stop it and name its directory with --data-dir",
                )?;
                Ok(Self::Node {
                    client: Box::new(client),
                    address,
                })
            }
        }
    }

    /// When the command ends at the latest.
    pub fn deadline(&self) -> Instant {
        match self {
            Self::Node { client, .. } => client.deadline,
            Self::Here(_) => Instant::now() + NO_TIMEOUT,
        }
    }

    pub async fn verify(&self, repair: bool) -> anyhow::Result<VerifyEvents> {
        match self {
            Self::Here(here) => here.caretaker.verify(repair).map_err(said),
            Self::Node { client, address } => {
                let call = async |mut admin: pb::admin_client::AdminClient<_>| {
                    admin.verify(pb::VerifyRequest { repair }).await
                };
                let asked = client.ask(address, call).await;
                Ok(asked.map_err(|status| refused(client, address, &status))?.boxed())
            }
        }
    }

    pub async fn sweep(&self, dry_run: bool) -> anyhow::Result<SweepEvents> {
        match self {
            Self::Here(here) => here.caretaker.sweep(dry_run).map_err(said),
            Self::Node { client, address } => {
                let call = async |mut admin: pb::admin_client::AdminClient<_>| {
                    admin.sweep(pb::SweepRequest { dry_run }).await
                };
                let asked = client.ask(address, call).await;
                Ok(asked.map_err(|status| refused(client, address, &status))?.boxed())
            }
        }
    }

    /// The next event, before the deadline; `None` at the end.
    pub async fn next<T>(
        &self,
        events: &mut (impl futures::Stream<Item = Result<T, Status>> + Unpin),
        deadline: Instant,
    ) -> anyhow::Result<Option<T>> {
        match timeout_at(deadline, events.next()).await {
            Ok(event) => event.transpose().map_err(|status| match self {
                Self::Node { client, address } => refused(client, address, &status),
                Self::Here(_) => said(status),
            }),
            Err(_) => bail!("not done in time (--timeout)"),
        }
    }

    pub async fn close(self) {
        if let Self::Here(here) = self {
            here.meta.shutdown().await;
        }
    }
}

fn said(status: Status) -> anyhow::Error {
    anyhow::Error::msg(status.message().to_owned())
}

fn refused(client: &Client, address: &str, status: &Status) -> anyhow::Error {
    anyhow::Error::msg(format!("{address}: {}", client.why(status)))
}

impl Here {
    async fn open(dir: &Path, source: &Source, env: Env) -> anyhow::Result<Self> {
        let settings = Settings {
            data_dir: Some(dir.to_owned()),
            store: source.store.clone(),
            express: source.express.clone(),
            ..Settings::default()
        };
        let config = NodeConfig::resolve(settings)?;
        if config.is_in_memory() {
            bail!("a store in memory ends with its node: there is nothing to look at");
        }
        // Locking would make it.
        if !config.data_dir.join("meta").is_dir() {
            bail!("no node has kept its metadata in {}", config.data_dir.display());
        }
        let data_dir = match DataDir::lock(&config.data_dir) {
            Err(error @ DataDirError::InUse { .. }) => {
                return Err(error)
                    .context("a node runs there; one that is in a cluster can be asked with --node");
            }
            locked => locked?,
        };
        let options = MetaOptions {
            blocking: env.blocking,
            ..MetaOptions::new(data_dir.metadata(), NODE)
        };
        let meta = Meta::open(options).await.context("metadata")?;
        match Self::caretaker(&config, &meta, &env).await {
            Ok((caretaker, looking)) => Ok(Self {
                meta,
                caretaker,
                _looking: looking,
                _data_dir: data_dir,
            }),
            Err(error) => {
                meta.shutdown().await;
                Err(error)
            }
        }
    }

    /// With what looks at the Express zones, for as long as it is kept.
    async fn caretaker(
        config: &NodeConfig,
        meta: &Meta,
        env: &Env,
    ) -> anyhow::Result<(Caretaker, JoinSet<()>)> {
        if meta.introduction().identity.cluster.is_some() {
            bail!(
                "{} is the directory of a cluster's node, which alone does not know what the cluster has decided: start \
                 it, and ask it with --node",
                config.data_dir.display()
            );
        }
        let mut looking = JoinSet::new();
        let store = match &config.store {
            Some(url) => Some(standard::attach(url, meta, env).await?),
            None => {
                standard::attach_none(meta)?;
                None
            }
        };
        let standard = store
            .clone()
            .map(|zone| Wal::new(vec![zone], 1, WalOptions::default()));
        let wals = Wals::new(meta.clone(), standard.transpose()?);
        if let Some(express) = &config.express {
            let registered = meta.state().zones()?;
            if !class_is_there(StorageClass::Express, &registered) {
                bail!("the node has not used these Express zones yet: leave --express out");
            }
            let sources = crate::storage::sources(express, None, env);
            let zones = ExpressZones::new(sources, meta, env, wals.clone(), WalOptions::default());
            zones.start(&mut looking, &CancellationToken::new());
            zones.looked(ZONES_PATIENCE).await;
        }
        let cell = Cell {
            meta: meta.clone(),
            segments: match store {
                Some(zone) => zone.store,
                None => MirroredStore::new(wals.clone()),
            },
            wals,
        };
        // Nobody reads what a stopped node has stored.
        Ok((Caretaker::new(cell, Duration::ZERO), looking))
    }
}
