//! The pages in memory.

use bytes::Bytes;
use millrace_api::segment::SegmentObjectId;
use moka::future::Cache;
use moka::policy::EvictionPolicy;
use twox_hash::XxHash3_64;

use super::{PageKey, page_range};

/// What an entry costs besides its bytes, about.
const ENTRY_OVERHEAD: usize = 256;

/// Bounded by bytes; clones are the same memory.
#[derive(Clone)]
pub(super) struct Kept {
    pages: Cache<PageKey, Bytes>,
}

impl Kept {
    pub(super) fn new(capacity_bytes: u64) -> Self {
        let pages = Cache::builder()
            .weigher(|_, page: &Bytes| u32::try_from(page.len() + ENTRY_OVERHEAD).unwrap_or(u32::MAX))
            // Readers of a stream follow each other closely through pages that were just fetched or written; a policy
            // that wants to see a page asked for twice before it keeps it would fetch each of them again.
            .eviction_policy(EvictionPolicy::lru())
            .max_capacity(capacity_bytes)
            .build();
        Self { pages }
    }

    /// The page, if it is there and as long as it is in an object of this length.
    pub(super) async fn get(&self, object: SegmentObjectId, object_len: u64, page: u32) -> Option<Bytes> {
        let range = page_range(page, object_len);
        let kept = self.pages.get(&PageKey { object, page }).await?;
        (kept.len() as u64 == range.end - range.start).then_some(kept)
    }

    pub(super) fn contains(&self, key: PageKey) -> bool {
        self.pages.contains_key(&key)
    }

    pub(super) async fn put(&self, key: PageKey, page: Bytes) {
        self.pages.insert(key, page).await;
    }

    /// Drops a page if its copy is one for which `is_bad` holds. Whether it was.
    pub(super) async fn forget(&self, key: PageKey, is_bad: impl Fn(&Bytes) -> bool) -> bool {
        let forgets = self.pages.get(&key).await.is_some_and(|kept| is_bad(&kept));
        if forgets {
            self.pages.invalidate(&key).await;
        }
        forgets
    }

    pub(super) fn bytes(&self) -> u64 {
        self.pages.weighted_size()
    }

    #[cfg(test)]
    pub(super) async fn settle(&self) {
        self.pages.run_pending_tasks().await;
    }
}

/// Tells copies of a page apart.
pub(super) fn hash_of(page: &[u8]) -> u64 {
    XxHash3_64::oneshot(page)
}
