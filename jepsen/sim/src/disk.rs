//! What is on the machines' disks: everything that was synced, and of the rest as much as happened to get there.
//!
//! Syncs are caught where the C library is called, whoever calls it. What a file held then is durable; a loss of power
//! cuts logs off somewhere behind that. So whoever counts on what was written and not synced is found out. Only the
//! write-ahead logs of databases lose anything: all else is written as a whole and synced before it is named.

#![allow(unsafe_code)] // Takes the place of functions of the C library, nowhere else.

use std::collections::BTreeMap;
use std::ffi::{c_int, c_long};
use std::fs::OpenOptions;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use rand::Rng;
use rand::rngs::SmallRng;

/// Bytes of each file that are known to be durable.
static SYNCED: Mutex<BTreeMap<PathBuf, u64>> = Mutex::new(BTreeMap::new());

/// Cuts off what was not synced below `disk`, or most of it. No process may have a file open there.
///
/// # Errors
/// Of the file system that the disks are on.
pub fn lose_power(disk: &Path, rng: &mut SmallRng) -> io::Result<u64> {
    let synced = SYNCED.lock().unwrap_or_else(PoisonError::into_inner).clone();
    let mut lost = 0;
    for log in logs(disk)? {
        let len = log.metadata()?.len();
        let known = std::path::absolute(&log)?;
        let durable = synced.get(&known).copied().unwrap_or(0).min(len);
        // Mostly nothing of it, now and then a torn part.
        let kept = match rng.random_ratio(2, 3) {
            true => durable,
            false => rng.random_range(durable..=len),
        };
        if kept < len {
            OpenOptions::new().write(true).open(&log)?.set_len(kept)?;
            lost += len - kept;
        }
    }
    Ok(lost)
}

/// The write-ahead logs below a directory, in order of their names.
fn logs(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut dirs = vec![dir.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(&dir)? {
            let path = entry?.path();
            match path.is_dir() {
                true => dirs.push(path),
                false if path.extension().is_some_and(|it| it == "log") => found.push(path),
                false => {}
            }
        }
    }
    found.sort();
    Ok(found)
}

fn note(fd: c_int) -> c_int {
    // SAFETY: the caller syncs it, so that it is open.
    let file = unsafe { BorrowedFd::borrow_raw(fd) };
    let path = std::fs::read_link(format!("/proc/self/fd/{fd}"));
    if let (Ok(path), Ok(stat)) = (path, rustix::fs::fstat(file)) {
        let len = u64::try_from(stat.st_size).unwrap_or(0);
        let mut synced = SYNCED.lock().unwrap_or_else(PoisonError::into_inner);
        synced.insert(path, len);
    }
    0
}

/// In place of the C library's: the disks are in memory, and what they hold is written down.
#[unsafe(no_mangle)]
extern "C" fn fsync(fd: c_int) -> c_int {
    note(fd)
}

/// As [`fsync`].
#[unsafe(no_mangle)]
extern "C" fn fdatasync(fd: c_int) -> c_int {
    note(fd)
}

/// In place of the C library's: space is not set aside, which costs more here than all writing.
#[unsafe(no_mangle)]
extern "C" fn fallocate(_fd: c_int, _mode: c_int, _offset: c_long, _len: c_long) -> c_int {
    0
}

/// As [`fallocate`].
#[unsafe(no_mangle)]
extern "C" fn fallocate64(_fd: c_int, _mode: c_int, _offset: c_long, _len: c_long) -> c_int {
    0
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use rand::SeedableRng;

    use super::*;

    #[test]
    fn what_was_synced_outlives_a_loss_of_power_and_the_rest_may_not() {
        let disk = tempfile::tempdir().unwrap();
        let dir = disk.path().join("db");
        std::fs::create_dir(&dir).unwrap();
        let mut log = std::fs::File::create(dir.join("000004.log")).unwrap();
        log.write_all(b"synced").unwrap();
        log.sync_data().unwrap();
        log.write_all(b", and not").unwrap();
        drop(log);
        let mut rng = SmallRng::seed_from_u64(1);
        let mut left = Vec::new();
        for _ in 0..20 {
            lose_power(disk.path(), &mut rng).unwrap();
            left = std::fs::read(dir.join("000004.log")).unwrap();
            assert!(left.starts_with(b"synced"));
        }
        assert_eq!(left, b"synced");
    }
}
