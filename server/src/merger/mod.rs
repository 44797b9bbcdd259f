//! Writes what is alive in some objects into new ones, which take their place.
//!
//! - Small objects, and those that are mostly dead, are put together whole ([`choose`]). Of larger ones that hold a
//!   little of many streams, the runs of each stream are ([`crowded`], [`by_stream`]).
//! - A run takes the place of segments that follow each other without gap and were merged whole. Metadata judge at the
//!   commit whether they still stand there; a run that comes too late is dead from the start, and nothing is lost.
//! - Whoever reads the former objects goes on: they are deleted after a grace period.

pub mod by_stream;
pub mod choose;
pub mod crowded;
mod live;

use std::sync::Arc;

use millrace_api::id::{ChannelId, Epoch, FlushSeq};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_raft::command::{CommitMerge, FlushedObject, MergedRun};
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_wal::segment::{Run, SegmentObject, SegmentObjectBuilder};
use millrace_wal::{FormatError, StoreError};

use self::by_stream::Walk;
use self::live::Group;
use crate::cache::PageCache;
use crate::env::Env;
use crate::storage::SegmentTarget;

/// Names of one attempt.
const PARTS_MAX: u32 = 4096;

/// One per node.
#[derive(Clone)]
pub struct Merger {
    pub env: Env,
    pub meta: Meta,
    pub to: SegmentTarget,
    pub cache: Arc<PageCache>,
    /// What is not more is small: see [`choose::small_bytes`].
    pub small_bytes: u64,
}

/// A channel in an epoch of its owner, the next number of its merges, and which attempt at it this is. No attempt is
/// made twice: their objects have different bytes.
#[derive(Debug, Clone, Copy)]
pub struct MergeName {
    pub channel: ChannelId,
    pub epoch: Epoch,
    pub seq: FlushSeq,
    pub attempt: u32,
}

/// What one step came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sorted {
    /// Bytes that were written.
    pub bytes: u64,
    /// Segments that have others in their place now.
    pub replaced: u32,
}

/// Why a merge came to nothing. What it has written is never named.
#[derive(Debug, thiserror::Error)]
pub enum MergeError {
    #[error("metadata: {0}")]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("segment object {object} is corrupt: {cause}")]
    Corrupt {
        object: SegmentObjectId,
        cause: FormatError,
    },
    #[error("segment object {0} is missing")]
    Missing(SegmentObjectId),
}

impl Merger {
    /// Puts what is alive in `objects` together.
    ///
    /// `Ok` also if some of it came too late: answers how many segments have others in their place now. Holds the live
    /// bytes of all objects in memory.
    pub async fn merge(&self, name: MergeName, objects: &[SegmentObjectId]) -> Result<u32, MergeError> {
        let groups = self.live(objects).await?;
        let built = self.put(name, &groups).await?;
        for object in &built.0 {
            self.cache.insert_fresh(object.id, &object.payload).await;
        }
        self.commit(name, built).await
    }

    /// Puts together what is worth it of the next streams of a walk; `None`, and nothing done, at its end. As
    /// [`merge`](Self::merge), with the bytes of one batch in memory, which readers are not expected to want soon.
    pub async fn sort(&self, name: MergeName, walk: &mut Walk) -> Result<Option<Sorted>, MergeError> {
        let Some(groups) = self.next_batch(walk).await? else {
            return Ok(None);
        };
        let built = self.put(name, &groups).await?;
        drop(groups);
        let bytes = built.0.iter().map(|object| object.payload.len()).sum();
        let replaced = self.commit(name, built).await?;
        Ok(Some(Sorted { bytes, replaced }))
    }

    /// Writes the groups to new objects.
    async fn put(&self, name: MergeName, groups: &[Group]) -> Result<Built, MergeError> {
        let id = |part| SegmentObjectId {
            channel: name.channel,
            epoch: name.epoch,
            origin: SegmentOrigin::Merge,
            seq: name.seq,
            part: name.attempt.wrapping_mul(PARTS_MAX).wrapping_add(part),
        };
        let built = build(groups, self.to.object_bytes, self.small_bytes, id);
        for object in &built.0 {
            let key = object.id.to_string();
            self.to.store.upload(&key, &object.payload).await?;
        }
        Ok(built)
    }

    async fn commit(&self, name: MergeName, (built, runs): Built) -> Result<u32, MergeError> {
        let MergeName {
            channel,
            epoch,
            seq: merge_seq,
            ..
        } = name;
        let written = built.iter().map(|object| FlushedObject {
            part: object.id.part,
            len: object.payload.len(),
        });
        let command = CommitMerge {
            channel,
            epoch,
            merge_seq,
            objects: written.collect(),
            runs,
            now_ms: self.env.now_ms(),
        };
        let merged = self.meta.propose(command).await?;
        tracing::debug!(%channel, objects = built.len(), replaced = merged.replaced, "merged segments");
        Ok(merged.replaced)
    }
}

/// Objects, and what metadata learn of them.
type Built = (Vec<SegmentObject>, Vec<MergedRun>);

