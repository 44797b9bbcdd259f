//! What the leader knows of nodes and channels by their heartbeats: for people to look at.

use std::collections::BTreeMap;
use std::time::Duration;

use millrace_api::id::{ChannelId, Epoch, NodeId};
use millrace_raft::query::NodeRecord;
use tokio::time::Instant;

use super::{Control, HEARTBEATS_MISSED_MAX};

/// One life of a node, as the leader sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ObservedNode {
    /// Since the last heartbeat that was granted, or since the leader leads.
    pub heartbeat_age: Duration,
    /// Nothing was heard of it for longer than heartbeats are apart.
    pub silent: bool,
    /// It is to own nothing.
    pub draining: bool,
    /// Metered bytes a second over its channels.
    pub bytes_per_second: u64,
}

impl Control {
    /// The registered lives among `nodes` that are not over; `None` where this node does not lead.
    pub fn observed_nodes(&self, nodes: &[NodeRecord]) -> Option<BTreeMap<NodeId, ObservedNode>> {
        let now = Instant::now();
        let silence_max = self.heartbeat_interval() * HEARTBEATS_MISSED_MAX;
        let term = self.term();
        let term = term.as_ref()?;
        let living = nodes.iter().filter(|node| !node.expired);
        let observed = living.map(|node| {
            let life = (node.node, node.incarnation);
            let heartbeat_age = term.leases.silence(life, now);
            let report = term.reports.get(&node.node);
            let loads = report.map_or(&[][..], |report| &report.loads);
            let observed = ObservedNode {
                heartbeat_age,
                silent: heartbeat_age > silence_max || term.leases.is_condemned(life),
                draining: report.is_some_and(|report| report.draining),
                bytes_per_second: loads.iter().map(|load| load.bytes_per_second).sum(),
            };
            (node.node, observed)
        });
        Some(observed.collect())
    }

    /// What the owner of each channel's epoch said last; `None` where this node does not lead.
    pub fn observed_loads(&self) -> Option<BTreeMap<(ChannelId, Epoch), u64>> {
        let term = self.term();
        let loads = term.as_ref()?.reports.values().flat_map(|report| &report.loads);
        let load = |load: &crate::peer::pb::ChannelLoad| {
            let key = (ChannelId(load.channel), Epoch(load.epoch));
            (key, load.bytes_per_second)
        };
        Some(loads.map(load).collect())
    }
}
