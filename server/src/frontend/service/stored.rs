//! Records that come from storage: out of chunks, or out of segments.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::TryFutureExt;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use millrace_api::id::StreamId;
use millrace_api::position::{SeqNum, Timestamp};
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_raft::query::{ChainLink, SegmentRecord, SegmentRow};
use millrace_wal::Frame;
use millrace_wal::segment::ChainEntry;
use tokio::time::timeout;

use super::Frontend;
use crate::chain::packed;
use crate::channel::message::Seek;
use crate::chunk_reader::{self, ChunkRange};
use crate::segment_reader::{self, ReadError, SegmentRange, SegmentReader, SegmentRef, SegmentSource};

/// How long this node's state may take to hear of a flush that a channel's owner knows of.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(5);

/// Records on their way from storage.
pub(super) struct Stored {
    /// In order and without gap, but for what is gone.
    pub frames: BoxStream<'static, Result<Vec<Frame>, Unread>>,
    /// Exclusive: what follows has to be asked for.
    pub end: SeqNum,
}

/// Why records did not come.
#[derive(Debug)]
pub(super) enum Unread {
    /// They are somewhere else by now, or gone: whoever serves the stream knows.
    Moved,
    Failed(String),
}

impl Frontend {
    pub(super) fn in_chunks(&self, range: ChunkRange) -> Stored {
        let end = range.end;
        let frames = self.chunks.clone().frames(range).map_err(|error| match error {
            chunk_reader::ReadError::Missing(_)
            | chunk_reader::ReadError::Wal(millrace_wal::ReadError::Gone(_)) => Unread::Moved,
            error => Unread::Failed(error.to_string()),
        });
        Stored {
            frames: frames.boxed(),
            end,
        }
    }

    /// What is left below `end` and at or above `floor`, in the segments that metadata name at the log index
    /// `known_at` or later.
    pub(super) fn in_segments(
        &self,
        stream: StreamId,
        seek: Seek,
        floor: SeqNum,
        end: SeqNum,
        known_at: u64,
    ) -> Stored {
        let (meta, reader) = (self.meta.clone(), self.segments.clone());
        let frames = async move {
            let kept_from = kept_from(&meta, stream, known_at).await?;
            let range = SegmentRange {
                stream,
                seek,
                floor: floor.max(kept_from),
                end,
                source: Arc::new(Segments {
                    meta,
                    reader: reader.clone(),
                }),
            };
            Ok(reader.frames(range).map_err(Unread::from))
        };
        Stored {
            frames: frames.try_flatten_stream().boxed(),
            end,
        }
    }
}

impl From<segment_reader::ReadError> for Unread {
    fn from(error: segment_reader::ReadError) -> Self {
        use segment_reader::ReadError::{Gone, Missing};
        match error {
            Gone(_) | Missing(_) => Self::Moved,
            error => Self::Failed(error.to_string()),
        }
    }
}

/// The first record that neither a trim nor its age has let go, as metadata say at `known_at` or later. Its owner may
/// not know how old its records are.
async fn kept_from(meta: &Meta, stream: StreamId, known_at: u64) -> Result<SeqNum, Unread> {
    let failed = |error: &dyn std::fmt::Display| Unread::Failed(error.to_string());
    match timeout(CATCH_UP_TIMEOUT, meta.wait_applied(known_at)).await {
        Ok(applied) => applied.map_err(|error| failed(&error))?,
        Err(_) => return Err(failed(&"this node's metadata are too far behind")),
    }
    let record = meta
        .state()
        .stream_by_id(stream)
        .map_err(|error| failed(&error))?;
    record.map(|record| record.trim).ok_or(Unread::Moved)
}

/// Segments that metadata name, or an index that they name.
struct Segments {
    meta: Meta,
    reader: Arc<SegmentReader>,
}

#[async_trait]
impl SegmentSource for Segments {
    async fn segments(
        &self,
        stream: StreamId,
        from_seq: SeqNum,
        limit: usize,
    ) -> Result<Vec<SegmentRef>, ReadError> {
        let links = self.meta.state().chain(stream, from_seq, limit);
        let links = links.map_err(MetaError::from)?;
        if let Some(ChainLink::Index(record)) = links.first() {
            let index = self.reader.chain_index(record).await?;
            let behind = index.entries.partition_point(|entry| entry.end_seq <= from_seq);
            let wanted = index.entries[behind..].iter().take(limit);
            let entry = |entry: &ChainEntry| segment_ref(entry.end_seq, &packed(entry).row, entry.object_len);
            return Ok(wanted.map(entry).collect());
        }
        // What is in an index is asked for by itself.
        let segments = links.iter().map_while(ChainLink::segment);
        Ok(segments.map(named).collect())
    }

    async fn seek(
        &self,
        stream: StreamId,
        from_seq: SeqNum,
        timestamp: Timestamp,
    ) -> Result<Option<SeqNum>, ReadError> {
        let link = self.meta.state().chain_at_time(stream, from_seq, timestamp);
        let begin = match link.map_err(MetaError::from)? {
            None => return Ok(None),
            Some(ChainLink::Segment(segment)) => segment.row.first_seq,
            Some(ChainLink::Index(record)) => {
                let index = self.reader.chain_index(&record).await?;
                let before = |entry: &ChainEntry| entry.last_timestamp < timestamp;
                let at = index.entries.partition_point(before);
                index
                    .entries
                    .get(at)
                    .map_or(record.row.first_seq, |entry| entry.first_seq)
            }
        };
        Ok(Some(begin.max(from_seq)))
    }
}

fn named(segment: &SegmentRecord) -> SegmentRef {
    let SegmentRecord {
        end_seq,
        row,
        object_len,
        ..
    } = *segment;
    segment_ref(end_seq, &row, object_len)
}

fn segment_ref(end_seq: SeqNum, row: &SegmentRow, object_len: u64) -> SegmentRef {
    SegmentRef {
        object: row.object,
        object_len,
        offset: row.offset,
        frames_len: row.frames_len,
        index_len: row.index_len,
        first_seq: row.first_seq,
        end_seq,
        first_timestamp: row.first_timestamp,
        last_timestamp: row.last_timestamp,
    }
}
