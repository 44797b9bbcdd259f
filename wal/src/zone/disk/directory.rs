//! The directory of a disk store: which files there are, and which are free for use.
//!
//! | name | what it is |
//! |---|---|
//! | `lock` | held by the process that uses the directory |
//! | `<number>.log` | a log file |
//! | `<number>.index` | the index of a complete log file |
//! | `<number>.spare` | a log file that is not needed any more, to be used again |
//! | `<number>.blank` | room that was taken and never written |
//!
//! Numbers are 16 hexadecimal digits. One that ever named a file is never given to another log.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::fs::{fdatasync, fsync};
use rustix::io::Errno;

use super::file::{LogFile, allocate, fill_with_zeros};
use super::format::encode_file_head;

/// Files kept for use again at most.
const SPARES_MAX: usize = 2;

/// A directory that this process uses alone.
#[derive(Debug)]
pub(super) struct Directory {
    path: PathBuf,
    handle: File,
    _lock: File,
    /// Of a file, unless it has to be longer.
    file_bytes: u64,
    /// Of all files together.
    bytes_max: u64,
    stock: Mutex<Stock>,
}

/// Files that wait for use.
#[derive(Debug, Default)]
struct Stock {
    /// By number, whether every block was written before.
    free: BTreeMap<u64, bool>,
    /// How many are being written, and wait for use after that.
    filling: u64,
    next_number: u64,
}

impl Stock {
    fn waiting(&self) -> u64 {
        self.free.len() as u64 + self.filling
    }
}

/// What was found when the directory was opened.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub logs: Vec<u64>,
    pub indexes: Vec<u64>,
}

impl Directory {
    /// Takes the lock of a directory that is there, and looks at what it holds.
    pub(super) fn open(path: &Path, file_bytes: u64, bytes_max: u64) -> io::Result<(Self, Found)> {
        let path = path.canonicalize()?;
        let handle = File::open(&path)?;
        let lock = File::create(path.join("lock"))?;
        lock.try_lock().map_err(|error| match error {
            TryLockError::WouldBlock => io::Error::new(
                io::ErrorKind::ResourceBusy,
                "in use by another process: stop it first, or use another directory",
            ),
            TryLockError::Error(error) => error,
        })?;
        let directory = Self {
            path,
            handle,
            _lock: lock,
            file_bytes,
            bytes_max,
            stock: Mutex::default(),
        };
        let found = directory.look()?;
        Ok((directory, found))
    }

    fn look(&self) -> io::Result<Found> {
        let (mut found, mut stock) = (Found::default(), self.stock());
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let Some((number, kind)) = name.to_str().and_then(parse_name) else {
                continue;
            };
            stock.next_number = stock.next_number.max(number + 1);
            match kind {
                "log" => found.logs.push(number),
                "index" => found.indexes.push(number),
                "spare" | "blank" if entry.metadata()?.len() == self.file_bytes => {
                    stock.free.insert(number, kind == "spare");
                }
                "spare" | "blank" | "new" => fs::remove_file(entry.path())?,
                _ => {}
            }
        }
        found.logs.sort_unstable();
        Ok(found)
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn index_path(&self, number: u64) -> PathBuf {
        self.file_path(number, "index")
    }

    pub(super) fn open_log(&self, number: u64) -> io::Result<LogFile> {
        let path = self.file_path(number, "log");
        let file = OpenOptions::new().read(true).write(true).open(path)?;
        Ok(LogFile { number, file })
    }

    /// A log file to append to, with its length: `len_min` or more. `used` is what other log files take.
    pub(super) fn new_log(&self, len_min: u64, used: u64) -> io::Result<(LogFile, u64)> {
        let mut stock = self.stock();
        let len = len_min.max(self.file_bytes);
        let oversize = len > self.file_bytes;
        if oversize || stock.free.is_empty() {
            self.make_blank(&mut stock, len, used)?;
        }
        // The newest is the one that was just made for its length; one that was written before is faster.
        let written = stock.free.iter().find(|(_, written)| **written && !oversize);
        let Some((&from, &written)) = written.or_else(|| stock.free.last_key_value()) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let number = stock.next_number;
        stock.next_number += 1;
        let taken = self.put_to_use(from, written, number);
        match &taken {
            Ok(_) => drop(stock.free.remove(&from)),
            Err(_) if oversize => {
                stock.free.remove(&from);
                // What is left of it is removed by the next open.
                let _ = fs::remove_file(self.file_path(from, "blank"));
            }
            Err(_) => {}
        }
        Ok((taken?, len))
    }

    fn put_to_use(&self, from: u64, written: bool, number: u64) -> io::Result<LogFile> {
        let old = self.file_path(from, free_name(written));
        let file = OpenOptions::new().read(true).write(true).open(&old)?;
        file.write_all_at(&encode_file_head(number), 0)?;
        fdatasync(&file)?;
        let log = self.file_path(number, "log");
        fs::rename(&old, &log)?;
        if let Err(error) = fsync(&self.handle) {
            // Under its new name it holds nothing yet.
            fs::rename(&log, &old)?;
            return Err(error.into());
        }
        Ok(LogFile { number, file })
    }

