//! Reads of the chain of a stream: its segments, and the indexes that stand for many of them.

use millrace_api::id::StreamId;
use millrace_api::position::{SeqNum, Timestamp};
use millrace_api::segment::SegmentObjectId;

use super::{View, page_limit};
use crate::error::StoreError;
use crate::state::segment::{ChainIndexRecord, ChainRow, PackedSegment, SegmentObjectRecord, SegmentRecord};
use crate::state::table::*;

/// One link of a chain. Links tile their stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ChainLink {
    Segment(SegmentRecord),
    Index(ChainIndexRecord),
}

/// An index, and where those objects are whose rows it has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChainIndexNames {
    pub index: SegmentObjectId,
    pub stream: StreamId,
    /// First and last, both inclusive, channel by channel.
    pub names: Vec<(SegmentObjectId, SegmentObjectId)>,
}

impl ChainLink {
    pub fn segment(&self) -> Option<&SegmentRecord> {
        match self {
            Self::Segment(segment) => Some(segment),
            Self::Index(_) => None,
        }
    }

    pub fn first_seq(&self) -> SeqNum {
        match self {
            Self::Segment(segment) => segment.row.first_seq,
            Self::Index(index) => index.row.first_seq,
        }
    }

    /// Exclusive.
    pub fn end_seq(&self) -> SeqNum {
        match self {
            Self::Segment(segment) => segment.end_seq,
            Self::Index(index) => index.end_seq,
        }
    }

    pub fn first_timestamp(&self) -> Timestamp {
        match self {
            Self::Segment(segment) => segment.row.first_timestamp,
            Self::Index(index) => index.row.first_timestamp,
        }
    }

    pub fn last_timestamp(&self) -> Timestamp {
        match self {
            Self::Segment(segment) => segment.row.last_timestamp,
            Self::Index(index) => index.row.last_timestamp,
        }
    }

    /// What metadata name: the segment's object, or the index.
    pub fn object(&self) -> SegmentObjectId {
        match self {
            Self::Segment(segment) => segment.row.object,
            Self::Index(index) => index.row.object,
        }
    }

    /// Of its first segment.
    pub fn first_appended_before_ms(&self) -> u64 {
        match self {
            Self::Segment(segment) => segment.row.appended_before_ms,
            Self::Index(index) => index.row.first_appended_before_ms,
        }
    }
}

impl View<'_> {
    /// The first `limit` links of a stream's chain that end behind `from_seq`, in order: the first holds `from_seq` if
    /// any does. Each begins where the one before it ends. A stream that does not exist has none. A limit of 0 or above
    /// 1000 means 1000.
    pub fn chain(
        &self,
        stream: StreamId,
        from_seq: SeqNum,
        limit: usize,
    ) -> Result<Vec<ChainLink>, StoreError> {
        let before = from_seq.checked_sub(1).map(|seq| Segments::key(&(stream, seq)));
        let rows = self
            .state
            .rows::<Segments>(&stream.to_bytes(), before.as_deref(), page_limit(limit))?;
        let mut known: Option<SegmentObjectRecord> = None;
        rows.into_iter()
            .map(|((_, last), row)| {
                let id = match &row {
                    ChainRow::Segment(row) => row.object,
                    ChainRow::Index(row) => row.object,
                };
                // Neighbours are often in one object.
                let object = match known.filter(|known| known.object == id) {
                    Some(known) => known,
                    None => self.named_object(&id)?,
                };
                known = Some(object);
                let (end_seq, object_len) = (last + 1, object.len);
                Ok(match row {
                    ChainRow::Segment(row) => ChainLink::Segment(SegmentRecord {
                        stream,
                        end_seq,
                        row,
                        object_len,
                    }),
                    ChainRow::Index(row) => ChainLink::Index(ChainIndexRecord {
                        stream,
                        end_seq,
                        row,
                        object_len,
                    }),
                })
            })
            .collect()
    }

    /// The first link behind `from_seq` that ends at this time or later; `None` if none does. Looks at about as many
    /// links as the number of the stream's records has binary digits.
    pub fn chain_at_time(
        &self,
        stream: StreamId,
        from_seq: SeqNum,
        timestamp: Timestamp,
    ) -> Result<Option<ChainLink>, StoreError> {
        let tail = self.state.row::<Streams>(&stream)?;
        // The link sought ends behind `low`, and if it is not the one that was found, before `high`.
        let (mut low, mut high) = (from_seq, tail.map_or(0, |stream| stream.tail.seq_num));
        let mut found = None;
        while low < high {
            let middle = low + (high - low) / 2;
            let Some(link) = self.chain(stream, middle, 1)?.into_iter().next() else {
                high = middle;
                continue;
            };
            if link.last_timestamp() < timestamp {
                low = link.end_seq();
            } else {
                high = middle.min(link.first_seq());
                found = Some(link);
            }
        }
        Ok(found)
    }

    /// What an index over segments of a stream, as they stand in metadata from `first_seq` on, would hold of them: up
    /// to `limit`, and up to the first link that is no segment.
    pub fn packable(
        &self,
        stream: StreamId,
        first_seq: SeqNum,
        limit: usize,
    ) -> Result<Vec<PackedSegment>, StoreError> {
        let mut packable: Vec<PackedSegment> = Vec::new();
        while packable.len() < limit {
            let from_seq = packable.last().map_or(first_seq, |last| last.end_seq);
            let page = page_limit(limit - packable.len());
            let links = self.chain(stream, from_seq, page)?;
            let is_last = links.len() < page;
            for link in links {
                let ChainLink::Segment(SegmentRecord { end_seq, row, .. }) = link else {
                    return Ok(packable);
                };
                let object = self.named_object(&row.object)?;
                packable.push(PackedSegment {
                    end_seq,
                    row,
                    object_len: object.len,
                    committed_at_ms: object.committed_at_ms,
                    alone: object.live_runs == 1,
                });
            }
            if is_last {
                break;
            }
        }
        Ok(packable)
    }

    /// The first `limit` indexes after `after`, in order of their names. A limit of 0 or above 1000 means 1000.
    pub fn chain_indexes(
        &self,
        after: Option<SegmentObjectId>,
        limit: usize,
    ) -> Result<Vec<ChainIndexNames>, StoreError> {
        let after = after.map(|id| ChainIndexes::key(&id));
        let rows = self
            .state
            .rows::<ChainIndexes>(&[], after.as_deref(), page_limit(limit))?;
        let names = |(index, row): (SegmentObjectId, crate::state::segment::ChainIndexRow)| ChainIndexNames {
            index,
            stream: row.stream,
            names: row.names,
        };
        Ok(rows.into_iter().map(names).collect())
    }
}
