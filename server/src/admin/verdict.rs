//! What the answers of nodes mean for the cluster as a whole.

use super::client::Seen;
use super::pb::{self, State};

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Healthy {
        /// What is so because somebody wants it, and not for ever.
        remarks: Vec<String>,
    },
    /// Somebody leads. Something is not as it should be.
    Degraded(Vec<String>),
    /// Nobody leads, or the one who does cannot be asked from here.
    NoLeader(String),
}

impl Verdict {
    pub fn name(&self) -> &'static str {
        match self {
            Verdict::Healthy { .. } => "healthy",
            Verdict::Degraded(_) => "degraded",
            Verdict::NoLeader(_) => "no leader",
        }
    }

    pub fn reasons(&self) -> Vec<String> {
        match self {
            Verdict::Healthy { remarks } => remarks.clone(),
            Verdict::Degraded(reasons) => reasons.clone(),
            Verdict::NoLeader(reason) => vec![reason.clone()],
        }
    }

    pub fn is_healthy(&self) -> bool {
        matches!(self, Verdict::Healthy { .. })
    }
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())?;
        let reasons = self.reasons();
        match reasons.is_empty() {
            true => Ok(()),
            false => write!(f, ": {}", reasons.join("; ")),
        }
    }
}

pub fn verdict(seen: &Seen) -> Verdict {
    match seen.has_leader() {
        true => led(seen.best()),
        false => Verdict::NoLeader(leaderless(seen)),
    }
}

/// As the leader sees it.
fn led(leader: &pb::DescribeResponse) -> Verdict {
    let mut reasons = Vec::new();
    let mut remarks = Vec::new();
    for node in &leader.nodes {
        let number = node.node;
        match node.state() {
            State::Silent => reasons.push(format!("node {number} is silent")),
            State::Expired => reasons.push(format!("node {number} has expired")),
            State::Joining => reasons.push(format!("node {number} has not registered yet")),
            State::Removed if node.channels > 0 => {
                reasons.push(format!("node {number} was removed and still owns channels"));
            }
            _ if node.answers == Some(false) => {
                reasons.push(format!("node {number} does not answer the leader"));
            }
            State::Draining => remarks.push(format!("node {number} is drained")),
            State::Alive | State::Unknown | State::Removed => {}
        }
    }
    if !leader.serving {
        reasons.push(format!("node {}, which leads, is still starting", leader.node));
    }
    let all = leader.channels;
    if all == 0 {
        reasons.push("there are no channels yet".into());
    }
    let free = all.saturating_sub(leader.channels_owned);
    let recovering = leader.channels_owned.saturating_sub(leader.channels_active);
    for (count, one, several) in [
        (free, "has no owner", "have no owner"),
        (recovering, "is being recovered", "are being recovered"),
    ] {
        match count {
            0 => {}
            1 => reasons.push(format!("1 of {all} channels {one}")),
            count => reasons.push(format!("{count} of {all} channels {several}")),
        }
    }
    match reasons.is_empty() {
        true => Verdict::Healthy { remarks },
        false => Verdict::Degraded(reasons),
    }
}

/// Why nobody leads, as far as those who answered know.
fn leaderless(seen: &Seen) -> String {
    let best = seen.best();
    if let Some(leader) = best.leader {
        let why = best
            .nodes
            .iter()
            .find(|node| node.node == leader)
            .and_then(|node| seen.silent.get(&node.cluster_address));
        let why = why.map_or("it gives no answer", String::as_str);
        return format!(
            "node {} says that node {leader} leads, which cannot be asked from here: {why}",
            best.node
        );
    }
    let voters: Vec<u64> = best
        .nodes
        .iter()
        .filter(|node| node.voter)
        .map(|node| node.node)
        .collect();
    let answering: Vec<u64> = voters
        .iter()
        .copied()
        .filter(|voter| seen.answers.values().any(|answer| answer.node == *voter))
        .collect();
    let quorum = voters.len() / 2 + 1;
    let remarks = seen.answers.values().filter(|answer| !answer.remark.is_empty());
    let mut remarks: Vec<String> = remarks
        .map(|answer| format!("node {}: {}", answer.node, answer.remark))
        .collect();
    remarks.sort();
    let mut text = match (voters.is_empty(), answering.len() < quorum) {
        (true, _) => format!("node {} belongs to no group yet", best.node),
        (_, true) => format!(
            "{} of {} voters {}, {quorum} are needed",
            answering.len(),
            voters.len(),
            if answering.len() == 1 { "answers" } else { "answer" },
        ),
        (_, false) => "enough voters answer: they elect one now, or do not reach each other".to_owned(),
    };
    if !remarks.is_empty() {
        text += &format!(" ({})", remarks.join("; "));
    }
    text
}

