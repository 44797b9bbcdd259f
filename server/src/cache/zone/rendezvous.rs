//! Which node looks after which pages, and which does so while that one has too much to do.
//!
//! Highest random weight: every node gives each block of pages a weight of its own, and the heaviest looks after it.
//! All who know the same nodes agree, and when one leaves only its blocks move, to as many others as there are.

use millrace_api::id::NodeId;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use twox_hash::XxHash3_64;

/// Adjacent pages that one node looks after. A request does not go over the border between two blocks.
pub(super) const BLOCK_PAGES: u32 = 4;
/// By how much a node may have more to do than the mean: as a fraction, over 100.
const SHARE_PERCENT: u64 = 125;
/// So much every node may have to do. Passing over costs a second download of what the other already has.
const UNDER_WAY_MIN: u64 = 16;

/// Pages that one node looks after.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) object: SegmentObjectId,
    pub(super) number: u32,
}

impl Block {
    pub(super) fn of(object: SegmentObjectId, page: u32) -> Self {
        let number = page / BLOCK_PAGES;
        Self { object, number }
    }

    /// The first page behind the block.
    pub(super) fn end(self) -> u32 {
        (self.number + 1).saturating_mul(BLOCK_PAGES)
    }

    fn weight_on(self, node: NodeId) -> u64 {
        let SegmentObjectId {
            channel,
            epoch,
            origin,
            seq,
            part,
        } = self.object;
        let origin = match origin {
            SegmentOrigin::Flush => 0,
            SegmentOrigin::Merge => 1,
            SegmentOrigin::Index => 2,
        };
        let parts = [
            u64::from(channel.0),
            epoch.0,
            origin,
            seq.0,
            u64::from(part),
            u64::from(self.number),
            node.0,
        ];
        let mut bytes = [0; 56];
        for (place, part) in bytes.chunks_exact_mut(8).zip(parts) {
            place.copy_from_slice(&part.to_le_bytes());
        }
        XxHash3_64::oneshot(&bytes)
    }
}

/// The nodes in the order in which they are asked for the block.
pub(super) fn order(nodes: &[NodeId], block: Block) -> Vec<NodeId> {
    let mut order = nodes.to_vec();
    order.sort_by_cached_key(|node| (std::cmp::Reverse(block.weight_on(*node)), *node));
    order
}

/// Whether a node that works on `under_way` requests may be given one more, when all `nodes` together work on `total`.
pub(super) fn has_room(under_way: u64, total: u64, nodes: usize) -> bool {
    let share = (SHARE_PERCENT * (total + 1)).div_ceil(100 * nodes.max(1) as u64);
    under_way < share.max(UNDER_WAY_MIN)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use millrace_api::id::{ChannelId, Epoch, FlushSeq};
    use proptest::prelude::*;

    use super::*;

    fn block(channel: u32, seq: u64, number: u32) -> Block {
        let object = SegmentObjectId {
            channel: ChannelId(channel),
            epoch: Epoch(3),
            origin: SegmentOrigin::Flush,
            seq: FlushSeq(seq),
            part: 0,
        };
        Block { object, number }
    }

    fn nodes() -> impl Strategy<Value = Vec<NodeId>> {
        prop::collection::btree_set(any::<u64>().prop_map(NodeId), 1..12)
            .prop_map(|nodes| nodes.into_iter().collect())
    }

    proptest! {
        #[test]
        fn all_who_know_the_same_nodes_agree(
            (nodes, shuffled) in nodes().prop_flat_map(|nodes| (Just(nodes.clone()), Just(nodes).prop_shuffle())),
            (channel, seq, number) in any::<(u32, u64, u32)>(),
        ) {
            let block = block(channel, seq, number);
            let order = order(&nodes, block);
            prop_assert_eq!(&super::order(&shuffled, block), &order);
            let asked: BTreeSet<_> = order.iter().copied().collect();
            prop_assert_eq!(asked.into_iter().collect::<Vec<_>>(), nodes, "each of them once");
        }

        #[test]
        fn a_node_that_leaves_moves_its_own_blocks_only(
            nodes in nodes(),
            leaving in any::<prop::sample::Index>(),
            (channel, seq, number) in any::<(u32, u64, u32)>(),
        ) {
            let block = block(channel, seq, number);
            let leaving = nodes[leaving.index(nodes.len())];
            let left: Vec<_> = nodes.iter().copied().filter(|node| *node != leaving).collect();
            let before: Vec<_> = order(&nodes, block).into_iter().filter(|node| *node != leaving).collect();
            prop_assert_eq!(order(&left, block), before);
        }

        /// Whatever is under way, some node has room: nobody is turned away for a bound alone.
        #[test]
        fn not_all_have_too_much_to_do(under_way in prop::collection::vec(0..10_000u64, 1..12)) {
            let total = under_way.iter().sum();
            prop_assert!(under_way.iter().any(|here| has_room(*here, total, under_way.len())));
        }

        #[test]
        fn a_node_takes_on_a_quarter_more_than_its_share(total in 0..100_000u64, nodes in 1..12usize) {
            let most = (0..=total).rev().find(|here| has_room(*here, total, nodes)).unwrap_or(0);
            let share = (total + 1) as f64 / nodes as f64 * 1.25;
            prop_assert!((most as f64) < share.max(UNDER_WAY_MIN as f64));
            prop_assert!(most == total || (most + 2) as f64 > share);
        }
    }

    #[test]
    fn blocks_are_spread_evenly() {
        let nodes = [NodeId(1), NodeId(2), NodeId(3)];
        let mut first = [0; 3];
        for seq in 0..1000 {
            for number in 0..9 {
                let node = order(&nodes, block(1, seq, number))[0];
                first[node.0 as usize - 1] += 1;
            }
        }
        assert!(
            first.iter().all(|blocks| (2800..3200).contains(blocks)),
            "{first:?}"
        );
    }

    #[test]
    fn a_page_is_in_the_block_that_ends_behind_it() {
        let object = block(1, 1, 0).object;
        for page in 0..20 {
            let block = Block::of(object, page);
            assert!((block.end() - BLOCK_PAGES..block.end()).contains(&page));
        }
        assert_eq!(Block::of(object, u32::MAX).end(), u32::MAX);
    }
}
