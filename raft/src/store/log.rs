//! Vote and log.
//!
//! Families: `system` holds `vote`, `committed` and `purged`; `log` holds entries by their index, big-endian. Both
//! share one write-ahead log, so that a later write is never on disk without an earlier one.
//!
//! * The vote is on disk when `save_vote` returns.
//! * An entry is readable when `append` returns and on disk when its callback is called.
//! * `committed` and truncations follow in order, without a sync of their own: losing them loses nothing that was
//!   promised.

use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Weak};

use openraft::OptionalSend;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use rocksdb::{ColumnFamily, DB, Direction, IteratorMode, WriteBatch};

use crate::codec::log::{decode_entry, decode_log_id, decode_vote, encode_entry, encode_log_id, encode_vote};
use crate::error::StoreError;
use crate::store::blocking::Blocking;
use crate::store::flusher::Flusher;
use crate::store::rocks;
use crate::types::{Entry, LogId, TypeConfig, Vote};

const SYSTEM: &str = "system";
const LOG: &str = "log";

const VOTE: &[u8] = b"vote";
const COMMITTED: &[u8] = b"committed";
const PURGED: &[u8] = b"purged";

/// Encoded bytes of entries that one bounded read returns; always at least one entry.
const READ_BYTES_MAX: usize = 1 << 20;

#[derive(Clone)]
pub struct LogStore {
    inner: Arc<Inner>,
}

struct Inner {
    // Before the database: the flusher's thread ends first.
    flusher: Flusher,
    db: Arc<DB>,
    blocking: Blocking,
}

/// Whether a store is open. Does not hold it.
pub struct Held(Weak<Inner>);

impl Held {
    pub fn is_held(&self) -> bool {
        self.0.strong_count() > 0
    }
}

impl LogStore {
    /// Opens or creates the database in `path`.
    pub fn open(path: &std::path::Path, blocking: Blocking) -> Result<Self, StoreError> {
        let db = Arc::new(rocks::open(path, &[SYSTEM, LOG])?);
        let flusher = Flusher::start(db.clone(), blocking)?;
        Ok(Self {
            inner: Arc::new(Inner {
                flusher,
                db,
                blocking,
            }),
        })
    }

    /// Tells when nobody holds the store any more, and another process may open it.
    pub fn held(&self) -> Held {
        Held(Arc::downgrade(&self.inner))
    }

    fn family(&self, name: &'static str) -> Result<&ColumnFamily, StoreError> {
        rocks::family(&self.inner.db, name)
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        let family = self.family(SYSTEM)?;
        self.inner
            .db
            .get_cf(family, key)
            .map_err(|error| StoreError::io("read log", error))
    }

    fn log_id(&self, key: &[u8], what: &'static str) -> Result<Option<LogId>, StoreError> {
        self.get(key)?
            .map(|bytes| decode_log_id(&bytes).map_err(|error| error.in_store(what)))
            .transpose()
    }

    fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.inner
            .db
            .write(batch)
            .map_err(|error| StoreError::io("write log", error))
    }

    /// Entries with `from <= index < end`, up to about `bytes_max` encoded bytes. A hole is corruption.
    fn entries(&self, from: u64, end: u64, bytes_max: usize) -> Result<Vec<Entry>, StoreError> {
        let mut entries: Vec<Entry> = Vec::new();
        if from >= end {
            return Ok(entries);
        }
        let options = rocks::ordered(Some(&end.to_be_bytes()));
        let start = from.to_be_bytes();
        let mode = IteratorMode::From(&start, Direction::Forward);
        let mut bytes = 0;
        for pair in self.inner.db.iterator_cf_opt(self.family(LOG)?, options, mode) {
            let (key, value) = pair.map_err(|error| StoreError::io("read log", error))?;
            if bytes > 0 && bytes + value.len() > bytes_max {
                break;
            }
            bytes += value.len();
            let entry = decode_entry(&value).map_err(|error| error.in_store("log entry"))?;
            let expected = entries
                .last()
                .map_or(entry.log_id.index, |last| last.log_id.index + 1);
            if key[..] != expected.to_be_bytes() || entry.log_id.index != expected {
                let why = format_args!("expected entry {expected}, found {}", entry.log_id.index);
                return Err(StoreError::corrupt("log", why));
            }
            entries.push(entry);
        }
        Ok(entries)
    }

    fn last_log_id(&self) -> Result<Option<LogId>, StoreError> {
        let mut entries =
            self.inner
                .db
                .iterator_cf_opt(self.family(LOG)?, rocks::ordered(None), IteratorMode::End);
        match entries.next() {
            None => Ok(None),
            Some(Err(error)) => Err(StoreError::io("read log", error)),
            Some(Ok((_, value))) => {
                let entry = decode_entry(&value).map_err(|error| error.in_store("log entry"))?;
                Ok(Some(entry.log_id))
            }
        }
    }

    fn append_unsynced(&self, entries: impl IntoIterator<Item = Entry>) -> Result<(), StoreError> {
        let log = self.family(LOG)?;
        let mut batch = WriteBatch::default();
        for entry in entries {
            batch.put_cf(log, entry.log_id.index.to_be_bytes(), encode_entry(&entry));
        }
        self.write(batch)
    }

    fn delete_after(&self, last: Option<LogId>) -> Result<(), StoreError> {
        let from = last.map_or(0, |last| last.index + 1);
        let mut batch = WriteBatch::default();
        let log = self.family(LOG)?;
        batch.delete_range_cf(log, from.to_be_bytes(), u64::MAX.to_be_bytes());
        self.write(batch)
    }

    fn delete_through(&self, through: LogId) -> Result<(), StoreError> {
        let purged = self.log_id(PURGED, "purged")?;
        let from = purged.map_or(0, |purged| purged.index);
        let mut batch = WriteBatch::default();
        batch.put_cf(self.family(SYSTEM)?, PURGED, encode_log_id(&through));
        let end = (through.index + 1).to_be_bytes();
        batch.delete_range_cf(self.family(LOG)?, from.to_be_bytes(), end);
        self.write(batch)
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> Result<Vec<Entry>, io::Error> {
        let from = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index.saturating_add(1),
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index.saturating_add(1),
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        Ok(self.entries(from, end, usize::MAX)?)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Result<Vec<Entry>, io::Error> {
        Ok(self.entries(start, end, READ_BYTES_MAX)?)
    }

    async fn read_vote(&mut self) -> Result<Option<Vote>, io::Error> {
        let vote = self.get(VOTE)?;
        let decoded = vote.map(|bytes| decode_vote(&bytes).map_err(|error| error.in_store("vote")));
        Ok(decoded.transpose()?)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Result<LogState<TypeConfig>, io::Error> {
        let last_purged_log_id = self.log_id(PURGED, "purged")?;
        let last_log_id = self.last_log_id()?.or(last_purged_log_id);
        Ok(LogState {
            last_purged_log_id,
            last_log_id,
        })
    }

    async fn get_log_reader(&mut self) -> Self::LogReader {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Result<(), io::Error> {
        let store = self.clone();
        let bytes = encode_vote(vote);
        let save = move || {
            let family = store.family(SYSTEM)?;
            let saved = store.inner.db.put_cf_opt(family, VOTE, bytes, &rocks::synced());
            saved.map_err(|error| StoreError::io("save vote", error))
        };
        Ok(self.inner.blocking.run(save).await?)
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> Result<(), io::Error> {
        let mut batch = WriteBatch::default();
        match committed {
            Some(committed) => batch.put_cf(self.family(SYSTEM)?, COMMITTED, encode_log_id(&committed)),
            None => batch.delete_cf(self.family(SYSTEM)?, COMMITTED),
        }
        Ok(self.write(batch)?)
    }

    async fn read_committed(&mut self) -> Result<Option<LogId>, io::Error> {
        Ok(self.log_id(COMMITTED, "committed")?)
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> Result<(), io::Error>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        self.append_unsynced(entries)?;
        self.inner.flusher.flush(callback);
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> Result<(), io::Error> {
        Ok(self.delete_after(last_log_id)?)
    }

    async fn purge(&mut self, log_id: LogId) -> Result<(), io::Error> {
        Ok(self.delete_through(log_id)?)
    }
}
