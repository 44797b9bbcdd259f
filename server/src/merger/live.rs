//! What is alive in objects: the runs that metadata still name, read back.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use millrace_api::config::RetentionPolicy;
use millrace_api::id::StreamId;
use millrace_api::position::SeqNum;
use millrace_api::segment::SegmentObjectId;
use millrace_raft::query::{ChainLink, SegmentRecord};
use millrace_wal::segment::{SegmentFooter, SegmentSuffix};
use millrace_wal::{FormatError, Frame, ReadRange};

use super::{MergeError, Merger};
use crate::storage::checked::read_checked;

/// Reads under way at a time.
const READS: usize = 4;
/// What is read of an object's end at first.
const FOOTER_SUFFIX: u64 = 64 << 10;
/// Runs are fetched together with what is dead between them up to so many bytes,
const GAP_BYTES: u64 = 256 << 10;
/// and up to so many bytes in all, unless one run is longer.
const READ_BYTES_MAX: u64 = 8 << 20;
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

impl Group {
    /// Of all frames as they were read.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.row.frames_len).sum()
    }
}

/// Where the frames of a segment are.
type Place = (SegmentObjectId, u64);

impl Merger {
    /// In the order of streams, and of records within one.
    pub(super) async fn live(&self, objects: &[SegmentObjectId]) -> Result<Vec<Group>, MergeError> {
        let mut segments = Vec::new();
        let mut footers = self.footers(objects);
        while let Some((object, footer)) = footers.try_next().await? {
            for run in &footer.runs {
                segments.extend(self.named(object, run.stream, run.first_seq, run.offset)?);
            }
        }
        let groups = self.grouped(segments)?;
        self.fetch(groups).await
    }

    /// Segments that follow each other and may become one, in the order of streams.
    pub(super) fn grouped(
        &self,
        mut segments: Vec<SegmentRecord>,
    ) -> Result<Vec<Vec<SegmentRecord>>, MergeError> {
        segments.sort_by_key(|it| (it.stream, it.row.first_seq));
        let mut groups: Vec<Vec<SegmentRecord>> = Vec::new();
        // Of the last group.
        let mut bytes = 0u64;
        for segment in segments {
            let len = segment.row.frames_len;
            let fits = bytes.saturating_add(len) <= self.to.object_bytes;
            match groups.last_mut() {
                Some(group) if fits && self.belong_together(group, &segment)? => {
                    group.push(segment);
                    bytes += len;
                }
                _ => {
                    groups.push(vec![segment]);
                    bytes = len;
                }
            }
        }
        Ok(groups)
    }

    fn belong_together(&self, group: &[SegmentRecord], next: &SegmentRecord) -> Result<bool, MergeError> {
        let (Some(first), Some(last)) = (group.first(), group.last()) else {
            return Ok(true);
        };
        if last.stream != next.stream || last.end_seq != next.row.first_seq {
            return Ok(false);
        }
        let spread_ms = next
            .row
            .appended_before_ms
            .saturating_sub(first.row.appended_before_ms);
        let state = self.meta.state();
        let stream = state
            .stream_by_id(next.stream)
            .map_err(|error| MergeError::Meta(error.into()))?;
        Ok(match stream.map(|stream| stream.config.retention) {
            Some(RetentionPolicy::Age(secs)) => {
                spread_ms <= AGE_SPREAD_MS.max(secs.saturating_mul(1000) / AGE_SPREAD_PART)
            }
            Some(RetentionPolicy::Infinite) | None => true,
        })
    }

    /// Reads the records of the groups, several requests at a time, each in the order of its object.
    pub(super) async fn fetch(&self, groups: Vec<Vec<SegmentRecord>>) -> Result<Vec<Group>, MergeError> {
        let mut of_objects: BTreeMap<SegmentObjectId, Vec<SegmentRecord>> = BTreeMap::new();
        for segment in groups.iter().flatten() {
            of_objects.entry(segment.row.object).or_default().push(*segment);
        }
        let near = of_objects.into_iter().flat_map(|(object, segments)| {
            let near = runs_of_neighbours(segments);
            near.into_iter().map(move |near| (object, near))
        });
        let mut read: HashMap<Place, Vec<Frame>> = stream::iter(near)
            .map(|(object, near)| self.read(object, near))
            .buffered(READS)
            .map_ok(|read| stream::iter(read.into_iter().map(Ok::<_, MergeError>)))
            .try_flatten()
            .try_collect()
            .await?;
        let groups = groups.into_iter().filter_map(|segments| {
            let frames = segments
                .iter()
                .filter_map(|it| read.remove(&(it.row.object, it.row.offset)));
            Some(Group {
                stream: segments.first()?.stream,
                frames: frames.flatten().collect(),
                segments,
            })
        });
        Ok(groups.collect())
    }

