//! Which pages a reader needs, one unit of them after the other.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};
use millrace_api::position::{SeqNum, Timestamp};
use millrace_wal::segment::SEGMENT_OBJECT_LEN_MAX;
use millrace_wal::{FormatError, RunIndex, RunIndexEntry};

use super::{ReadError, SegmentRange, SegmentRef, checked};
use crate::cache::{PAGE_BYTES, PageCache};
use crate::channel::message::Seek;

/// Pages of one unit at most.
pub(super) const PAGES_PER_UNIT: u32 = 2;
/// A run of at most so many bytes is read from its start.
const INDEXED_BYTES: u64 = 256 << 10;
/// Bytes that the first unit of a read holds at least, if the run has them: a frame as it is usually written, and more.
const FIRST_BYTES: u64 = 128 << 10;
/// Segments that are asked for at a time.
const SEGMENTS_PER_QUERY: usize = 32;

/// Adjacent bytes of one run, in one or two pages.
#[derive(Debug)]
pub(super) struct Unit {
    pub(super) segment: Arc<SegmentRef>,
    /// From the start of the object; `end` is exclusive.
    pub(super) start: u64,
    pub(super) end: u64,
    /// The unit continues none: a frame begins at its start, with this record.
    pub(super) begins: Option<SeqNum>,
}

impl Unit {
    pub(super) fn pages(&self) -> Range<u32> {
        // An object has far fewer than 2^32 pages.
        (self.start / PAGE_BYTES) as u32..self.end.div_ceil(PAGE_BYTES) as u32
    }

    pub(super) fn page_count(&self) -> u32 {
        self.pages().len() as u32
    }

    /// Bytes of the pages at most.
    pub(super) fn page_bytes(&self) -> u32 {
        self.page_count() * PAGE_BYTES as u32
    }
}

/// The walk over a stream's segments.
pub(super) struct Plan {
    range: SegmentRange,
    cache: Arc<PageCache>,
    /// The first record behind the segments looked at so far.
    next_seq: SeqNum,
    known: VecDeque<SegmentRef>,
    current: Option<Current>,
    /// Nothing was planned yet.
    fresh: bool,
    /// Where to begin has to be found by time first.
    by_time: Option<Timestamp>,
}

/// What is left of a run.
struct Current {
    segment: Arc<SegmentRef>,
    at: u64,
    begins: Option<SeqNum>,
}

impl Plan {
    pub(super) fn new(range: SegmentRange, cache: Arc<PageCache>) -> Self {
        let (next_seq, by_time) = match range.seek {
            Seek::SeqNum(seq_num) => (seq_num.max(range.floor), None),
            Seek::Timestamp(timestamp) => (range.floor, Some(timestamp)),
        };
        Self {
            range,
            cache,
            next_seq,
            known: VecDeque::new(),
            current: None,
            fresh: true,
            by_time,
        }
    }

    /// Goes on with the frame at `offset` of the segment's object, whose first record is `begins`.
    pub(super) fn resume(
        range: SegmentRange,
        cache: Arc<PageCache>,
        segment: Arc<SegmentRef>,
        offset: u64,
        begins: SeqNum,
    ) -> Self {
        Self {
            next_seq: segment.end_seq,
            current: Some(Current {
                segment,
                at: offset,
                begins: Some(begins),
            }),
            by_time: None,
            ..Self::new(range, cache)
        }
    }

