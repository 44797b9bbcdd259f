//! The running member: its storage, its consensus core, and the threads that both run on.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use tokio::sync::watch;

use super::options::{self, MetaOptions};
use super::router::Book;
use super::runtime::GroupRuntime;
use crate::error::MetaError;
use crate::identity::Identity;
use crate::network::Network;
use crate::store::blocking::Blocking;
use crate::store::dir::{MetaDir, Owner};
use crate::store::log::{Held, LogStore};
use crate::store::machine::{Machine, StateMachine};
use crate::types::TypeConfig;

pub type Raft = openraft::Raft<TypeConfig, StateMachine>;

/// Milliseconds to wait for the log to be closed after the consensus has ended.
const RELEASE_TURNS: u32 = 1_000;

pub struct Core {
    raft: Raft,
    runtime: GroupRuntime,
    log: Held,
}

/// What a member consists of once its directory is open.
pub struct Started {
    pub core: Core,
    pub machine: Arc<Machine>,
    pub identity: Identity,
    pub book: Book,
}

impl Core {
    pub async fn start(options: MetaOptions) -> Result<Started, MetaError> {
        let runtime = match &options.runtime {
            Some(runtime) => runtime.clone(),
            None => GroupRuntime::start(options.blocking)?,
        };
        let started = runtime.handle().spawn(start(options)).await;
        let started = started.map_err(|error| MetaError::Closed(error.to_string().into()));
        match started.and_then(|started| started) {
            Ok(parts) => Ok(Started {
                core: Self {
                    raft: parts.raft,
                    runtime,
                    log: parts.log,
                },
                machine: parts.machine,
                identity: parts.identity,
                book: parts.book,
            }),
            Err(error) => {
                runtime.end().await;
                Err(error)
            }
        }
    }

    pub fn raft(&self) -> &Raft {
        &self.raft
    }

    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.runtime.spawn(task);
    }

    /// Says why the core ended, if it did not end because it was stopped.
    pub fn watch_failure(&self) -> watch::Receiver<Option<Arc<str>>> {
        let (failed, watched) = watch::channel(None);
        let mut metrics = self.raft.metrics();
        self.spawn(async move {
            let mut gone = false;
            loop {
                let state = metrics.borrow_watched().running_state.clone();
                let fatal = match state {
                    Err(Fatal::Stopped) => return,
                    Err(fatal) => fatal.to_string(),
                    // It says why it ends, unless it panics.
                    Ok(()) if gone => "it has panicked".to_owned(),
                    Ok(()) => {
                        gone = metrics.changed().await.is_err();
                        continue;
                    }
                };
                tracing::error!(fatal, "the metadata group has failed");
                failed.send_replace(Some(fatal.into()));
                // Whoever asks later must see it too.
                return failed.closed().await;
            }
        });
        watched
    }

    pub async fn stop(&self) {
        let raft = self.raft.clone();
        // The task ends even if the caller goes away.
        let stopped = self
            .runtime
            .handle()
            .spawn(async move { raft.shutdown().await.map_err(|error| error.to_string()) });
        match stopped.await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(error, "the metadata group did not stop cleanly"),
            // It was stopped before.
            Err(error) if error.is_cancelled() => {}
            Err(error) => tracing::warn!(%error, "the metadata group did not stop cleanly"),
        }
        self.runtime.end().await;
        // On the caller's threads a task of the consensus may end a little later than the consensus itself.
        for _ in 0..RELEASE_TURNS {
            if !self.log.is_held() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Drop for Core {
    fn drop(&mut self) {
        // Nothing of the member runs on when its last handle is gone.
        self.runtime.end_blocking();
    }
}

struct Parts {
    raft: Raft,
    machine: Arc<Machine>,
    identity: Identity,
    book: Book,
    log: Held,
}

async fn start(options: MetaOptions) -> Result<Parts, MetaError> {
    let config = Arc::new(options::config(&options)?);
    let blocking = options.blocking;
    let owner = Owner {
        node: options.node,
        cluster: options.cluster,
        directory: options.directory,
    };
    let path = options.dir.clone();
    let opened = blocking
        .run(move || Ok(open_stores(path, owner, blocking)))
        .await?;
    let (log, machine, identity) = opened?;
    let held = log.held();
    let book = Book::default();
    let network = Network {
        transport: options.transport.clone(),
        blocking,
        book: book.clone(),
    };
    let node = options.node.0;
    let raft = Raft::new(node, config, network, log, StateMachine(machine.clone())).await;
    let raft = raft.map_err(|fatal| failed("start", fatal))?;
    Ok(Parts {
        raft,
        machine,
        identity,
        book,
        log: held,
    })
}

fn open_stores(
    path: PathBuf,
    owner: Owner,
    blocking: Blocking,
) -> Result<(LogStore, Arc<Machine>, Identity), MetaError> {
    let dir = MetaDir::open(&path, owner)?;
    let identity = dir.identity();
    let log = LogStore::open(&dir.log(), blocking)?;
    Ok((log, Machine::open(dir, blocking)?, identity))
}

pub fn failed(what: &str, error: impl std::fmt::Display) -> MetaError {
    MetaError::Closed(format!("{what}: {error}").into())
}