/// Why a node may not be taken out, as the leader sees the others; `None` if it may.
pub fn too_few_without(nodes: &[pb::Node], node: u64) -> Option<String> {
    let left: Vec<&pb::Node> = nodes
        .iter()
        .filter(|other| other.voter && other.node != node)
        .collect();
    let silent = |other: &pb::Node| matches!(other.state(), State::Silent | State::Expired);
    let answering = left
        .iter()
        .filter(|other| other.answers == Some(true) && !silent(other))
        .count();
    if left.is_empty() {
        return Some(format!(
            "node {node} is the last voter: add another node and promote it first"
        ));
    }
    (answering <= left.len() / 2).then(|| {
        format!(
            "without node {node}, {answering} of the {} voters that are left would answer, which is no majority: bring \
             one back first, or add a node and promote it",
            left.len()
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(node: u64, state: State) -> pb::Node {
        pb::Node {
            node,
            member: true,
            voter: true,
            state: state.into(),
            cluster_address: format!("host-{node}:9080"),
            answers: Some(true),
            ..pb::Node::default()
        }
    }

    fn leader(nodes: Vec<pb::Node>) -> pb::DescribeResponse {
        pb::DescribeResponse {
            node: 1,
            leader: Some(1),
            leads: true,
            serving: true,
            channels: 3,
            channels_owned: 3,
            channels_active: 3,
            nodes,
            ..pb::DescribeResponse::default()
        }
    }

    fn three() -> Vec<pb::Node> {
        (1..=3).map(|number| node(number, State::Alive)).collect()
    }

    #[test]
    fn all_well_is_healthy_and_what_is_wanted_is_a_remark() {
        assert_eq!(led(&leader(three())).to_string(), "healthy");
        let mut drained = three();
        drained[1] = node(2, State::Draining);
        assert_eq!(led(&leader(drained)).to_string(), "healthy: node 2 is drained");
    }

    #[test]
    fn whatever_is_wrong_is_named() {
        let mut nodes = three();
        nodes[1] = node(2, State::Expired);
        nodes[2].answers = Some(false);
        nodes.push(node(4, State::Joining));
        let answer = pb::DescribeResponse {
            channels_owned: 1,
            channels_active: 0,
            ..leader(nodes)
        };
        assert_eq!(
            led(&answer).to_string(),
            "degraded: node 2 has expired; node 3 does not answer the leader; node 4 has not registered yet; 2 of 3 \
             channels have no owner; 1 of 3 channels is being recovered"
        );
    }

    #[test]
    fn a_node_that_was_removed_counts_only_while_it_owns_something() {
        let mut nodes = three();
        nodes.push(node(9, State::Removed));
        nodes[3].answers = None;
        assert!(led(&leader(nodes.clone())).is_healthy());
        nodes[3].channels = 1;
        assert!(!led(&leader(nodes)).is_healthy());
    }

    #[test]
    fn without_a_leader_the_voters_that_answer_are_counted() {
        let follower = pb::DescribeResponse {
            leads: false,
            leader: None,
            ..leader(three())
        };
        let seen = |answers: Vec<(&str, pb::DescribeResponse)>| {
            Seen::new(
                answers
                    .into_iter()
                    .map(|(address, answer)| (address.to_owned(), answer))
                    .collect(),
                [("host-1:9080".to_owned(), "connection refused".to_owned())].into(),
            )
            .unwrap()
        };
        let one = seen(vec![(
            "host-3:9080",
            pb::DescribeResponse {
                node: 3,
                ..follower.clone()
            },
        )]);
        assert_eq!(
            verdict(&one).to_string(),
            "no leader: 1 of 3 voters answers, 2 are needed"
        );
        let led_by_the_dead = pb::DescribeResponse {
            node: 3,
            leader: Some(1),
            ..follower
        };
        let text = verdict(&seen(vec![("host-3:9080", led_by_the_dead)])).to_string();
        assert!(
            text.contains("node 1 leads") && text.contains("connection refused"),
            "{text}"
        );
    }

    #[test]
    fn a_voter_goes_only_if_a_majority_of_the_others_answers() {
        let mut nodes = three();
        assert_eq!(too_few_without(&nodes, 1), None);
        nodes[1].answers = Some(false);
        assert!(too_few_without(&nodes, 3).unwrap().contains("1 of the 2"));
        assert_eq!(too_few_without(&nodes, 2), None, "the one that does not answer");
        nodes[1].answers = Some(true);
        nodes[1].state = State::Silent.into();
        assert!(
            too_few_without(&nodes, 3).is_some(),
            "it answered until a moment ago"
        );
        assert!(too_few_without(&nodes[..1], 1).unwrap().contains("last voter"));
    }
}
