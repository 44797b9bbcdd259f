//! How much the nodes of the zone have to do, and which of them answer.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_api::id::NodeId;
use tokio::time::Instant;

use super::rendezvous::has_room;
use crate::cache::breaker::Breaker;

/// What a node said of itself counts for so long.
const REPORT_VALID: Duration = Duration::from_secs(1);

/// What this node knows of each node of its zone, itself among them.
#[derive(Default)]
pub(super) struct Members {
    by_node: Mutex<BTreeMap<NodeId, Arc<Member>>>,
}

#[derive(Debug)]
pub(super) struct Member {
    pub(super) breaker: Breaker,
    /// Requests of this node that it works on.
    asked: AtomicU64,
    /// All that it works on, as it said last.
    reported: Mutex<Option<(u64, Instant)>>,
}

/// One request that a node works on.
pub(super) struct UnderWay(Arc<Member>);

impl Members {
    pub(super) fn of(&self, node: NodeId) -> Arc<Member> {
        let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        by_node.entry(node).or_default().clone()
    }

    /// The nodes, in the same order. Others are forgotten.
    pub(super) fn known(&self, nodes: &[NodeId]) -> Vec<Arc<Member>> {
        let mut by_node = self.by_node.lock().unwrap_or_else(PoisonError::into_inner);
        let known: Vec<_> = nodes
            .iter()
            .map(|node| by_node.entry(*node).or_default().clone())
            .collect();
        if by_node.len() > nodes.len() {
            by_node.retain(|node, _| nodes.contains(node));
        }
        known
    }
}

/// For each of the nodes, whether it may be given one more request.
pub(super) fn with_room(members: &[Arc<Member>]) -> Vec<bool> {
    let under_way: Vec<_> = members.iter().map(|member| member.under_way()).collect();
    let total = under_way.iter().sum();
    let has_room = |here: &u64| has_room(*here, total, members.len());
    under_way.iter().map(has_room).collect()
}

impl Default for Member {
    fn default() -> Self {
        Self {
            breaker: Breaker::new(),
            asked: AtomicU64::new(0),
            reported: Mutex::new(None),
        }
    }
}

impl Member {
    /// Counts a request until the answer is dropped.
    pub(super) fn begin(self: &Arc<Self>) -> UnderWay {
        self.asked.fetch_add(1, Relaxed);
        UnderWay(self.clone())
    }

    /// Takes in what the node says that it works on.
    pub(super) fn report(&self, under_way: u64) {
        let mut reported = self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        *reported = Some((under_way, Instant::now()));
    }

    /// Requests that the node works on, as far as is known here.
    pub(super) fn under_way(&self) -> u64 {
        let reported = *self.reported.lock().unwrap_or_else(PoisonError::into_inner);
        let reported = reported.filter(|(_, at)| at.elapsed() < REPORT_VALID);
        self.asked
            .load(Relaxed)
            .max(reported.map_or(0, |(under_way, _)| under_way))
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.asked.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::advance;

    use super::*;

    const NODES: [NodeId; 3] = [NodeId(1), NodeId(2), NodeId(3)];

    #[tokio::test(start_paused = true)]
    async fn a_node_that_says_that_it_has_too_much_to_do_is_passed_over_for_a_while() {
        let members = Members::default();
        let known = members.known(&NODES);
        assert_eq!(with_room(&known), [true; 3]);
        known[1].report(30);
        assert_eq!(with_room(&known), [true, false, true]);
        known[0].report(30);
        known[2].report(30);
        assert_eq!(with_room(&known), [true; 3], "the others have as much");
        advance(REPORT_VALID).await;
        assert_eq!(known[1].under_way(), 0);
    }

    #[tokio::test]
    async fn requests_count_until_they_are_over() {
        let members = Members::default();
        let under_way: Vec<_> = (0..40).map(|_| members.known(&NODES)[2].begin()).collect();
        assert_eq!(with_room(&members.known(&NODES)), [true, true, false]);
        drop(under_way);
        assert_eq!(with_room(&members.known(&NODES)), [true; 3]);
    }

    #[tokio::test]
    async fn a_node_that_left_is_forgotten() {
        let members = Members::default();
        members.known(&NODES)[0].report(5);
        members.known(&NODES[1..]);
        assert_eq!(members.known(&NODES)[0].under_way(), 0);
    }
}
