//! Which objects that hold a little of many streams are worth sorting by stream.
//!
//! - Smallest runs first: they give up the most rows of metadata for each byte that is written again.
//! - Objects that lie upon each other: what is in one of them only would gain nothing. Each stream's runs become one of
//!   several times their size, so that a record is written again only a few times however long its channel lives.

use std::collections::BTreeSet;
use std::iter;
use std::ops::Range;

use millrace_api::id::StreamId;
use millrace_api::segment::SegmentObjectId;
use millrace_raft::query::SegmentObjectRecord;

use super::choose::{MERGED_MAX, MERGED_MIN, MERGED_RUNS_MAX, may_be_taken};

/// Runs of all objects that are sorted at a time, whose places are in memory.
const SORTED_RUNS_MAX: u64 = 4 * MERGED_RUNS_MAX;
/// Runs are put together when there are so many of them, however large they are,
const RUNS_MIN: usize = 4;
/// or when each row that they give up costs at most so many bytes written again.
const ROW_BYTES_MAX: u64 = 64 << 10;

/// An object that holds a little of many streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Crowded {
    pub object: SegmentObjectId,
    pub committed_at_ms: u64,
    pub live_runs: u64,
    pub live_bytes: u64,
    pub span: Span,
}

/// The first and the last stream of an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    pub first: StreamId,
    pub last: StreamId,
}

impl Crowded {
    /// Objects of about as large runs are of one class.
    fn class(&self) -> u32 {
        (self.live_bytes / self.live_runs.max(1)).max(1).ilog2() / 3
    }
}

/// Whether the object is one of these: too large to be merged as a whole, with runs that are small on average.
pub fn is_crowded(object: &SegmentObjectRecord, small_bytes: u64) -> bool {
    let many = object.live_runs > MERGED_RUNS_MAX / 2;
    let run_bytes = object.live_bytes / object.live_runs.max(1);
    may_be_taken(object)
        && object.live_runs > 1
        && run_bytes < small_bytes
        && (many || object.live_bytes >= small_bytes)
}

/// The objects to sort next, oldest first; `None` if none are worth it.
pub fn choose(crowded: &[Crowded]) -> Option<Vec<SegmentObjectId>> {
    let classes: BTreeSet<u32> = crowded.iter().map(Crowded::class).collect();
    classes.into_iter().find_map(|class| {
        let alike: Vec<_> = crowded.iter().filter(|it| it.class() == class).collect();
        let mut deepest = deepest(&alike);
        if deepest.len() < MERGED_MIN {
            return None;
        }
        deepest.sort_by_key(|it| (it.committed_at_ms, it.object));
        let mut runs = 0;
        let within = deepest.into_iter().take(MERGED_MAX).take_while(|it| {
            runs += it.live_runs;
            runs <= SORTED_RUNS_MAX
        });
        let chosen: Vec<_> = within.map(|it| it.object).collect();
        (chosen.len() > 1).then_some(chosen)
    })
}

/// Those around the stream that most of them have around it.
fn deepest<'a>(all: &[&'a Crowded]) -> Vec<&'a Crowded> {
    let mut firsts: Vec<_> = all.iter().map(|it| it.span.first).collect();
    let mut lasts: Vec<_> = all.iter().map(|it| it.span.last).collect();
    firsts.sort_unstable();
    lasts.sort_unstable();
    let depth = |stream: StreamId| {
        let begun = firsts.partition_point(|first| *first <= stream);
        begun - lasts.partition_point(|last| *last < stream)
    };
    // Where most lie upon each other one begins. Of several such places the lowest.
    let place = firsts.iter().rev().copied().max_by_key(|stream| depth(*stream));
    let is_around = |it: &&&Crowded| place.is_some_and(|at| it.span.first <= at && at <= it.span.last);
    all.iter().filter(is_around).copied().collect()
}

/// The parts of a stream's runs, given by their bytes, that are worth putting together: none of a part is larger than
/// the others together, and the rows that go are many for the bytes written again.
pub fn worth_it(runs: &[u64]) -> Vec<Range<usize>> {
    let mut worth = Vec::new();
    // Runs are as many as objects are taken at a time.
    let mut left: Vec<_> = iter::once(0..runs.len()).collect();
    while let Some(part) = left.pop() {
        let sizes = &runs[part.clone()];
        let Some(largest) = (0..sizes.len()).max_by_key(|at| sizes[*at]) else {
            continue;
        };
        let bytes = sizes.iter().fold(0, |sum: u64, size| sum.saturating_add(*size));
        let rows = sizes.len() - 1;
        let many = sizes.len() >= RUNS_MIN || bytes <= ROW_BYTES_MAX.saturating_mul(rows as u64);
        if rows > 0 && many && bytes / 2 >= sizes[largest] {
            worth.push(part);
        } else {
            left.push(part.start + largest + 1..part.end);
            left.push(part.start..part.start + largest);
        }
    }
    worth
}

#[cfg(test)]
mod tests {
    use millrace_api::id::{ChannelId, Epoch, FlushSeq};
    use millrace_api::segment::SegmentOrigin;

    use super::*;

