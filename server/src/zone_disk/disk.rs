//! This node's disk as a zone: a log for chunks, and one for segment objects.
//!
//! Chunks live for seconds and somebody waits for them; segment objects are large and live long. In a log of their own
//! they are not in the way of a commit, and room that chunks leave is given back without copying what stays.
//!
//! Both logs have the zone's marker, that of segments first, and the log of chunks has a note that there are two: a disk
//! that lost one of them is not the zone. One of a release that kept chunks only has a marker and no note, and gets the
//! other log when it is used for the first time.

use std::path::Path;

use async_trait::async_trait;
use bytes::Bytes;
use millrace_api::segment::SEGMENT_PREFIX;
use millrace_wal::marker::MARKER_KEY;
use millrace_wal::{CreateOutcome, DiskOptions, DiskStore, Payload, ReadRange, StoreError, ZoneStore};

/// Where the log of segments is, within the directory.
const SEGMENTS_DIR: &str = "segments";
/// In the log of chunks, once the log of segments belongs to it.
const TWO_LOGS_KEY: &str = "segments-apart";
/// Bytes of a file of segments. An object that is larger has one of its own, which goes with it.
const SEGMENT_FILE_BYTES: u64 = 16 << 20;

/// Clones share it. Promises are those of [`DiskStore`].
#[derive(Debug, Clone)]
pub struct ZoneDisk {
    chunks: DiskStore,
    segments: DiskStore,
}

impl ZoneDisk {
    /// Opens a directory, making it if need be. Blocks. `options` are those of the log of chunks.
    pub fn open(directory: &Path, options: DiskOptions) -> Result<Self, StoreError> {
        let of_segments = DiskOptions {
            file_bytes: SEGMENT_FILE_BYTES.min(options.file_bytes),
            ..options.clone()
        };
        Ok(Self {
            chunks: DiskStore::open(directory, options)?,
            segments: DiskStore::open(directory.join(SEGMENTS_DIR), of_segments)?,
        })
    }

    /// Bytes of an object; `None` if there is none. Needs no I/O.
    pub fn object_len(&self, key: &str) -> Result<Option<u64>, StoreError> {
        self.log(key).object_len(key)
    }

    fn log(&self, key: &str) -> &DiskStore {
        match key.starts_with(SEGMENT_PREFIX) {
            true => &self.segments,
            false => &self.chunks,
        }
    }

    /// Whether the log of segments is the one that belongs to the chunks, which have this marker. One that is made only
    /// now does if there was none before.
    async fn has_its_segments(&self, marker: &Bytes) -> Result<bool, StoreError> {
        let is_noted = self.chunks.object_len(TWO_LOGS_KEY)?.is_some();
        let standing = match self.segments.get(MARKER_KEY, ReadRange::Full).await? {
            None if is_noted => return Ok(false),
            None => self.mark_segments(&marker.clone().into()).await?.to_bytes(),
            Some(standing) => standing,
        };
        let is_its = standing == *marker;
        if is_its && !is_noted {
            self.note_two_logs().await?;
        }
        Ok(is_its)
    }

    async fn note_two_logs(&self) -> Result<(), StoreError> {
        let empty = Payload::from(Bytes::new());
        self.chunks.create(TWO_LOGS_KEY, &empty).await.map(|_| ())
    }

    /// The marker that stands in the log of segments, which this one is if there was none.
    async fn mark_segments(&self, marker: &Payload) -> Result<Payload, StoreError> {
        match self.segments.create(MARKER_KEY, marker).await? {
            CreateOutcome::Created => Ok(marker.clone()),
            CreateOutcome::Exists => {
                let standing = self.segments.get(MARKER_KEY, ReadRange::Full).await?;
                let standing = standing.ok_or_else(|| StoreError::Retry("the marker was removed".into()))?;
                Ok(standing.into())
            }
        }
    }
}

