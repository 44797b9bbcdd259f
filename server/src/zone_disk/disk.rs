//! This node's disk as a zone: a log for chunks, and one for segment objects.
//!
//! Chunks live for seconds and somebody waits for them; segment objects are large and live long. In a log of their own
//! they are not in the way of a commit, and room that chunks leave is given back without copying what stays.
//!
//! Both logs have the zone's marker, that of segments first, and the log of chunks has a note that there are two: a disk
//! that lost one of them is not the zone. One of a release that kept chunks only has a marker and no note. Its log of
//! segments gets both before anything else is put there, and until then has nothing to lose: a disk that is too full for
//! them is the zone all the same, keeps what it has, and takes segments when there is room.

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

    /// The marker, if both logs are those of one zone; `None` on a blank disk. Writes nothing.
    async fn marker(&self) -> Result<Option<Bytes>, StoreError> {
        let Some(marker) = self.chunks.get(MARKER_KEY, ReadRange::Full).await? else {
            return Ok(None);
        };
        let is_whole = match self.segments.get(MARKER_KEY, ReadRange::Full).await? {
            Some(standing) => standing == marker,
            None => !self.has_two_logs()?,
        };
        match is_whole {
            true => Ok(Some(marker)),
            false => Err(not_its_segments()),
        }
    }

    /// Sees to it that the log of segments is known to belong to the chunks before anything is put there.
    async fn join_logs(&self) -> Result<(), StoreError> {
        if self.has_two_logs()? {
            return Ok(());
        }
        // A blank disk gets both logs with its marker.
        let Some(marker) = self.chunks.get(MARKER_KEY, ReadRange::Full).await? else {
            return Ok(());
        };
        let standing = self.mark_segments(&marker.clone().into()).await?;
        match standing.to_bytes() == marker {
            true => self.note_two_logs().await,
            false => Err(not_its_segments()),
        }
    }

    fn has_two_logs(&self) -> Result<bool, StoreError> {
        Ok(self.chunks.object_len(TWO_LOGS_KEY)?.is_some())
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
        if key.starts_with(SEGMENT_PREFIX) {
            self.join_logs().await?;
        }
        self.log(key).create(key, payload).await
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        if key == MARKER_KEY {
            let part = |marker: Bytes| {
                let part = range.within(marker.len() as u64);
                marker.slice(part.start as usize..part.end as usize)
            };
            return Ok(self.marker().await?.map(part));
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

fn not_its_segments() -> StoreError {
    StoreError::Corrupt(format!(
        "the directory {SEGMENTS_DIR} is not that of this zone: what was in it is lost, and the disk is not used. Give it \
         back, or empty the disk and replace the zone"
    ))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use millrace_wal::{Blocking, Marker, conformance, create_marker, read_marker};

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

    const SEGMENT: &str = "segments/1/a";

    fn lose_segments(directory: &Path) {
        std::fs::remove_dir_all(directory.join(SEGMENTS_DIR)).unwrap();
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_disk_of_a_release_with_one_log_gets_the_other_with_its_first_segment() {
        let directory = tempfile::tempdir().unwrap();
        let of_before = DiskStore::open(directory.path(), DiskOptions::default()).unwrap();
        assert_eq!(create_marker(&of_before, &MARKER).await, Ok(MARKER));
        drop(of_before);
        for _ in 0..2 {
            assert_eq!(read_marker(&open(directory.path())).await, Ok(Some(MARKER)));
            lose_segments(directory.path());
        }
        let disk = open(directory.path());
        let created = disk
            .create(SEGMENT, &Payload::from(Bytes::from_static(b"x")))
            .await;
        assert_eq!(created, Ok(CreateOutcome::Created));
        drop(disk);
        assert_eq!(read_marker(&open(directory.path())).await, Ok(Some(MARKER)));
        lose_segments(directory.path());
        let read = read_marker(&open(directory.path())).await;
        assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn segments_of_another_zone_are_not_taken_for_its_own() {
        let [own, other] = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let of_before = DiskStore::open(own.path(), DiskOptions::default()).unwrap();
        assert_eq!(create_marker(&of_before, &MARKER).await, Ok(MARKER));
        drop(of_before);
        let marker = Marker { cell: 9, ..MARKER };
        assert_eq!(create_marker(&open(other.path()), &marker).await, Ok(marker));
        std::fs::rename(other.path().join(SEGMENTS_DIR), own.path().join(SEGMENTS_DIR)).unwrap();
        let disk = open(own.path());
        let read = read_marker(&disk).await;
        assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
        let created = disk
            .create(SEGMENT, &Payload::from(Bytes::from_static(b"x")))
            .await;
        assert!(matches!(created, Err(StoreError::Corrupt(_))), "{created:?}");
    }

    /// Creates objects of so many bytes until the log takes no more; their keys.
    async fn fill(store: &DiskStore, len: usize) -> Vec<String> {
        let body = Payload::from(Bytes::from(vec![7; len]));
        let mut keys = Vec::new();
        loop {
            let key = format!("wal/{len}/{:05}", keys.len());
            match store.create(&key, &body).await {
                Ok(outcome) => assert_eq!(outcome, CreateOutcome::Created),
                Err(error) => {
                    assert!(error.retryable(), "{error}");
                    return keys;
                }
            }
            keys.push(key);
            assert!(keys.len() < 10_000, "it is never full");
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_full_disk_of_a_release_with_one_log_is_the_zone_and_takes_segments_when_there_is_room() {
        let directory = tempfile::tempdir().unwrap();
        let options = DiskOptions {
            file_bytes: 1 << 20,
            bytes_max: 4 << 20,
            // Room is counted and given back within the calls, and never beside them.
            blocking: Blocking::Inline,
            ..DiskOptions::default()
        };
        let of_before = DiskStore::open(directory.path(), options.clone()).unwrap();
        assert_eq!(create_marker(&of_before, &MARKER).await, Ok(MARKER));
        let chunks = fill(&of_before, 100_000).await;
        fill(&of_before, 0).await;
        drop(of_before);

        let full = || ZoneDisk::open(directory.path(), options.clone()).unwrap();
        let segment = Payload::from(Bytes::from_static(b"x"));
        for _ in 0..2 {
            let disk = full();
            assert_eq!(read_marker(&disk).await, Ok(Some(MARKER)));
            let chunk = disk.get(&chunks[0], ReadRange::Full).await.unwrap();
            assert_eq!(chunk.map(|chunk| chunk.len()), Some(100_000));
            // There is room for segments; there is none for the note that there are some.
            let refused = disk.create(SEGMENT, &segment).await;
            assert!(matches!(&refused, Err(error) if error.retryable()), "{refused:?}");
            assert_eq!(disk.list(SEGMENT_PREFIX, None, 1).await, Ok(vec![]));
            drop(disk);
            // Nothing is lost with what holds nothing.
            lose_segments(directory.path());
        }
        let disk = full();
        for chunk in &chunks {
            assert_eq!(disk.delete(chunk).await, Ok(()), "deletions need no room");
        }
        let created = disk.create(SEGMENT, &segment).await;
        assert_eq!(created, Ok(CreateOutcome::Created));
        drop(disk);
        assert_eq!(read_marker(&full()).await, Ok(Some(MARKER)));
        lose_segments(directory.path());
        let read = read_marker(&full()).await;
        assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_part_of_the_marker_is_that_part() {
        let directory = tempfile::tempdir().unwrap();
        let disk = open(directory.path());
        assert_eq!(create_marker(&disk, &MARKER).await, Ok(MARKER));
        let marker = MARKER.encode();
        let parts = [
            (ReadRange::Range(0..8), 0..8),
            (ReadRange::Range(12..999), 12..marker.len()),
            (ReadRange::Suffix(4), marker.len() - 4..marker.len()),
            (ReadRange::Suffix(0), 0..0),
        ];
        for (range, bytes) in parts {
            let read = disk.get(MARKER_KEY, range.clone()).await;
            assert_eq!(read, Ok(Some(marker.slice(bytes))), "{range:?}");
        }
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
