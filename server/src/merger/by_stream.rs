//! Sorting large objects by stream: the runs that follow each other in several of them become one.
//!
//! Objects are walked stream by stream, side by side, and what is put together is committed in batches: memory is
//! bounded by the places of the runs and the bytes of one batch, and what was committed stays if the walk ends early.

use futures::TryStreamExt;
use millrace_api::id::StreamId;
use millrace_api::position::SeqNum;
use millrace_api::segment::SegmentObjectId;
use millrace_raft::query::SegmentRecord;
use tokio::task::yield_now;

use super::crowded::{Span, worth_it};
use super::live::Group;
use super::{MergeError, Merger};

/// Bytes of a batch, unless an object is closed before.
const BATCH_BYTES: u64 = 32 << 20;
/// Runs of a batch: what one command takes.
const BATCH_RUNS: usize = 16_384;

/// A walk over some objects.
pub struct Walk {
    /// In the order of streams, and of records within one.
    runs: Vec<Place>,
    /// Of these, so many are done.
    done: usize,
}

/// Where a run is.
struct Place {
    stream: StreamId,
    first_seq: SeqNum,
    object: SegmentObjectId,
    offset: u64,
    frames_len: u64,
}

impl Merger {
    /// Which streams the object is between.
    pub async fn span(&self, object: SegmentObjectId) -> Result<Option<Span>, MergeError> {
        let footer = self.footer(object).await?;
        let streams = || footer.runs.iter().map(|run| run.stream);
        let ends = streams().min().zip(streams().max());
        Ok(ends.map(|(first, last)| Span { first, last }))
    }

    /// Begins to walk over objects.
    pub async fn walk(&self, objects: &[SegmentObjectId]) -> Result<Walk, MergeError> {
        let mut runs = Vec::new();
        let mut footers = self.footers(objects);
        while let Some((object, footer)) = footers.try_next().await? {
            runs.extend(footer.runs.iter().map(|run| Place {
                stream: run.stream,
                first_seq: run.first_seq,
                object,
                offset: run.offset,
                frames_len: run.frames_len,
            }));
        }
        runs.sort_unstable_by_key(|run| (run.stream, run.first_seq));
        Ok(Walk { runs, done: 0 })
    }

    /// The next groups that are worth putting together; `None` at the end. Holds their bytes, and no others, in memory.
    pub(super) async fn next_batch(&self, walk: &mut Walk) -> Result<Option<Vec<Group>>, MergeError> {
        loop {
            let batch = walk.next(self.to.object_bytes.min(BATCH_BYTES));
            if batch.is_empty() {
                return Ok(None);
            }
            let mut named = Vec::with_capacity(batch.len());
            for run in batch {
                named.extend(self.named(run.object, run.stream, run.first_seq, run.offset)?);
            }
            let groups = self.grouped(named)?;
            let worth: Vec<Vec<SegmentRecord>> =
                groups.iter().flat_map(|group| parts_worth_it(group)).collect();
            if !worth.is_empty() {
                return self.fetch(worth).await.map(Some);
            }
            yield_now().await;
        }
    }
}

fn parts_worth_it(group: &[SegmentRecord]) -> Vec<Vec<SegmentRecord>> {
    let sizes: Vec<u64> = group.iter().map(|segment| segment.row.frames_len).collect();
    let parts = worth_it(&sizes).into_iter();
    parts.map(|part| group[part].to_vec()).collect()
}

impl Walk {
    /// Runs of the next streams, of not more than so many bytes, unless one run has more; none at the end. A stream is
    /// cut only where it alone has more.
    fn next(&mut self, bytes_max: u64) -> &[Place] {
        let rest = &self.runs[self.done..];
        let (mut bytes, mut whole, mut cut) = (0u64, 0, rest.len());
        for (at, run) in rest.iter().enumerate() {
            if at > 0 && rest[at - 1].stream != run.stream {
                whole = at;
            }
            bytes = bytes.saturating_add(run.frames_len);
            if at > 0 && (bytes > bytes_max || at == BATCH_RUNS) {
                cut = if whole > 0 { whole } else { at };
                break;
            }
        }
        self.done += cut;
        &rest[..cut]
    }
}

#[cfg(test)]
mod tests {
    use millrace_api::id::{ChannelId, Epoch, FlushSeq};
    use millrace_api::segment::SegmentOrigin;

    use super::*;

    fn walk(runs: impl IntoIterator<Item = (u128, u64)>) -> Walk {
        let object = SegmentObjectId {
            channel: ChannelId(1),
            epoch: Epoch(1),
            origin: SegmentOrigin::Flush,
            seq: FlushSeq(1),
            part: 0,
        };
        let runs = runs.into_iter().map(|(stream, frames_len)| Place {
            stream: StreamId(stream),
            first_seq: 0,
            object,
            offset: 0,
            frames_len,
        });
        Walk {
            runs: runs.collect(),
            done: 0,
        }
    }

    fn steps(mut walk: Walk, bytes_max: u64) -> Vec<usize> {
        let mut steps = Vec::new();
        loop {
            match walk.next(bytes_max).len() {
                0 => return steps,
                len => steps.push(len),
            }
        }
    }

    #[test]
    fn batches_end_between_streams_within_their_bytes() {
        assert_eq!(steps(walk([]), 10), [] as [usize; 0]);
        assert_eq!(steps(walk([(1, 4), (1, 4), (2, 4), (2, 4), (3, 2)]), 10), [2, 3]);
        assert_eq!(steps(walk([(1, 4), (1, 4)]), 10), [2]);
        assert_eq!(
            steps(walk([(1, 4), (1, 4), (1, 4), (2, 1)]), 10),
            [2, 2],
            "one that is larger"
        );
        assert_eq!(steps(walk([(1, 99), (2, 99)]), 10), [1, 1]);
        let many = (0..40_000).map(|at| (at, 1));
        assert_eq!(
            steps(walk(many), 1 << 30),
            [BATCH_RUNS, BATCH_RUNS, 40_000 - 2 * BATCH_RUNS]
        );
    }
}