#[async_trait]
impl ZoneStore for ZoneDisk {
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        if key == MARKER_KEY {
            let standing = self.mark_segments(payload).await?;
            self.note_two_logs().await?;
            return self.chunks.create(key, &standing).await;
        }
        self.log(key).create(key, payload).await
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        if key == MARKER_KEY
            && let Some(marker) = self.chunks.get(key, ReadRange::Full).await?
            && !self.has_its_segments(&marker).await?
        {
            return Err(StoreError::Corrupt(format!(
                "the directory {SEGMENTS_DIR} is not that of this zone: what was in it is lost, and the disk is not used. \
                 Give it back, or empty the disk and replace the zone"
            )));
        }
        self.log(key).get(key, range).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        if prefix.starts_with(SEGMENT_PREFIX) {
            return self.segments.list(prefix, after, limit).await;
        }
        let mut keys = self.chunks.list(prefix, after, limit).await?;
        if prefix.is_empty() {
            keys.extend(self.segments.list(SEGMENT_PREFIX, after, limit).await?);
            keys.sort_unstable();
            keys.truncate(limit);
        }
        Ok(keys)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.log(key).delete(key).await
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_wal::{Marker, conformance, create_marker, read_marker};

    use super::*;

    const MARKER: Marker = Marker {
        cell: 7,
        zone_gen: millrace_api::id::ZoneGen(8),
    };

    fn open(directory: &Path) -> ZoneDisk {
        let options = DiskOptions {
            file_bytes: 1 << 20,
            ..DiskOptions::default()
        };
        ZoneDisk::open(directory, options).unwrap()
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_logs_keep_every_promise_of_a_zone() {
        let directory = tempfile::tempdir().unwrap();
        conformance::suite(Arc::new(open(directory.path()))).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn keys_of_both_logs_are_listed_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let disk = open(directory.path());
        let keys = ["probe/a", "segments/1/a", "segments/2/b", "wal/1/a", "wal/2/b"];
        for key in keys {
            let created = disk.create(key, &Payload::from(Bytes::from_static(b"x"))).await;
            assert_eq!(created, Ok(CreateOutcome::Created));
        }
        for limit in 0..=keys.len() {
            assert_eq!(disk.list("", None, limit).await.unwrap(), keys[..limit]);
            assert_eq!(
                disk.list("", Some(keys[0]), limit).await.unwrap(),
                keys[1..][..limit.min(4)]
            );
        }
        assert_eq!(disk.list("segments/", None, 9).await.unwrap(), keys[1..3]);
        assert_eq!(disk.list("segments/2/", None, 9).await.unwrap(), keys[2..3]);
        assert_eq!(disk.list("wal/", Some("wal/1/a"), 9).await.unwrap(), keys[4..]);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_disk_that_lost_one_of_its_logs_is_not_the_zone() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(create_marker(&open(directory.path()), &MARKER).await, Ok(MARKER));
        assert_eq!(read_marker(&open(directory.path())).await, Ok(Some(MARKER)));
        std::fs::remove_dir_all(directory.path().join(SEGMENTS_DIR)).unwrap();
        let read = read_marker(&open(directory.path())).await;
        assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_disk_of_a_release_with_one_log_gets_the_other() {
        let directory = tempfile::tempdir().unwrap();
        let of_before = DiskStore::open(directory.path(), DiskOptions::default()).unwrap();
        assert_eq!(create_marker(&of_before, &MARKER).await, Ok(MARKER));
        drop(of_before);
        for _ in 0..2 {
            assert_eq!(read_marker(&open(directory.path())).await, Ok(Some(MARKER)));
        }
        std::fs::remove_dir_all(directory.path().join(SEGMENTS_DIR)).unwrap();
        let read = read_marker(&open(directory.path())).await;
        assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_marker_that_was_given_by_half_is_completed() {
        let directory = tempfile::tempdir().unwrap();
        let disk = open(directory.path());
        disk.mark_segments(&MARKER.encode().into()).await.unwrap();
        assert_eq!(read_marker(&disk).await, Ok(None));
        let late = Marker { cell: 9, ..MARKER };
        assert_eq!(create_marker(&disk, &late).await, Ok(MARKER));
    }
}
