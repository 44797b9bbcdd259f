//! The running member: its storage, its consensus core, and the threads that both run on.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use millrace_api::id::NodeId;
use openraft::StorageHelper;
use openraft::async_runtime::WatchReceiver;
use openraft::errors::Fatal;
use openraft::storage::RaftLogStorage;
use tokio::sync::watch;

use super::age;
use super::options::{self, MetaOptions};
use super::router::Book;
use super::runtime::GroupRuntime;
use crate::error::{MetaError, StoreError};
use crate::identity::Identity;
use crate::network::Network;
use crate::store::blocking::Blocking;
use crate::store::dir::{MetaDir, Owner};
use crate::store::lives::Lives;
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
    pub lives: Arc<Lives>,
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
                lives: parts.lives,
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
    lives: Arc<Lives>,
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
    let Opened {
        mut log,
        machine,
        identity,
        lives,
    } = opened?;
    let held = log.held();
    // Before it can vote, or say that it keeps anything.
    options.slot.introduce(identity);
    let unreadable = |error: std::io::Error| StoreError::io("read log", error);
    let last = RaftLogStorage::get_log_state(&mut log)
        .await
        .map_err(unreadable)?;
    let applied = machine.state().applied()?;
    let has = [
        last.last_log_id.map(|at| at.index),
        // A snapshot that was taken in just before the end, with the log not cut yet.
        applied.last.map(|at| at.index),
    ];
    let own = age::Own {
        identity,
        last_log_index: has.into_iter().flatten().max().unwrap_or(0),
        lives: &lives,
    };
    let mut state = StateMachine(machine.clone());
    let members = StorageHelper::<TypeConfig, _, _>::new(&mut log, &mut state)
        .get_membership()
        .await
        .map_err(|error| StoreError::io("read membership", error))?;
    let members: Vec<_> = members
        .effective()
        .nodes()
        .map(|(id, member)| (NodeId(*id), member.address.clone()))
        .collect();
    age::check(own, members.into_iter(), options.transport.clone()).await?;
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
        lives,
        book,
        log: held,
    })
}

/// What a directory holds.
struct Opened {
    log: LogStore,
    machine: Arc<Machine>,
    identity: Identity,
    lives: Arc<Lives>,
}

fn open_stores(path: PathBuf, owner: Owner, blocking: Blocking) -> Result<Opened, MetaError> {
    let dir = MetaDir::open(&path, owner)?;
    Ok(Opened {
        log: LogStore::open(&dir.log(), blocking)?,
        identity: dir.identity(),
        lives: Arc::new(Lives::open(dir.lives())?),
        machine: Machine::open(dir, blocking)?,
    })
}

pub fn failed(what: &str, error: impl std::fmt::Display) -> MetaError {
    MetaError::Closed(format!("{what}: {error}").into())
}
