//! The channels that this node owns: takes over those that it is to own, gives back those that it is not.
//!
//! - What is wanted comes from the leader of the metadata group. Whether the node may have a channel, the group
//!   decides when the node asks for it.
//! - A channel is given back after its task has stopped for good, with everything that it acknowledged durable.
//! - A channel that cannot be written here is given up, so that another node may try.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, ChunkSeq, Epoch};
use millrace_raft::command::{ReleaseChannels, ReleasedChannel};
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_raft::query::ChannelRecord;
use millrace_raft::refused::Refused;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::channel::flushing::Flushing;
use crate::channel::handle::ChannelHandle;
use crate::channel::recovery::{self, Owner, RecoveryError, TakenOver};
use crate::channel::state::ChannelLimits;
use crate::channel::task::{ChannelTask, Ended, Waiting};
use crate::channels::{Channels, Owned};
use crate::deadline::sleep_until;
use crate::env::Env;
use crate::flusher::Flusher;
use crate::lease::Lease;
use crate::reaper::Reaper;
use crate::wals::{NoWal, Wals};
use crate::zones::express::ExpressZones;

/// Before a take-over that failed is tried again.
const RETRY_PAUSE: Duration = Duration::from_secs(1);
/// The group has this long to take a release; afterwards the channel waits for the lease to run out.
const RELEASE_TIMEOUT: Duration = Duration::from_secs(5);
/// A channel that was given up here is left to others for this long.
const AVOID_FOR: Duration = Duration::from_secs(30);

/// What every channel of the node is made with.
#[derive(Clone)]
pub struct Parts {
    pub env: Env,
    pub meta: Meta,
    pub wals: Wals,
    pub express: Option<ExpressZones>,
    pub flusher: Flusher,
    pub reaper: Reaper,
    pub limits: ClassLimits,
    pub idle_timeout: Duration,
    pub channels: Channels,
    pub lease: Lease,
    /// A channel that has made nothing durable for this long, with work waiting, is given up; `None` where there is
    /// nobody to give it to.
    pub stuck_after: Option<Duration>,
}

/// What channels of each class are bounded by.
#[derive(Clone)]
pub struct ClassLimits {
    pub standard: ChannelLimits,
    pub express: ChannelLimits,
}

impl ClassLimits {
    fn of(&self, class: StorageClass) -> &ChannelLimits {
        match class {
            StorageClass::Standard => &self.standard,
            StorageClass::Express => &self.express,
        }
    }
}

/// What the node is to own, in one of its lives.
#[derive(Clone, Default, PartialEq, Debug)]
pub struct Wanted {
    pub channels: BTreeSet<ChannelId>,
}

/// One life of the node as an owner of channels.
pub struct Ownership {
    parts: Parts,
    owner: Owner,
    wanted: watch::Receiver<Wanted>,
    /// Channels that could not be written here, for the leader to know.
    avoid: watch::Sender<BTreeSet<ChannelId>>,
    avoid_until: BTreeMap<ChannelId, Instant>,
    running: BTreeMap<ChannelId, CancellationToken>,
    tasks: JoinSet<(ChannelId, Gone)>,
}

/// How a channel left this node.
enum Gone {
    Stopped(Epoch, Option<ChunkSeq>),
    Fenced(Epoch, String),
    Stuck(Epoch),
    Unflushable(Epoch, String),
    Failed(RecoveryError),
}

/// What only a node that is alone has to know: it has nobody to leave a channel to.
#[derive(Debug)]
pub enum Trouble {
    /// Another process writes in a channel that metadata say is this node's.
    Fenced {
        channel: ChannelId,
        by: String,
    },
    Recovery {
        channel: ChannelId,
        cause: RecoveryError,
    },
    /// What was acknowledged cannot be put into segments.
    Unflushable {
        channel: ChannelId,
        why: String,
    },
    Panicked(String),
}

