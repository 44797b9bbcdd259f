//! The order of a channel's chunks across its epochs.

use millrace_api::id::{ChannelId, ChunkSeq, Epoch};
use millrace_wal::ChunkId;

/// A chunk of a channel. Ordered as the channel's history is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogPosition {
    pub epoch: Epoch,
    pub slot: ChunkSeq,
}

/// Chunks `first..end` of one epoch that belong to the channel's history.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    pub epoch: Epoch,
    pub first: ChunkSeq,
    /// Exclusive.
    pub end: ChunkSeq,
}

/// Every chunk that a reader may find in a channel, in order.
///
/// - Extents are in order of epoch and none is empty, but for the last, the current epoch's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChunkLog {
    channel: ChannelId,
    extents: Vec<Extent>,
}

impl ChunkLog {
    /// `earlier` in order of epoch; the current epoch's chunks start at slot 0.
    pub fn new(channel: ChannelId, earlier: impl IntoIterator<Item = Extent>, current: Epoch) -> Self {
        let mut extents: Vec<_> = earlier.into_iter().filter(|e| e.first < e.end).collect();
        extents.push(Extent {
            epoch: current,
            first: ChunkSeq(0),
            end: ChunkSeq(0),
        });
        assert!(extents.is_sorted_by(|a, b| a.epoch < b.epoch), "epochs only grow");
        Self { channel, extents }
    }

    /// Chunks of the current epoch below `end` are acknowledged.
    pub fn advance(&mut self, end: ChunkSeq) {
        let current = self
            .extents
            .last_mut()
            .expect("the current epoch's extent is always there");
        current.end = current.end.max(end);
    }

    /// Chunks before `start` are no longer there.
    pub fn release(&mut self, start: LogPosition) {
        self.extents.retain(|e| e.epoch >= start.epoch);
        if let Some(first) = self.extents.first_mut().filter(|e| e.epoch == start.epoch) {
            first.first = first.first.max(start.slot);
        }
    }

    /// Behind the last chunk.
    pub fn end(&self) -> LogPosition {
        let current = self
            .extents
            .last()
            .expect("the current epoch's extent is always there");
        LogPosition {
            epoch: current.epoch,
            slot: current.end,
        }
    }

    /// The chunks from `from` up to `through` (exclusive), in order.
    pub fn chunks(&self, from: LogPosition, through: LogPosition) -> Vec<ChunkId> {
        let first = self.at_or_after(from);
        let all = std::iter::successors(first, |position| self.after(*position));
        let within = all.take_while(|position| *position < through);
        within.map(|position| self.chunk_id(position)).collect()
    }

    /// Whether there are chunks of an earlier epoch than the current one.
    pub fn spans_epochs(&self) -> bool {
        self.extents.len() > 1
    }

    /// The first chunk at or behind `position`.
    pub fn at_or_after(&self, position: LogPosition) -> Option<LogPosition> {
        let index = self.extents.partition_point(|e| e.epoch < position.epoch);
        self.extents[index..].iter().find_map(|e| {
            let slot = if e.epoch == position.epoch {
                position.slot.max(e.first)
            } else {
                e.first
            };
            (slot < e.end).then_some(LogPosition { epoch: e.epoch, slot })
        })
    }

    /// The chunk behind `position`.
    pub fn after(&self, position: LogPosition) -> Option<LogPosition> {
        self.at_or_after(LogPosition {
            epoch: position.epoch,
            slot: ChunkSeq(position.slot.0 + 1),
        })
    }

    /// What a reader who starts at `position` may walk through, without what lies before.
    pub fn extents_from(&self, position: LogPosition) -> impl Iterator<Item = Extent> + '_ {
        let index = self.extents.partition_point(|e| e.epoch < position.epoch);
        self.extents[index..].iter().copied()
    }

    /// A log with these extents; `None` if they are not in order of epoch.
    pub fn from_extents(channel: ChannelId, extents: Vec<Extent>) -> Option<Self> {
        let ordered = extents.is_sorted_by(|a, b| a.epoch < b.epoch);
        ordered.then_some(Self { channel, extents })
    }

    pub fn chunk_id(&self, position: LogPosition) -> ChunkId {
        ChunkId::new(self.channel, position.epoch, position.slot)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(epoch: u64, slot: u64) -> LogPosition {
        LogPosition {
            epoch: Epoch(epoch),
            slot: ChunkSeq(slot),
        }
    }

    fn extent(epoch: u64, first: u64, end: u64) -> Extent {
        Extent {
            epoch: Epoch(epoch),
            first: ChunkSeq(first),
            end: ChunkSeq(end),
        }
    }

    #[test]
    fn walk_visits_every_chunk_once_and_skips_empty_epochs() {
        let mut log = ChunkLog::new(
            ChannelId(1),
            [extent(1, 3, 5), extent(2, 0, 0), extent(4, 0, 1)],
            Epoch(5),
        );
        log.advance(ChunkSeq(2));
        let mut seen = vec![];
        let mut next = log.at_or_after(at(0, 0));
        while let Some(position) = next {
            seen.push(position);
            next = log.after(position);
        }
        assert_eq!(seen, [at(1, 3), at(1, 4), at(4, 0), at(5, 0), at(5, 1)]);
    }

    #[test]
    fn released_chunks_are_walked_over() {
        let mut log = ChunkLog::new(ChannelId(1), [extent(1, 0, 5), extent(2, 0, 4)], Epoch(3));
        log.advance(ChunkSeq(2));
        log.release(at(2, 3));
        assert_eq!(log.at_or_after(at(1, 1)), Some(at(2, 3)));
        assert_eq!(log.after(at(2, 3)), Some(at(3, 0)));
        log.release(log.end());
        assert_eq!(log.at_or_after(at(1, 1)), None);
        log.advance(ChunkSeq(3));
        assert_eq!(log.at_or_after(at(1, 1)), Some(at(3, 2)));
        assert!(!log.spans_epochs());
    }

    #[test]
    fn current_epoch_never_shrinks() {
        let mut log = ChunkLog::new(ChannelId(1), [], Epoch(1));
        log.advance(ChunkSeq(2));
        log.advance(ChunkSeq(1));
        assert_eq!(log.at_or_after(at(1, 1)), Some(at(1, 1)));
        assert_eq!(log.at_or_after(at(1, 2)), None);
    }
}
