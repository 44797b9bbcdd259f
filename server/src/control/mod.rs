//! What the leader of the metadata group does for the cell: grants leases, expires nodes that are silent, and says
//! which node is to own which channel.
//!
//! Everything here is soft: a new leader begins with nothing and grants nothing away that an earlier one may have
//! granted. [`leases`] and [`placement`] decide, this module asks the group.

pub mod leases;
pub mod observed;
pub mod placement;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use millrace_api::bug::{Bug, planted};
use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, Incarnation, NodeId};
use millrace_raft::command::{CreateChannel, ExpireNode};
use millrace_raft::error::{MetaError, StoreError};
use millrace_raft::group::{Meta, Role};
use millrace_raft::query::{ChannelRecord, NodeRecord};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::leases::{LeaseTiming, Leases, Life};
use self::placement::{Candidate, Placement, place};
use crate::peer::pb::{self, heartbeat_response::Answer};
use crate::peer::serve::Heartbeats;
use crate::zones::class_is_there;

/// Channels are looked at this often in the time of a lease.
const TICKS_PER_TTL: u32 = 6;
/// A node that was not heard for so many intervals is given no channel.
const HEARTBEATS_MISSED_MAX: u32 = 3;

/// Classes of channels.
const CLASSES: [StorageClass; 2] = [StorageClass::Standard, StorageClass::Express];

/// Runs on every node; acts on the one that leads.
#[derive(Clone)]
pub struct Control {
    shared: Arc<Shared>,
}

struct Shared {
    meta: Meta,
    timing: LeaseTiming,
    /// Channels that there are to be for each node that may own some.
    channels_per_node: u32,
    term: Mutex<Option<Term>>,
}

/// What this node knows as the leader of one term.
struct Term {
    number: u64,
    since: Instant,
    leases: Leases,
    placement: Placement,
    /// What the state said of channels when they were placed, as [`Meta::channels_changed`] has it.
    placed_at: u64,
    reports: BTreeMap<NodeId, Report>,
}

/// What a node said of itself with its last heartbeat.
struct Report {
    at: Instant,
    loads: Vec<pb::ChannelLoad>,
    avoid: BTreeSet<ChannelId>,
    draining: bool,
}

impl Report {
    fn new(request: &pb::HeartbeatRequest, at: Instant) -> Self {
        Self {
            at,
            loads: request.channels.clone(),
            avoid: request.avoid.iter().copied().map(ChannelId).collect(),
            draining: request.draining,
        }
    }

    /// Whether channels may have to be placed otherwise than by this report.
    fn places_as(&self, other: &Self) -> bool {
        self.draining == other.draining && self.avoid == other.avoid
    }
}

impl Control {
    pub fn new(meta: Meta, timing: LeaseTiming, channels_per_node: u32) -> Self {
        Self {
            shared: Arc::new(Shared {
                meta,
                timing,
                channels_per_node,
                term: Mutex::new(None),
            }),
        }
    }

