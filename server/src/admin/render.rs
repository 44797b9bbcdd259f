//! What the command prints: for programs with names that stay, for people in columns.

use bytesize::ByteSize;
use millrace_api::id::NodeId;
use serde::Serialize;

use super::client::Seen;
use super::pb;
use super::table::table;
use super::verdict::Verdict;

/// `status --json`.
#[derive(Debug, Serialize)]
pub struct StatusJson {
    /// `healthy`, `degraded` or `no leader`.
    verdict: &'static str,
    healthy: bool,
    reasons: Vec<String>,
    cluster: String,
    cluster_id: String,
    leader: Option<u64>,
    term: u64,
    applied_index: u64,
    voters: Vec<u64>,
    learners: Vec<u64>,
    /// Members that answer the leader; without one, that answered the command.
    voters_answering: usize,
    learners_answering: usize,
    nodes: usize,
    nodes_alive: usize,
    channels: u32,
    channels_owned: u32,
    /// Of those that are owned: that take appends.
    channels_active: u32,
    /// Whose knowledge this is.
    answered_by: u64,
}

impl StatusJson {
    pub fn new(seen: &Seen, verdict: &Verdict) -> Self {
        let best = seen.best();
        let members = || best.nodes.iter().filter(|node| node.member);
        let numbers = |voter: bool| {
            members()
                .filter(move |node| node.voter == voter)
                .map(|node| node.node)
        };
        let answers = |node: &pb::Node| match node.answers {
            Some(answers) => answers,
            None => seen.answers.values().any(|answer| answer.node == node.node),
        };
        let answering = |voter: bool| {
            members()
                .filter(|node| node.voter == voter && answers(node))
                .count()
        };
        let alive = |node: &&pb::Node| matches!(node.state(), pb::State::Alive | pb::State::Draining);
        Self {
            verdict: verdict.name(),
            healthy: verdict.is_healthy(),
            reasons: verdict.reasons(),
            cluster: best.cluster.clone(),
            cluster_id: best.cluster_id.clone(),
            leader: best.leader,
            term: best.term,
            applied_index: best.applied_index,
            voters: numbers(true).collect(),
            learners: numbers(false).collect(),
            voters_answering: answering(true),
            learners_answering: answering(false),
            nodes: members().count(),
            nodes_alive: members().filter(alive).count(),
            channels: best.channels,
            channels_owned: best.channels_owned,
            channels_active: best.channels_active,
            answered_by: best.node,
        }
    }

    pub fn text(&self, verdict: &Verdict) -> String {
        let leader = match self.leader {
            Some(leader) => format!("node {leader}, term {}", self.term),
            None => format!("none, term {}", self.term),
        };
        let lines = [
            ("cluster", format!("{} ({})", self.cluster, self.cluster_id)),
            ("leader", leader),
            (
                "voters",
                format!(
                    "{} of {} answer: {}",
                    self.voters_answering,
                    self.voters.len(),
                    list(&self.voters)
                ),
            ),
            (
                "learners",
                match self.learners.len() {
                    0 => "none".to_owned(),
                    all => format!(
                        "{} of {all} answer: {}",
                        self.learners_answering,
                        list(&self.learners)
                    ),
                },
            ),
            ("nodes", format!("{} of {} alive", self.nodes_alive, self.nodes)),
            (
                "channels",
                format!(
                    "{} of {} owned, {} active",
                    self.channels_owned, self.channels, self.channels_active
                ),
            ),
            (
                "applied",
                format!("entry {} on node {}", self.applied_index, self.answered_by),
            ),
        ];
        let lines = lines.map(|(name, value)| format!("{name:<9} {value}\n"));
        format!("{verdict}\n\n{}", lines.concat())
    }
}

fn list(nodes: &[u64]) -> String {
    let numbers: Vec<String> = nodes.iter().map(u64::to_string).collect();
    numbers.join(", ")
}

