//! The directory of one node, used by one process at a time.

use std::fs::{File, TryLockError};
use std::io;
use std::path::{Path, PathBuf};

/// A locked data directory; free again when this is dropped or the process ends.
pub struct DataDir {
    path: PathBuf,
    _lock: File,
}

#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("data directory {path}: {cause}")]
    Unusable { path: PathBuf, cause: io::Error },
    #[error("data directory {path} is in use by another process: stop it first, or use another directory")]
    InUse { path: PathBuf },
}

impl DataDir {
    /// Makes the directory if it is missing, and takes its lock.
    pub fn lock(path: &Path) -> Result<Self, DataDirError> {
        let unusable = |cause| DataDirError::Unusable {
            path: path.to_owned(),
            cause,
        };
        std::fs::create_dir_all(path).map_err(unusable)?;
        let lock = File::create(path.join("lock")).map_err(unusable)?;
        match lock.try_lock() {
            Ok(()) => Ok(Self {
                path: path.to_owned(),
                _lock: lock,
            }),
            Err(TryLockError::WouldBlock) => Err(DataDirError::InUse {
                path: path.to_owned(),
            }),
            Err(TryLockError::Error(cause)) => Err(unusable(cause)),
        }
    }

    /// Where metadata is kept.
    pub fn metadata(&self) -> PathBuf {
        self.path.join("meta")
    }

    /// Where the node's disk is as an Express zone, if it is one.
    pub fn zone(&self) -> PathBuf {
        self.path.join("zone")
    }

    /// Where metadata is kept for a store in memory, which is new at every start: empty.
    pub fn metadata_in_memory(&self) -> Result<PathBuf, DataDirError> {
        let path = self.path.join("meta-in-memory");
        match std::fs::remove_dir_all(&path) {
            Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
                Err(DataDirError::Unusable { path, cause })
            }
            _ => Ok(path),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_in_use_is_refused_and_free_afterwards() {
        let dir = tempfile::tempdir().unwrap();
        let held = DataDir::lock(dir.path()).unwrap();
        assert!(matches!(
            DataDir::lock(dir.path()),
            Err(DataDirError::InUse { .. })
        ));
        drop(held);
        DataDir::lock(dir.path()).unwrap();
    }

    #[test]
    fn metadata_of_a_store_in_memory_is_gone_at_the_next_start() {
        let dir = tempfile::tempdir().unwrap();
        let data_dir = DataDir::lock(dir.path()).unwrap();
        std::fs::create_dir(data_dir.metadata_in_memory().unwrap()).unwrap();
        assert!(!data_dir.metadata_in_memory().unwrap().exists());
    }
}