    /// Looks after the cell while this node leads, until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        let interval = self.heartbeat_interval();
        let mut leadership = self.shared.meta.leadership();
        let mut channels = self.shared.meta.channels_changed();
        loop {
            if self.leads() {
                tokio::select! {
                    done = self.tick() => if let Err(error) = done {
                        tracing::warn!(%error, "the cell could not be looked after; tried again");
                    },
                    () = stop.cancelled() => return,
                }
            }
            tokio::select! {
                () = tokio::time::sleep(interval) => {}
                Ok(()) = leadership.changed() => {}
                Ok(()) = channels.changed() => {}
                () = stop.cancelled() => return,
            }
        }
    }

    /// Whether this node leads. A term that has just begun starts with an empty account.
    fn leads(&self) -> bool {
        let metrics = self.shared.meta.metrics();
        let mut term = self.term();
        if metrics.role != Role::Leader {
            *term = None;
            return false;
        }
        if term.as_ref().is_none_or(|term| term.number != metrics.term) {
            tracing::info!(term = metrics.term, "this node leads the metadata group");
            *term = Some(Term {
                number: metrics.term,
                since: Instant::now(),
                leases: Leases::new(self.shared.timing, Instant::now()),
                placement: Placement::new(),
                placed_at: 0,
                reports: BTreeMap::new(),
            });
        }
        true
    }

    async fn tick(&self) -> Result<(), MetaError> {
        let meta = &self.shared.meta;
        let (nodes, channels) = (meta.state().nodes()?, meta.state().channels()?);
        let (term, ended) = self.ended(&nodes, &channels);
        for (node, incarnation) in ended {
            tracing::warn!(%node, %incarnation, "the node is silent, and what it was granted has run out: its channels are free");
            let expire = ExpireNode {
                node,
                incarnation,
                term,
            };
            meta.propose(expire).await?;
        }
        self.create_channels(&nodes, &channels).await?;
        match self.term().as_mut() {
            Some(term) => Ok(self.place(term)?),
            None => Ok(()),
        }
    }

    /// Lives to be expired, and the term for which that holds. They are granted nothing any more from now on.
    fn ended(&self, nodes: &[NodeRecord], channels: &[ChannelRecord]) -> (u64, Vec<Life>) {
        let now = Instant::now();
        let mut term = self.term();
        let Some(term) = term.as_mut() else {
            return (0, Vec::new());
        };
        let living: BTreeSet<Life> = nodes
            .iter()
            .filter(|node| !node.expired)
            .map(|node| (node.node, node.incarnation))
            .collect();
        let owners: BTreeSet<Life> = channels
            .iter()
            .filter_map(|channel| channel.owner)
            .map(|owner| (owner.node, owner.incarnation))
            .collect();
        let mut ended = term.leases.condemn_silent(living.iter().copied(), now);
        // Lives that another has replaced, and that may still answer.
        let replaced = owners.difference(&living);
        ended.extend(replaced.filter(|life| term.leases.retire(**life, now)));
        term.leases.forget(&living.union(&owners).copied().collect());
        (term.number, ended)
    }

    async fn create_channels(
        &self,
        nodes: &[NodeRecord],
        channels: &[ChannelRecord],
    ) -> Result<(), MetaError> {
        let living = nodes.iter().filter(|node| !node.expired).count();
        let wanted = living.saturating_mul(self.shared.channels_per_node as usize);
        let mut last = channels
            .iter()
            .map(|channel| channel.channel.0)
            .max()
            .unwrap_or(0);
        let zones = self.shared.meta.state().zones()?;
        for class in CLASSES {
            if !class_is_there(class, &zones) {
                continue;
            }
            let there = channels.iter().filter(|channel| channel.class == class).count();
            for _ in there..wanted {
                last += 1;
                let channel = ChannelId(last);
                self.shared.meta.propose(CreateChannel { channel, class }).await?;
            }
        }
        Ok(())
    }

    /// Says anew which node is to own which channel. A node is given nothing before it has spoken to this leader, nor
    /// when it is silent or about to stop.
    fn place(&self, term: &mut Term) -> Result<(), StoreError> {
        let meta = &self.shared.meta;
        let placed_at = *meta.channels_changed().borrow();
        let (nodes, channels) = (meta.state().nodes()?, meta.state().channels()?);
        let now = Instant::now();
        let patience = self.heartbeat_interval() * HEARTBEATS_MISSED_MAX;
        let spoke = |report: &&Report| now.duration_since(report.at) < patience;
        let mut all = Vec::new();
        let mut unheard = 0;
        for node in &nodes {
            if node.expired
                || term.leases.is_condemned((node.node, node.incarnation))
                || !is_member(meta, node.node)
            {
                continue;
            }
            match term.reports.get(&node.node).filter(spoke) {
                Some(report) if !report.draining => all.push(Candidate {
                    node: node.node,
                    zone: node.zone.clone(),
                    avoid: report.avoid.clone(),
                }),
                Some(_) => {}
                None => unheard += 1,
            }
        }
        // Those that a new leader has not heard yet are left their share.
        let early = now.duration_since(term.since) < patience;
        let share_of = |count: usize| match early && unheard > 0 {
            true => count.div_ceil(all.len() + unheard),
            false => usize::MAX,
        };
        // Each class by itself: a node that cannot reach the zones of one may well serve the other.
        let mut placement = Placement::new();
        for class in CLASSES {
            let of_class = channels.iter().filter(|channel| channel.class == class);
            let owners: Vec<_> = of_class
                .map(|channel| (channel.channel, channel.owner.map(|owner| owner.node)))
                .collect();
            let is_of_class = |channel: &ChannelId| owners.iter().any(|(of_class, _)| of_class == channel);
            let mut candidates = all.clone();
            for candidate in &mut candidates {
                candidate.avoid.retain(is_of_class);
            }
            let before: Placement = term
                .placement
                .iter()
                .map(|(node, wanted)| (*node, wanted.iter().copied().filter(is_of_class).collect()))
                .collect();
            for (node, wanted) in place(&candidates, &owners, &before, share_of(owners.len())) {
                placement.entry(node).or_default().extend(wanted);
            }
        }
        term.placement = placement;
        term.placed_at = placed_at;
        Ok(())
    }

    /// Grants, if leadership was confirmed after the heartbeat came, and the life is not over.
    async fn answer(&self, request: &pb::HeartbeatRequest) -> Result<Answer, MetaError> {
        let meta = &self.shared.meta;
        let node = NodeId(request.node);
        let Some(incarnation) = incarnation(&request.incarnation) else {
            return Ok(Answer::Ended(pb::Ended {}));
        };
        if !self.leads() {
            return Ok(not_leader(meta));
        }
        let Some(number) = self.term().as_ref().map(|term| term.number) else {
            return Ok(not_leader(meta));
        };
        // Not a linearizable read, which a member that was replaced would have the new leader answer.
        if !planted(Bug::GrantUnconfirmed) {
            meta.confirm_leadership().await?;
        }
        let record = meta.state().node(node)?;
        let life = (node, incarnation);
        let mut term = self.term();
        let Some(term) = term.as_mut().filter(|term| term.number == number) else {
            return Ok(not_leader(meta));
        };
        let alive = record.is_some_and(|record| record.incarnation == incarnation && !record.expired)
            // A node that was removed hears no more of what the group decides.
            && is_member(meta, node);
        if !alive || term.leases.grant(life, Instant::now()).is_err() {
            return Ok(Answer::Ended(pb::Ended {}));
        }
        let report = Report::new(request, Instant::now());
        let before = term.reports.insert(node, report);
        let as_before = before.is_some_and(|before| before.places_as(&term.reports[&node]));
        if !as_before || term.placed_at != *meta.channels_changed().borrow() {
            self.place(term)?;
        }
        let wanted = term.placement.get(&node).into_iter().flatten();
        Ok(Answer::Granted(pb::Granted {
            ttl_ms: u64::try_from(self.shared.timing.ttl.as_millis()).unwrap_or(u64::MAX),
            wanted: wanted.map(|channel| channel.0).collect(),
            loads: term
                .reports
                .values()
                .flat_map(|report| report.loads.iter().copied())
                .collect(),
        }))
    }

    fn term(&self) -> MutexGuard<'_, Option<Term>> {
        self.shared.term.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a node is to ask.
    pub fn heartbeat_interval(&self) -> Duration {
        self.shared.timing.ttl / TICKS_PER_TTL
    }
}

#[async_trait]
impl Heartbeats for Control {
    async fn heartbeat(&self, request: pb::HeartbeatRequest) -> pb::HeartbeatResponse {
        let answer = match self.answer(&request).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::debug!(%error, "a heartbeat was not granted");
                not_leader(&self.shared.meta)
            }
        };
        pb::HeartbeatResponse { answer: Some(answer) }
    }
}

fn is_member(meta: &Meta, node: NodeId) -> bool {
    meta.members().iter().any(|member| member.node == node)
}

fn not_leader(meta: &Meta) -> Answer {
    Answer::NotLeader(pb::NotLeader {
        leader: meta.metrics().leader,
    })
}

fn incarnation(bytes: &[u8]) -> Option<Incarnation> {
    Some(Incarnation::from_bytes(bytes.try_into().ok()?))
}
