//! What is alive in objects: the runs that metadata still name, read back.

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use millrace_api::config::RetentionPolicy;
use millrace_api::id::StreamId;
use millrace_api::segment::SegmentObjectId;
use millrace_raft::query::{ChainLink, SegmentRecord};
use millrace_wal::segment::{Run, SegmentFooter, SegmentSuffix};
use millrace_wal::{FormatError, Frame, ReadRange};

use super::{MergeError, Merger};

/// Reads under way at a time.
const READS: usize = 4;
/// What is read of an object's end at first.
const FOOTER_SUFFIX: u64 = 64 << 10;
/// Runs are fetched together with what is dead between them up to so many bytes.
const GAP_BYTES: u64 = 256 << 10;
/// A run's records may differ in age by this part of the stream's retention: a segment goes when its youngest record
/// may go.
const AGE_SPREAD_PART: u64 = 10;
/// A spread that never matters.
const AGE_SPREAD_MS: u64 = 60_000;

/// Segments of one stream that follow each other, and all of their records.
pub struct Group {
    pub stream: StreamId,
    pub segments: Vec<SegmentRecord>,
    pub frames: Vec<Frame>,
}

struct Live {
    segment: SegmentRecord,
    frames: Vec<Frame>,
}

impl Merger {
    /// In the order of streams, and of records within one.
    pub(super) async fn live(&self, objects: &[SegmentObjectId]) -> Result<Vec<Group>, MergeError> {
        let read: Vec<Vec<Live>> = stream::iter(objects.to_vec())
            .map(|object| self.live_of(object))
            .buffered(READS)
            .try_collect()
            .await?;
        let mut live: Vec<_> = read.into_iter().flatten().collect();
        live.sort_by_key(|it| (it.segment.stream, it.segment.row.first_seq));
        let mut groups: Vec<Group> = Vec::new();
        for Live { segment, frames } in live {
            match groups.last_mut() {
                Some(group) if self.belong_together(group, &segment)? => {
                    group.segments.push(segment);
                    group.frames.extend(frames);
                }
                _ => groups.push(Group {
                    stream: segment.stream,
                    segments: vec![segment],
                    frames,
                }),
            }
        }
        Ok(groups)
    }

    fn belong_together(&self, group: &Group, next: &SegmentRecord) -> Result<bool, MergeError> {
        let (Some(first), Some(last)) = (group.segments.first(), group.segments.last()) else {
            return Ok(true);
        };
        if group.stream != next.stream || last.end_seq != next.row.first_seq {
            return Ok(false);
        }
        let spread_ms = next
            .row
            .appended_before_ms
            .saturating_sub(first.row.appended_before_ms);
        let state = self.meta.state();
        let stream = state
            .stream_by_id(group.stream)
            .map_err(|error| MergeError::Meta(error.into()))?;
        Ok(match stream.map(|stream| stream.config.retention) {
            Some(RetentionPolicy::Age(secs)) => {
                spread_ms <= AGE_SPREAD_MS.max(secs.saturating_mul(1000) / AGE_SPREAD_PART)
            }
            Some(RetentionPolicy::Infinite) | None => true,
        })
    }

    async fn live_of(&self, object: SegmentObjectId) -> Result<Vec<Live>, MergeError> {
        let footer = self.footer(object).await?;
        let mut segments = Vec::new();
        for run in &footer.runs {
            if let Some(segment) = self.named(object, run)? {
                segments.push(segment);
            }
        }
        segments.sort_by_key(|segment| segment.row.offset);
        let mut live = Vec::with_capacity(segments.len());
        for near in runs_of_neighbours(segments) {
            let start = near.first().map_or(0, |segment| segment.row.offset);
            let end = near
                .last()
                .map_or(0, |segment| segment.row.offset + segment.row.frames_len);
            let range = ReadRange::Range(start..end);
            let bytes = self.to.store.get(&object.to_string(), range).await?;
            let bytes = bytes.ok_or(MergeError::Missing(object))?;
            for segment in near {
                let from = (segment.row.offset - start) as usize;
                let to = from + segment.row.frames_len as usize;
                let frames = match bytes.len() >= to {
                    true => frames(bytes.slice(from..to)),
                    false => Err(FormatError::Truncated {
                        need: to as u64,
                        have: bytes.len() as u64,
                    }),
                };
                let frames = frames.map_err(|cause| MergeError::Corrupt { object, cause })?;
                live.push(Live { segment, frames });
            }
        }
        Ok(live)
    }

    /// The segment that the run is, if metadata still name it.
    fn named(&self, object: SegmentObjectId, run: &Run) -> Result<Option<SegmentRecord>, MergeError> {
        let found = self.meta.state().chain(run.stream, run.first_seq, 1);
        let found = found.map_err(|error| MergeError::Meta(error.into()))?;
        let is_run = |it: &SegmentRecord| it.row.object == object && it.row.offset == run.offset;
        Ok(found.iter().filter_map(ChainLink::segment).copied().find(is_run))
    }

    async fn footer(&self, object: SegmentObjectId) -> Result<SegmentFooter, MergeError> {
        let mut suffix_len = FOOTER_SUFFIX;
        loop {
            let range = ReadRange::Suffix(suffix_len);
            let suffix = self.to.store.get(&object.to_string(), range).await?;
            let suffix = suffix.ok_or(MergeError::Missing(object))?;
            let decoded = SegmentFooter::decode(&suffix);
            match decoded.map_err(|cause| MergeError::Corrupt { object, cause })? {
                SegmentSuffix::Whole(footer) => return Ok(footer),
                SegmentSuffix::Longer { suffix_len: whole } => suffix_len = whole,
            }
        }
    }
}

/// Segments of one object that one request fetches.
fn runs_of_neighbours(segments: Vec<SegmentRecord>) -> Vec<Vec<SegmentRecord>> {
    let mut near: Vec<Vec<SegmentRecord>> = Vec::new();
    for segment in segments {
        match near.last_mut() {
            Some(run) if run.last().is_some_and(|last| is_near(last, &segment)) => run.push(segment),
            _ => near.push(vec![segment]),
        }
    }
    near
}

fn is_near(last: &SegmentRecord, next: &SegmentRecord) -> bool {
    next.row
        .offset
        .saturating_sub(last.row.offset + last.row.frames_len)
        <= GAP_BYTES
}

/// All frames of a run; each is checked.
fn frames(mut bytes: Bytes) -> Result<Vec<Frame>, FormatError> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let frame = Frame::decode(&bytes)?;
        bytes = bytes.slice(frame.bytes.len()..);
        frames.push(frame);
    }
    Ok(frames)
}
