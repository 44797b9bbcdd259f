//! Reads of segments, of the objects that hold them, and of what is to be cleaned up.

use millrace_api::id::{ChannelId, StreamId};
use millrace_api::segment::SegmentObjectId;

use super::{View, page_limit};
use crate::error::StoreError;
use crate::state::record::StreamRecord;
use crate::state::segment::{SegmentObjectRecord, SegmentObjectRow};
use crate::state::table::*;

/// An object whose bytes are to be deleted, with its place in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadObjectRecord {
    pub object: SegmentObjectId,
    /// Bytes.
    pub len: u64,
    /// Since when no segment names it.
    pub dead_at_ms: u64,
    /// To go on after this one.
    pub cursor: DeadObjectCursor,
}

/// A place in the queue of dead objects: oldest death in the log first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct DeadObjectCursor(u64, SegmentObjectId);

/// A limit of 0 or above 1000 means 1000, in all of these.
impl View<'_> {
    /// `None` for an object that was never committed, or is forgotten, or whose row is in an index.
    pub fn segment_object(&self, id: SegmentObjectId) -> Result<Option<SegmentObjectRecord>, StoreError> {
        let row = self.state.row::<SegmentObjects>(&id)?;
        Ok(row.map(|row| row.record(id)))
    }

    /// The first `limit` objects after `after` that this channel wrote, or any did, dead ones included, in order of
    /// their names.
    pub fn segment_objects(
        &self,
        channel: Option<ChannelId>,
        after: Option<SegmentObjectId>,
        limit: usize,
    ) -> Result<Vec<SegmentObjectRecord>, StoreError> {
        let prefix = channel.map_or(Vec::new(), |channel| channel.0.to_be_bytes().to_vec());
        let after = after.map(|id| SegmentObjects::key(&id));
        let rows = self
            .state
            .rows::<SegmentObjects>(&prefix, after.as_deref(), page_limit(limit))?;
        let record = |(id, row): (SegmentObjectId, SegmentObjectRow)| row.record(id);
        Ok(rows.into_iter().map(record).collect())
    }

    /// Up to `limit` dead objects after the cursor.
    pub fn dead_objects(
        &self,
        after: Option<DeadObjectCursor>,
        limit: usize,
    ) -> Result<Vec<DeadObjectRecord>, StoreError> {
        let after = after.map(|DeadObjectCursor(index, id)| DeadObjects::key(&(index, id)));
        self.state
            .rows::<DeadObjects>(&[], after.as_deref(), page_limit(limit))?
            .into_iter()
            .map(|((index, id), ())| {
                let object = self.named_object(&id)?;
                let dead_at_ms = object.dead_at_ms.ok_or_else(|| {
                    StoreError::corrupt("dead_objects", format_args!("object {id} is live"))
                })?;
                Ok(DeadObjectRecord {
                    object: id,
                    len: object.len,
                    dead_at_ms,
                    cursor: DeadObjectCursor(index, id),
                })
            })
            .collect()
    }

    /// Up to `limit` streams after `after` that have segments wholly below their trim point, in order of their ids.
    pub fn trimmed_streams(
        &self,
        after: Option<StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamId>, StoreError> {
        let after = after.map(|id| TrimmedStreams::key(&id));
        let rows = self
            .state
            .rows::<TrimmedStreams>(&[], after.as_deref(), page_limit(limit))?;
        Ok(rows.into_iter().map(|(id, ())| id).collect())
    }

    /// Up to `limit` streams of all basins after `after`, deleting ones included, in order of their ids.
    pub fn streams_after(
        &self,
        after: Option<StreamId>,
        limit: usize,
    ) -> Result<Vec<StreamRecord>, StoreError> {
        let after = after.map(|id| Streams::key(&id));
        let rows = self
            .state
            .rows::<Streams>(&[], after.as_deref(), page_limit(limit))?;
        Ok(rows.into_iter().map(|(_, stream)| stream).collect())
    }

    /// An object that another row names.
    pub(super) fn named_object(&self, id: &SegmentObjectId) -> Result<SegmentObjectRecord, StoreError> {
        self.segment_object(*id)?
            .ok_or_else(|| StoreError::corrupt("segment_objects", format_args!("no object {id}")))
    }
}
