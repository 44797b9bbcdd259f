//! A zone in a directory of the local file system.
//!
//! An object is written to a file without a name, synced, and then linked under its key: whoever sees the key sees the
//! whole object, and of two links one fails. Then the directory is synced.

mod list;
mod temp;

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;
use rustix::fs::{AtFlags, Mode, OFlags, fsync, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::{Blocking, CreateOutcome, Payload, ReadRange, StoreError, ZoneStore, check_key, check_prefix};
use temp::TempFiles;

/// Open directories kept at most.
const DIRS_MAX: usize = 256;

/// Objects as files, keys as paths below one directory.
///
/// - Every file under a key is whole and synced. `Created` and `Exists` mean that its name is synced as well, and so
///   does an object that `get` returned.
/// - Only real directories are entered: neither a key nor a symbolic link leads out of the root.
/// - After a sync failed nothing more is promised: every later call is `Corrupt` until the store is opened anew.
///
/// Several processes of one machine may share a directory, but what one of them reads while another is just creating
/// it may be lost to a power failure. Temporary files of a process that was killed are removed by the next open.
#[derive(Debug, Clone)]
pub struct LocalStore {
    inner: Arc<Inner>,
    blocking: Blocking,
}

#[derive(Debug)]
struct Inner {
    root: PathBuf,
    root_fd: Arc<OwnedFd>,
    temp: TempFiles,
    /// Directories whose entry in their parent, and whose own entries at that time, are synced.
    dirs: Mutex<BTreeMap<String, Arc<OwnedFd>>>,
    /// Keys whose link may not be synced yet, with the number of calls that are at it.
    unsynced: Mutex<BTreeMap<String, usize>>,
    failed: AtomicBool,
}

impl LocalStore {
    /// Opens a directory, making it and its parents if need be. Blocks.
    pub fn open(root: impl AsRef<Path>, blocking: Blocking) -> Result<Self, StoreError> {
        let root = root.as_ref();
        let opened = || -> io::Result<Inner> {
            create_dir_durably(root)?;
            let root = root.canonicalize()?;
            let root_fd = Arc::new(OwnedFd::from(File::open(&root)?));
            fsync(&root_fd)?;
            let temp = TempFiles::open(&root_fd)?;
            Ok(Inner {
                root,
                root_fd,
                temp,
                dirs: Mutex::default(),
                unsynced: Mutex::default(),
                failed: AtomicBool::new(false),
            })
        };
        match opened() {
            Ok(inner) => Ok(Self {
                inner: Arc::new(inner),
                blocking,
            }),
            Err(error) => Err(explain(&root.display(), error)),
        }
    }

    async fn run<T: Send + 'static>(
        &self,
        key: &str,
        work: impl FnOnce(&Inner, &str) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (inner, key) = (Arc::clone(&self.inner), key.to_owned());
        let work = move || {
            if inner.failed.load(Ordering::Acquire) {
                return Err(StoreError::Corrupt(
                    "a sync failed earlier; restart to check the disk".into(),
                ));
            }
            work(&inner, &key)
        };
        self.blocking
            .run(work)
            .await
            .unwrap_or_else(|| Err(StoreError::Retry("shutting down".into())))
    }
}

#[async_trait]
impl ZoneStore for LocalStore {
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        check_key(key)?;
        let payload = payload.clone();
        self.run(key, move |inner, key| inner.create(key, &payload)).await
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        check_key(key)?;
        self.run(key, move |inner, key| inner.get(key, &range)).await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        check_prefix(prefix)?;
        let after = after.map(str::to_owned);
        self.run(prefix, move |inner, prefix| {
            list::list(&inner.root, prefix, after.as_deref(), limit).map_err(|error| explain(&prefix, error))
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        check_key(key)?;
        self.run(key, |inner, key| inner.delete(key)).await
    }
}

impl Inner {
    fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        let (dir_key, name) = split(key);
        let failed = |error: io::Error| {
            // Somebody may have removed the directory: look for it again next time.
            lock(&self.dirs).clear();
            explain(&key, error)
        };
        let dir = self.dir(dir_key).map_err(failed)?;
        let mut temp = self.temp.create(&dir).map_err(failed)?;
        write_parts(temp.file(), payload).map_err(failed)?;
        // The file is ours alone: if this fails it is thrown away, and the next try writes another.
        rustix::fs::fdatasync(temp.file()).map_err(|error| failed(error.into()))?;
        let unsynced = Unsynced::mark(self, key);
        let outcome = match temp.link(&dir, name) {
            Ok(()) => CreateOutcome::Created,
            Err(Errno::EXIST) => CreateOutcome::Exists,
            Err(error) => return Err(failed(error.into())),
        };
        // Also for `Exists`: the other's link may not be synced yet.
        self.sync(&dir, unsynced)?;
        Ok(outcome)
    }

