//! The group as a node sees it: propose, read, follow.
//!
//! [`Meta`] is the handle. Consensus runs on threads of its own, so that the load of requests cannot starve its
//! heartbeats; every method may be called from any runtime.

mod batcher;
mod core;
mod linearizer;
mod membership;
mod metrics;
mod options;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot, watch};

use self::batcher::{Fate, Proposed};
pub(crate) use self::core::Raft;
pub use self::metrics::{GroupMetrics, Role};
pub use self::options::{Fresh, MetaOptions, Timing};
pub use crate::store::blocking::Blocking;

use crate::command::{Command, Proposal, Response};
use crate::error::MetaError;
use crate::network::{self, Call, IncomingSnapshot};
use crate::query::StateReader;
use crate::store::machine::Machine;
use crate::types::Answer;

/// Somebody who waits for a read index.
type Reader = oneshot::Sender<Result<u64, MetaError>>;

/// A node's handle on the metadata group. Clones share one member; it stops with [`Meta::shutdown`], or when the last
/// clone is dropped, which blocks until its threads are gone.
#[derive(Clone)]
pub struct Meta {
    shared: Arc<Shared>,
}

struct Shared {
    core: core::Core,
    machine: Arc<Machine>,
    proposals: mpsc::Sender<Proposed>,
    readers: mpsc::Sender<Reader>,
    propose_timeout: Duration,
    blocking: Blocking,
    failed: watch::Receiver<Option<Arc<str>>>,
}

impl Meta {
    /// Joins the group with the data in a directory. A fresh directory becomes what [`MetaOptions::fresh`] says. In a
    /// group of one this node leads when `Ok` is returned.
    ///
    /// # Errors
    ///
    /// [`MetaError::Unusable`] if another process uses the directory, another node wrote it, or a release with
    /// another format; [`MetaError::Store`] if the disk says no or what it holds is corrupt.
    pub async fn open(options: MetaOptions) -> Result<Self, MetaError> {
        let propose_timeout = options.timing.propose_timeout;
        let queue = options.queue;
        let blocking = options.blocking;
        let (core, machine) = core::Core::start(options).await?;
        let (proposals, proposed) = mpsc::channel(queue);
        let (readers, reading) = mpsc::channel(queue);
        core.spawn(batcher::run(core.raft().clone(), proposed));
        core.spawn(linearizer::run(core.raft().clone(), reading));
        let failed = core.watch_failure();
        let shared = Shared {
            core,
            machine,
            proposals,
            readers,
            propose_timeout,
            blocking,
            failed,
        };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Puts a command into the log and answers what it did, on this node's state too. Commands that come while
    /// others are on their way travel together.
    ///
    /// Cancel safe in that the command is then on its way or not, as with [`MetaError::Unknown`].
    ///
    /// # Errors
    ///
    /// [`MetaError::Refused`] and [`MetaError::Retry`] promise that nothing was applied; [`MetaError::Unknown`] after
    /// a time-out or a change of leader; [`MetaError::Closed`] after a stop, where the outcome is unknown too.
    pub async fn propose<P: Proposal>(&self, command: P) -> Result<P::Reply, MetaError> {
        let command: Command = command.into();
        let name = command.name();
        let (answer, answered) = oneshot::channel();
        let deadline = tokio::time::Instant::now() + self.shared.propose_timeout;
        let fate = Fate::default();
        let proposed = Proposed {
            command,
            answer,
            fate: fate.clone(),
        };
        match tokio::time::timeout_at(deadline, self.shared.proposals.send(proposed)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(self.closed()),
            Err(_) => return Err(MetaError::Retry("too many commands wait".into())),
        }
        let response = match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => response(answer?)?,
            Ok(Err(_)) => return Err(self.closed()),
            Err(_) if fate.give_up() => return Err(MetaError::Retry("earlier commands still wait".into())),
            Err(_) => return Err(MetaError::Unknown(format!("{name} timed out").into())),
        };
        P::reply(response).ok_or_else(|| MetaError::Unknown(format!("{name} has another's response").into()))
    }

    /// Waits until this node's state has everything that was committed when this was called, and answers the index
    /// up to which that is. All who wait share one round.
    pub async fn linearize(&self) -> Result<u64, MetaError> {
        let (reader, index) = oneshot::channel();
        let round = async {
            self.shared
                .readers
                .send(reader)
                .await
                .map_err(|_| self.closed())?;
            let index = index.await.map_err(|_| self.closed())??;
            self.wait_applied(index).await?;
            Ok(index)
        };
        match tokio::time::timeout(self.shared.propose_timeout, round).await {
            Ok(index) => index,
            Err(_) => Err(MetaError::Retry("no confirmed leader in time".into())),
        }
    }

    /// Index of the last entry that this node's state contains; 0 before the first.
    pub fn applied_index(&self) -> u64 {
        *self.shared.machine.applied().borrow()
    }

    /// Waits, without a bound on time, until this node's state contains the entry at `index`.
    pub async fn wait_applied(&self, index: u64) -> Result<(), MetaError> {
        let mut applied = self.shared.machine.applied();
        tokio::select! {
            reached = applied.wait_for(|applied| *applied >= index) => {
                reached.map(drop).map_err(|_| self.closed())
            }
            why = self.failed() => Err(MetaError::Closed(why)),
        }
    }

    /// Reads of this node's state as it is now, perhaps behind the group's.
    pub fn state(&self) -> StateReader {
        StateReader::new(self.shared.machine.state())
    }

    pub fn metrics(&self) -> GroupMetrics {
        metrics::read(self.shared.core.raft(), self.applied_index())
    }

    /// Ready, with the reason, when this member has failed and can only be restarted: the node stops then. Pending
    /// for ever otherwise, after [`Meta::shutdown`] too.
    pub fn failed(&self) -> impl Future<Output = Arc<str>> + Send + 'static {
        let mut failed = self.shared.failed.clone();
        async move {
            let why = failed
                .wait_for(Option::is_some)
                .await
                .ok()
                .and_then(|why| why.clone());
            match why {
                Some(why) => why,
                None => std::future::pending().await,
            }
        }
    }

    /// Answers a request of another member, as its transport brought it. Run by any runtime; cancel safe.
    ///
    /// # Errors
    ///
    /// [`MetaError::Invalid`] if the bytes are no request.
    pub async fn serve(&self, call: Call, request: &[u8]) -> Result<Vec<u8>, MetaError> {
        network::serve(self.shared.core.raft(), call, request).await
    }

    /// Begins to take in a snapshot from the leader.
    pub async fn receive_snapshot(&self, opening: &[u8]) -> Result<IncomingSnapshot, MetaError> {
        let Shared {
            core,
            machine,
            blocking,
            ..
        } = &*self.shared;
        network::receive_snapshot(core.raft().clone(), machine.clone(), *blocking, opening).await
    }

    /// Stops this member. Everything that was acknowledged is on disk; what is on its way ends as unknown. The
    /// directory is free when this returns and no clone or [`StateReader`] is left.
    pub async fn shutdown(&self) {
        self.shared.core.stop().await;
    }

    fn closed(&self) -> MetaError {
        let why = self.shared.failed.borrow().clone();
        MetaError::Closed(why.unwrap_or_else(|| "it was shut down".into()))
    }
}

fn response(answer: Answer) -> Result<Response, MetaError> {
    match answer {
        Some(Ok(response)) => Ok(response),
        Some(Err(refused)) => Err(MetaError::Refused(refused)),
        None => Err(MetaError::Unknown("the entry carried no command".into())),
    }
}
