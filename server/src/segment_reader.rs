//! Reads a stream's records back from segments, through the page cache.
//!
//! A read walks the stream's segments in order, begins inside the first one by its index, and fetches pages ahead of
//! the reader, over the borders of segments too. Every frame is checked before it is given out; one that fails is
//! fetched again from the store, and never served.

mod assemble;
mod checked;
mod plan;

#[cfg(test)]
mod tests;

use std::pin::Pin;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, FuturesOrdered, Peekable, StreamExt};
use millrace_api::id::StreamId;
use millrace_api::position::{SeqNum, Timestamp};
use millrace_api::segment::SegmentObjectId;
use millrace_raft::error::MetaError;
use millrace_raft::query::ChainIndexRecord;
use millrace_wal::segment::{CHAIN_ENTRIES_MAX, ChainIndex};
use millrace_wal::{Frame, FrameHeader, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::AbortOnDropHandle;

use crate::cache::{PageCache, PageError};
use crate::chain;
use crate::channel::message::Seek;
use assemble::{Assembler, BadFrame};
use plan::{Plan, Unit};

/// Pages that a reader fetches at most beyond those that it takes next: enough to take 200 MiB a second from a store
/// that needs 100 ms for a few of them.
const PAGES_AHEAD_MAX: u32 = 32;
/// Pages ahead of a reader that has taken its first frames: a read that ends soon has not fetched much in vain.
const PAGES_AHEAD_AT_FIRST: u32 = 2;
/// No chain index is longer.
const CHAIN_INDEX_LEN_MAX: u64 = ChainIndex::encoded_len(CHAIN_ENTRIES_MAX) as u64;
/// How often bytes that fail their check are fetched again.
const RELOADS_MAX: u32 = 2;

/// One run of a stream, and where it is.
///
/// - The frames are at `offset` and `frames_len` bytes long; the index of `index_len` bytes follows at once.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentRef {
    pub object: SegmentObjectId,
    /// Bytes of the whole object.
    pub object_len: u64,
    /// From the start of the object, in bytes.
    pub offset: u64,
    pub frames_len: u64,
    pub index_len: u32,
    pub first_seq: SeqNum,
    /// Exclusive.
    pub end_seq: SeqNum,
    pub first_timestamp: Timestamp,
    pub last_timestamp: Timestamp,
}

impl SegmentRef {
    /// Where the index begins, from the start of the object.
    fn index_offset(&self) -> u64 {
        self.offset.saturating_add(self.frames_len)
    }
}

/// Where segments are found.
#[async_trait]
pub trait SegmentSource: Send + Sync {
    /// Up to `limit` segments of the stream in order, without gap, beginning with the one that holds the record
    /// `from_seq`; none if no segment does.
    async fn segments(
        &self,
        stream: StreamId,
        from_seq: SeqNum,
        limit: usize,
    ) -> Result<Vec<SegmentRef>, ReadError>;

    /// Where to look for the first record behind `from_seq` with at least this timestamp: the start of the first segment
    /// that ends at it or later, but not before `from_seq`. `None` if no segment does.
    async fn seek(
        &self,
        stream: StreamId,
        from_seq: SeqNum,
        timestamp: Timestamp,
    ) -> Result<Option<SeqNum>, ReadError>;
}

/// Which frames of a stream are wanted.
#[derive(Clone)]
pub struct SegmentRange {
    pub stream: StreamId,
    /// The first record wanted; frames wholly before it are left out.
    pub seek: Seek,
    /// Records below are not wanted.
    pub floor: SeqNum,
    /// Exclusive. All records between `floor` and here are in segments.
    pub end: SeqNum,
    pub source: Arc<dyn SegmentSource>,
}

impl SegmentRange {
    fn wants(&self, header: &FrameHeader) -> bool {
        let end = header.end_seq();
        let sought = match self.seek {
            Seek::SeqNum(seq_num) => end > seq_num,
            Seek::Timestamp(timestamp) => header.last_timestamp >= timestamp,
        };
        sought && end > self.floor && header.first_seq < self.end
    }
}

/// Why records could not be read back, by remedy.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// The object is not there any more: find out anew where the records are.
    #[error("segment object {0} is gone")]
    Gone(SegmentObjectId),
    /// No segment holds the record: find out anew where it is.
    #[error("no segment holds record {0}")]
    Missing(SeqNum),
    /// The bytes at this offset are not what was written, however often they are fetched.
    #[error("segment object {object} is corrupt at {offset}: {why}")]
    Corrupt {
        object: SegmentObjectId,
        offset: u64,
        why: String,
    },
    /// The store did not answer, after some patience, or refused. Nothing is lost.
    #[error(transparent)]
    Store(StoreError),
    #[error(transparent)]
    Metadata(#[from] MetaError),
}

