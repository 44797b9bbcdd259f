//! Indexes over the oldest segments of long chains: written to the store and named in metadata, and read back when
//! what they have is to go.
//!
//! - An index is in the store before it is proposed. Metadata compute by themselves what it should say; one that comes
//!   too late is dead from the start.
//! - Segments go one by one, by commands on their rows: an index that comes first is unpacked for that. Every step may
//!   be repeated, by any node.

use std::sync::Arc;

use bytes::Bytes;
use millrace_api::id::{ChannelId, Epoch, FlushSeq, StreamId};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_raft::command::{
    DROP_LIMIT_MAX, DropSegments, ExpireSegments, FlushedObject, PackChain, SegmentsDropped, UnpackChain,
};
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_raft::query::{ChainIndexRecord, ChainLink, PackedSegment, SegmentRow};
use millrace_wal::segment::{ChainEntry, ChainIndex};
use millrace_wal::{FormatError, Payload, ReadRange, StoreError, ZoneStore};

use crate::cache::PageCache;
use crate::env::Env;
use crate::storage::checked::read_checked;

/// One per node.
#[derive(Clone)]
pub struct Chains {
    pub env: Env,
    pub meta: Meta,
    pub store: Arc<dyn ZoneStore>,
    pub cache: Arc<PageCache>,
}

/// Why a chain was neither made shorter nor packed. Nothing is lost by trying again.
#[derive(Debug, thiserror::Error)]
pub enum ChainError {
    #[error("metadata: {0}")]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("chain index {object} is corrupt: {cause}")]
    Corrupt {
        object: SegmentObjectId,
        cause: FormatError,
    },
    #[error("chain index {0} is missing")]
    Missing(SegmentObjectId),
}

impl From<millrace_raft::error::StoreError> for ChainError {
    fn from(error: millrace_raft::error::StoreError) -> Self {
        Self::Meta(error.into())
    }
}

impl Chains {
    /// Moves segments of a stream that follow each other into an index, as the owner of the channel in this epoch,
    /// under the next number of its indexes. No `attempt` at one number may be made twice: their indexes have different
    /// bytes.
    ///
    /// `Ok` also if it came too late: answers how many segments are in the index now, all or none.
    pub async fn pack(
        &self,
        (channel, epoch, pack_seq): (ChannelId, Epoch, FlushSeq),
        attempt: u32,
        stream: StreamId,
        segments: &[PackedSegment],
    ) -> Result<u32, ChainError> {
        let (Some(first), Some(last)) = (segments.first(), segments.last()) else {
            return Ok(0);
        };
        let id = SegmentObjectId {
            channel,
            epoch,
            origin: SegmentOrigin::Index,
            seq: pack_seq,
            part: attempt,
        };
        let index = ChainIndex {
            id,
            stream,
            entries: segments.iter().map(entry).collect(),
        };
        let payload = Payload::from(index.encode());
        self.store.upload(&id.to_string(), &payload).await?;
        self.cache.insert_fresh(id, &payload).await;
        let command = PackChain {
            channel,
            epoch,
            pack_seq,
            object: FlushedObject {
                part: attempt,
                len: payload.len(),
            },
            stream,
            first_seq: first.row.first_seq,
            end_seq: last.end_seq,
            segments: segments.len() as u32,
            checksum: PackedSegment::checksum(segments),
            now_ms: self.env.now_ms(),
        };
        let packed = self.meta.propose(command).await?;
        tracing::debug!(%channel, %stream, index = %id, segments = packed.segments, "packed segments");
        Ok(packed.segments)
    }

    /// Drops, step by step, what nobody may read any more of the stream; whether all of it is gone.
    pub async fn drop_segments(&self, stream: StreamId) -> Result<bool, ChainError> {
        self.shorten(stream, || {
            let now_ms = self.env.now_ms();
            let limit = DROP_LIMIT_MAX;
            self.meta.propose(DropSegments {
                stream,
                limit,
                now_ms,
            })
        })
        .await
    }

