//! A zone on a disk of this machine: objects one behind the other in a log.
//!
//! An object is a record that is appended to a log file. Creates that arrive while a commit is under way are gathered,
//! written with one call and synced once, so that a lone create costs one write and one sync, and many share them. What
//! stands where is kept in memory and read again from the log, or from the index of each complete log file, at the
//! next open.
//!
//! - [`format`] is what is on the disk; [`directory`] the files, [`file`] one of them.
//! - [`queue`], [`group`] and [`writer`] are the way of a create or delete into the log, [`index`] what stands where.
//! - [`replay`], with [`scan`] and [`sidecar`], reads all of it when the store is opened.
//! - [`reclaim`] gives room back.
//!
//! Left out: protection against a disk that loses or changes what it has synced. Records have checksums, so that it is
//! noticed when a whole object is read.

mod directory;
mod file;
mod format;
mod group;
mod index;
mod queue;
mod reclaim;
mod replay;
mod scan;
mod shared;
mod sidecar;
mod writer;

use std::ops::Bound;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::oneshot;

use super::{
    Blocking, CreateOutcome, Payload, ReadRange, StoreError, ZoneStore, check_key, check_prefix, local,
};
use directory::Directory;
use format::{BLOCK, RecordHead, record_len};
use index::Place;
use queue::Request;
use shared::Shared;

/// Bytes of the longest object.
pub const DISK_OBJECT_BYTES_MAX: u64 = 256 << 20;
/// Checksums of payloads up to this long are computed in the caller's task.
const CHECKED_INLINE_BYTES_MAX: u64 = 256 << 10;
/// Keys that are taken from the index at a time.
const LIST_PAGE: usize = 1024;

/// Bounds of a disk store.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// Bytes of a log file; one for an object that does not fit is longer. Taken from the disk when the file is made.
    pub file_bytes: u64,
    /// Bytes of creates that may wait for their commit, over all callers; more wait before they are taken in.
    pub pending_bytes_max: u64,
    /// Bytes that all files may take together; beyond, the disk counts as full.
    pub bytes_max: u64,
    /// Where reads do their system calls, and whether commits and what goes on in the background have threads of their
    /// own: with [`Blocking::Inline`] all is done within the calls.
    pub blocking: Blocking,
}

impl Default for DiskOptions {
    fn default() -> Self {
        Self {
            file_bytes: 64 << 20,
            pending_bytes_max: 64 << 20,
            bytes_max: u64::MAX,
            blocking: Blocking::default(),
        }
    }
}

/// Objects in a log, in one directory that one process uses at a time.
///
/// - `Created` and `Exists` mean that the object's record is synced, and so does that a `get` returned it. Whatever the
///   process or the machine dies of, an object is there whole or not at all.
/// - A `delete` counts from its answer on, also after the process was killed. A power loss may undo it.
/// - A `get` of a whole object checks its checksum. One of a range does not: who reads ranges has checksums within.
/// - After a sync failed nothing more is promised: every later call is `Corrupt` until the store is opened anew.
/// - On a full disk creates are answered with `Retry`, and nothing that stands is harmed. Deletes go on: a file is
///   always kept in reserve for them.
/// - The log takes about twice the bytes of the objects that stand, and a few files more. What is in memory for each
///   object is its key and some 100 bytes.
///
/// Log files are taken from the disk whole. Those that follow the first are filled with zeros in the background before
/// they are used, and files that are free again are used before new ones are made: a commit then syncs nothing but its
/// own bytes, where a file that grows makes the file system write its journal too. On a file system that never writes
/// in place this gains nothing.
///
/// Dropping the last clone waits until what was asked for is committed.
#[derive(Debug, Clone)]
pub struct DiskStore {
    open: Arc<Open>,
}