/// One of `nodes --json`.
#[derive(Debug, Serialize)]
pub struct NodeJson {
    node: u64,
    zone: String,
    leader: bool,
    voter: bool,
    member: bool,
    state: &'static str,
    cluster_address: String,
    forward_address: String,
    /// How many it owns.
    channels: u32,
    bytes_per_second: Option<u64>,
    lag: Option<u64>,
    heartbeat_age_ms: Option<u64>,
}

impl NodeJson {
    pub fn new(node: &pb::Node, leader: Option<u64>) -> Self {
        Self {
            node: node.node,
            zone: node.zone.clone(),
            leader: leader == Some(node.node),
            voter: node.voter,
            member: node.member,
            state: state(node.state()),
            cluster_address: node.cluster_address.clone(),
            forward_address: node.forward_address.clone(),
            channels: node.channels,
            bytes_per_second: node.bytes_per_second,
            lag: node.lag,
            heartbeat_age_ms: node.heartbeat_age_ms,
        }
    }

    fn row(&self) -> Vec<String> {
        let role = match (self.voter, self.member) {
            (true, _) => "voter",
            (false, true) => "learner",
            (false, false) => "-",
        };
        vec![
            NodeId(self.node).to_string(),
            text(&self.zone),
            role.into(),
            if self.leader { "leader" } else { "-" }.into(),
            self.state.into(),
            self.channels.to_string(),
            rate(self.bytes_per_second),
            known(self.lag),
            self.heartbeat_age_ms.map_or("-".into(), age),
            text(&self.cluster_address),
            text(&self.forward_address),
        ]
    }
}

pub fn nodes(nodes: &[NodeJson]) -> String {
    let heading = [
        "NODE",
        "ZONE",
        "ROLE",
        "LEADS",
        "STATE",
        "CHANNELS",
        "BYTES/S",
        "LAG",
        "HEARTBEAT",
        "CLUSTER ADDRESS",
        "FORWARD ADDRESS",
    ];
    let rows: Vec<_> = nodes.iter().map(NodeJson::row).collect();
    table(&heading, &rows, &[0, 5, 6, 7, 8])
}

pub fn state(state: pb::State) -> &'static str {
    match state {
        pb::State::Unknown => "unknown",
        pb::State::Alive => "alive",
        pb::State::Silent => "silent",
        pb::State::Expired => "expired",
        pb::State::Draining => "draining",
        pb::State::Joining => "joining",
        pb::State::Removed => "removed",
    }
}

/// One of `channels --json`.
#[derive(Debug, Serialize)]
pub struct ChannelJson {
    channel: u32,
    class: String,
    owner: Option<u64>,
    epoch: u64,
    activated: bool,
    unsealed_epochs: u32,
    open_streams: u64,
    bytes_per_second: Option<u64>,
}

impl From<pb::Channel> for ChannelJson {
    fn from(channel: pb::Channel) -> Self {
        Self {
            channel: channel.channel,
            class: channel.class,
            owner: channel.owner,
            epoch: channel.epoch,
            activated: channel.activated,
            unsealed_epochs: channel.unsealed_epochs,
            open_streams: channel.open_streams,
            bytes_per_second: channel.bytes_per_second,
        }
    }
}

pub fn channels(channels: &[ChannelJson]) -> String {
    let heading = [
        "CHANNEL", "CLASS", "OWNER", "EPOCH", "STATE", "UNSEALED", "STREAMS", "BYTES/S",
    ];
    let row = |channel: &ChannelJson| {
        let state = match (channel.owner, channel.activated) {
            (None, _) => "free",
            (Some(_), false) => "recovering",
            (Some(_), true) => "active",
        };
        vec![
            channel.channel.to_string(),
            channel.class.clone(),
            known(channel.owner),
            channel.epoch.to_string(),
            state.into(),
            channel.unsealed_epochs.to_string(),
            channel.open_streams.to_string(),
            rate(channel.bytes_per_second),
        ]
    };
    let rows: Vec<_> = channels.iter().map(row).collect();
    table(&heading, &rows, &[0, 2, 3, 5, 6, 7])
}

