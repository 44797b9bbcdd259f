//! Which node is to own which channel.
//!
//! A channel stays where it is. One without an owner goes to the node with the fewest, in the zone with the fewest;
//! when counts differ by two or more, one channel at a time is asked back from the fullest. A node that could not write
//! a channel lately may not reach the store: it is given others only if nobody else can have them.

use std::collections::{BTreeMap, BTreeSet};

use millrace_api::bug::{Bug, planted};
use millrace_api::id::{ChannelId, NodeId};

/// A node that may own channels.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    pub node: NodeId,
    pub zone: String,
    /// Channels that it could not write lately.
    pub avoid: BTreeSet<ChannelId>,
}

impl Candidate {
    fn is_troubled(&self) -> bool {
        !self.avoid.is_empty()
    }
}

/// Channels to own, per node.
pub type Placement = BTreeMap<NodeId, BTreeSet<ChannelId>>;

/// `channels` with their owners, `None` where nobody owns them; owners that are no candidates are asked for nothing.
/// `before` is the last placement: what was promised to a node and not taken over yet stays promised. A node that has
/// `share_max` channels is given no other.
pub fn place(
    candidates: &[Candidate],
    channels: &[(ChannelId, Option<NodeId>)],
    before: &Placement,
    share_max: usize,
) -> Placement {
    let mut placement: Placement = candidates
        .iter()
        .map(|candidate| (candidate.node, BTreeSet::new()))
        .collect();
    let mut free = Vec::new();
    for (channel, owner) in channels {
        match owner {
            // Whoever is silent may still answer.
            Some(owner) if !placement.contains_key(owner) && planted(Bug::OwnerReplaced) => {
                free.push(*channel)
            }
            Some(owner) => {
                if let Some(owned) = placement.get_mut(owner) {
                    owned.insert(*channel);
                }
            }
            None => free.push(*channel),
        }
    }
    for channel in free {
        let promised = before
            .iter()
            .find(|(node, wanted)| wanted.contains(&channel) && may_have(candidates, **node, channel))
            .map(|(node, _)| *node);
        let chosen = promised.or_else(|| emptiest(candidates, &placement, channel, share_max));
        if let Some(wanted) = chosen.and_then(|node| placement.get_mut(&node)) {
            wanted.insert(channel);
        }
    }
    even_out(candidates, &mut placement);
    placement
}

fn may_have(candidates: &[Candidate], node: NodeId, channel: ChannelId) -> bool {
    candidates
        .iter()
        .any(|candidate| candidate.node == node && !candidate.avoid.contains(&channel))
}

/// Nodes that could not write the channel come last.
fn emptiest(
    candidates: &[Candidate],
    placement: &Placement,
    channel: ChannelId,
    share_max: usize,
) -> Option<NodeId> {
    let count = |node: &NodeId| placement.get(node).map_or(0, BTreeSet::len);
    let in_zone = |zone: &str| -> usize {
        candidates
            .iter()
            .filter(|candidate| candidate.zone == zone)
            .map(|candidate| count(&candidate.node))
            .sum()
    };
    candidates
        .iter()
        .filter(|candidate| count(&candidate.node) < share_max)
        .min_by_key(|candidate| {
            (
                candidate.avoid.contains(&channel),
                candidate.is_troubled(),
                count(&candidate.node),
                in_zone(&candidate.zone),
                candidate.node,
            )
        })
        .map(|candidate| candidate.node)
}