/// Ends the threads when the last store is gone.
#[derive(Debug)]
struct Open {
    shared: Arc<Shared>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl DiskStore {
    /// Opens a directory, making it and its parents if need be. Blocks: complete log files are read by their indexes,
    /// the one that was in use in full. A directory without objects is a blank zone.
    ///
    /// # Errors
    ///
    /// `Invalid` if a bound is out of reason; `Retry` if another process uses the directory; `Corrupt` if what was
    /// committed is damaged where that cannot be a torn commit.
    pub fn open(directory: impl AsRef<Path>, options: DiskOptions) -> Result<Self, StoreError> {
        if options.file_bytes < 4 * BLOCK
            || !options.file_bytes.is_multiple_of(BLOCK)
            || options.pending_bytes_max == 0
        {
            return Err(StoreError::Invalid(format!(
                "a log file has a multiple of {BLOCK} bytes, at least 4 times that, and something may be pending"
            )));
        }
        let path = directory.as_ref();
        let opened = local::create_dir_durably(path)
            .and_then(|()| Directory::open(path, options.file_bytes, options.bytes_max));
        let (directory, found) = opened.map_err(|error| local::explain(&path.display(), error))?;
        let replayed = replay::replay(&directory, found)?;
        let shared = Arc::new(Shared::new(directory, options, replayed));
        let threads = match shared.blocking {
            Blocking::Inline => Vec::new(),
            Blocking::Pool => shared::start(&shared)
                .map_err(|error| StoreError::Retry(format!("cannot start a thread: {error}")))?,
        };
        let open = Open {
            shared,
            threads: Mutex::new(threads),
        };
        Ok(Self { open: Arc::new(open) })
    }

    /// Bytes that its files take on the disk.
    pub fn disk_bytes(&self) -> u64 {
        let used = self.shared().index().bytes();
        used + self.shared().directory.free_bytes()
    }

    /// Bytes of an object; `None` if there is none. Needs no I/O.
    pub fn object_len(&self, key: &str) -> Result<Option<u64>, StoreError> {
        check_key(key)?;
        self.shared().check()?;
        Ok(self.shared().find(key).map(|(place, _)| place.body_len))
    }

    fn shared(&self) -> &Arc<Shared> {
        &self.open.shared
    }

    async fn body_crc(&self, payload: &Payload) -> Result<u32, StoreError> {
        fn crc(payload: &Payload) -> u32 {
            let append = |crc, part: &Bytes| crc32c::crc32c_append(crc, part);
            payload.parts().iter().fold(0, append)
        }
        if payload.len() <= CHECKED_INLINE_BYTES_MAX {
            return Ok(crc(payload));
        }
        let payload = payload.clone();
        let computed = self.shared().blocking.run(move || crc(&payload)).await;
        computed.ok_or_else(shared::shutting_down)
    }

    /// Hands a request over and waits for its answer.
    async fn ask<T>(
        &self,
        request: Request,
        answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        self.shared().submit(request)?;
        self.shared().reclaim_inline();
        answer.await.unwrap_or_else(|_| Err(shared::shutting_down()))
    }
}

#[async_trait]
impl ZoneStore for DiskStore {
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        check_key(key)?;
        if payload.len() > DISK_OBJECT_BYTES_MAX {
            return Err(StoreError::Invalid(format!(
                "an object of {} bytes: at most {DISK_OBJECT_BYTES_MAX} are taken",
                payload.len()
            )));
        }
        let shared = self.shared();
        shared.check()?;
        if shared.index().objects.contains_key(key) {
            return Ok(CreateOutcome::Exists);
        }
        let permit = shared.permit(payload.len()).await?;
        let body_crc = self.body_crc(payload).await?;
        let (reply, answer) = oneshot::channel();
        let request = Request::Create {
            key: key.into(),
            payload: payload.clone(),
            body_crc,
            reply,
            permit,
        };
        self.ask(request, answer).await
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        let shared = self.shared();
        shared.check()?;
        let Some((place, log)) = shared.find(key) else {
            return Ok(None);
        };
        let bytes = range.within(place.body_len);
        if range != ReadRange::Full && bytes.is_empty() {
            return Ok(Some(Bytes::new()));
        }
        let (reading, key) = (shared.clone(), key.to_owned());
        let read = move || {
            let read = match range {
                ReadRange::Full => read_whole(&log, &key, place),
                _ => {
                    let at = place.offset + record_len(&key, 0) + bytes.start;
                    let len = (bytes.end - bytes.start) as usize;
                    log.read_up_to(at, len)
                        .map(|read| (read.len() == len).then(|| read.into()))
                }
            };
            // Not before the read has ended may the file be used again, or the directory by another process.
            drop((log, reading));
            match read {
                Ok(Some(bytes)) => Ok(Some(bytes)),
                Ok(None) => Err(StoreError::Corrupt(format!(
                    "{key}: its record in the log is damaged"
                ))),
                Err(error) => Err(local::explain(&key, error)),
            }
        };
        let read = shared.blocking.run(read).await;
        read.unwrap_or_else(|| Err(shared::shutting_down()))
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        check_prefix(prefix)?;
        self.shared().check()?;
        let after = after.filter(|after| *after >= prefix);
        let mut keys: Vec<String> = Vec::new();
        while keys.len() < limit {
            let from = match keys.last().map(String::as_str).or(after) {
                Some(after) => Bound::Excluded(after),
                None => Bound::Included(prefix),
            };
            // In pages: commits must not wait for a long listing.
            let page = LIST_PAGE.min(limit - keys.len());
            let index = self.shared().index();
            let next: Vec<String> = index
                .objects
                .range::<str, _>((from, Bound::Unbounded))
                .map(|(key, _)| &**key)
                .take_while(|key| key.starts_with(prefix))
                .take(page)
                .map(str::to_owned)
                .collect();
            drop(index);
            let ended = next.len() < page;
            keys.extend(next);
            if ended {
                break;
            }
        }
        Ok(keys)
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        check_key(key)?;
        let shared = self.shared();
        shared.check()?;
        // An object whose create has not been answered may be taken as created later.
        if !shared.index().objects.contains_key(key) {
            return Ok(());
        }
        let permit = shared.permit(0).await?;
        let (reply, answer) = oneshot::channel();
        let key = key.into();
        self.ask(Request::Delete { key, reply, permit }, answer).await
    }
}

/// The body of a record; `None` if it is not what was written.
fn read_whole(log: &file::LogFile, key: &str, place: Place) -> std::io::Result<Option<Bytes>> {
    let len = record_len(key, place.body_len) as usize;
    let record = log.read_up_to(place.offset, len)?;
    let head = RecordHead::decode(&record, place.file, place.offset);
    let body_at = record_len(key, 0) as usize;
    let whole = record.len() == len
        && head.is_some_and(|(head, found)| {
            found == key && head.seq == place.seq && head.body_crc == crc32c::crc32c(&record[body_at..])
        });
    Ok(whole.then(|| Bytes::from(record).slice(body_at..)))
}

impl Drop for Open {
    fn drop(&mut self) {
        self.shared.close();
        let threads = std::mem::take(&mut *self.threads.lock().unwrap_or_else(PoisonError::into_inner));
        for thread in threads {
            // What it panicked with was reported, and the store refuses everything.
            let _ = thread.join();
        }
    }
}

#[cfg(test)]
mod tests;
