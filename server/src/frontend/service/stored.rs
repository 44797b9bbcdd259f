//! Records that come from storage: out of chunks, or out of segments.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use millrace_api::id::StreamId;
use millrace_api::position::SeqNum;
use millrace_raft::group::Meta;
use millrace_raft::query::SegmentRecord;
use millrace_wal::Frame;
use tokio::time::timeout;

use super::Frontend;
use crate::channel::message::Seek;
use crate::chunk_reader::{self, ChunkRange};
use crate::segment_reader::{self, SegmentRange, SegmentRef, SegmentSource, SourceError};

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

    /// What is below `end` and at or above `floor`, in the segments that metadata name at the log index `known_at`.
    pub(super) fn in_segments(
        &self,
        stream: StreamId,
        seek: Seek,
        floor: SeqNum,
        end: SeqNum,
        known_at: u64,
    ) -> Stored {
        let source = Arc::new(Segments {
            meta: self.meta.clone(),
            known_at,
        });
        let range = SegmentRange {
            stream,
            seek,
            floor,
            end,
            source,
        };
        let frames = self.segments.clone().frames(range).map_err(|error| match error {
            segment_reader::ReadError::Gone(_) => Unread::Moved,
            error => Unread::Failed(error.to_string()),
        });
        Stored {
            frames: frames.boxed(),
            end,
        }
    }
}

/// Segments that metadata name.
struct Segments {
    meta: Meta,
    known_at: u64,
}

#[async_trait]
impl SegmentSource for Segments {
    async fn segments(
        &self,
        stream: StreamId,
        from_seq: SeqNum,
        limit: usize,
    ) -> Result<Vec<SegmentRef>, SourceError> {
        let failed = |error: &dyn std::fmt::Display| SourceError(error.to_string());
        match timeout(CATCH_UP_TIMEOUT, self.meta.wait_applied(self.known_at)).await {
            Ok(applied) => applied.map_err(|error| failed(&error))?,
            Err(_) => return Err(failed(&"this node's metadata are too far behind")),
        }
        let segments = self.meta.state().segments(stream, from_seq, limit);
        let segments = segments.map_err(|error| failed(&error))?;
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
