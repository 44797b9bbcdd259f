//! Where a stream's records are among the chunks, in bounded memory.

use millrace_api::position::StreamPosition;

use super::log::LogPosition;
use super::message::Seek;

/// A chunk that holds frames of the stream, and the position of the first record in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    first: StreamPosition,
    chunk: LogPosition,
}

/// A sparse map from positions to chunks.
///
/// - The first chunk noted is always kept, so that every record has an entry at or before it.
/// - At most [`ENTRIES_MAX`] entries: when full, every second one is dropped and from then on only every `stride`-th
///   chunk is noted. Readers walk the chunks between two entries by their footers.
#[derive(Debug, Default)]
pub struct SlotIndex {
    entries: Vec<Entry>,
    /// log2 of the number of chunks that one entry stands for.
    stride_log2: u8,
    /// Chunks noted since the last entry was kept.
    skipped: u32,
    last: Option<LogPosition>,
}

pub const ENTRIES_MAX: usize = 256;

impl SlotIndex {
    /// A frame that starts with the record at `first` is in `chunk`. Calls come in order of the stream.
    pub fn note(&mut self, first: StreamPosition, chunk: LogPosition) {
        if self.last == Some(chunk) {
            return;
        }
        self.last = Some(chunk);
        if !self.entries.is_empty() {
            self.skipped += 1;
            if self.skipped < 1 << self.stride_log2 {
                return;
            }
        }
        self.skipped = 0;
        if self.entries.len() == ENTRIES_MAX {
            let mut index = 0;
            self.entries.retain(|_| {
                index += 1;
                index % 2 == 1
            });
            self.stride_log2 += 1;
        }
        if self.entries.len() == self.entries.capacity() {
            self.entries.reserve_exact(self.entries.len().max(1));
        }
        self.entries.push(Entry { first, chunk });
    }

    /// Chunks before `start` are no longer there. Everything that is lies at or behind it.
    pub fn release(&mut self, start: LogPosition) {
        let before = self.entries.partition_point(|entry| entry.chunk < start);
        let Some(last) = before.checked_sub(1) else { return };
        self.entries.drain(..last);
        // Its later chunks have no entry of their own.
        self.entries[0].chunk = start;
        self.entries.shrink_to_fit();
        (self.stride_log2, self.skipped) = (0, 0);
    }

    /// Nothing of the stream is in a chunk any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }

    /// The next entry behind `chunk`: the position of its first record, and its chunk.
    pub fn after(&self, chunk: LogPosition) -> Option<(StreamPosition, LogPosition)> {
        let behind = self.entries.partition_point(|entry| entry.chunk <= chunk);
        self.entries.get(behind).map(|entry| (entry.first, entry.chunk))
    }

    /// The chunk to start at in order not to miss the record sought. `None` when no chunk was noted.
    pub fn seek(&self, seek: Seek) -> Option<LogPosition> {
        let behind = match seek {
            Seek::SeqNum(seq_num) => self.entries.partition_point(|e| e.first.seq_num <= seq_num),
            // A run of equal timestamps may begin in the chunk before.
            Seek::Timestamp(timestamp) => self.entries.partition_point(|e| e.first.timestamp < timestamp),
        };
        self.entries.get(behind.saturating_sub(1)).map(|e| e.chunk)
    }
}

#[cfg(test)]
mod tests {
    use millrace_api::id::{ChunkSeq, Epoch};
    use proptest::prelude::*;

    use super::*;

    fn chunk(slot: u64) -> LogPosition {
        LogPosition {
            epoch: Epoch(1),
            slot: ChunkSeq(slot),
        }
    }

    proptest! {
        #[test]
        fn seek_never_starts_behind_the_record_and_memory_is_bounded(
            runs in prop::collection::vec((1u64..5, 0u64..3), 1..2_000),
            probe in any::<prop::sample::Index>(),
        ) {
            let mut index = SlotIndex::default();
            let (mut seq_num, mut timestamp) = (0, 0);
            let mut records = vec![];
            for (slot, (count, later)) in runs.iter().enumerate() {
                timestamp += later;
                index.note(StreamPosition::new(seq_num, timestamp), chunk(slot as u64));
                records.extend((0..*count).map(|i| (seq_num + i, timestamp, slot as u64)));
                seq_num += count;
            }
            prop_assert!(index.entries.len() <= ENTRIES_MAX);
            let (seq_num, timestamp, slot) = records[probe.index(records.len())];
            prop_assert!(index.seek(Seek::SeqNum(seq_num)).unwrap() <= chunk(slot));
            let first = records.iter().find(|r| r.1 >= timestamp).unwrap();
            prop_assert!(index.seek(Seek::Timestamp(timestamp)).unwrap() <= chunk(first.2));
            // Once everything before the record's chunk is released, it is still found, and nothing released is.
            index.release(chunk(slot));
            prop_assert_eq!(index.seek(Seek::SeqNum(seq_num)).unwrap(), chunk(slot));
            prop_assert!(index.seek(Seek::Timestamp(timestamp)).unwrap() >= chunk(slot));
        }
    }

    #[test]
    fn without_thinning_seek_is_exact() {
        let mut index = SlotIndex::default();
        assert_eq!(index.seek(Seek::SeqNum(0)), None);
        for slot in 0..10 {
            index.note(StreamPosition::new(slot * 10, slot), chunk(slot));
        }
        assert_eq!(index.seek(Seek::SeqNum(29)), Some(chunk(2)));
        assert_eq!(index.seek(Seek::SeqNum(30)), Some(chunk(3)));
        assert_eq!(index.seek(Seek::Timestamp(3)), Some(chunk(2)));
    }
}

#[cfg(test)]
#[path = "index_after_tests.rs"]
mod after_tests;