impl From<PageError> for ReadError {
    fn from(error: PageError) -> Self {
        match error {
            PageError::Gone(object) => Self::Gone(object),
            PageError::Store(error) => Self::Store(error),
            PageError::Short { object, end } => Self::Corrupt {
                object,
                offset: end,
                why: "it ends there".into(),
            },
        }
    }
}

/// One per node.
pub struct SegmentReader {
    pages: Arc<PageCache>,
    /// Bytes that all readers together may hold beyond what each of them takes next.
    ahead: Arc<Semaphore>,
}

impl SegmentReader {
    /// `read_ahead_bytes`: what all readers together may have fetched ahead.
    pub fn new(pages: Arc<PageCache>, read_ahead_bytes: usize) -> Self {
        Self {
            pages,
            ahead: Arc::new(Semaphore::new(read_ahead_bytes.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// The frames of the range in order, each checked. Where segments are replaced while they are read, a frame may
    /// begin with records that have come already; no record is left out. Frames share the memory of their page, a
    /// mebibyte, unless they span two.
    ///
    /// Nothing is fetched unless the stream is polled; after an error nothing follows.
    pub fn frames(self: Arc<Self>, range: SegmentRange) -> BoxStream<'static, Result<Vec<Frame>, ReadError>> {
        let plan = Plan::new(range.clone(), self.pages.clone());
        let walk = Walk {
            assembler: Assembler::new(range.clone()),
            reader: self,
            range,
            units: plan.units().peekable(),
            fetches: FuturesOrdered::new(),
            pages_fetched: 0,
            pages_ahead: 0,
            waited: false,
            failed: None,
        };
        stream::try_unfold(walk, Walk::next).boxed()
    }

    /// The index over segments that metadata name, checked.
    pub async fn chain_index(&self, record: &ChainIndexRecord) -> Result<ChainIndex, ReadError> {
        let (object, len) = (record.row.object, record.object_len);
        if len > CHAIN_INDEX_LEN_MAX {
            return Err(ReadError::Corrupt {
                object,
                offset: 0,
                why: "it is too long for an index".into(),
            });
        }
        checked::read(&self.pages, (object, len), 0..len, |bytes| {
            chain::decode(record, bytes)
        })
        .await
    }

    /// Room for pages that are not needed at once, or `None`: then they are fetched when they are.
    fn room_ahead(&self, unit: &Unit) -> Option<OwnedSemaphorePermit> {
        self.ahead.clone().try_acquire_many_owned(unit.page_bytes()).ok()
    }
}

struct Fetched {
    unit: Unit,
    pages: Result<Vec<Bytes>, PageError>,
    /// Held until the pages are taken.
    _room: Option<OwnedSemaphorePermit>,
}

/// One reader on its way. The unit that is due is always fetched; those behind it as far as there is room on the node.
struct Walk {
    reader: Arc<SegmentReader>,
    range: SegmentRange,
    units: Peekable<BoxStream<'static, Result<Unit, ReadError>>>,
    fetches: FuturesOrdered<BoxFuture<'static, Fetched>>,
    /// Pages of all fetches.
    pages_fetched: u32,
    /// Pages that may be fetched beyond the unit that is due; grows when the reader has to wait for them.
    pages_ahead: u32,
    /// The unit that is due was not there when the reader came for it.
    waited: bool,
    assembler: Assembler,
    /// The frame that failed its check last, and how often it did.
    failed: Option<(SegmentObjectId, u64, u32)>,
}

/// What happens first.
enum Progress {
    Fetched(Fetched),
    /// The next unit is known, or that there is none, or that it cannot be found out.
    Planned,
}

impl Walk {
    async fn next(mut self) -> Result<Option<(Vec<Frame>, Self)>, ReadError> {
        while !self.assembler.is_done() {
            if self.fetches.is_empty() {
                match self.units.next().await.transpose()? {
                    None => return Ok(None),
                    Some(unit) => self.fetch(unit, None),
                }
            }
            // The reader takes what is there, and others are on their way when it comes back.
            while self.fetch_ahead() {}
            if let Progress::Fetched(fetched) = self.progress().await {
                let frames = self.take(fetched).await?;
                if !frames.is_empty() {
                    return Ok(Some((frames, self)));
                }
            }
        }
        Ok(None)
    }

    /// The unit that is due comes first; while it is on its way, the one behind the last fetch is looked for.
    async fn progress(&mut self) -> Progress {
        if let Some(Some(fetched)) = self.fetches.next().now_or_never() {
            return Progress::Fetched(fetched);
        }
        self.waited = true;
        let mut units = Pin::new(&mut self.units);
        let look_ahead = self.pages_ahead > 0 && units.as_mut().peek().now_or_never().is_none();
        tokio::select! {
            biased;
            Some(fetched) = self.fetches.next() => Progress::Fetched(fetched),
            _ = units.as_mut().peek(), if look_ahead => Progress::Planned,
        }
    }

    /// Starts to fetch the next unit, if it is known and there is room for it. A failure to find it is kept
    /// until everything before it was taken.
    fn fetch_ahead(&mut self) -> bool {
        // The unit that is due, and those ahead.
        let fetched_max = plan::PAGES_PER_UNIT + self.pages_ahead;
        let room = match Pin::new(&mut self.units).peek().now_or_never() {
            Some(Some(Ok(unit))) if self.pages_fetched + unit.page_count() <= fetched_max => {
                self.reader.room_ahead(unit)
            }
            _ => None,
        };
        let Some(room) = room else { return false };
        // What was just looked at is taken without waiting.
        match self.units.next().now_or_never() {
            Some(Some(Ok(unit))) => self.fetch(unit, Some(room)),
            _ => return false,
        }
        true
    }

    fn fetch(&mut self, unit: Unit, room: Option<OwnedSemaphorePermit>) {
        self.pages_fetched += unit.page_count();
        let (cache, segment, pages) = (self.reader.pages.clone(), unit.segment.clone(), unit.pages());
        // In a task of its own it goes on while the reader is busy.
        let fetch = AbortOnDropHandle::new(tokio::spawn(async move {
            cache.pages(segment.object, segment.object_len, pages).await
        }));
        let fetched = async move {
            let pages = match fetch.await {
                Ok(pages) => pages,
                Err(error) => match error.try_into_panic() {
                    Ok(panic) => std::panic::resume_unwind(panic),
                    Err(_) => Err(StoreError::Retry("shutting down".into()).into()),
                },
            };
            Fetched {
                unit,
                pages,
                _room: room,
            }
        };
        self.fetches.push_back(fetched.boxed());
    }

    /// The frames that are complete with these pages.
    async fn take(&mut self, fetched: Fetched) -> Result<Vec<Frame>, ReadError> {
        let Fetched { unit, pages, _room } = fetched;
        self.pages_fetched -= unit.page_count();
        if std::mem::take(&mut self.waited) {
            self.pages_ahead = (self.pages_ahead * 2).clamp(PAGES_AHEAD_AT_FIRST, PAGES_AHEAD_MAX);
        }
        let mut frames = Vec::new();
        if let Err(bad) = self.assembler.take(&unit, pages?, &mut frames) {
            self.reload(unit, bad).await?;
        }
        Ok(frames)
    }

    /// Drops what does not hold together and goes on from there with new copies of the pages.
    async fn reload(&mut self, unit: Unit, bad: BadFrame) -> Result<(), ReadError> {
        let object = unit.segment.object;
        let BadFrame {
            offset,
            first_seq,
            error,
            pages,
        } = bad;
        tracing::warn!(%object, offset, %error, "a frame of a segment object fails its check");
        let before = match self.failed {
            Some((failed, at, times)) if (failed, at) == (object, offset) => times,
            _ => 0,
        };
        for (page, seen) in pages {
            self.reader.pages.forget(object, page, &seen).await;
        }
        if before == RELOADS_MAX {
            return Err(ReadError::Corrupt {
                object,
                offset,
                why: error.to_string(),
            });
        }
        self.failed = Some((object, offset, before + 1));
        // Everything behind the frame is planned anew; what was fetched of it is in the cache.
        self.fetches = FuturesOrdered::new();
        self.pages_fetched = 0;
        let plan = Plan::resume(
            self.range.clone(),
            self.reader.pages.clone(),
            unit.segment,
            offset,
            first_seq,
        );
        self.units = plan.units().peekable();
        Ok(())
    }
}