    fn crowded(seq: u64, run_bytes: u64, span: Range<u128>) -> Crowded {
        Crowded {
            object: SegmentObjectId {
                channel: ChannelId(1),
                epoch: Epoch(1),
                origin: SegmentOrigin::Flush,
                seq: FlushSeq(seq),
                part: 0,
            },
            committed_at_ms: seq,
            live_runs: 1000,
            live_bytes: 1000 * run_bytes,
            span: Span {
                first: StreamId(span.start),
                last: StreamId(span.end - 1),
            },
        }
    }

    fn chosen(all: &[Crowded]) -> Vec<u64> {
        let chosen = choose(all).unwrap_or_default();
        chosen.into_iter().map(|object| object.seq.0).collect()
    }

    #[test]
    fn large_objects_of_small_runs_are_crowded() {
        let object = |live_runs, live_bytes| SegmentObjectRecord {
            object: crowded(1, 1, 0..1).object,
            len: live_bytes,
            live_runs,
            live_bytes,
            packed_runs: 0,
            packed_bytes: 0,
            committed_at_ms: 1,
            dead_at_ms: None,
        };
        const SMALL: u64 = 8 << 20;
        assert!(is_crowded(&object(2, SMALL), SMALL));
        assert!(
            !is_crowded(&object(1, 60 << 20), SMALL),
            "one run has nobody beside it"
        );
        assert!(!is_crowded(&object(3, 24 << 20), SMALL), "its runs are large");
        assert!(
            !is_crowded(&object(1000, SMALL - 1), SMALL),
            "small objects are merged whole"
        );
        assert!(
            is_crowded(&object(60_000, 1 << 20), SMALL),
            "unless there is too much in them"
        );
        let packed = SegmentObjectRecord {
            packed_runs: 1,
            ..object(2, SMALL)
        };
        assert!(!is_crowded(&packed, SMALL));
    }

    #[test]
    fn objects_of_one_class_that_lie_upon_each_other_are_chosen_oldest_first() {
        let mut all: Vec<_> = (1..8).map(|seq| crowded(seq, 5000, 0..100)).collect();
        all.push(crowded(8, 5000, 100..200));
        all.push(crowded(9, 50_000, 0..100));
        assert_eq!(chosen(&all), [] as [u64; 0], "seven are too few");
        all.push(crowded(10, 5000, 99..150));
        assert_eq!(chosen(&all), [1, 2, 3, 4, 5, 6, 7, 10]);
        all[3].committed_at_ms = 70;
        assert_eq!(chosen(&all), [1, 2, 3, 5, 6, 7, 10, 4]);
        let all: Vec<_> = (0..100).map(|seq| crowded(seq, 5000, 0..100)).collect();
        assert!(chosen(&all).into_iter().eq(0..MERGED_MAX as u64));
    }

    #[test]
    fn the_smallest_runs_come_first() {
        let large = (0..8).map(|seq| crowded(seq, 1 << 20, 0..100));
        let small = (10..18).map(|seq| crowded(seq, 1 << 10, 0..100));
        let all: Vec<_> = large.chain(small).collect();
        assert_eq!(chosen(&all), (10..18).collect::<Vec<_>>());
        assert_eq!(chosen(&all[..8]), (0..8).collect::<Vec<_>>());
    }

    #[test]
    fn runs_whose_places_are_in_memory_are_bounded() {
        let many = |seq| Crowded {
            live_runs: 100_000,
            live_bytes: 8 << 20,
            ..crowded(seq, 1, 0..100)
        };
        let all: Vec<_> = (0..8).map(many).collect();
        assert_eq!(chosen(&all), [0, 1]);
    }

    #[test]
    fn runs_of_about_one_size_are_put_together_and_a_large_one_is_passed_over() {
        let whole = |runs: &[u64]| worth_it(runs).into_iter().eq(iter::once(0..runs.len()));
        assert!(whole(&[6000; 8]));
        assert!(whole(&[6000, 6000]), "a row for 12 kB");
        assert!(whole(&[1 << 20; 4]));
        assert!(worth_it(&[1 << 20; 3]).is_empty(), "a row for 1.5 MiB");
        assert!(worth_it(&[6000]).is_empty());
        assert!(worth_it(&[]).is_empty());
        assert!(worth_it(&[0; 1]).is_empty());
        assert!(worth_it(&[5 << 20, 10, 10, 10]).into_iter().eq(iter::once(1..4)));
        assert_eq!(worth_it(&[10, 10, 5 << 20, 10, 10, 10]), [0..2, 3..6]);
        assert!(worth_it(&[5 << 20, 10, 5 << 20]).is_empty());
    }

    #[test]
    fn a_run_at_least_doubles_each_time_it_is_written_again() {
        let mut runs: Vec<u64> = vec![];
        let mut written = 0;
        for _ in 0..4096 {
            runs.push(1000);
            let mut kept = Vec::new();
            let mut at = 0;
            for part in worth_it(&runs) {
                kept.extend_from_slice(&runs[at..part.start]);
                let bytes: u64 = runs[part.clone()].iter().sum();
                written += bytes;
                kept.push(bytes);
                at = part.end;
            }
            kept.extend_from_slice(&runs[at..]);
            runs = kept;
        }
        assert_eq!(runs.iter().sum::<u64>(), 4_096_000);
        assert!(runs.len() <= 16, "{runs:?}");
        assert!(written <= 12 * 4_096_000, "{written}");
    }
}
