//! Reads a stream's older records back from chunks, by their footers.

use std::sync::Arc;

use futures::stream::{self, BoxStream, StreamExt, TryStreamExt};
use millrace_api::id::{StreamId, StreamletId};
use millrace_api::position::SeqNum;
use millrace_wal::{ChunkId, Footer, FooterEntry, Frame, Wal};
use moka::future::Cache;
use tokio::sync::Semaphore;

use crate::channel::log::{ChunkLog, LogPosition};
use crate::channel::message::Seek;

/// Bytes that one request to a store asks for, unless a single frame is larger.
const PIECE_BYTES: u64 = 1024 * 1024;
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

/// Why records could not be read back. They are still stored, unless it is [`ReadError::Missing`] or corrupt in every
/// copy.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    #[error(transparent)]
    Wal(#[from] millrace_wal::ReadError),
    #[error("chunk {} is missing", .0.key())]
    Missing(ChunkId),
}

/// One per node.
pub struct ChunkReader {
    wal: Wal,
    footers: Cache<ChunkId, Arc<Footer>>,
    /// Bytes that all readers together may have asked for and not taken yet.
    ahead: Arc<Semaphore>,
    ahead_bytes: usize,
}

/// Frames of one chunk that one request fetches.
struct Piece {
    chunk: ChunkId,
    footer: Arc<Footer>,
    /// Adjacent entries of the footer.
    entries: std::ops::Range<usize>,
    bytes: u64,
}

impl ChunkReader {
    pub fn new(wal: Wal, footer_cache_bytes: usize, read_ahead_bytes: usize) -> Self {
        let footers = Cache::builder()
            .weigher(|_, footer: &Arc<Footer>| {
                u32::try_from(footer.entries.len() * size_of::<FooterEntry>() + 256).unwrap_or(u32::MAX)
            })
            .max_capacity(footer_cache_bytes as u64)
            .build();
        Self {
            wal,
            footers,
            ahead: Arc::new(Semaphore::new(read_ahead_bytes)),
            ahead_bytes: read_ahead_bytes,
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
        walk.map_ok(|pieces| stream::iter(pieces.into_iter().map(Ok)))
            .try_flatten()
            .map_ok(move |piece| self.clone().fetch(piece))
            .try_buffered(PIECES_AHEAD)
            .boxed()
    }

    /// Looks at one chunk. `None` when the walk is over.
    async fn step(&self, range: ChunkRange, position: Option<LogPosition>) -> Result<Step, ReadError> {
        let Some(position) = position else { return Ok(None) };
        let chunk = range.log.chunk_id(position);
        let footer = self.footer(chunk).await?;
        let of_stream = |entry: &FooterEntry| {
            entry.header.stream == range.stream && entry.header.streamlet == range.streamlet
        };
        let over = footer
            .entries
            .iter()
            .any(|entry| of_stream(entry) && entry.header.first_seq >= range.end);
        let wanted = |entry: &FooterEntry| of_stream(entry) && range.wants(entry);
        let pieces = plan(chunk, &footer, wanted);
        let next = if over { None } else { range.log.after(position) };
        Ok(Some((pieces, (range, next))))
    }

    async fn footer(&self, chunk: ChunkId) -> Result<Arc<Footer>, ReadError> {
        if let Some(footer) = self.footers.get(&chunk).await {
            return Ok(footer);
        }
        let footer = self.wal.footer(chunk).await?.ok_or(ReadError::Missing(chunk))?;
        self.footers.insert(chunk, footer.clone()).await;
        Ok(footer)
    }

    async fn fetch(self: Arc<Self>, piece: Piece) -> Result<Vec<Frame>, ReadError> {
        let bytes = usize::try_from(piece.bytes)
            .unwrap_or(usize::MAX)
            .min(self.ahead_bytes);
        let permits = u32::try_from(bytes).expect("bounded by a setting below 4 GiB");
        let _room = self
            .ahead
            .acquire_many(permits)
            .await
            .expect("the semaphore is never closed");
        Ok(self
            .wal
            .frames(piece.chunk, &piece.footer.entries[piece.entries])
            .await?)
    }
}

type Step = Option<(Vec<Piece>, (ChunkRange, Option<LogPosition>))>;

impl ChunkRange {
    fn wants(&self, entry: &FooterEntry) -> bool {
        let header = &entry.header;
        let end = header.end_seq();
        let sought = match self.seek {
            Seek::SeqNum(seq_num) => end > seq_num,
            Seek::Timestamp(timestamp) => header.last_timestamp >= timestamp,
        };
        sought && end > self.floor && header.first_seq < self.end
    }
}

/// Groups the wanted entries into runs that are adjacent in the chunk.
fn plan(chunk: ChunkId, footer: &Arc<Footer>, wanted: impl Fn(&FooterEntry) -> bool) -> Vec<Piece> {
    let mut pieces: Vec<Piece> = Vec::new();
    for (index, entry) in footer
        .entries
        .iter()
        .enumerate()
        .filter(|(_, entry)| wanted(entry))
    {
        let bytes = entry.header.frame_len();
        match pieces.last_mut() {
            Some(piece) if piece.entries.end == index && piece.bytes + bytes <= PIECE_BYTES => {
                piece.entries.end += 1;
                piece.bytes += bytes;
            }
            _ => pieces.push(Piece {
                chunk,
                footer: footer.clone(),
                entries: index..index + 1,
                bytes,
            }),
        }
    }
    pieces
}
