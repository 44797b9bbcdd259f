//! From slots that became durable in any order to the prefix that may be acknowledged.

use std::collections::BTreeSet;

use millrace_api::id::ChunkSeq;

/// The acknowledgeable prefix of an epoch.
///
/// - Every slot below [`end`](Self::end) is durable, and the slot at `end` is not known to be.
/// - `end` never moves back.
#[derive(Debug, Clone)]
pub struct AckPrefix {
    end: u64,
    /// Durable slots above `end`. At most as many as the writer's window lets run ahead.
    above: BTreeSet<u64>,
}

impl AckPrefix {
    /// Starts with `first` as the first slot to wait for.
    pub fn new(first: ChunkSeq) -> Self {
        Self {
            end: first.0,
            above: BTreeSet::new(),
        }
    }

    /// Exclusive: the first slot that may not be acknowledged yet.
    pub fn end(&self) -> ChunkSeq {
        ChunkSeq(self.end)
    }

    /// Notes a slot as durable, and returns the new end if that moved it. A slot that was noted before is ignored.
    pub fn durable(&mut self, slot: ChunkSeq) -> Option<ChunkSeq> {
        if slot.0 < self.end {
            return None;
        }
        if slot.0 > self.end {
            self.above.insert(slot.0);
            return None;
        }
        self.end += 1;
        while self.above.remove(&self.end) {
            self.end += 1;
        }
        Some(self.end())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_prefix_ends_at_the_first_gap() {
        let mut prefix = AckPrefix::new(ChunkSeq(3));
        assert_eq!(prefix.durable(ChunkSeq(5)), None);
        assert_eq!(prefix.durable(ChunkSeq(4)), None);
        assert_eq!(prefix.durable(ChunkSeq(3)), Some(ChunkSeq(6)));
        assert_eq!(prefix.durable(ChunkSeq(3)), None);
        assert_eq!(prefix.durable(ChunkSeq(7)), None);
        assert_eq!(prefix.end(), ChunkSeq(6));
    }

    proptest::proptest! {
        #[test]
        fn any_order_acknowledges_the_prefix_and_no_more(order in proptest::collection::vec(0u64..24, 0..80)) {
            let mut prefix = AckPrefix::new(ChunkSeq(0));
            let mut seen = BTreeSet::new();
            for slot in order {
                seen.insert(slot);
                let before = prefix.end();
                let moved = prefix.durable(ChunkSeq(slot));
                let gap = (0..).find(|slot| !seen.contains(slot)).expect("some slot is missing");
                assert_eq!(prefix.end(), ChunkSeq(gap));
                assert_eq!(moved, (prefix.end() > before).then_some(prefix.end()));
            }
        }
    }
}