/// Asks one channel back when a node has at least two more than another that may have it.
fn even_out(candidates: &[Candidate], placement: &mut Placement) {
    let sound = candidates.iter().filter(|candidate| !candidate.is_troubled());
    let counts = sound.filter_map(|candidate| placement.get(&candidate.node).map(BTreeSet::len));
    let Some(fewest) = counts.min() else { return };
    let fullest = placement.iter().max_by_key(|(node, owned)| (owned.len(), **node));
    let Some((node, owned)) = fullest.filter(|(_, owned)| owned.len() >= fewest + 2) else {
        return;
    };
    let (node, last) = (*node, owned.last().copied());
    if let (Some(owned), Some(last)) = (placement.get_mut(&node), last) {
        owned.remove(&last);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(node: u64, zone: &str) -> Candidate {
        Candidate {
            node: NodeId(node),
            zone: zone.into(),
            avoid: BTreeSet::new(),
        }
    }

    fn owned(placement: &Placement, node: u64) -> Vec<u32> {
        placement[&NodeId(node)].iter().map(|channel| channel.0).collect()
    }

    fn free(ids: std::ops::RangeInclusive<u32>) -> Vec<(ChannelId, Option<NodeId>)> {
        ids.map(|id| (ChannelId(id), None)).collect()
    }

    #[test]
    fn channels_are_spread_over_nodes_and_zones() {
        let nodes = [candidate(1, "a"), candidate(2, "a"), candidate(3, "b")];
        let placement = place(&nodes, &free(1..=7), &Placement::new(), usize::MAX);
        assert_eq!(
            placement.values().map(BTreeSet::len).collect::<Vec<_>>(),
            [2, 2, 3]
        );
        let two = place(&nodes, &free(1..=2), &Placement::new(), usize::MAX);
        assert_eq!(
            (owned(&two, 1), owned(&two, 3)),
            (vec![1], vec![2]),
            "zones before nodes"
        );
    }

    #[test]
    fn the_first_to_speak_leaves_the_others_their_share() {
        let nodes = [candidate(1, "")];
        let placement = place(&nodes, &free(1..=6), &Placement::new(), 2);
        assert_eq!(owned(&placement, 1), [1, 2]);
        let nodes = [candidate(1, ""), candidate(2, "")];
        let later = place(&nodes, &free(1..=6), &placement, 2);
        assert_eq!((owned(&later, 1), owned(&later, 2)), (vec![1, 2], vec![3, 4]));
    }

    #[test]
    fn what_is_owned_stays_and_promises_are_kept() {
        let nodes = [candidate(1, ""), candidate(2, "")];
        let mut channels = free(1..=3);
        channels[0].1 = Some(NodeId(2));
        let first = place(&nodes, &channels, &Placement::new(), usize::MAX);
        assert!(first[&NodeId(2)].contains(&ChannelId(1)));
        assert_eq!(place(&nodes, &channels, &first, usize::MAX), first);
    }

    #[test]
    fn a_node_that_joins_gets_its_share_one_channel_at_a_time() {
        let nodes = [candidate(1, ""), candidate(2, "")];
        let mut channels: Vec<_> = (1..=4).map(|id| (ChannelId(id), Some(NodeId(1)))).collect();
        let mut before = Placement::new();
        for _ in 0..10 {
            let placement = place(&nodes, &channels, &before, usize::MAX);
            for (channel, owner) in &mut channels {
                let owners_wish = owner.is_some_and(|node| placement[&node].contains(channel));
                let promised = placement.iter().find(|(_, wanted)| wanted.contains(channel));
                *owner = if owners_wish {
                    *owner
                } else {
                    promised.map(|(node, _)| *node)
                };
            }
            before = placement;
        }
        let counts = [1, 2].map(|node| {
            channels
                .iter()
                .filter(|(_, owner)| *owner == Some(NodeId(node)))
                .count()
        });
        assert_eq!(counts, [2, 2]);
    }

    #[test]
    fn a_node_that_could_not_write_a_channel_gets_it_only_if_nobody_else_can() {
        let mut nodes = [candidate(1, ""), candidate(2, "")];
        nodes[0].avoid.insert(ChannelId(1));
        assert_eq!(
            owned(&place(&nodes, &free(1..=1), &Placement::new(), usize::MAX), 2),
            [1]
        );
        assert_eq!(
            owned(
                &place(&nodes[..1], &free(1..=1), &Placement::new(), usize::MAX),
                1
            ),
            [1]
        );
    }

    #[test]
    fn what_a_node_could_not_write_is_not_taken_from_the_one_that_can() {
        let mut nodes = [1, 2, 3].map(|node| candidate(node, ""));
        nodes[1].avoid.insert(ChannelId(6));
        let owner = |node| Some(NodeId(node));
        let mut channels: Vec<_> = [(1, 1), (2, 2), (3, 3), (4, 1), (5, 3)]
            .map(|(channel, node)| (ChannelId(channel), owner(node)))
            .to_vec();
        channels.push((ChannelId(6), None));
        let mut before = Placement::new();
        for _ in 0..3 {
            before = place(&nodes, &channels, &before, usize::MAX);
            let wanted = before.values().map(BTreeSet::len).sum::<usize>();
            assert_eq!(wanted, 6, "every channel is wanted by somebody: {before:?}");
            assert_eq!(owned(&before, 2), [2]);
        }
    }

    #[test]
    fn owners_that_are_gone_are_asked_for_nothing() {
        let channels = [(ChannelId(1), Some(NodeId(9)))];
        let placement = place(&[candidate(1, "")], &channels, &Placement::new(), usize::MAX);
        assert!(owned(&placement, 1).is_empty());
    }
}
