//! Which objects of a channel are worth another.

use std::collections::BTreeSet;

use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_raft::command::FLUSH_STREAMS_MAX;
use millrace_raft::query::SegmentObjectRecord;

/// Objects with more live bytes than so many, or than this part of what a flush takes at least, are not put together:
/// that would save little. Such an object that holds a little of many streams is [sorted](super::crowded).
const SMALL_BYTES_MAX: u64 = 8 << 20;
const SMALL_PART: u64 = 8;
/// Small objects of about one size are merged when there are so many of them,
pub(super) const MERGED_MIN: usize = 8;
/// and so many at a time,
pub(super) const MERGED_MAX: usize = 16;
/// of at most so many live bytes, which a merge holds in memory.
const MERGED_BYTES_MAX: u64 = 64 << 20;
/// of at most so many runs, which is what one command takes.
pub(super) const MERGED_RUNS_MAX: u64 = FLUSH_STREAMS_MAX as u64;
/// An object is rewritten when less than this part of it is alive.
const LIVE_PART_MIN: u64 = 4;
/// Not worth rewriting: there is little to win.
const REWRITTEN_BYTES_MIN: u64 = 1 << 20;

/// What is small where a flush takes so many bytes.
pub fn small_bytes(flush_bytes: u64) -> u64 {
    (flush_bytes / SMALL_PART).clamp(1, SMALL_BYTES_MAX)
}

/// The objects to put together next, oldest first; `None` if none are worth it. Objects of one channel, in the order
/// of their names.
pub fn objects(all: &[SegmentObjectRecord], small_bytes: u64) -> Option<Vec<SegmentObjectId>> {
    let alive: Vec<_> = all.iter().filter(|object| may_be_taken(object)).collect();
    let mostly_dead = alive.iter().filter(|object| {
        object.len >= REWRITTEN_BYTES_MIN && object.live_bytes.saturating_mul(LIVE_PART_MIN) < object.len
    });
    let rewritten = within_bounds(mostly_dead.copied()).objects;
    if !rewritten.is_empty() {
        return Some(rewritten);
    }
    // Objects of about one size, so that a record is copied only a few times however long the channel lives.
    let class = |object: &SegmentObjectRecord| object.live_bytes.max(1).ilog2() / 3;
    let small: Vec<_> = alive
        .iter()
        .filter(|object| object.live_bytes < small_bytes)
        .collect();
    let classes: BTreeSet<u32> = small.iter().map(|object| class(object)).collect();
    classes.into_iter().find_map(|wanted| {
        let mut alike: Vec<_> = small.iter().filter(|object| class(object) == wanted).collect();
        alike.sort_by_key(|object| (object.committed_at_ms, object.object));
        let chosen = within_bounds(alike.into_iter().map(|object| **object));
        let enough = if chosen.is_all_that_fits { 2 } else { MERGED_MIN };
        (chosen.objects.len() >= enough).then_some(chosen.objects)
    })
}

/// What is alive of it can be put into another: it is no index, and no index names it.
pub(super) fn may_be_taken(object: &SegmentObjectRecord) -> bool {
    object.dead_at_ms.is_none() && object.packed_runs == 0 && object.object.origin != SegmentOrigin::Index
}

struct Chosen {
    objects: Vec<SegmentObjectId>,
    /// There are more, with too many runs.
    is_all_that_fits: bool,
}

fn within_bounds<'a>(objects: impl Iterator<Item = &'a SegmentObjectRecord>) -> Chosen {
    let (mut bytes, mut runs) = (0, 0);
    let mut chosen = Chosen {
        objects: Vec::new(),
        is_all_that_fits: false,
    };
    for object in objects.take(MERGED_MAX) {
        bytes += object.live_bytes;
        runs += object.live_runs;
        chosen.is_all_that_fits = runs > MERGED_RUNS_MAX;
        if bytes > MERGED_BYTES_MAX || chosen.is_all_that_fits {
            break;
        }
        chosen.objects.push(object.object);
    }
    chosen
}

#[cfg(test)]
mod tests {
    use super::*;
    use millrace_api::id::{ChannelId, Epoch, FlushSeq};

    fn object(seq: u64, len: u64, live_bytes: u64) -> SegmentObjectRecord {
        SegmentObjectRecord {
            object: SegmentObjectId {
                channel: ChannelId(1),
                epoch: Epoch(1),
                origin: SegmentOrigin::Flush,
                seq: FlushSeq(seq),
                part: 0,
            },
            len,
            live_runs: 1,
            live_bytes,
            packed_runs: 0,
            packed_bytes: 0,
            committed_at_ms: seq,
            dead_at_ms: None,
        }
    }

    fn chosen(all: &[SegmentObjectRecord]) -> Vec<u64> {
        let chosen = objects(all, SMALL_BYTES_MAX).unwrap_or_default();
        chosen.into_iter().map(|object| object.seq.0).collect()
    }

    #[test]
    fn small_objects_of_one_size_are_merged_oldest_first() {
        let mut all: Vec<_> = (1..8).map(|seq| object(seq, 1000, 900)).collect();
        assert_eq!(chosen(&all), [] as [u64; 0], "too few");
        all.push(object(8, 3 << 20, 3 << 20));
        assert_eq!(chosen(&all), [] as [u64; 0], "of another size");
        all.push(object(9, 1000, 950));
        assert_eq!(chosen(&all), [1, 2, 3, 4, 5, 6, 7, 9]);
        all[2].dead_at_ms = Some(1);
        assert_eq!(chosen(&all), [] as [u64; 0], "a dead one does not count");
        all[2].dead_at_ms = None;
        all[3].packed_runs = 1;
        assert_eq!(chosen(&all), [] as [u64; 0], "nor one that an index names");
        all[3].packed_runs = 0;
        all[4].object.origin = SegmentOrigin::Index;
        assert_eq!(chosen(&all), [] as [u64; 0], "nor an index");
    }

    #[test]
    fn what_is_merged_at_a_time_is_bounded() {
        let all: Vec<_> = (0..100).map(|seq| object(seq, 7 << 20, 7 << 20)).collect();
        assert_eq!(chosen(&all), (0..9).collect::<Vec<_>>());
        let all: Vec<_> = (0..100).map(|seq| object(seq, 100, 100)).collect();
        assert_eq!(chosen(&all).len(), MERGED_MAX);
    }

    #[test]
    fn objects_of_many_streams_are_merged_as_far_as_a_command_goes() {
        let many = |seq, live_runs| SegmentObjectRecord {
            live_runs,
            ..object(seq, 1 << 20, 1 << 20)
        };
        let all: Vec<_> = (1..6).map(|seq| many(seq, 25_000)).collect();
        assert_eq!(chosen(&all), [1, 2]);
        assert_eq!(chosen(&all[..2]), [] as [u64; 0], "too few, and more would fit");
        let all: Vec<_> = (1..9).map(|seq| many(seq, 40_000)).collect();
        assert_eq!(chosen(&all), [] as [u64; 0], "no two fit");
    }

    #[test]
    fn a_mostly_dead_object_is_rewritten_and_a_large_one_is_left_alone() {
        let all = [object(1, 60 << 20, 50 << 20), object(2, 60 << 20, 10 << 20)];
        assert_eq!(chosen(&all), [2]);
        assert_eq!(chosen(&all[..1]), [] as [u64; 0]);
    }
}
