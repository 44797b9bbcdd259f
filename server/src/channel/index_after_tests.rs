use millrace_api::id::{ChunkSeq, Epoch};
use proptest::prelude::*;

use super::*;

fn chunk(epoch: u64, slot: u64) -> LogPosition {
    LogPosition {
        epoch: Epoch(epoch),
        slot: ChunkSeq(slot),
    }
}

#[test]
fn after_is_the_next_entry_strictly_behind() {
    let mut index = SlotIndex::default();
    assert_eq!(index.after(chunk(1, 0)), None);
    let first = StreamPosition::new(0, 5);
    let second = StreamPosition::new(3, 6);
    let third = StreamPosition::new(9, 6);
    index.note(first, chunk(1, 4));
    index.note(second, chunk(1, 90));
    index.note(StreamPosition::new(4, 6), chunk(1, 90));
    index.note(third, chunk(2, 0));
    assert_eq!(index.after(chunk(1, 0)), Some((first, chunk(1, 4))));
    assert_eq!(index.after(chunk(1, 4)), Some((second, chunk(1, 90))));
    assert_eq!(
        index.after(chunk(1, 5)),
        Some((second, chunk(1, 90))),
        "also of a chunk that has no entry"
    );
    assert_eq!(index.after(chunk(1, 90)), Some((third, chunk(2, 0))));
    assert_eq!(index.after(chunk(2, 0)), None, "nothing is behind the last one");
}

proptest! {
    /// A reader that walks from `seek` up to `after` and asks again passes over no record and always gets on.
    #[test]
    fn seek_and_after_lead_through_every_record(
        runs in prop::collection::vec((1u64..4, 1u64..40), 1..1_500),
    ) {
        let mut index = SlotIndex::default();
        let (mut seq_num, mut slot) = (0, 0);
        let mut starts = vec![];
        for (count, distance) in runs {
            index.note(StreamPosition::new(seq_num, seq_num), chunk(1, slot));
            starts.push((seq_num, slot));
            seq_num += count;
            slot += distance;
        }
        let mut next = 0;
        let mut turns = 0;
        while next < seq_num {
            let start = index.seek(Seek::SeqNum(next)).unwrap();
            let holder = starts[starts.partition_point(|(first, _)| *first <= next) - 1].1;
            prop_assert!(start.slot.0 <= holder, "record {} is in slot {}, not behind {:?}", next, holder, start);
            let end = index.after(start).map_or(seq_num, |(first, _)| first.seq_num);
            prop_assert!(end > next, "asking for {} led to {}", next, end);
            if let Some((first, to)) = index.after(start) {
                prop_assert!(starts.contains(&(first.seq_num, to.slot.0)));
            }
            next = end;
            turns += 1;
        }
        prop_assert!(turns <= ENTRIES_MAX);
    }
}
