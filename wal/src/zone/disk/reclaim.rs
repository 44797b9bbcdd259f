//! What is done beside commits: room is given back, and files are made ready.
//!
//! A file of which nothing is needed is removed or used again. One of which little is needed is emptied first: what is
//! needed is written again at the end of the log, as the same records, and synced. So the log takes about twice the
//! bytes that are needed, and a few files.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::oneshot;

use super::Shared;
use super::file::LogFile;
use super::format::{Kind, record_len};
use super::queue::{Copied, Request};
use super::scan::{RecordMeta, scan};
use super::sidecar;
use crate::zone::{Blocking, StoreError};

/// Bytes of bodies that are copied with one request, unless one alone has more; less where files are small.
const COPY_BYTES: u64 = 4 << 20;
/// A file is emptied whatever it holds if it is at most such a part of a full one: each restart leaves one behind.
const SMALL_PART: u64 = 8;

/// Does what is due, until nothing is.
pub(super) fn reclaim(shared: &Shared) -> Result<(), StoreError> {
    while !shared.closing() {
        write_indexes(shared)?;
        let (empty, sparse) = {
            let index = shared.index();
            let small = shared.options.file_bytes / SMALL_PART;
            (index.empty_file(), index.file_to_empty(small))
        };
        if let Some(number) = empty {
            remove(shared, number)?;
        } else if let Some(number) = sparse {
            move_away(shared, number)?;
        } else {
            make_spare(shared);
            return Ok(());
        }
    }
    Ok(())
}

fn write_indexes(shared: &Shared) -> Result<(), StoreError> {
    while let Some((number, records)) = shared.next_unindexed() {
        let path = shared.directory.index_path(number);
        if let Err(error) = sidecar::write(&path, number, &records) {
            // The next start reads the log instead.
            tracing::warn!(%error, path = %path.display(), "cannot write the index of a log file");
        }
    }
    Ok(())
}

fn make_spare(shared: &Shared) {
    // Filling one takes the device's time: not before it is likely to be needed, and never in somebody's call.
    if shared.blocking == Blocking::Inline
        || !shared.head_is_filling()
        || shared.directory.has_written_spare()
    {
        return;
    }
    let used = shared.index().bytes();
    if let Err(error) = shared.directory.make_written_spare(used, || !shared.closing()) {
        // Who needs the file makes it, or hears why that cannot be.
        tracing::debug!(%error, "no log file is made in advance");
    }
}

fn remove(shared: &Shared, number: u64) -> Result<(), StoreError> {
    let file = shared.index().files.get(&number).map(|state| {
        // Nothing in the index leads to it: nobody can begin to read it.
        (state.len, Arc::strong_count(&state.log) == 1)
    });
    let Some((len, unread)) = file else {
        return Ok(());
    };
    let retired = shared.directory.retire(number, len, unread);
    retired.map_err(|error| shared.no_room(error))?;
    shared.index().forget(number);
    Ok(())
}

/// Copies what is needed of a file. Nothing is copied unless all of it can be read.
fn move_away(shared: &Shared, number: u64) -> Result<(), StoreError> {
    let Some(log) = shared.index().files.get(&number).map(|state| state.log.clone()) else {
        return Ok(());
    };
    let begun = shared.index().moving.contains_key(&number);
    let needed = match needed_records(shared, &log).and_then(|needed| {
        let readable = begun || is_readable(&log, &needed)?;
        Ok(readable.then_some(needed))
    }) {
        Ok(Some(needed)) => needed,
        Ok(None) => return damaged(shared, number, "a record is damaged"),
        Err(error) => return damaged(shared, number, &error.to_string()),
    };
    let batch_bytes_max = COPY_BYTES.min(shared.options.file_bytes / 4);
    let (mut batch, mut batch_bytes) = (Vec::new(), 0);
    for record in needed {
        let Some(copied) = read_record(&log, &record).map_err(|error| shared.no_room(error))? else {
            return damaged(shared, number, "a record is damaged");
        };
        if batch_bytes + record.len() > batch_bytes_max && !batch.is_empty() {
            copy(shared, std::mem::take(&mut batch))?;
            batch_bytes = 0;
        }
        batch_bytes += record.len();
        batch.push(copied);
        if shared.closing() {
            return Ok(());
        }
    }
    if !batch.is_empty() {
        copy(shared, batch)?;
    }
    let left = shared.index().files.get(&number).map_or(0, |state| state.live);
    match left {
        0 => Ok(()),
        // Its index does not say where.
        _ => damaged(shared, number, "something that is needed was not found in it"),
    }
}

fn copy(shared: &Shared, records: Vec<Copied>) -> Result<(), StoreError> {
    let (reply, answer) = oneshot::channel();
    shared.submit(Request::Copy { records, reply })?;
    shared.wait(answer)
}

/// Leaves a file alone until a restart: a person should look. What can be read of it is read.
fn damaged(shared: &Shared, number: u64, why: &str) -> Result<(), StoreError> {
    let path = shared.directory.path().display();
    tracing::error!(%path, file = format!("{number:016x}"), why, "a log file cannot be emptied and is kept");
    let mut index = shared.index();
    index.damaged.insert(number);
    Ok(())
}

fn needed_records(shared: &Shared, log: &LogFile) -> io::Result<Vec<RecordMeta>> {
    let path = shared.directory.index_path(log.number);
    let records = match sidecar::read(&path, log.number)? {
        Some(records) => records,
        None => scan(log).map_err(io::Error::other)?.records,
    };
    let index = shared.index();
    let needed = |record: &RecordMeta| match record.kind {
        Kind::Object => index
            .objects
            .get(&record.key)
            .is_some_and(|place| (place.file, place.offset) == (log.number, record.offset)),
        Kind::Delete => index.needs_deletion(log.number, record.target),
        Kind::End => false,
    };
    Ok(records.into_iter().filter(needed).collect())
}

fn is_readable(log: &LogFile, records: &[RecordMeta]) -> io::Result<bool> {
    let end = log.len()?;
    for record in records {
        let Some((head, key)) = log.record_at(record.offset)? else {
            return Ok(false);
        };
        if RecordMeta::new(&head, &key) != *record || !log.body_is_whole(&head, &key, end)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn read_record(log: &LogFile, record: &RecordMeta) -> io::Result<Option<Copied>> {
    let Some((head, key)) = log.record_at(record.offset)? else {
        return Ok(None);
    };
    let body_at = record.offset + record_len(&key, 0);
    let body = log.read_up_to(
        body_at,
        usize::try_from(record.body_len).map_err(io::Error::other)?,
    )?;
    let whole = RecordMeta::new(&head, &key) == *record
        && body.len() as u64 == record.body_len
        && crc32c::crc32c(&body) == head.body_crc;
    Ok(whole.then(|| Copied {
        kind: record.kind,
        key: record.key.clone(),
        seq: record.seq,
        target: record.target,
        file: log.number,
        offset: record.offset,
        body: Bytes::from(body),
        body_crc: head.body_crc,
    }))
}
