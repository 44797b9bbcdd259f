//! Where pages come from that are not in memory.

use std::ops::Range;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use millrace_api::segment::SegmentObjectId;
use millrace_wal::ZoneStore;

use super::stats::{CacheStats, count};
use super::store::GuardedStore;
use super::{PageError, page_range};

/// Gives pages when they are asked for, and keeps none.
#[async_trait]
pub(super) trait Source: Send + Sync {
    /// Adjacent pages of an object that is `object_len` bytes long, in order, each in memory of its own.
    async fn fetch(
        &self,
        object: SegmentObjectId,
        object_len: u64,
        pages: Range<u32>,
    ) -> Result<Arc<[Bytes]>, PageError>;

    /// Pages behind this one that are asked for with it end before here.
    fn border_behind(&self, _object: SegmentObjectId, _page: u32) -> u32 {
        u32::MAX
    }
}

/// The object store.
pub(super) struct FromStore {
    store: GuardedStore,
    stats: Arc<CacheStats>,
}

impl FromStore {
    pub(super) fn new(store: Arc<dyn ZoneStore>, stats: Arc<CacheStats>) -> Self {
        Self {
            store: GuardedStore::new(store, stats.clone()),
            stats,
        }
    }
}

#[async_trait]
impl Source for FromStore {
    async fn fetch(
        &self,
        object: SegmentObjectId,
        object_len: u64,
        pages: Range<u32>,
    ) -> Result<Arc<[Bytes]>, PageError> {
        let start = page_range(pages.start, object_len).start;
        let end = page_range(pages.end - 1, object_len).end;
        let fetched = self.store.get(&object.to_string(), start..end).await?;
        let fetched = fetched.ok_or(PageError::Gone(object))?;
        let len: u64 = fetched.iter().map(|page| page.len() as u64).sum();
        if len != end - start {
            let end = start + len;
            return Err(PageError::Short { object, end });
        }
        count(&self.stats.downloads, 1);
        count(&self.stats.downloaded_bytes, end - start);
        Ok(fetched.into())
    }
}
