//! Writes what is alive in some objects into new ones, which take their place.
//!
//! - A run takes the place of segments that follow each other without gap and were merged whole. Metadata judge at the
//!   commit whether they still stand there; a run that comes too late is dead from the start, and nothing is lost.
//! - Whoever reads the former objects goes on: they are deleted after a grace period.

pub mod choose;
mod live;

use std::sync::Arc;

use millrace_api::id::{ChannelId, Epoch, FlushSeq};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_raft::command::{CommitMerge, FlushedObject, MergedRun};
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_wal::segment::{Run, SegmentObject, SegmentObjectBuilder};
use millrace_wal::{FormatError, StoreError};

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
    /// Puts what is alive in `objects` together, as the owner of the channel in this epoch, under the next number of
    /// its merges. No `attempt` at one number may be made twice: their objects have different bytes.
    ///
    /// `Ok` also if some of it came too late: answers how many segments have others in their place now. Holds the live
    /// bytes of all objects in memory.
    pub async fn merge(
        &self,
        (channel, epoch, merge_seq): (ChannelId, Epoch, FlushSeq),
        attempt: u32,
        objects: &[SegmentObjectId],
    ) -> Result<u32, MergeError> {
        let groups = self.live(objects).await?;
        let id = |part| SegmentObjectId {
            channel,
            epoch,
            origin: SegmentOrigin::Merge,
            seq: merge_seq,
            part: attempt.wrapping_mul(PARTS_MAX).wrapping_add(part),
        };
        let (built, runs) = build(&groups, self.to.object_bytes, id);
        for object in &built {
            let key = object.id.to_string();
            self.to.store.upload(&key, &object.payload).await?;
            self.cache.insert_fresh(object.id, &object.payload).await;
        }
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
        tracing::debug!(%channel, objects = objects.len(), into = built.len(), replaced = merged.replaced, "merged segments");
        Ok(merged.replaced)
    }
}

/// Objects that hold the groups, and what metadata learn of them.
fn build(
    groups: &[Group],
    object_bytes: u64,
    id: impl Fn(u32) -> SegmentObjectId,
) -> (Vec<SegmentObject>, Vec<MergedRun>) {
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
        let follows_itself = in_open.last().is_some_and(|last| last.stream == group.stream);
        let is_full = open
            .as_ref()
            .is_some_and(|open| open.encoded_len() >= object_bytes);
        if follows_itself || is_full {
            close(&mut open, &mut in_open);
        }
        let builder = open.get_or_insert_with(|| {
            part += 1;
            SegmentObjectBuilder::new(id(part - 1))
        });
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
