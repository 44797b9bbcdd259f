//! What is said of the nodes and channels of a cluster, put together from the group's members, the registrations in
//! its state, and what the leader has heard.

use std::collections::{BTreeMap, BTreeSet};

use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, Epoch, NodeId};
use millrace_raft::identity::Member;
use millrace_raft::query::{ChannelRecord, NodeRecord};

use super::pb;
use crate::control::observed::ObservedNode;

/// One moment of a cluster, as a node knows it.
pub struct View {
    pub members: Vec<Member>,
    pub records: Vec<NodeRecord>,
    /// Channels by their owners.
    pub owners: Vec<Option<NodeId>>,
    /// What only a leader knows.
    pub led: Option<Led>,
}

/// What the leader knows of others.
pub struct Led {
    pub observed: BTreeMap<NodeId, ObservedNode>,
    /// Members of the group that answer the leader, itself among them.
    pub answering: BTreeSet<NodeId>,
    pub lags: BTreeMap<NodeId, u64>,
}

impl View {
    /// Every member and every registered node, in order of their numbers.
    pub fn nodes(&self) -> Vec<pb::Node> {
        let members = self.members.iter().map(|member| member.node);
        let known: BTreeSet<NodeId> = members
            .chain(self.records.iter().map(|record| record.node))
            .collect();
        known.into_iter().map(|node| self.node(node)).collect()
    }

    fn node(&self, node: NodeId) -> pb::Node {
        let member = self.members.iter().find(|member| member.node == node);
        let record = self.records.iter().find(|record| record.node == node);
        let owned = self.owners.iter().filter(|owner| **owner == Some(node)).count();
        let observed = self.led.as_ref().and_then(|led| led.observed.get(&node));
        let led = self.led.as_ref().filter(|_| member.is_some());
        pb::Node {
            node: node.0,
            zone: record.map(|record| record.zone.clone()).unwrap_or_default(),
            member: member.is_some(),
            voter: member.is_some_and(|member| member.voter),
            state: state(member.is_some(), record, observed).into(),
            cluster_address: member.map(|member| member.address.clone()).unwrap_or_default(),
            forward_address: record.map(|record| record.address.clone()).unwrap_or_default(),
            channels: u32::try_from(owned).unwrap_or(u32::MAX),
            answers: led.map(|led| led.answering.contains(&node)),
            bytes_per_second: observed.map(|observed| observed.bytes_per_second),
            lag: led.and_then(|led| led.lags.get(&node).copied()),
            heartbeat_age_ms: observed
                .map(|observed| u64::try_from(observed.heartbeat_age.as_millis()).unwrap_or(u64::MAX)),
        }
    }
}

fn state(member: bool, record: Option<&NodeRecord>, observed: Option<&ObservedNode>) -> pb::State {
    match (record, observed) {
        (Some(_), _) if !member => pb::State::Removed,
        (None, _) => pb::State::Joining,
        (Some(record), _) if record.expired => pb::State::Expired,
        (Some(_), None) => pb::State::Unknown,
        (Some(_), Some(observed)) if observed.silent => pb::State::Silent,
        (Some(_), Some(observed)) if observed.draining => pb::State::Draining,
        (Some(_), Some(_)) => pb::State::Alive,
    }
}

/// A channel with what its owner said of it last, if that is known.
pub fn channel(
    record: &ChannelRecord,
    open_streams: usize,
    loads: Option<&BTreeMap<(ChannelId, Epoch), u64>>,
) -> pb::Channel {
    let load = loads.and_then(|loads| loads.get(&(record.channel, record.epoch)).copied());
    pb::Channel {
        channel: record.channel.0,
        class: class(record.class).to_owned(),
        owner: record.owner.map(|owner| owner.node.0),
        epoch: record.epoch.0,
        activated: record.owner.is_some() && record.activated,
        unsealed_epochs: u32::try_from(record.unsealed_earlier().count()).unwrap_or(u32::MAX),
        open_streams: open_streams as u64,
        bytes_per_second: load.filter(|_| record.owner.is_some()),
    }
}

fn class(class: StorageClass) -> &'static str {
    match class {
        StorageClass::Standard => "standard",
        StorageClass::Express => "express",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_api::id::Incarnation;

    use super::*;

    fn member(node: u64, voter: bool) -> Member {
        Member {
            node: NodeId(node),
            address: format!("host-{node}:9080"),
            voter,
            directory: None,
        }
    }

    fn record(node: u64, expired: bool) -> NodeRecord {
        NodeRecord {
            node: NodeId(node),
            incarnation: Incarnation(node.into()),
            zone: "a".into(),
            address: format!("host-{node}:9180"),
            registered_at_ms: 0,
            expired,
            former: Vec::new(),
        }
    }

    fn observed(silent: bool, draining: bool) -> ObservedNode {
        ObservedNode {
            heartbeat_age: Duration::from_millis(20),
            silent,
            draining,
            bytes_per_second: 5,
        }
    }

    fn view() -> View {
        View {
            members: vec![
                member(1, true),
                member(2, true),
                member(3, true),
                member(4, false),
                member(6, false),
            ],
            records: vec![
                record(1, false),
                record(2, false),
                record(3, true),
                record(4, false),
                record(5, false),
            ],
            owners: vec![Some(NodeId(1)), Some(NodeId(1)), None],
            led: Some(Led {
                observed: [
                    (NodeId(1), observed(false, false)),
                    (NodeId(2), observed(true, true)),
                    (NodeId(4), observed(false, true)),
                ]
                .into(),
                answering: [NodeId(1), NodeId(4)].into(),
                lags: [(NodeId(4), 7)].into(),
            }),
        }
    }

    #[test]
    fn every_member_and_every_registered_node_is_there_with_its_state() {
        let states = |view: &View| -> Vec<(u64, pb::State)> {
            let nodes = view.nodes();
            nodes.iter().map(|node| (node.node, node.state())).collect()
        };
        use pb::State::*;
        assert_eq!(
            states(&view()),
            [
                (1, Alive),
                (2, Silent),
                (3, Expired),
                (4, Draining),
                (5, Removed),
                (6, Joining)
            ]
        );
        let follower = View { led: None, ..view() };
        assert_eq!(
            states(&follower),
            [
                (1, Unknown),
                (2, Unknown),
                (3, Expired),
                (4, Unknown),
                (5, Removed),
                (6, Joining)
            ]
        );
    }

    #[test]
    fn what_only_the_leader_knows_is_absent_where_nobody_leads() {
        let nodes = view().nodes();
        assert_eq!(
            (nodes[0].channels, nodes[0].answers, nodes[0].lag),
            (2, Some(true), None)
        );
        assert_eq!((nodes[1].answers, nodes[3].lag), (Some(false), Some(7)));
        assert_eq!(nodes[4].answers, None, "no member");
        let follower = View { led: None, ..view() };
        let nodes = follower.nodes();
        assert!(
            nodes
                .iter()
                .all(|node| node.answers.is_none() && node.heartbeat_age_ms.is_none())
        );
    }
}