    async fn read(
        &self,
        object: SegmentObjectId,
        near: Vec<SegmentRecord>,
    ) -> Result<Vec<(Place, Vec<Frame>)>, MergeError> {
        let start = near.first().map_or(0, |segment| segment.row.offset);
        let end = near.last().map_or(0, end_of);
        let wanted: u64 = near.iter().map(|segment| segment.row.frames_len).sum();
        let mostly_dead = wanted < (end - start) / 2;
        let all = |bytes: Bytes| {
            let runs = near.iter().map(|segment| {
                let from = (segment.row.offset - start) as usize;
                let to = from + segment.row.frames_len as usize;
                if bytes.len() < to {
                    return Err(FormatError::Truncated {
                        need: to as u64,
                        have: bytes.len() as u64,
                    });
                }
                let run = match mostly_dead {
                    // What is between the runs is not kept alive by them.
                    true => Bytes::copy_from_slice(&bytes[from..to]),
                    false => bytes.slice(from..to),
                };
                Ok(((object, segment.row.offset), frames(run)?))
            });
            runs.collect::<Result<Vec<_>, _>>()
        };
        let key = object.to_string();
        let read = read_checked(&*self.to.store, &key, ReadRange::Range(start..end), all).await?;
        read.ok_or(MergeError::Missing(object))?
            .map_err(|cause| MergeError::Corrupt { object, cause })
    }

    /// The segment that is that run of the object, if metadata still name it.
    pub(super) fn named(
        &self,
        object: SegmentObjectId,
        stream: StreamId,
        first_seq: SeqNum,
        offset: u64,
    ) -> Result<Option<SegmentRecord>, MergeError> {
        let found = self.meta.state().chain(stream, first_seq, 1);
        let found = found.map_err(|error| MergeError::Meta(error.into()))?;
        let is_run = |it: &SegmentRecord| it.row.object == object && it.row.offset == offset;
        Ok(found.iter().filter_map(ChainLink::segment).copied().find(is_run))
    }

    /// Of each object, several requests at a time.
    pub(super) fn footers<'a>(
        &'a self,
        objects: &[SegmentObjectId],
    ) -> BoxStream<'a, Result<(SegmentObjectId, SegmentFooter), MergeError>> {
        let read = async move |object| Ok((object, self.footer(object).await?));
        stream::iter(objects.to_vec()).map(read).buffered(READS).boxed()
    }

    pub(super) async fn footer(&self, object: SegmentObjectId) -> Result<SegmentFooter, MergeError> {
        let key = object.to_string();
        let mut suffix_len = FOOTER_SUFFIX;
        loop {
            let range = ReadRange::Suffix(suffix_len);
            let decoded = read_checked(&*self.to.store, &key, range, |suffix| {
                SegmentFooter::decode(&suffix)
            })
            .await?;
            let decoded = decoded.ok_or(MergeError::Missing(object))?;
            match decoded.map_err(|cause| MergeError::Corrupt { object, cause })? {
                SegmentSuffix::Whole(footer) => return Ok(footer),
                SegmentSuffix::Longer { suffix_len: whole } => suffix_len = whole,
            }
        }
    }
}

/// Segments of one object that one request fetches, in their order.
fn runs_of_neighbours(mut segments: Vec<SegmentRecord>) -> Vec<Vec<SegmentRecord>> {
    segments.sort_by_key(|segment| segment.row.offset);
    let mut near: Vec<Vec<SegmentRecord>> = Vec::new();
    for segment in segments {
        match near.last_mut() {
            Some(run) if is_near(run, &segment) => run.push(segment),
            _ => near.push(vec![segment]),
        }
    }
    near
}

fn is_near(run: &[SegmentRecord], next: &SegmentRecord) -> bool {
    let start = run.first().map_or(0, |first| first.row.offset);
    let end = run.last().map_or(0, end_of);
    next.row.offset.saturating_sub(end) <= GAP_BYTES && end_of(next) - start <= READ_BYTES_MAX
}

/// Behind its frames.
fn end_of(segment: &SegmentRecord) -> u64 {
    segment.row.offset + segment.row.frames_len
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