impl Ownership {
    pub fn new(
        parts: Parts,
        owner: Owner,
        wanted: watch::Receiver<Wanted>,
        avoid: watch::Sender<BTreeSet<ChannelId>>,
    ) -> Self {
        Self {
            parts,
            owner,
            wanted,
            avoid,
            avoid_until: BTreeMap::new(),
            running: BTreeMap::new(),
            tasks: JoinSet::new(),
        }
    }

    /// Until `stop`; then every channel has stopped and was given back. Ends earlier only with trouble, and only where
    /// there is no other node.
    pub async fn run(mut self, stop: CancellationToken) -> Result<(), Trouble> {
        let mut changed = self.parts.meta.channels_changed();
        loop {
            self.reconcile();
            let retry = self.avoid_until.values().min().copied();
            tokio::select! {
                () = stop.cancelled() => break,
                changed = self.wanted.changed() => if changed.is_err() {
                    break;
                },
                Some(ended) = self.tasks.join_next() => self.ended(ended).await?,
                Ok(()) = changed.changed() => {
                    let wanted = self.wanted.borrow().channels.clone();
                    self.release_strays(&wanted).await;
                }
                () = sleep_until(retry), if retry.is_some() => self.forget_avoided(),
            }
        }
        for token in self.running.values() {
            token.cancel();
        }
        self.release_all().await;
        Ok(())
    }

    fn reconcile(&mut self) {
        let wanted = self.wanted.borrow_and_update().channels.clone();
        for (channel, token) in &self.running {
            if !wanted.contains(channel) {
                token.cancel();
            }
        }
        for channel in wanted {
            if !self.running.contains_key(&channel) && !self.avoid_until.contains_key(&channel) {
                let stop = CancellationToken::new();
                self.running.insert(channel, stop.clone());
                let (parts, owner) = (self.parts.clone(), self.owner);
                self.tasks
                    .spawn(async move { (channel, serve(parts, owner, channel, stop).await) });
            }
        }
    }

    async fn ended(
        &mut self,
        ended: Result<(ChannelId, Gone), tokio::task::JoinError>,
    ) -> Result<(), Trouble> {
        let (channel, gone) = ended.map_err(|panic| Trouble::Panicked(panic.to_string()))?;
        self.running.remove(&channel);
        let alone = !self.has_others();
        match gone {
            Gone::Stopped(epoch, sealed_end) => {
                self.release(vec![released(channel, epoch, sealed_end)]).await
            }
            Gone::Fenced(_, by) if alone => return Err(Trouble::Fenced { channel, by }),
            // Standard streams do not suffer for what the Express zones lack.
            Gone::Failed(cause) if alone && !self.is_express(channel) => {
                return Err(Trouble::Recovery { channel, cause });
            }
            Gone::Fenced(epoch, by) => {
                tracing::info!(%channel, %epoch, by, "gave up a channel that another node writes");
                self.avoid(channel, RETRY_PAUSE);
                // If the group still names this node as the owner, nobody else serves the channel.
                self.release(vec![released(channel, epoch, None)]).await;
            }
            Gone::Unflushable(_, why) if alone => return Err(Trouble::Unflushable { channel, why }),
            Gone::Unflushable(epoch, why) => {
                tracing::error!(%channel, %epoch, why, "gave up a channel that cannot be flushed from here");
                self.avoid(channel, AVOID_FOR);
                self.release(vec![released(channel, epoch, None)]).await;
            }
            Gone::Stuck(epoch) => {
                tracing::warn!(%channel, %epoch, "gave up a channel that cannot be written from here");
                self.avoid(channel, AVOID_FOR);
                self.release(vec![released(channel, epoch, None)]).await;
            }
            Gone::Failed(error @ RecoveryError::NoWal(NoWal::NoExpress(_))) => {
                tracing::error!(%channel, %error, "the channel cannot be taken over here");
                self.avoid(channel, AVOID_FOR);
            }
            Gone::Failed(error) => {
                tracing::warn!(%channel, %error, "did not take the channel over");
                self.avoid(channel, RETRY_PAUSE);
            }
        }
        Ok(())
    }

    fn is_express(&self, channel: ChannelId) -> bool {
        self.parts.wals.class(channel) == Ok(StorageClass::Express)
    }

