//! The state database.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rocksdb::checkpoint::Checkpoint;
use rocksdb::{DB, DBIteratorWithThreadMode, Direction, IteratorMode, WriteBatch};

use crate::error::StoreError;
use crate::state::kv::{Pair, Read};
use crate::state::record::Applied;
use crate::state::table::{AppliedTable, ReadTable};
use crate::state::txn::Changes;
use crate::store::keys::Family;
use crate::store::rocks;

/// One state on disk. Reads that are made on it directly see every commit so far.
pub struct StateDb {
    // Taken only when dropped.
    db: Option<DB>,
    path: PathBuf,
    obsolete: AtomicBool,
}

impl StateDb {
    /// Opens or creates the state in `path`.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::over(rocks::open(path, &family_names())?, path))
    }

    /// Opens a state that nobody writes.
    pub fn open_read_only(path: &Path) -> Result<Self, StoreError> {
        Ok(Self::over(rocks::open_read_only(path, &family_names())?, path))
    }

    fn over(db: DB, path: &Path) -> Self {
        Self {
            db: Some(db),
            path: path.to_owned(),
            obsolete: AtomicBool::new(false),
        }
    }

    /// Writes a batch. It is all there or not at all after a crash, and nothing later without it.
    pub fn commit(&self, changes: Changes) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        for ((family, key), value) in changes {
            let family = rocks::family(self.db(), family.name())?;
            match value {
                Some(value) => batch.put_cf(family, key, value),
                None => batch.delete_cf(family, key),
            }
        }
        self.db()
            .write(batch)
            .map_err(|error| StoreError::io("write state", error))
    }

    /// Everything committed so far is on disk when this returns.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.db()
            .flush_wal(true)
            .map_err(|error| StoreError::io("sync state", error))
    }

    /// Writes a consistent copy to `to`, which must not exist.
    pub fn checkpoint(&self, to: &Path) -> Result<(), StoreError> {
        Checkpoint::new(self.db())
            .and_then(|checkpoint| checkpoint.create_checkpoint(to))
            .map_err(|error| StoreError::io("checkpoint state", error))
    }

    pub fn applied(&self) -> Result<Applied, StoreError> {
        Ok(self.row::<AppliedTable>(&())?.unwrap_or_default())
    }

    /// Runs reads over one moment of the state.
    pub fn at_once<T>(&self, reads: impl FnOnce(&dyn Read) -> T) -> T {
        let moment = Moment {
            db: self.db(),
            snapshot: self.db().snapshot(),
        };
        reads(&moment)
    }

    /// Another state took its place: the directory goes when the last reader does.
    pub fn retire(&self) {
        self.obsolete.store(true, Ordering::Release);
    }

    fn db(&self) -> &DB {
        self.db.as_ref().expect("taken only when dropped")
    }
}

impl Drop for StateDb {
    fn drop(&mut self) {
        drop(self.db.take());
        if self.obsolete.load(Ordering::Acquire)
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            // It is removed at the next start.
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a replaced state");
        }
    }
}

fn family_names() -> [&'static str; Family::ALL.len()] {
    Family::ALL.map(Family::name)
}

impl Read for StateDb {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let family = rocks::family(self.db(), family.name())?;
        self.db()
            .get_cf(family, key)
            .map_err(|error| StoreError::io("read state", error))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        if end.is_some_and(|end| end <= from) {
            return Ok(Vec::new());
        }
        let family = rocks::family(self.db(), family.name())?;
        let mode = IteratorMode::From(from, Direction::Forward);
        collect(
            self.db().iterator_cf_opt(family, rocks::ordered(end), mode),
            limit,
        )
    }
}

/// The state as it was when a snapshot of it was taken.
struct Moment<'a> {
    db: &'a DB,
    snapshot: rocksdb::Snapshot<'a>,
}

impl Read for Moment<'_> {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let family = rocks::family(self.db, family.name())?;
        self.snapshot
            .get_cf(family, key)
            .map_err(|error| StoreError::io("read state", error))
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        if end.is_some_and(|end| end <= from) {
            return Ok(Vec::new());
        }
        let family = rocks::family(self.db, family.name())?;
        let mode = IteratorMode::From(from, Direction::Forward);
        collect(
            self.snapshot.iterator_cf_opt(family, rocks::ordered(end), mode),
            limit,
        )
    }
}

fn collect(pairs: DBIteratorWithThreadMode<'_, DB>, limit: usize) -> Result<Vec<Pair>, StoreError> {
    pairs
        .take(limit)
        .map(|pair| match pair {
            Ok((key, value)) => Ok((key.into_vec(), value.into_vec())),
            Err(error) => Err(StoreError::io("read state", error)),
        })
        .collect()
}
