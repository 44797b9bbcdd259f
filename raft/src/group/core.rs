//! The running member: its storage, its consensus core, and the threads that both run on.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use openraft::ServerState;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::impls::BasicNode;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use super::options::{self, Fresh, MetaOptions};
use crate::error::{MetaError, StoreError};
use crate::network::Network;
use crate::store::blocking::Blocking;
use crate::store::dir::MetaDir;
use crate::store::log::LogStore;
use crate::store::machine::{Machine, StateMachine};
use crate::types::TypeConfig;

pub type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// Threads for consensus in production: one may be busy with the disk while another keeps the heartbeat.
const THREADS: usize = 2;

/// A group of one leads at once; longer than this, something is wrong.
const LEAD_TIMEOUT: Duration = Duration::from_secs(30);

pub struct Core {
    raft: Raft,
    handle: Handle,
    /// Dropped before anything else of the member: nothing of it runs on when the last handle is gone.
    runtime: Mutex<Option<OwnRuntime>>,
}

impl Core {
    pub async fn start(options: MetaOptions) -> Result<(Self, Arc<Machine>), MetaError> {
        let runtime = match options.blocking {
            Blocking::Pool => Some(OwnRuntime::start()?),
            Blocking::Inline => None,
        };
        let handle = runtime
            .as_ref()
            .map_or_else(Handle::current, |runtime| runtime.handle.clone());
        let started = handle.spawn(start(options)).await;
        let (raft, machine) = started.map_err(|error| MetaError::Closed(error.to_string().into()))??;
        Ok((
            Self {
                raft,
                handle,
                runtime: Mutex::new(runtime),
            },
            machine,
        ))
    }

    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.handle.spawn(task);
    }

    /// Says why the core ended, if it did not end because it was stopped.
    pub fn watch_failure(&self) -> watch::Receiver<Option<Arc<str>>> {
        let (failed, watched) = watch::channel(None);
        let mut metrics = self.raft.metrics();
        self.spawn(async move {
            loop {
                let state = metrics.borrow_watched().running_state.clone();
                match state {
                    Ok(()) => {}
                    Err(Fatal::Stopped) => return,
                    Err(fatal) => {
                        tracing::error!(%fatal, "the metadata group has failed");
                        failed.send_replace(Some(fatal.to_string().into()));
                        // Whoever asks later must see it too.
                        return failed.closed().await;
                    }
                }
                if metrics.changed().await.is_err() {
                    return;
                }
            }
        });
        watched
    }

    pub async fn stop(&self) {
        let raft = self.raft.clone();
        // The task ends even if the caller goes away.
        let stopped = self
            .handle
            .spawn(async move { raft.shutdown().await.map_err(|error| error.to_string()) });
        match stopped.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "the metadata group did not stop cleanly"),
            Err(error) => tracing::warn!(%error, "the metadata group did not stop cleanly"),
        }
        let runtime = self.runtime.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(mut runtime) = runtime {
            runtime.ended().await;
        }
    }
}

async fn start(options: MetaOptions) -> Result<(Raft, Arc<Machine>), MetaError> {
    let config = Arc::new(options::config(&options)?);
    let blocking = options.blocking;
    let (path, node) = (options.dir.clone(), options.node);
    let opened = blocking
        .run(move || Ok(open_stores(&path, node, blocking)))
        .await?;
    let (log, machine) = opened?;
    let network = Network {
        transport: options.transport.clone(),
        blocking,
    };
    let raft = Raft::new(node.0, config, network, log, StateMachine(machine.clone())).await;
    let raft = raft.map_err(|fatal| failed("start", fatal))?;
    lead(&raft, &options).await?;
    Ok((raft, machine))
}

fn open_stores(
    path: &std::path::Path,
    node: millrace_api::id::NodeId,
    blocking: Blocking,
) -> Result<(LogStore, Arc<Machine>), MetaError> {
    let dir = MetaDir::open(path, node)?;
    let log = LogStore::open(&dir.log(), blocking)?;
    Ok((log, Machine::open(dir, blocking)?))
}

/// Makes a fresh member a group of one, and a group of one lead.
async fn lead(raft: &Raft, options: &MetaOptions) -> Result<(), MetaError> {
    let node = options.node.0;
    let initialized = raft
        .is_initialized()
        .await
        .map_err(|fatal| failed("start", fatal))?;
    if !initialized && options.fresh == Fresh::Join {
        return Ok(());
    }
    if !initialized {
        let members = BTreeMap::from([(node, BasicNode::new(&options.address))]);
        raft.initialize(members)
            .await
            .map_err(|error| failed("initialize", error))?;
    }
    // Asked of the core: the published metrics may be behind.
    let alone = raft
        .with_raft_state(move |state| state.membership_state.effective().voter_ids().eq([node]))
        .await
        .map_err(|fatal| failed("start", fatal))?;
    if !alone {
        return Ok(());
    }
    if initialized {
        raft.trigger()
            .elect(false)
            .await
            .map_err(|fatal| failed("elect", fatal))?;
    }
    let leads = raft
        .wait(Some(LEAD_TIMEOUT))
        .state(ServerState::Leader, "a group of one leads")
        .await;
    leads.map_err(|error| failed("lead", error))?;
    // The entry that begins the term stands for everything before it: then this state is complete.
    let read = raft.ensure_linearizable(openraft::ReadPolicy::ReadIndex).await;
    read.map(drop).map_err(|error| failed("lead", error))
}

fn failed(what: &str, error: impl std::fmt::Display) -> MetaError {
    MetaError::Closed(format!("{what}: {error}").into())
}

/// A runtime that lives on a thread, so that stopping it never blocks a task of another.
///
/// Dropping it waits for the thread: a process that ended while RocksDB still closed on it would be aborted.
struct OwnRuntime {
    handle: Handle,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    /// Ready when every task is gone, and with them what they held.
    ended: oneshot::Receiver<()>,
}

impl OwnRuntime {
    fn start() -> Result<Self, MetaError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("raft")
            .enable_all()
            .build()
            .map_err(|error| StoreError::io("start runtime", error))?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("raft-runtime".into())
            .spawn(move || {
                // Ends when the sender is dropped.
                let _ = runtime.block_on(stopped);
                drop(runtime);
                let _ = end.send(());
            })
            .map_err(|error| StoreError::io("start runtime", error))?;
        Ok(Self {
            handle,
            stop: Some(stop),
            thread: Some(thread),
            ended,
        })
    }

    async fn ended(&mut self) {
        self.stop = None;
        let _ = (&mut self.ended).await;
    }
}

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        self.stop = None;
        let inside = Handle::try_current().is_ok_and(|current| current.id() == self.handle.id());
        if let Some(thread) = self.thread.take().filter(|_| !inside) {
            // Its only panic would be one of the runtime's own, and there is nobody left to tell.
            let _ = thread.join();
        }
    }
}
