//! Pages on a local disk, behind those in memory.
//!
//! The disk holds what this node has read from the store, also over restarts. Nothing waits for a page to be written
//! there; one that is not written in time, or does not pass the disk's own checksum, is fetched as if it had never been
//! there.

use std::fmt;
use std::io;
use std::ops::Range;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use foyer::{
    BlockEngineConfig, DeviceBuilder, FsDeviceBuilder, HybridCache, HybridCacheBuilder, HybridCachePolicy,
    PsyncIoEngineConfig,
};
use futures::future::join_all;
use millrace_api::segment::SegmentObjectId;
use tokio::time::timeout;

use super::source::Source;
use super::stats::{CacheStats, count};
use super::{PageError, PageKey, page_range};

/// Less is not worth the while.
pub const DISK_BYTES_MIN: u64 = 256 << 20;
/// Pages leave the disk by so many bytes at a time.
const BLOCK_BYTES: usize = 16 << 20;
/// What the library keeps of them in memory beside the page cache.
const MEMORY_BYTES: usize = 4 << 20;
/// Pages can be fetched again.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(3);

#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// Of this node alone; made if it is missing.
    pub dir: PathBuf,
    /// At least [`DISK_BYTES_MIN`]. No more than four fifths of what is free are used.
    pub capacity_bytes: u64,
    /// Whose objects they are: those of another cell may have the same names.
    pub cell: u128,
}

/// The disk cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot keep pages in {dir}: {why}")]
pub struct DiskError {
    dir: PathBuf,
    why: String,
}

/// Clones are the same pages.
#[derive(Clone)]
pub struct Disk {
    pages: HybridCache<String, Bytes>,
    cell: u128,
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Disk")
    }
}

impl Disk {
    /// Finds what an earlier process has left there.
    pub async fn open(options: DiskOptions) -> Result<Self, DiskError> {
        let DiskOptions {
            dir,
            capacity_bytes,
            cell,
        } = options;
        let failed = |why: &dyn fmt::Display| DiskError {
            dir: dir.clone(),
            why: why.to_string(),
        };
        let room = room(&dir).map_err(|error| failed(&error))?;
        if room < DISK_BYTES_MIN {
            return Err(failed(&"there is too little room on the disk"));
        }
        if room < capacity_bytes {
            tracing::warn!(dir = %dir.display(), bytes = room, "the disk has less room for pages than was asked for");
        }
        let device = FsDeviceBuilder::new(&dir)
            .with_capacity(capacity_bytes.min(room) as usize)
            .build()
            .map_err(|error| failed(&error))?;
        let pages = HybridCacheBuilder::new()
            .with_name("pages")
            .with_policy(HybridCachePolicy::WriteOnInsertion)
            .memory(MEMORY_BYTES)
            .with_shards(1)
            .with_weighter(|_: &String, page: &Bytes| page.len())
            .storage()
            .with_io_engine_config(PsyncIoEngineConfig::new())
            .with_engine_config(BlockEngineConfig::new(device).with_block_size(BLOCK_BYTES))
            .build()
            .await
            .map_err(|error| failed(&error))?;
        Ok(Self { pages, cell })
    }

    /// Writes what is still to be written, for a while.
    pub async fn close(self) {
        match timeout(CLOSE_TIMEOUT, self.pages.close()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::warn!(%error, "not all pages are on the disk"),
            Err(_) => tracing::warn!("the disk is slow: not all pages are on it"),
        }
    }

    pub(super) fn forget(&self, key: PageKey) {
        self.pages.remove(&self.name(key));
    }

    async fn get(&self, key: PageKey) -> Result<Option<Bytes>, foyer::Error> {
        let found = self.pages.get(&self.name(key)).await?;
        Ok(found.map(|entry| entry.value().clone()))
    }

    fn put(&self, key: PageKey, page: Bytes) {
        self.pages.storage_writer(self.name(key)).insert(page);
    }

    fn name(&self, key: PageKey) -> String {
        format!("{:032x}/{}#{}", self.cell, key.object, key.page)
    }

    /// Everything that was put in is on the disk.
    #[cfg(test)]
    pub(super) async fn settle(&self) {
        self.pages.storage().wait().await;
    }
}

/// Bytes that may be used in the directory, those that are already among them.
fn room(dir: &Path) -> io::Result<u64> {
    const SECTOR_BYTES: u64 = 512;
    std::fs::create_dir_all(dir)?;
    let mut used = 0;
    for entry in std::fs::read_dir(dir)? {
        used += entry?.metadata()?.blocks() * SECTOR_BYTES;
    }
    let disk = rustix::fs::statvfs(dir)?;
    Ok((disk.f_bavail * disk.f_frsize + used) / 5 * 4)
}

/// Pages of the disk, and otherwise of a source whose pages it takes in.
pub(super) struct FromDisk {
    pub(super) disk: Disk,
    pub(super) behind: Arc<dyn Source>,
    pub(super) stats: Arc<CacheStats>,
}

impl FromDisk {
    /// `behind` as it is where there is no disk.
    pub(super) fn before(
        behind: Arc<dyn Source>,
        disk: Option<&Disk>,
        stats: &Arc<CacheStats>,
    ) -> Arc<dyn Source> {
        match disk {
            Some(disk) => Arc::new(Self {
                disk: disk.clone(),
                behind,
                stats: stats.clone(),
            }),
            None => behind,
        }
    }

