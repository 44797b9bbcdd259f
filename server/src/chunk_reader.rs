//! Reads a stream's older records back from chunks, by their footers.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, FutureExt};
use futures::stream::{self, BoxStream, FuturesOrdered, Peekable, StreamExt, TryStreamExt};
use millrace_api::id::{StreamId, StreamletId};
use millrace_api::position::SeqNum;
use millrace_wal::{ChunkId, Footer, FooterEntry, Frame, FrameHeader, FrameKind, Wal};
use moka::future::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::channel::log::{ChunkLog, LogPosition};
use crate::channel::message::Seek;
use crate::wals::Wals;

/// Bytes that one request to a store asks for, unless a single frame is larger.
const PIECE_BYTES: u64 = 1024 * 1024;
/// Bytes of other streams' frames that are fetched along rather than asking twice.
const GAP_BYTES: u64 = 64 * 1024;
/// Waits before a failed read is made again.
const RETRY_PAUSES: [Duration; 3] = [
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(800),
];
/// Requests of one reader that are under way at a time.
const PIECES_AHEAD: usize = 4;

/// Which frames of a stream are wanted.
#[derive(Debug, Clone)]
pub struct ChunkRange {
    pub stream: StreamId,
    pub streamlet: StreamletId,
    /// The walk begins with this chunk.
    pub start: LogPosition,
    /// The first record wanted; frames wholly before it are left out.
    pub seek: Seek,
    /// Records below are not wanted.
    pub floor: SeqNum,
    /// Exclusive.
    pub end: SeqNum,
    pub log: Arc<ChunkLog>,
}

/// Why records could not be read back, after some patience. Whether they are still stored depends: a store that does
/// not answer has lost nothing, a chunk that is missing or corrupt in every copy is lost.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Wal(#[from] millrace_wal::ReadError),
    #[error("chunk {} is missing", .0.key())]
    Missing(ChunkId),
}

/// One per node.
pub struct ChunkReader {
    wals: Wals,
    footers: Cache<ChunkId, Arc<Footer>>,
    /// Bytes that all readers together may hold beyond the piece that each of them takes next.
    ahead: Arc<Semaphore>,
}

/// Frames of one chunk that one request fetches.
struct Piece {
    chunk: ChunkId,
    footer: Arc<Footer>,
    /// Adjacent entries of the footer; those of other streams are fetched along and left out.
    entries: std::ops::Range<usize>,
    /// Where they are in the chunk; `end` is exclusive.
    start: u64,
    end: u64,
    of: (StreamId, StreamletId),
}

impl ChunkReader {
    pub fn new(wals: Wals, footer_cache_bytes: usize, read_ahead_bytes: usize) -> Self {
        let footers = Cache::builder()
            .weigher(|_, footer: &Arc<Footer>| {
                u32::try_from(footer.entries.len() * size_of::<FooterEntry>() + 256).unwrap_or(u32::MAX)
            })
            .max_capacity(footer_cache_bytes as u64)
            .build();
        Self {
            wals,
            footers,
            ahead: Arc::new(Semaphore::new(read_ahead_bytes)),
        }
    }

    /// The frames of the range in order, checked against their CRCs. Nothing is fetched unless the stream is polled;
    /// dropping it ends what is under way.
    pub fn frames(self: Arc<Self>, range: ChunkRange) -> BoxStream<'static, Result<Vec<Frame>, ReadError>> {
        let reader = self.clone();
        let first = range.log.at_or_after(range.start);
        let walk = stream::try_unfold((range, first), move |(range, position)| {
            let reader = reader.clone();
            async move { reader.step(range, position).await }
        });
        let pieces = walk
            .map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok)))
            .try_flatten();
        let ahead = Ahead {
            reader: self,
            pieces: pieces.boxed().peekable(),
            fetches: FuturesOrdered::new(),
        };
        stream::try_unfold(ahead, Ahead::next).boxed()
    }

    /// Looks at one chunk. `None` when the walk is over.
    async fn step(&self, range: ChunkRange, position: Option<LogPosition>) -> Result<Step, ReadError> {
        let Some(position) = position else { return Ok(None) };
        let chunk = range.log.chunk_id(position);
        let footer = self.footer(chunk).await?;
        let of = (range.stream, range.streamlet);
        let over = footer
            .entries
            .iter()
            .any(|entry| is_of(&entry.header, of) && entry.header.end_seq() >= range.end);
        let pieces = plan(chunk, &footer, &range);
        let next = if over { None } else { range.log.after(position) };
        Ok(Some((pieces, (range, next))))
    }

    async fn footer(&self, chunk: ChunkId) -> Result<Arc<Footer>, ReadError> {
        if let Some(footer) = self.footers.get(&chunk).await {
            return Ok(footer);
        }
        let wal = self.wal(chunk)?;
        let footer = patiently(|| wal.footer(chunk))
            .await?
            .ok_or(ReadError::Missing(chunk))?;
        self.footers.insert(chunk, footer.clone()).await;
        Ok(footer)
    }

    async fn fetch(self: Arc<Self>, piece: Piece) -> Result<Vec<Frame>, ReadError> {
        let entries = &piece.footer.entries[piece.entries];
        let wal = self.wal(piece.chunk)?;
        let mut frames = patiently(|| wal.frames(piece.chunk, entries)).await?;
        frames.retain(|frame| is_of(&frame.header, piece.of));
        Ok(frames)
    }

    fn wal(&self, chunk: ChunkId) -> Result<Wal, millrace_wal::ReadError> {
        Ok(self.wals.of_channel(chunk.channel)?)
    }

    /// Room for a piece that is not needed at once, or `None`: then it is fetched when it is.
    fn room_ahead(&self, piece: &Piece) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(piece.end - piece.start).ok()?;
        self.ahead.clone().try_acquire_many_owned(bytes).ok()
    }
}