    /// Sees to it that one more file can be had, whatever happens to the disk.
    pub(super) fn keep_reserve(&self, used: u64) -> io::Result<()> {
        let mut stock = self.stock();
        match stock.free.is_empty() {
            true => self.make_blank(&mut stock, self.file_bytes, used),
            false => Ok(()),
        }
    }

    /// Of files that wait for use.
    pub(super) fn free_bytes(&self) -> u64 {
        self.stock().waiting() * self.file_bytes
    }

    pub(super) fn has_written_spare(&self) -> bool {
        self.stock().free.values().any(|written| *written)
    }

    /// Makes a file whose blocks are all written. Takes as long as writing it does, unless it is not to `go_on`.
    pub(super) fn make_written_spare(&self, used: u64, go_on: impl Fn() -> bool) -> io::Result<()> {
        let number = {
            let mut stock = self.stock();
            if stock.free.is_empty() {
                self.make_blank(&mut stock, self.file_bytes, used)?;
            }
            // Nobody else uses it meanwhile.
            let Some((number, _)) = stock.free.pop_first() else {
                return Ok(());
            };
            stock.filling += 1;
            number
        };
        let blank = self.file_path(number, "blank");
        let filled = || -> io::Result<bool> {
            let file = OpenOptions::new().write(true).open(&blank)?;
            let filled = fill_with_zeros(&file, self.file_bytes, go_on)?;
            if filled {
                fs::rename(&blank, self.file_path(number, "spare"))?;
            }
            Ok(filled)
        };
        let result = filled();
        let mut stock = self.stock();
        stock.filling -= 1;
        stock.free.insert(number, matches!(result, Ok(true)));
        result.map(drop)
    }

    fn make_blank(&self, stock: &mut Stock, len: u64, used: u64) -> io::Result<()> {
        let waiting = stock.waiting() * self.file_bytes;
        if used + waiting + len > self.bytes_max {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("the bound of {} bytes is reached", self.bytes_max),
            ));
        }
        let number = stock.next_number;
        stock.next_number += 1;
        let path = self.file_path(number, "blank");
        let made = || -> io::Result<()> {
            let file = File::create_new(&path)?;
            allocate(&file, len)?;
            // Not every file system takes room in advance; the length says what the file is for.
            file.set_len(len)?;
            file.sync_all()
        };
        match made() {
            Ok(()) => {
                stock.free.insert(number, false);
                Ok(())
            }
            Err(error) => {
                // What is left of it would be removed by the next open.
                let _ = fs::remove_file(&path);
                Err(error)
            }
        }
    }

    /// Takes a log of `len` bytes out of use, durably. It is kept for use again if nobody reads it and few are.
    pub(super) fn retire(&self, number: u64, len: u64, unread: bool) -> io::Result<()> {
        let log = self.file_path(number, "log");
        let keep = unread && len == self.file_bytes && self.stock().free.len() < SPARES_MAX;
        match keep {
            true => fs::rename(&log, self.file_path(number, "spare"))?,
            false => remove_if_there(&log)?,
        }
        remove_if_there(&self.index_path(number))?;
        fsync(&self.handle)?;
        if keep {
            self.stock().free.insert(number, true);
        }
        Ok(())
    }

    pub(super) fn remove_index(&self, number: u64) -> io::Result<()> {
        remove_if_there(&self.index_path(number))
    }

    /// Makes names durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fsync(&self.handle)?)
    }

    fn file_path(&self, number: u64, kind: &str) -> PathBuf {
        self.path.join(format!("{number:016x}.{kind}"))
    }

    fn stock(&self) -> MutexGuard<'_, Stock> {
        self.stock.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn free_name(written: bool) -> &'static str {
    match written {
        true => "spare",
        false => "blank",
    }
}

fn parse_name(name: &str) -> Option<(u64, &str)> {
    let (number, kind) = name.split_once('.')?;
    let number = (number.len() == 16).then(|| u64::from_str_radix(number, 16).ok())??;
    // The highest number cannot be followed by another.
    (number < u64::MAX).then_some((number, kind))
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NOENT) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE_BYTES: u64 = 64 << 10;

    #[test]
    fn a_file_that_is_being_written_counts_against_the_bound() {
        let dir = tempfile::tempdir().expect("a directory");
        let (directory, _) = Directory::open(dir.path(), FILE_BYTES, FILE_BYTES).expect("it opens");
        let meanwhile = || {
            let refused = directory.keep_reserve(0).expect_err("there is room for one");
            assert_eq!(refused.kind(), io::ErrorKind::StorageFull);
            assert_eq!(directory.free_bytes(), FILE_BYTES);
            true
        };
        directory.make_written_spare(0, meanwhile).expect("there is room");
        assert!(directory.has_written_spare());
        assert_eq!(directory.free_bytes(), FILE_BYTES);
    }
}
