//! The group as a node sees it: propose, read, follow.
//!
//! [`Meta`] is the handle. Consensus runs on threads of its own, so that the load of requests cannot starve its
//! heartbeats; every method may be called from any runtime.

mod age;
mod batcher;
mod change;
mod core;
mod formation;
mod linearizer;
mod membership;
mod metrics;
mod options;
mod router;
mod runtime;
mod serve;
mod slot;
mod undone;

use std::future::Future;
use std::sync::Arc;

use millrace_api::bug::{Bug, planted};
use millrace_api::id::Incarnation;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use self::batcher::{Fate, Proposed};
pub(crate) use self::change::Change;
pub(crate) use self::core::Raft;
use self::linearizer::Reader;
pub use self::membership::PROMOTE_LAG_MAX;
pub use self::metrics::{GroupMetrics, Role};
pub use self::options::{Fresh, MetaOptions, Timing};
pub use self::router::Leadership;
use self::router::Router;
pub(crate) use self::router::{Book, peer};
pub use self::runtime::GroupRuntime;
pub use self::slot::MemberSlot;
pub(crate) use self::undone::{Decided, Undone};
pub use crate::store::blocking::Blocking;

use crate::codec::command::encoded_len;
use crate::command::{COMMAND_BYTES_MAX, CheckState, Command, CompareState, Proposal, StateChecksum};
use crate::error::MetaError;
use crate::identity::{Identity, PeerAddress};
use crate::query::StateReader;
use crate::refused::Refused;
use crate::store::lives::Lives;
use crate::store::machine::Machine;

/// A node's handle on the metadata group. Clones share one member; it stops with [`Meta::shutdown`], or when the last
/// clone is dropped, which blocks until its threads are gone.
#[derive(Clone)]
pub struct Meta {
    shared: Arc<Shared>,
}

struct Shared {
    core: core::Core,
    machine: Arc<Machine>,
    identity: Identity,
    lives: Arc<Lives>,
    /// With whom this member wanted to form a group when it began.
    peers: Vec<PeerAddress>,
    router: Router,
    proposals: mpsc::Sender<Proposed>,
    readers: mpsc::Sender<Reader>,
    timing: Timing,
    blocking: Blocking,
    failed: watch::Receiver<Option<Arc<str>>>,
}

impl Meta {
    /// Joins the group with the data in a directory. A fresh directory becomes what [`MetaOptions::fresh`] says. In a
    /// group of one this node leads when `Ok` is returned. A member of a group that is formed from a list has a
    /// membership then; that takes as long as the others take to come. One that joins may have to wait for it longer.
    ///
    /// Cancel safe: dropped, nothing of the member runs on.
    ///
    /// # Errors
    ///
    /// [`MetaError::Unusable`] if another process uses the directory, another node wrote it or belongs to another
    /// cluster, a release with another format did, the peer lists of nodes differ, or the group knows this node with
    /// another directory; [`MetaError::Store`] if the disk says no or what it holds is corrupt.
    pub async fn open(options: MetaOptions) -> Result<Self, MetaError> {
        let peers = match &options.fresh {
            Fresh::Form { peers } => {
                if let Err(error) = formation::check(peers, &options) {
                    if let Some(runtime) = &options.runtime {
                        runtime.end().await;
                    }
                    return Err(error);
                }
                peers.clone()
            }
            Fresh::GroupOfOne | Fresh::Join => Vec::new(),
        };
        let (fresh, address) = (options.fresh.clone(), options.address.clone());
        let MetaOptions {
            timing,
            queue,
            blocking,
            ..
        } = options;
        let (transport, slot) = (options.transport.clone(), options.slot.clone());
        let started = core::Core::start(options).await?;
        let (core, identity) = (started.core, started.identity);
        let (proposals, proposed) = mpsc::channel(queue);
        let (readers, reading) = mpsc::channel(queue);
        let (router, follow) = Router::new(core.raft().clone(), transport, started.book);
        core.spawn(follow);
        core.spawn(batcher::run(router.clone(), proposed));
        core.spawn(linearizer::run(router.clone(), timing.propose_timeout, reading));
        let failed = core.watch_failure();
        let shared = Arc::new(Shared {
            core,
            machine: started.machine,
            identity,
            lives: started.lives,
            peers,
            router,
            proposals,
            readers,
            timing,
            blocking,
            failed,
        });
        slot.set(identity, &shared);
        let meta = Self { shared };
        if let Err(error) = formation::begin(&meta, &fresh, &address).await {
            meta.shutdown().await;
            return Err(error);
        }
        meta.spawn_correction(slot, address);
        Ok(meta)
    }

    /// The task holds the member only while it asks.
    fn spawn_correction(&self, slot: MemberSlot, address: String) {
        self.shared.core.spawn(async move {
            while let Some(meta) = slot.member() {
                if meta.correct_self(&address).await {
                    return;
                }
                drop(meta);
                tokio::time::sleep(membership::CORRECTION_PAUSE).await;
            }
        });
    }

    /// Writes down that this node begins a life, before the group hears of it: a data directory that does not know what
    /// the group knows is an old copy, and refused at its start as far as other members answer. Durable on `Ok`.
    pub async fn remember_life(&self, incarnation: Incarnation) -> Result<(), MetaError> {
        let lives = self.shared.lives.clone();
        // A directory that begins to remember has had this life, too.
        let registered = self.state().node(self.node())?.map(|record| record.incarnation);
        let remembered = self.shared.blocking.run(move || match registered {
            Some(before) if lives.is_empty() => {
                lives.remember(before)?;
                lives.remember(incarnation)
            }
            _ => lives.remember(incarnation),
        });
        Ok(remembered.await?)
    }