/// Reads again after a failure that may pass, a few times.
async fn patiently<T, F>(read: impl Fn() -> F) -> Result<T, millrace_wal::ReadError>
where
    F: Future<Output = Result<T, millrace_wal::ReadError>>,
{
    for pause in RETRY_PAUSES {
        match read().await {
            Err(error) if error.retryable() => tokio::time::sleep(pause).await,
            done => return done,
        }
    }
    read().await
}

type Fetch = BoxFuture<'static, (Result<Vec<Frame>, ReadError>, Option<OwnedSemaphorePermit>)>;

/// One reader's pieces. The next one is always fetched; those behind it as far as there is room on the node, which
/// they hold until they are taken.
struct Ahead {
    reader: Arc<ChunkReader>,
    pieces: Peekable<BoxStream<'static, Result<Piece, ReadError>>>,
    fetches: FuturesOrdered<Fetch>,
}

/// What happens first.
enum Progress {
    Fetched(Result<Vec<Frame>, ReadError>),
    /// The next piece is known, or that there is none, or that it cannot be found out.
    Planned,
}

impl Ahead {
    async fn next(mut self) -> Result<Option<(Vec<Frame>, Self)>, ReadError> {
        let mut full = false;
        loop {
            if self.fetches.is_empty() {
                match self.pieces.next().await.transpose()? {
                    None => return Ok(None),
                    Some(piece) => self.fetch(piece, None),
                }
            }
            let look_ahead = !full && self.fetches.len() < PIECES_AHEAD;
            match self.progress(look_ahead).await {
                Progress::Fetched(frames) => return Ok(Some((frames?, self))),
                Progress::Planned => full = !self.fetch_ahead(),
            }
        }
    }

    /// The piece that is due comes first; while it is on its way, the one behind the last fetch is looked for.
    async fn progress(&mut self, look_ahead: bool) -> Progress {
        let mut pieces = Pin::new(&mut self.pieces);
        tokio::select! {
            biased;
            Some((frames, _room)) = self.fetches.next() => Progress::Fetched(frames),
            _ = pieces.as_mut().peek(), if look_ahead => Progress::Planned,
        }
    }

    /// Starts to fetch the piece that was looked for, if there is one and room for it. A failure to find it is kept
    /// until everything before it was taken.
    fn fetch_ahead(&mut self) -> bool {
        let room = match Pin::new(&mut self.pieces).peek().now_or_never() {
            Some(Some(Ok(piece))) => self.reader.room_ahead(piece),
            _ => None,
        };
        let Some(room) = room else { return false };
        // What was just looked at is taken without waiting.
        match self.pieces.next().now_or_never() {
            Some(Some(Ok(piece))) => self.fetch(piece, Some(room)),
            _ => return false,
        }
        true
    }

    fn fetch(&mut self, piece: Piece, room: Option<OwnedSemaphorePermit>) {
        let fetch = self.reader.clone().fetch(piece);
        self.fetches.push_back(async move { (fetch.await, room) }.boxed());
    }
}

type Step = Option<(Vec<Piece>, (ChunkRange, Option<LogPosition>))>;

impl ChunkRange {
    fn wants(&self, entry: &FooterEntry) -> bool {
        let header = &entry.header;
        let end = header.end_seq();
        if !is_of(header, (self.stream, self.streamlet)) {
            return false;
        }
        let sought = match self.seek {
            Seek::SeqNum(seq_num) => end > seq_num,
            Seek::Timestamp(timestamp) => header.last_timestamp >= timestamp,
        };
        sought && end > self.floor && header.first_seq < self.end
    }
}

/// Groups the wanted entries into runs that one request each fetches, over small gaps of other streams' frames.
fn plan(chunk: ChunkId, footer: &Arc<Footer>, range: &ChunkRange) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (index, entry) in footer
        .entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| range.wants(entry))
    {
        match pieces.last_mut() {
            Some(piece)
                if entry.offset <= piece.end + GAP_BYTES && entry.end() <= piece.start + PIECE_BYTES =>
            {
                piece.entries.end = index + 1;
                piece.end = entry.end();
            }
            _ => pieces.push(Piece {
                chunk,
                footer: footer.clone(),
                entries: index..index + 1,
                start: entry.offset,
                end: entry.end(),
                of: (range.stream, range.streamlet),
            }),
        }
    }
    pieces
}

fn is_of(header: &FrameHeader, (stream, streamlet): (StreamId, StreamletId)) -> bool {
    header.kind == FrameKind::Records && header.stream == stream && header.streamlet == streamlet
}

#[cfg(test)]
#[path = "chunk_reader_tests.rs"]
mod tests;