    /// All of the pages, or none.
    async fn find(
        &self,
        object: SegmentObjectId,
        object_len: u64,
        pages: Range<u32>,
    ) -> Option<Arc<[Bytes]>> {
        let found = pages.clone().map(|page| async move {
            let range = page_range(page, object_len);
            match self.disk.get(PageKey { object, page }).await {
                Ok(found) => found.filter(|page| page.len() as u64 == range.end - range.start),
                Err(error) => {
                    count(&self.stats.disk_failures, 1);
                    tracing::debug!(%object, page, %error, "a page cannot be read from the disk");
                    None
                }
            }
        });
        let found: Option<Arc<[Bytes]>> = join_all(found).await.into_iter().collect();
        match &found {
            Some(found) => {
                count(&self.stats.disk_hits, found.len() as u64);
                let bytes = found.iter().map(|page| page.len() as u64).sum();
                count(&self.stats.disk_hit_bytes, bytes);
            }
            None => count(&self.stats.disk_misses, pages.len() as u64),
        }
        found
    }
}

#[async_trait]
impl Source for FromDisk {
    async fn fetch(
        &self,
        object: SegmentObjectId,
        object_len: u64,
        pages: Range<u32>,
    ) -> Result<Arc<[Bytes]>, PageError> {
        if let Some(found) = self.find(object, object_len, pages.clone()).await {
            return Ok(found);
        }
        let fetched = self.behind.fetch(object, object_len, pages.clone()).await?;
        for (page, bytes) in pages.zip(fetched.iter()) {
            self.disk.put(PageKey { object, page }, bytes.clone());
        }
        Ok(fetched)
    }

    fn border_behind(&self, object: SegmentObjectId, page: u32) -> u32 {
        self.behind.border_behind(object, page)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use millrace_wal::{Payload, ZoneStore};

    use super::super::test_store::{TestStore, object_id};
    use super::super::{PAGE_BYTES, PageCache, PageCacheOptions};
    use super::*;

    const PAGES: u32 = 12;
    const LEN: u64 = PAGES as u64 * PAGE_BYTES - 7;

    struct Node {
        store: Arc<TestStore>,
        disk: Disk,
        cache: Arc<PageCache>,
    }

    async fn store() -> Arc<TestStore> {
        let store = TestStore::new();
        let bytes = (0..LEN as u32).map(|at| (at >> 12) as u8).collect::<Vec<_>>();
        let payload = Payload::from(Bytes::from(bytes));
        store.create(&object_id(1).to_string(), &payload).await.unwrap();
        store
    }

    impl Node {
        /// Keeps next to nothing in memory.
        async fn start(store: &Arc<TestStore>, dir: &Path, cell: u128) -> Self {
            let options = DiskOptions {
                dir: dir.to_owned(),
                capacity_bytes: DISK_BYTES_MIN,
                cell,
            };
            let disk = Disk::open(options).await.unwrap();
            let options = PageCacheOptions {
                capacity_bytes: 0,
                disk: Some(disk.clone()),
                ..PageCacheOptions::default()
            };
            let cache = PageCache::new(store.clone(), &options);
            Self {
                store: store.clone(),
                disk,
                cache,
            }
        }

        /// All pages; how many requests that took.
        async fn read(&self) -> usize {
            let before = self.store.requests();
            for page in 0..PAGES {
                let came = self.cache.pages(object_id(1), LEN, page..page + 1).await.unwrap();
                assert!(
                    came[0].iter().enumerate().step_by(999).all(|(at, byte)| {
                        *byte == ((u64::from(page) * PAGE_BYTES + at as u64) >> 12) as u8
                    })
                );
                self.disk.settle().await;
            }
            self.store.requests() - before
        }

        async fn stop(self) {
            drop(self.cache);
            self.disk.close().await;
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_was_read_once_is_on_the_disk_and_outlives_the_process() {
        let (store, dir) = (store().await, tempfile::tempdir().unwrap());
        let node = Node::start(&store, dir.path(), 1).await;
        assert_eq!(node.read().await, PAGES as usize);
        assert_eq!(node.read().await, 0);
        assert_eq!(node.cache.stats().disk_hits.load(Relaxed), u64::from(PAGES));
        assert_eq!(node.cache.stats().disk_hit_bytes.load(Relaxed), LEN);
        node.stop().await;
        let again = Node::start(&store, dir.path(), 1).await;
        assert_eq!(again.read().await, 0);
        again.stop().await;
        let other = Node::start(&store, dir.path(), 2).await;
        assert_eq!(
            other.read().await,
            PAGES as usize,
            "the same names of another cell"
        );
        other.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_page_that_is_forgotten_is_not_on_the_disk_either() {
        let (store, dir) = (store().await, tempfile::tempdir().unwrap());
        let node = Node::start(&store, dir.path(), 1).await;
        node.read().await;
        node.disk.forget(PageKey {
            object: object_id(1),
            page: 3,
        });
        assert_eq!(node.read().await, 1);
        node.stop().await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn what_the_disk_has_spoilt_comes_from_the_store() {
        let (store, dir) = (store().await, tempfile::tempdir().unwrap());
        let node = Node::start(&store, dir.path(), 1).await;
        node.read().await;
        node.stop().await;
        for file in std::fs::read_dir(dir.path()).unwrap() {
            let path = file.unwrap().path();
            let mut bytes = std::fs::read(&path).unwrap();
            bytes
                .iter_mut()
                .skip(100_000)
                .step_by(50_000)
                .for_each(|byte| *byte ^= 1);
            std::fs::write(&path, bytes).unwrap();
        }
        let again = Node::start(&store, dir.path(), 1).await;
        assert_eq!(again.read().await, PAGES as usize);
        again.stop().await;
    }
}
