//! The node's heartbeat: asks the leader for the right to answer, hears which channels to own, and begins another life
//! when this one is over.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use millrace_api::id::{ChannelId, Incarnation, NodeId};
use millrace_raft::group::Meta;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use crate::channels::Channels;
use crate::control::Control;
use crate::env::Env;
use crate::frontend::service::Lifecycle;
use crate::lease::Lease;
use crate::ownership::Wanted;
use crate::peer::directory::Peers;
use crate::peer::pb::{self, heartbeat_response::Answer};
use crate::peer::serve::Heartbeats;

/// A heartbeat that was not granted is tried again after this part of the interval.
const RETRIES_PER_BEAT: u32 = 4;

/// One life of the node.
pub struct Heart {
    pub node: NodeId,
    pub incarnation: Incarnation,
    pub env: Env,
    pub meta: Meta,
    /// Asked without a network when this node leads itself.
    pub control: Control,
    pub peers: Peers,
    pub channels: Channels,
    pub lease: Lease,
    pub wanted: watch::Sender<Wanted>,
    pub avoid: watch::Receiver<BTreeSet<ChannelId>>,
    pub lifecycle: Lifecycle,
    /// Set when a leader knows that the node is about to stop.
    pub told: watch::Sender<bool>,
}

/// The group has expired this life, or another process lives it.
#[derive(Debug)]
pub struct Over;

impl Heart {
    /// Beats until `stop`, or until this life is over.
    pub async fn run(self, stop: CancellationToken) -> Result<(), Over> {
        let every = self.control.heartbeat_interval();
        let mut beats = interval(every);
        beats.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut rates = Rates::default();
        let mut silent = false;
        let (mut channels, mut leadership) = (self.meta.channels_changed(), self.meta.leadership());
        let mut draining = false;
        loop {
            tokio::select! {
                _ = beats.tick() => {}
                // There may be a channel to take over, or another leader that knows nothing of this node yet.
                Ok(()) = channels.changed() => {}
                Ok(()) = leadership.changed() => {}
                () = self.lifecycle.drained(), if !draining => {}
                () = stop.cancelled() => return Ok(()),
            }
            draining = self.lifecycle.is_draining();
            let sent = self.env.boot();
            let request = self.request(&mut rates);
            let tells = draining;
            let answer = tokio::select! {
                answer = self.ask(request, every * 2) => answer,
                () = stop.cancelled() => return Ok(()),
            };
            match answer {
                Some(Answer::Granted(granted)) => {
                    self.lease.grant(sent, Duration::from_millis(granted.ttl_ms));
                    self.act_upon(granted);
                    silent = false;
                    if tells {
                        self.told.send_replace(true);
                    }
                }
                Some(Answer::Ended(_)) => {
                    self.lease.give_up();
                    return Err(Over);
                }
                Some(Answer::NotLeader(_)) | None => {
                    beats.reset_after(every / RETRIES_PER_BEAT);
                    if !silent && !self.lease.is_valid() {
                        silent = true;
                        tracing::warn!(
                            "no leader grants this node the right to answer; reads and tails wait"
                        );
                    }
                }
            }
        }
    }

    async fn ask(&self, request: pb::HeartbeatRequest, timeout: Duration) -> Option<Answer> {
        let leader = self.meta.metrics().leader.map(NodeId)?;
        if leader == self.node {
            return self.control.heartbeat(request).await.answer;
        }
        match self.peers.heartbeat(leader, request, timeout).await {
            Ok(response) => response.answer,
            Err(error) => {
                tracing::debug!(%leader, %error, "the leader did not answer a heartbeat");
                None
            }
        }
    }

    fn request(&self, rates: &mut Rates) -> pb::HeartbeatRequest {
        let owned = self.channels.owned();
        let loads = owned.iter().map(|(channel, owned)| pb::ChannelLoad {
            channel: channel.0,
            epoch: owned.epoch.0,
            bytes_per_second: rates.of(*channel, owned.stats.metered_bytes.load(Relaxed)),
        });
        pb::HeartbeatRequest {
            node: self.node.0,
            incarnation: self.incarnation.to_bytes().to_vec().into(),
            channels: loads.collect(),
            avoid: self.avoid.borrow().iter().map(|channel| channel.0).collect(),
            draining: self.lifecycle.is_draining() || self.lifecycle.is_aside(),
        }
    }

    fn act_upon(&self, granted: pb::Granted) {
        let loads: BTreeMap<ChannelId, u64> = granted
            .loads
            .iter()
            .map(|load| (ChannelId(load.channel), load.bytes_per_second))
            .collect();
        self.channels.set_loads(loads);
        let wanted = Wanted {
            channels: granted.wanted.into_iter().map(ChannelId).collect(),
        };
        self.wanted
            .send_if_modified(|now| match *now == wanted || self.lifecycle.is_draining() {
                true => false,
                false => {
                    *now = wanted;
                    true
                }
            });
    }
}

/// Bytes a second from counters that only grow.
#[derive(Default)]
struct Rates(BTreeMap<ChannelId, (Instant, u64)>);

impl Rates {
    fn of(&mut self, channel: ChannelId, total: u64) -> u64 {
        let now = Instant::now();
        let before = self.0.insert(channel, (now, total));
        let Some((at, before)) = before else { return 0 };
        let passed = now.duration_since(at).as_secs_f64();
        match passed > 0.0 {
            true => (total.saturating_sub(before) as f64 / passed) as u64,
            false => 0,
        }
    }
}
