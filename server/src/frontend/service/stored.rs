//! Records that come from storage: out of chunks, or out of segments.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::TryFutureExt;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use millrace_api::id::StreamId;
use millrace_api::position::SeqNum;
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_raft::query::SegmentRecord;
use millrace_wal::Frame;
use tokio::time::timeout;

use super::Frontend;
use crate::channel::message::Seek;
use crate::chunk_reader::{self, ChunkRange};
use crate::segment_reader::{self, SegmentRange, SegmentRef, SegmentSource};

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
                source: Arc::new(Segments(meta)),
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

/// Segments that metadata name.
struct Segments(Meta);

#[async_trait]
impl SegmentSource for Segments {
    async fn segments(
        &self,
        stream: StreamId,
        from_seq: SeqNum,
        limit: usize,
    ) -> Result<Vec<SegmentRef>, MetaError> {
        let segments = self.0.state().segments(stream, from_seq, limit)?;
        Ok(segments.into_iter().map(segment_ref).collect())
    }
}

fn segment_ref(segment: SegmentRecord) -> SegmentRef {
    let SegmentRecord {
        end_seq,
        row,
        object_len,
        ..
    } = segment;
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