    /// Puts a command into the log and answers what it did, on this node's state too. Commands that come while
    /// others are on their way travel together. Works on every member: one that does not lead asks the leader, and
    /// waits for one as long as [`Timing::propose_timeout`] says.
    ///
    /// Cancel safe in that the command is then on its way or not, as with [`MetaError::Unknown`].
    ///
    /// # Errors
    ///
    /// [`Refused::Invalid`] for a command larger than [`COMMAND_BYTES_MAX`], which gets nowhere.
    /// [`MetaError::Refused`] and [`MetaError::Retry`] promise that nothing was applied; [`MetaError::Unknown`] after
    /// a time-out or a change of leader; [`MetaError::Closed`] after a stop, where the outcome is unknown too.
    pub async fn propose<P: Proposal>(&self, command: P) -> Result<P::Reply, MetaError> {
        let command: Command = command.into();
        let name = command.name();
        let deadline = Instant::now() + self.shared.timing.propose_timeout;
        let decided = self.submit(command, deadline, false).await?;
        let seen = tokio::time::timeout_at(deadline, self.wait_applied(decided.index)).await;
        // Refused is refused, whether or not this state shows why yet.
        let response = decided.answer?;
        match seen {
            Ok(seen) => seen?,
            Err(_) => {
                let why = format!("{name} was applied, but not yet here");
                return Err(MetaError::Unknown(why.into()));
            }
        }
        P::reply(response).ok_or_else(|| MetaError::Unknown(format!("{name} has another's response").into()))
    }

    /// Brings a command on its way and waits until the log has decided it.
    async fn submit(&self, command: Command, deadline: Instant, forwarded: bool) -> Result<Decided, Undone> {
        let name = command.name();
        let bytes = encoded_len(&command);
        if bytes > COMMAND_BYTES_MAX {
            let why = format!("a command of {bytes} bytes; at most {COMMAND_BYTES_MAX}");
            return Err(Undone::Error(Refused::Invalid(why).into()));
        }
        let (answer, answered) = oneshot::channel();
        let fate = Fate::default();
        let proposed = Proposed {
            command,
            bytes,
            answer,
            fate: fate.clone(),
            deadline,
            forwarded,
        };
        match tokio::time::timeout_at(deadline, self.shared.proposals.send(proposed)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return Err(Undone::Error(self.closed())),
            Err(_) => return Err(Undone::retry("too many commands wait")),
        }
        match tokio::time::timeout_at(deadline, answered).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(_)) => Err(Undone::Error(self.closed())),
            Err(_) if fate.give_up() => Err(Undone::retry("no leader has taken the command up")),
            Err(_) => Err(Undone::unknown(format_args!("{name} timed out"))),
        }
    }

    /// Waits until this node's state has everything that was committed when this was called, and answers the index
    /// up to which that is. All who wait share one round. Works on every member.
    ///
    /// # Errors
    ///
    /// [`MetaError::Retry`] if there is no leader that a quorum follows, or this state does not get that far in time.
    pub async fn linearize(&self) -> Result<u64, MetaError> {
        if planted(Bug::ReadIndexLocal) {
            return Ok(self.applied_index());
        }
        self.read(false).await
    }

    /// As [`Meta::linearize`], but only if this member leads: what it answers then was true of the leader's state
    /// after the call, and no other member led before.
    ///
    /// # Errors
    ///
    /// [`MetaError::Retry`] on a member that does not lead, or cannot prove it.
    pub async fn confirm_leadership(&self) -> Result<u64, MetaError> {
        self.read(true).await
    }

    async fn read(&self, here: bool) -> Result<u64, MetaError> {
        let round = async {
            let index = self.read_index(here).await?;
            self.wait_applied(index).await?;
            Ok(index)
        };
        match tokio::time::timeout(self.shared.timing.propose_timeout, round).await {
            Ok(index) => index,
            Err(_) => Err(MetaError::Retry("no confirmed leader in time".into())),
        }
    }

    async fn read_index(&self, here: bool) -> Result<u64, Undone> {
        let (answer, answered) = oneshot::channel();
        let closed = || Undone::Error(self.closed());
        let reader = Reader { answer, here };
        self.shared.readers.send(reader).await.map_err(|_| closed())?;
        answered.await.map_err(|_| closed())?
    }

    /// Who leads, as this member sees it.
    pub fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.router.leadership()
    }

    /// Has every replica compare its state with the leader's, at one index. A replica that differs fails, with a
    /// message that names index and checksums. Answers the leader's checksum. Costs a read of the whole state on
    /// every replica, during which it applies nothing.
    pub async fn compare_state(&self) -> Result<StateChecksum, MetaError> {
        let computed = self.propose(CompareState {}).await?;
        self.propose(CheckState { computed }).await?;
        Ok(computed)
    }

    /// Follows the index of the last entry in this node's state that may have changed which channels there are, who
    /// owns them, or whether they serve.
    pub fn channels_changed(&self) -> watch::Receiver<u64> {
        self.shared.machine.channels()
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
