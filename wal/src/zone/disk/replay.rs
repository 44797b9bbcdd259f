//! What a directory holds when it is opened.

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use super::directory::{Directory, Found};
use super::file::LogFile;
use super::format::{BLOCK, Kind, RECORD_HEAD_LEN, block_end, decode_file_head};
use super::index::{FileState, Index, Place};
use super::scan::{RecordMeta, ScanError, scan};
use super::sidecar;
use super::writer::write_end;
use crate::zone::StoreError;
use crate::zone::local::explain;

/// The state in which the last process left the directory.
pub(super) struct Replayed {
    pub index: Index,
    pub next_seq: u64,
    /// Records of files that have no index beside them.
    pub unindexed: Vec<(u64, Vec<RecordMeta>)>,
}

struct Replayable {
    log: LogFile,
    records: Vec<RecordMeta>,
    /// Where the file goes on, if nothing says that it ends.
    open_at: Option<(u64, u64)>,
    indexed: bool,
}

/// Reads all files, and ends the one that was in use: a commit that was torn there is cut off, durably, before
/// anything else is written. Whatever is found is synced: a process that was killed may not have done so.
pub(super) fn replay(directory: &Directory, found: Found) -> Result<Replayed, StoreError> {
    let io = |error: io::Error| explain(&directory.path().display(), error);
    for index in &found.indexes {
        if found.logs.binary_search(index).is_err() {
            directory.remove_index(*index).map_err(io)?;
        }
    }
    let mut files = Vec::new();
    for number in found.logs {
        files.push(read_file(directory, number)?);
    }
    let in_use = |file: &Replayable| !file.records.is_empty() || file.open_at.is_none();
    let last_used = files.iter().rposition(in_use);
    let mut kept = Vec::new();
    for (at, mut file) in files.into_iter().enumerate() {
        let Some((end, commit)) = file.open_at.take() else {
            kept.push(file);
            continue;
        };
        if last_used.is_some_and(|last| at < last) {
            return Err(corrupt(
                directory,
                file.log.number,
                "it breaks off, and a later one was begun",
            ));
        }
        if file.records.is_empty() {
            let len = file.log.len().map_err(io)?;
            directory.retire(file.log.number, len, true).map_err(io)?;
            continue;
        }
        write_end(&file.log, end, commit).map_err(io)?;
        file.log
            .file
            .set_len(block_end(end + RECORD_HEAD_LEN as u64))
            .map_err(io)?;
        file.log.file.sync_all().map_err(io)?;
        kept.push(file);
    }
    directory.sync().map_err(io)?;
    build(kept).map_err(io)
}

fn read_file(directory: &Directory, number: u64) -> Result<Replayable, StoreError> {
    let io = |error: io::Error| explain(&directory.path().display(), error);
    let log = directory.open_log(number).map_err(io)?;
    let block = log.read_up_to(0, BLOCK as usize).map_err(io)?;
    if decode_file_head(&block) != Some(number) {
        return Err(corrupt(directory, number, "it does not begin as it should"));
    }
    if let Some(records) = sidecar::read(&directory.index_path(number), number).map_err(io)? {
        return Ok(Replayable {
            log,
            records,
            open_at: None,
            indexed: true,
        });
    }
    log.file.sync_all().map_err(io)?;
    let scanned = scan(&log).map_err(|error| match error {
        ScanError::Io(error) => io(error),
        ScanError::Damaged(_) => corrupt(directory, number, &error.to_string()),
    })?;
    Ok(Replayable {
        log,
        records: scanned.records,
        open_at: (!scanned.ended).then_some((scanned.end, scanned.commit)),
        indexed: false,
    })
}

fn corrupt(directory: &Directory, number: u64, why: &str) -> StoreError {
    StoreError::Corrupt(format!(
        "{}: file {number:016x}: {why}",
        directory.path().display()
    ))
}

/// Of all records of a key the one with the highest sequence counts; of an object that was copied, the copy.
fn build(files: Vec<Replayable>) -> io::Result<Replayed> {
    let mut replayed = Replayed {
        index: Index::default(),
        next_seq: 1,
        unindexed: Vec::new(),
    };
    let mut latest: BTreeMap<Box<str>, (u64, Option<Place>)> = BTreeMap::new();
    let mut deletions = Vec::new();
    for file in files {
        let number = file.log.number;
        for record in &file.records {
            replayed.next_seq = replayed.next_seq.max(record.seq + 1);
            let place = match record.kind {
                Kind::Object => Some(Place {
                    file: number,
                    offset: record.offset,
                    body_len: record.body_len,
                    seq: record.seq,
                }),
                Kind::Delete => {
                    deletions.push((number, record.target, record.len()));
                    None
                }
                Kind::End => continue,
            };
            match latest.get_mut(&record.key) {
                Some((seq, _)) if *seq > record.seq => {}
                Some((seq, standing)) => {
                    if let (true, Some(standing), Some(_)) = (*seq == record.seq, &standing, &place) {
                        replayed.index.copied(standing.file, number);
                    }
                    (*seq, *standing) = (record.seq, place);
                }
                None => drop(latest.insert(record.key.clone(), (record.seq, place))),
            }
        }
        let state = FileState {
            len: file.log.len()?,
            log: Arc::new(file.log),
            live: 0,
            sealed: true,
        };
        replayed.index.files.insert(number, state);
        if !file.indexed {
            replayed.unindexed.push((number, file.records));
        }
    }
    for (key, (_, place)) in latest {
        if let Some(place) = place {
            replayed.index.insert(&key, place);
        }
    }
    for (holder, target, len) in deletions {
        replayed.index.add_deletion(holder, target, len);
    }
    Ok(replayed)
}