    fn get(&self, key: &str, range: &ReadRange) -> Result<Option<Bytes>, StoreError> {
        let read = || -> io::Result<Option<(Arc<OwnedFd>, Bytes)>> {
            let (dir_key, name) = split(key);
            let Some(dir) = self.existing_dir(dir_key)? else {
                return Ok(None);
            };
            let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
            let file = match openat(&dir, name, flags, Mode::empty()) {
                Ok(file) => File::from(file),
                Err(Errno::NOENT) => return Ok(None),
                Err(error) => return Err(error.into()),
            };
            let metadata = file.metadata()?;
            if !metadata.is_file() {
                return Err(Errno::ISDIR.into());
            }
            let range = range.within(metadata.len());
            let mut bytes = vec![0; (range.end - range.start) as usize];
            file.read_exact_at(&mut bytes, range.start)?;
            Ok(Some((dir, bytes.into())))
        };
        match read() {
            Ok(None) => Ok(None),
            Ok(Some((dir, bytes))) => {
                // A key is marked before its link is made, so that what was seen above is marked or synced.
                if lock(&self.unsynced).contains_key(key) {
                    self.sync(&dir, Unsynced::mark(self, key))?;
                }
                Ok(Some(bytes))
            }
            Err(error) => Err(explain(&key, error)),
        }
    }

    fn delete(&self, key: &str) -> Result<(), StoreError> {
        let (dir_key, name) = split(key);
        let remove = || -> io::Result<()> {
            let Some(dir) = self.existing_dir(dir_key)? else {
                return Ok(());
            };
            match unlinkat(&dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => Ok(()),
                Err(error) => Err(error.into()),
            }
        };
        remove().map_err(|error| explain(&key, error))
    }

    /// A directory, made if need be.
    fn dir(&self, key: &str) -> io::Result<Arc<OwnedFd>> {
        match self.existing_dir(key)? {
            Some(dir) => Ok(dir),
            None => {
                let (parent, name) = split(key);
                let parent_fd = self.dir(parent)?;
                match mkdirat(&parent_fd, name, Mode::from_raw_mode(0o755)) {
                    Ok(()) | Err(Errno::EXIST) => {}
                    Err(error) => return Err(error.into()),
                }
                self.existing_dir(key)?.ok_or_else(|| Errno::NOENT.into())
            }
        }
    }

    /// A directory, if it is there. When seen for the first time it is synced, and its entry in its parent too: the
    /// process that made them may have died before it did so.
    fn existing_dir(&self, key: &str) -> io::Result<Option<Arc<OwnedFd>>> {
        if key.is_empty() {
            return Ok(Some(Arc::clone(&self.root_fd)));
        }
        if let Some(dir) = lock(&self.dirs).get(key) {
            return Ok(Some(Arc::clone(dir)));
        }
        let (parent, name) = split(key);
        let Some(parent) = self.existing_dir(parent)? else {
            return Ok(None);
        };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let dir = match openat(&parent, name, flags, Mode::empty()) {
            Ok(dir) => Arc::new(dir),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        // Another try could succeed without having written what the first one lost.
        fsync(&dir)
            .and_then(|()| fsync(&parent))
            .inspect_err(|_| self.failed.store(true, Ordering::Release))?;
        let mut dirs = lock(&self.dirs);
        if dirs.len() >= DIRS_MAX {
            dirs.clear();
        }
        dirs.insert(key.to_owned(), Arc::clone(&dir));
        Ok(Some(dir))
    }

    /// Makes links durable. A sync that failed may have dropped what it should have written, and the next one would
    /// succeed without it: after one failure the store is done for.
    fn sync(&self, dir: &OwnedFd, unsynced: Unsynced<'_>) -> Result<(), StoreError> {
        if let Err(error) = fsync(dir) {
            self.failed.store(true, Ordering::Release);
            std::mem::forget(unsynced);
            return Err(StoreError::Corrupt(format!(
                "cannot sync a directory of {}: {error}",
                self.root.display()
            )));
        }
        Ok(())
    }
}

/// Marks a key as not synced while it lives.
struct Unsynced<'a> {
    inner: &'a Inner,
    key: &'a str,
}

impl<'a> Unsynced<'a> {
    fn mark(inner: &'a Inner, key: &'a str) -> Self {
        *lock(&inner.unsynced).entry(key.to_owned()).or_default() += 1;
        Self { inner, key }
    }
}

impl Drop for Unsynced<'_> {
    fn drop(&mut self) {
        let mut unsynced = lock(&self.inner.unsynced);
        if let Some(count) = unsynced.get_mut(self.key) {
            *count -= 1;
            if *count == 0 {
                unsynced.remove(self.key);
            }
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or(("", key))
}

fn write_parts(mut file: &File, payload: &Payload) -> io::Result<()> {
    let mut slices: Vec<IoSlice<'_>> = payload.parts().iter().map(|part| IoSlice::new(part)).collect();
    let mut rest = &mut slices[..];
    // Drops empty slices at the front: a write of nothing would look like the end of the device.
    IoSlice::advance_slices(&mut rest, 0);
    while !rest.is_empty() {
        match file.write_vectored(rest) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut rest, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

pub(super) fn create_dir_durably(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    create_dir_durably(parent)?;
    match std::fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    File::open(parent)?.sync_all()
}

pub(super) fn explain(what: &dyn std::fmt::Display, error: io::Error) -> StoreError {
    let message = format!("{what}: {error}");
    match Errno::from_io_error(&error) {
        Some(Errno::ACCESS | Errno::PERM | Errno::ROFS) => StoreError::Denied(message),
        Some(Errno::NOTDIR | Errno::ISDIR | Errno::NAMETOOLONG | Errno::LOOP) => StoreError::Invalid(message),
        Some(Errno::IO) => StoreError::Corrupt(message),
        _ => StoreError::Retry(message),
    }
}

#[cfg(test)]
mod tests;