/// One of `streams --json`.
#[derive(Debug, Serialize)]
pub struct StreamJson {
    name: String,
    id: String,
    /// `active`, `dormant` or `deleting`.
    state: &'static str,
    channel: Option<u32>,
    owner: Option<u64>,
    streamlet: Option<u64>,
}

impl From<pb::Stream> for StreamJson {
    fn from(stream: pb::Stream) -> Self {
        Self {
            state: match stream.state() {
                pb::StreamState::Dormant => "dormant",
                pb::StreamState::Active => "active",
                pb::StreamState::Deleting => "deleting",
            },
            name: stream.name,
            id: stream.id,
            channel: stream.channel,
            owner: stream.owner,
            streamlet: stream.streamlet,
        }
    }
}

pub fn streams(streams: &[StreamJson]) -> String {
    let row = |stream: &StreamJson| {
        vec![
            stream.name.clone(),
            stream.id.clone(),
            stream.state.into(),
            known(stream.channel),
            known(stream.owner),
            known(stream.streamlet),
        ]
    };
    let rows: Vec<_> = streams.iter().map(row).collect();
    table(
        &["NAME", "ID", "STATE", "CHANNEL", "OWNER", "STREAMLET"],
        &rows,
        &[3, 4, 5],
    )
}

fn known(value: Option<impl ToString>) -> String {
    value.map_or("-".into(), |value| value.to_string())
}

fn text(value: &str) -> String {
    if value.is_empty() { "-" } else { value }.to_owned()
}

fn rate(bytes: Option<u64>) -> String {
    bytes.map_or("-".into(), |bytes| ByteSize::b(bytes).display().iec().to_string())
}