    fn avoid(&mut self, channel: ChannelId, wait: Duration) {
        self.avoid_until.insert(channel, Instant::now() + wait);
        if wait >= AVOID_FOR {
            self.avoid.send_modify(|avoid| {
                avoid.insert(channel);
            });
        }
    }

    fn forget_avoided(&mut self) {
        let now = Instant::now();
        self.avoid_until.retain(|_, until| *until > now);
        let left: BTreeSet<_> = self.avoid_until.keys().copied().collect();
        self.avoid
            .send_modify(|avoid| avoid.retain(|channel| left.contains(channel)));
    }

    /// Gives back what the group says is this life's and nobody serves or wants here: an assignment may be decided after
    /// whoever asked for it was told to stop.
    async fn release_strays(&self, wanted: &BTreeSet<ChannelId>) {
        if !self.has_others() {
            return;
        }
        let Ok(channels) = self.parts.meta.state().channels() else {
            return;
        };
        let own = |record: &ChannelRecord| {
            let owner = record.owner.map(|owner| (owner.node, owner.incarnation));
            owner == Some((self.owner.node, self.owner.incarnation))
        };
        let strays = channels.iter().filter(|record| {
            own(record) && !self.running.contains_key(&record.channel) && !wanted.contains(&record.channel)
        });
        let strays = strays.map(|record| released(record.channel, record.epoch, None));
        self.release(strays.collect()).await;
    }

    /// Whether there is anybody to leave a channel to.
    fn has_others(&self) -> bool {
        self.parts.stuck_after.is_some()
    }

    /// Tells the group that the channels have no owner. What becomes of it does not matter here: they have stopped for
    /// good, and without a release they are free when the lease has run out.
    async fn release(&self, channels: Vec<ReleasedChannel>) {
        if channels.is_empty() {
            return;
        }
        let command = ReleaseChannels {
            node: self.owner.node,
            incarnation: self.owner.incarnation,
            channels,
        };
        match timeout(RELEASE_TIMEOUT, self.parts.meta.propose(command)).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::warn!(%error, "channels were not given back; their lease has to run out")
            }
            Err(_) => tracing::warn!("channels were not given back in time; their lease has to run out"),
        }
    }

    /// Waits for every channel to stop, and gives them back in one command.
    async fn release_all(&mut self) {
        let mut stopped = Vec::new();
        while let Some(ended) = self.tasks.join_next().await {
            match ended {
                Ok((channel, Gone::Stopped(epoch, sealed_end))) => {
                    stopped.push(released(channel, epoch, sealed_end));
                }
                Ok((channel, Gone::Stuck(epoch) | Gone::Fenced(epoch, _) | Gone::Unflushable(epoch, _))) => {
                    stopped.push(released(channel, epoch, None));
                }
                Ok((_, Gone::Failed(_))) => {}
                Err(panic) => tracing::error!(%panic, "a channel has failed"),
            }
        }
        // A node that is alone keeps its channels: it takes them over again at its next start.
        if self.has_others() {
            self.release(stopped).await;
            self.running.clear();
            self.release_strays(&BTreeSet::new()).await;
        }
    }
}

fn released(channel: ChannelId, epoch: Epoch, sealed_end: Option<ChunkSeq>) -> ReleasedChannel {
    ReleasedChannel {
        channel,
        epoch,
        sealed_end,
    }
}