/// Objects that hold the groups, as few as may be: what comes out is larger than what went in, also where records lie
/// apart, so that merging comes to an end. A group of `own_bytes` has one of its own, which goes when its records go.
fn build(groups: &[Group], object_bytes: u64, own_bytes: u64, id: impl Fn(u32) -> SegmentObjectId) -> Built {
    let (mut objects, mut runs) = (Vec::new(), Vec::new());
    let mut open: Option<SegmentObjectBuilder> = None;
    let mut in_open: Vec<&Group> = Vec::new();
    let mut close = |open: &mut Option<SegmentObjectBuilder>, in_open: &mut Vec<&Group>| {
        let Some(builder) = open.take() else { return };
        let object = builder.finish();
        let of_groups = in_open.drain(..).zip(&object.runs);
        runs.extend(of_groups.map(|(group, run)| merged(group, object.id.part, run)));
        objects.push(object);
    };
    let mut part = 0;
    for group in groups {
        let is_full = open
            .as_ref()
            .is_some_and(|open| open.encoded_len() >= object_bytes);
        let is_large =
            group.bytes() >= own_bytes || in_open.last().is_some_and(|last| last.bytes() >= own_bytes);
        if is_full || is_large {
            close(&mut open, &mut in_open);
        }
        let builder = open.get_or_insert_with(|| {
            part += 1;
            SegmentObjectBuilder::new(id(part - 1))
        });
        builder.end_run();
        for frame in &group.frames {
            builder.push(frame);
        }
        in_open.push(group);
    }
    close(&mut open, &mut in_open);
    (objects, runs)
}

fn merged(group: &Group, part: u32, run: &Run) -> MergedRun {
    let rows = || group.segments.iter().map(|segment| &segment.row);
    MergedRun {
        stream: group.stream,
        part,
        offset: run.offset,
        frames_len: run.frames_len,
        index_len: run.index_len,
        first_seq: run.first_seq,
        first_timestamp: run.first_timestamp,
        end_seq: run.end_seq,
        last_timestamp: run.last_timestamp,
        metered_bytes: rows().map(|row| row.metered_bytes).sum(),
        appended_before_ms: rows().map(|row| row.appended_before_ms).max().unwrap_or(0),
        sources: rows().map(|row| row.object).collect(),
    }
}

#[cfg(test)]
mod tests {
    use millrace_api::id::{StreamId, StreamletId, WriterId};
    use millrace_api::segment::SegmentOrigin;
    use millrace_raft::query::{SegmentRecord, SegmentRow};
    use millrace_wal::{Frame, FrameFlags, FrameHeader, FrameKind, FrameWriter};

    use super::*;

    fn id(part: u32) -> SegmentObjectId {
        SegmentObjectId {
            channel: ChannelId(1),
            epoch: Epoch(1),
            origin: SegmentOrigin::Merge,
            seq: FlushSeq(1),
            part,
        }
    }

    /// One record, from a segment of its own.
    fn group(stream: u128, first_seq: u64) -> Group {
        let mut bytes = bytes::BytesMut::new();
        let frame: Frame = FrameWriter::begin(&mut bytes, 0).finish(FrameHeader {
            kind: FrameKind::Records,
            flags: FrameFlags::NONE,
            stream: StreamId(stream),
            streamlet: StreamletId(1),
            first_seq,
            record_count: 1,
            metered_bytes: 8,
            first_timestamp: first_seq,
            last_timestamp: first_seq,
            writer: WriterId(1),
            number: 1,
            body_len: 0,
            body_crc: 0,
        });
        let row = SegmentRow {
            first_seq,
            first_timestamp: first_seq,
            last_timestamp: first_seq,
            object: id(first_seq as u32),
            offset: 0,
            frames_len: frame.bytes.len() as u64,
            index_len: 0,
            metered_bytes: 8,
            appended_before_ms: 1,
        };
        let segment = SegmentRecord {
            stream: StreamId(stream),
            end_seq: first_seq + 1,
            row,
            object_len: 1000,
        };
        Group {
            stream: StreamId(stream),
            segments: vec![segment],
            frames: vec![frame],
        }
    }

    #[test]
    fn records_that_lie_apart_come_into_one_object_all_the_same() {
        let groups: Vec<_> = (0..16).map(|at| group(at / 8, 2 * at as u64)).collect();
        let (objects, runs) = build(&groups, 1 << 20, 1 << 20, id);
        assert_eq!(objects.len(), 1, "otherwise as many would come out as went in");
        assert!(runs.iter().map(|run| run.first_seq).eq((0..32).step_by(2)));
        assert!(runs.iter().all(|run| run.end_seq == run.first_seq + 1));
    }

    #[test]
    fn a_large_group_has_an_object_of_its_own() {
        let groups: Vec<_> = (0..3).map(|at| group(1, 2 * at)).collect();
        let (objects, runs) = build(&groups, 1 << 20, 1, id);
        assert_eq!((objects.len(), runs.len()), (3, 3));
    }
}