    pub(super) fn units(self) -> BoxStream<'static, Result<Unit, ReadError>> {
        stream::try_unfold(self, Self::next).boxed()
    }

    async fn next(mut self) -> Result<Option<(Unit, Self)>, ReadError> {
        loop {
            if let Some(unit) = self.cut() {
                return Ok(Some((unit, self)));
            }
            if self.next_seq >= self.range.end {
                return Ok(None);
            }
            if let Some(timestamp) = self.by_time.take() {
                let source = &self.range.source;
                match source.seek(self.range.stream, self.next_seq, timestamp).await? {
                    Some(begin) => self.next_seq = begin.max(self.next_seq),
                    None => return Ok(None),
                }
                continue;
            }
            let segment = self.segment().await?;
            if !matches!(self.range.seek, Seek::Timestamp(timestamp) if segment.last_timestamp < timestamp) {
                let begin = self.begin(&segment).await?;
                self.current = Some(Current {
                    at: segment.offset + begin.offset,
                    begins: Some(begin.first_seq),
                    segment: Arc::new(segment.clone()),
                });
            }
            self.next_seq = segment.end_seq;
        }
    }

    /// The next bytes of the current run.
    fn cut(&mut self) -> Option<Unit> {
        let current = self.current.as_mut()?;
        let (start, run_end) = (current.at, current.segment.index_offset());
        let page = start / PAGE_BYTES;
        let pages = if !self.fresh || start % PAGE_BYTES + FIRST_BYTES > PAGE_BYTES {
            u64::from(PAGES_PER_UNIT)
        } else {
            1
        };
        self.fresh = false;
        let end = ((page + pages) * PAGE_BYTES).min(run_end);
        let unit = Unit {
            segment: current.segment.clone(),
            start,
            end,
            begins: current.begins.take(),
        };
        current.at = end;
        if end == run_end {
            self.current = None;
        }
        Some(unit)
    }

    /// The segment that holds the next record.
    async fn segment(&mut self) -> Result<SegmentRef, ReadError> {
        if self.known.is_empty() {
            let source = &self.range.source;
            let segments = source
                .segments(self.range.stream, self.next_seq, SEGMENTS_PER_QUERY)
                .await?;
            self.known = segments.into();
        }
        let segment = self.known.pop_front().ok_or(ReadError::Missing(self.next_seq))?;
        if segment.first_seq > self.next_seq || segment.end_seq <= self.next_seq {
            return Err(ReadError::Missing(self.next_seq));
        }
        let end = segment
            .index_offset()
            .saturating_add(u64::from(segment.index_len));
        if segment.frames_len == 0 || end > segment.object_len || segment.object_len > SEGMENT_OBJECT_LEN_MAX
        {
            return Err(corrupt(&segment, segment.offset, &"it cannot be there"));
        }
        Ok(segment)
    }

    /// The frame of the segment to begin with. A long run is not read from its start.
    async fn begin(&self, segment: &SegmentRef) -> Result<RunIndexEntry, ReadError> {
        let start = RunIndexEntry {
            offset: 0,
            first_seq: segment.first_seq,
            first_timestamp: segment.first_timestamp,
        };
        let by_time = match self.range.seek {
            Seek::Timestamp(timestamp) if timestamp > segment.first_timestamp => Some(timestamp),
            _ => None,
        };
        let inside = by_time.is_some() || self.next_seq > segment.first_seq;
        if segment.frames_len <= INDEXED_BYTES || !inside {
            return Ok(start);
        }
        let index = self.index(segment).await?;
        let by_seq_num = index.seek_seq_num(self.next_seq);
        let by_time = by_time.map_or(start, |timestamp| index.seek_timestamp(timestamp));
        let begin = if by_time.offset > by_seq_num.offset {
            by_time
        } else {
            by_seq_num
        };
        let is_within = begin.offset < segment.frames_len
            && (segment.first_seq..segment.end_seq).contains(&begin.first_seq);
        if is_within {
            Ok(begin)
        } else {
            let why = FormatError::Mismatch { what: "run index" };
            Err(corrupt(segment, segment.index_offset(), &why))
        }
    }

    async fn index(&self, segment: &SegmentRef) -> Result<RunIndex, ReadError> {
        let start = segment.index_offset();
        let range = start..start + u64::from(segment.index_len);
        let object = (segment.object, segment.object_len);
        checked::read(&self.cache, object, range, RunIndex::decode).await
    }
}

fn corrupt(segment: &SegmentRef, offset: u64, why: &dyn std::fmt::Display) -> ReadError {
    ReadError::Corrupt {
        object: segment.object,
        offset,
        why: why.to_string(),
    }
}

/// What of `range` of an object is in its page `number`. Shares the page's memory.
pub(super) fn part_of(page: &Bytes, number: u64, range: &Range<u64>) -> Bytes {
    let page_start = number * PAGE_BYTES;
    let end = range.end.saturating_sub(page_start).min(page.len() as u64);
    let start = range.start.saturating_sub(page_start).min(end);
    page.slice(start as usize..end as usize)
}