/// Takes the channel over and serves it until it is told to stop or cannot go on.
async fn serve(parts: Parts, owner: Owner, channel: ChannelId, stop: CancellationToken) -> Gone {
    let taken = tokio::select! {
        taken = take_over(&parts, owner, channel) => match taken {
            Ok(taken) => taken,
            Err(error) => return Gone::Failed(error),
        },
        // Nothing is served yet; the epoch, if there is one, is void.
        () = stop.cancelled() => {
            let record = parts.meta.state().channel(channel);
            let epoch = record.ok().flatten().map_or(Epoch(0), |record| record.epoch);
            return Gone::Stopped(epoch, None);
        }
    };
    let (handle, requests) = ChannelHandle::new(channel);
    let stats = parts.channels.stats(channel);
    let epoch = taken.epoch;
    let progress = taken.writer.progress();
    let mut task = ChannelTask {
        id: channel,
        epoch,
        env: parts.env.clone(),
        meta: parts.meta.clone(),
        state: taken.state,
        writer: taken.writer,
        written: taken.written,
        requests,
        idle_timeout: parts.idle_timeout,
        stop: stop.clone(),
        stats: stats.clone(),
        waiting: Waiting::default(),
        lease: parts.lease.clone(),
        stuck_after: parts.stuck_after,
        flushing: Flushing::new(parts.flusher.clone(), parts.reaper.clone()),
        confirmed: None,
    };
    task.flushing.release_before(taken.checkpoint);
    task.close_leftovers(taken.deleting);
    parts.channels.insert(Owned {
        epoch,
        handle,
        stats,
        progress,
    });
    let ended = {
        let (run, replaced) = (task.run(), zones_replaced(&parts, channel, epoch));
        tokio::pin!(run);
        tokio::select! {
            ended = &mut run => ended,
            () = replaced => {
                tracing::info!(%channel, %epoch, "a zone was replaced: the channel begins a new epoch");
                stop.cancel();
                run.await
            }
        }
    };
    parts.channels.remove(channel, epoch);
    match ended {
        Ended::Stopped { sealed_end } => Gone::Stopped(epoch, sealed_end),
        Ended::Fenced(by) => Gone::Fenced(epoch, format!("{by:?}")),
        Ended::Replaced(later) => Gone::Fenced(epoch, format!("epoch {later}")),
        Ended::Stuck => Gone::Stuck(epoch),
        Ended::Unflushable(why) => Gone::Unflushable(epoch, why),
    }
}

/// Takes the channel over, from the start again when its zones change under way.
async fn take_over(parts: &Parts, owner: Owner, channel: ChannelId) -> Result<TakenOver, RecoveryError> {
    if parts.wals.class(channel) == Err(NoWal::Unknown(channel)) {
        // The leader knows it already.
        parts.meta.linearize().await?;
    }
    let class = parts.wals.class(channel)?;
    loop {
        let mut changed = parts.wals.changed();
        if let Some(zones) = parts.express.as_ref().filter(|_| class == StorageClass::Express) {
            zones.confirm().await;
        }
        let wal = match parts.wals.of_channel(channel) {
            // This node hears of its zones in a moment.
            Err(NoWal::NoExpress(_)) if parts.express.is_some() => {
                if changed.changed().await.is_err() {
                    return Err(NoWal::NoExpress(channel).into());
                }
                continue;
            }
            wal => wal?,
        };
        let taken = recovery::take_over(
            channel,
            owner,
            wal.gens(),
            parts.limits.of(class).clone(),
            &parts.env,
            &parts.meta,
            &wal,
        );
        tokio::select! {
            taken = taken => match taken {
                // Refused under zones that metadata do not have any more: this node hears of it in a moment.
                Err(RecoveryError::Meta(MetaError::Refused(Refused::Invalid(why)))) => {
                    tracing::info!(%channel, why, "the channel's zones may have changed");
                    if timeout(RETRY_PAUSE, changed.changed()).await.is_err() {
                        return Err(MetaError::Refused(Refused::Invalid(why)).into());
                    }
                }
                taken => return taken,
            },
            Ok(()) = changed.changed() => {}
        }
    }
}

/// Resolves when new epochs of the channel are written under other zones than this one.
async fn zones_replaced(parts: &Parts, channel: ChannelId, epoch: Epoch) {
    let mut changed = parts.wals.changed();
    loop {
        let record = parts.meta.state().channel(channel).ok().flatten();
        let now = parts.wals.of_channel(channel).map(|wal| wal.gens());
        if let (Some(record), Ok(now)) = (record, now)
            && record.epoch == epoch
            && record.gens != now
        {
            return;
        }
        if changed.changed().await.is_err() {
            return std::future::pending().await;
        }
    }
}

#[cfg(test)]
#[path = "ownership_tests.rs"]
mod tests;