    /// Lets go of what was appended before the horizon, step by step; whether all of it is gone.
    pub async fn expire(&self, stream: StreamId, horizon_ms: u64) -> Result<bool, ChainError> {
        self.shorten(stream, || {
            self.meta.propose(ExpireSegments {
                stream,
                appended_before_ms: horizon_ms,
                limit: DROP_LIMIT_MAX,
                now_ms: self.env.now_ms(),
            })
        })
        .await
    }

    async fn shorten<F>(&self, stream: StreamId, step: impl Fn() -> F) -> Result<bool, ChainError>
    where
        F: Future<Output = Result<SegmentsDropped, MetaError>>,
    {
        loop {
            match step().await {
                Ok(step) if step.done => return Ok(true),
                Ok(step) if step.packed => self.unpack_first(stream).await?,
                Ok(_) => {}
                Err(MetaError::Refused(_)) => return Ok(false),
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// If an index comes first in the chain, its segments have rows again when this returns `Ok`.
    async fn unpack_first(&self, stream: StreamId) -> Result<(), ChainError> {
        // What was answered may be news to this node.
        self.meta.linearize().await?;
        let first = self.meta.state().chain(stream, 0, 1)?.into_iter().next();
        let Some(ChainLink::Index(record)) = first else {
            return Ok(());
        };
        let index = self.read(&record).await?;
        let command = UnpackChain {
            stream,
            index: record.row.object,
            segments: index.entries.iter().map(packed).collect(),
            now_ms: self.env.now_ms(),
        };
        let unpacked = self.meta.propose(command).await?;
        tracing::debug!(%stream, index = %index.id, segments = unpacked.segments, "unpacked segments");
        Ok(())
    }

    /// The index, from the store itself.
    async fn read(&self, record: &ChainIndexRecord) -> Result<ChainIndex, ChainError> {
        let object = record.row.object;
        let check = |bytes: Bytes| decode(record, &bytes);
        let index = read_checked(&*self.store, &object.to_string(), ReadRange::Full, check).await?;
        let index = index.ok_or(ChainError::Missing(object))?;
        index.map_err(|cause| ChainError::Corrupt { object, cause })
    }
}

/// The index that metadata name, out of its bytes. An error also for another one, or one of which metadata say
/// something else.
pub fn decode(record: &ChainIndexRecord, bytes: &[u8]) -> Result<ChainIndex, FormatError> {
    let index = ChainIndex::decode(bytes)?;
    let (row, entries) = (&record.row, &index.entries);
    let first = entries.first().map(|entry| entry.first_seq);
    let end = entries.last().map(|entry| entry.end_seq);
    let meant = index.id == row.object
        && index.stream == record.stream
        && entries.len() == row.segments as usize
        && (first, end) == (Some(row.first_seq), Some(record.end_seq));
    match meant {
        true => Ok(index),
        false => Err(FormatError::Mismatch { what: "chain index" }),
    }
}

/// What metadata would say of an entry.
pub fn packed(entry: &ChainEntry) -> PackedSegment {
    PackedSegment {
        end_seq: entry.end_seq,
        row: SegmentRow {
            first_seq: entry.first_seq,
            first_timestamp: entry.first_timestamp,
            last_timestamp: entry.last_timestamp,
            object: entry.object,
            offset: entry.offset,
            frames_len: entry.frames_len,
            index_len: entry.index_len,
            metered_bytes: entry.metered_bytes,
            appended_before_ms: entry.appended_before_ms,
        },
        object_len: entry.object_len,
        committed_at_ms: entry.committed_at_ms,
        alone: entry.alone,
    }
}

fn entry(packed: &PackedSegment) -> ChainEntry {
    let row = &packed.row;
    ChainEntry {
        first_seq: row.first_seq,
        end_seq: packed.end_seq,
        first_timestamp: row.first_timestamp,
        last_timestamp: row.last_timestamp,
        metered_bytes: row.metered_bytes,
        object: row.object,
        offset: row.offset,
        frames_len: row.frames_len,
        index_len: row.index_len,
        object_len: packed.object_len,
        committed_at_ms: packed.committed_at_ms,
        appended_before_ms: row.appended_before_ms,
        alone: packed.alone,
    }
}