fn age(ms: u64) -> String {
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

/// One of `zones --json`.
#[derive(Debug, Serialize)]
pub struct ZoneJson {
    zone: u32,
    store: String,
    /// Empty before the zone is registered.
    generation: String,
    /// The worst that any node says.
    state: String,
    why: String,
    lag_bytes: u64,
    repair_backlog: u64,
    repaired: u64,
    /// Of the nodes that answered.
    nodes: Vec<ZoneOfNodeJson>,
}

#[derive(Debug, Serialize)]
struct ZoneOfNodeJson {
    node: u64,
    state: String,
    why: String,
    lag_bytes: u64,
    repair_backlog: u64,
}

impl ZoneJson {
    /// What several nodes say of the same zones.
    pub fn merged(answers: &[(u64, pb::ListZonesResponse)]) -> Vec<Self> {
        const WORST_FIRST: [&str; 5] = ["foreign", "blank", "dark", "unknown", "ok"];
        let badness = |zone: &pb::Zone| WORST_FIRST.iter().position(|state| *state == zone.state);
        let mut numbers: Vec<u32> = answers
            .iter()
            .flat_map(|(_, answer)| answer.zones.iter().map(|zone| zone.zone))
            .collect();
        numbers.sort_unstable();
        numbers.dedup();
        let merged = numbers.into_iter().filter_map(|number| {
            let of_nodes = answers.iter().filter_map(|(node, answer)| {
                let zone = answer.zones.iter().find(|zone| zone.zone == number)?;
                Some((*node, zone))
            });
            let (_, worst) = of_nodes.clone().min_by_key(|(_, zone)| badness(zone))?;
            Some(Self {
                zone: number,
                store: worst.store.clone(),
                generation: worst.r#gen.clone(),
                state: worst.state.clone(),
                why: worst.why.clone(),
                lag_bytes: of_nodes.clone().map(|(_, zone)| zone.lagging_bytes).sum(),
                repair_backlog: of_nodes.clone().map(|(_, zone)| zone.repair_backlog).sum(),
                repaired: of_nodes.clone().map(|(_, zone)| zone.repaired).sum(),
                nodes: of_nodes
                    .map(|(node, zone)| ZoneOfNodeJson::new(node, zone))
                    .collect(),
            })
        });
        merged.collect()
    }
}

impl ZoneOfNodeJson {
    fn new(node: u64, zone: &pb::Zone) -> Self {
        Self {
            node,
            state: zone.state.clone(),
            why: zone.why.clone(),
            lag_bytes: zone.lagging_bytes,
            repair_backlog: zone.repair_backlog,
        }
    }
}

pub fn zones(zones: &[ZoneJson]) -> String {
    let heading = ["ZONE", "STATE", "NODES", "LAG", "BACKLOG", "GENERATION", "STORE"];
    let rows = zones.iter().map(|zone| {
        let ok = zone.nodes.iter().filter(|node| node.state == "ok").count();
        vec![
            zone.zone.to_string(),
            zone.state.clone(),
            format!("{ok}/{}", zone.nodes.len()),
            ByteSize(zone.lag_bytes).to_string(),
            zone.repair_backlog.to_string(),
            match zone.generation.is_empty() {
                true => "-".into(),
                false => zone.generation.clone(),
            },
            zone.store.clone(),
        ]
    });
    let mut text = table(&heading, &rows.collect::<Vec<_>>(), &[0, 3, 4]);
    for zone in zones.iter().filter(|zone| !zone.why.is_empty()) {
        text += &format!("zone {}: {}\n", zone.zone, zone.why);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> pb::Node {
        pb::Node {
            node: 2,
            zone: "b".into(),
            member: true,
            voter: true,
            state: pb::State::Alive.into(),
            cluster_address: "b:9080".into(),
            forward_address: "b:9180".into(),
            channels: 3,
            answers: Some(true),
            bytes_per_second: Some(2048),
            lag: None,
            heartbeat_age_ms: Some(1234),
        }
    }

    /// Programs rely on these names.
    #[test]
    fn nodes_and_channels_keep_the_names_of_their_fields() {
        let json = serde_json::to_value([NodeJson::new(&node(), Some(2))]).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{
                "node": 2, "zone": "b", "leader": true, "voter": true, "member": true, "state": "alive",
                "cluster_address": "b:9080", "forward_address": "b:9180", "channels": 3,
                "bytes_per_second": 2048, "lag": null, "heartbeat_age_ms": 1234
            }])
        );
        let channel = pb::Channel {
            channel: 1,
            class: "standard".into(),
            epoch: 4,
            ..pb::Channel::default()
        };
        let json = serde_json::to_value([ChannelJson::from(channel)]).unwrap();
        assert_eq!(
            json,
            serde_json::json!([{
                "channel": 1, "class": "standard", "owner": null, "epoch": 4, "activated": false,
                "unsealed_epochs": 0, "open_streams": 0, "bytes_per_second": null
            }])
        );
    }

    #[test]
    fn what_is_not_known_is_a_dash() {
        let unknown = pb::Node {
            voter: false,
            bytes_per_second: None,
            heartbeat_age_ms: None,
            zone: String::new(),
            ..node()
        };
        let text = nodes(&[NodeJson::new(&node(), Some(2)), NodeJson::new(&unknown, Some(1))]);
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(
            lines[1][..9],
            ["2", "b", "voter", "leader", "alive", "3", "2.0", "KiB", "-"]
        );
        assert_eq!(
            lines[2][..9],
            ["2", "-", "learner", "-", "alive", "3", "-", "-", "-"]
        );
    }

    #[test]
    fn the_first_line_of_the_status_is_the_verdict() {
        let answer = pb::DescribeResponse {
            cluster: "eu".into(),
            node: 2,
            leader: Some(2),
            leads: true,
            nodes: vec![node()],
            channels: 3,
            channels_owned: 3,
            ..pb::DescribeResponse::default()
        };
        let seen = Seen::new([("b:9080".to_owned(), answer)].into(), Default::default()).unwrap();
        let verdict = Verdict::Degraded(vec!["node 3 is silent".into()]);
        let status = StatusJson::new(&seen, &verdict);
        let text = status.text(&verdict);
        assert_eq!(text.lines().next(), Some("degraded: node 3 is silent"));
        assert!(text.contains("voters    1 of 1 answer: 2"), "{text}");
        let json = serde_json::to_value(&status).unwrap();
        assert_eq!((&json["healthy"], &json["leader"]), (&false.into(), &2.into()));
    }
}
