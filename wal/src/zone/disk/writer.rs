//! The one that appends.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use super::Shared;
use super::file::LogFile;
use super::format::{BLOCK, Kind, RecordHead, block_end};
use super::group::{Group, Start};
use super::index::FileState;
use super::queue::Request;
use super::scan::RecordMeta;
use crate::zone::StoreError;

/// A group that has as many bytes takes no more requests: whoever is in it should not wait for many others.
const GROUP_BYTES_MAX: u64 = 16 << 20;

/// Commits requests in groups: everything that waits is written together and synced once.
#[derive(Debug)]
pub(super) struct Writer {
    head: Option<Head>,
    next_seq: u64,
}

/// The file that is appended to.
#[derive(Debug)]
struct Head {
    log: Arc<LogFile>,
    len: u64,
    offset: u64,
    commit: u64,
    records: Vec<RecordMeta>,
    /// Objects are put in only while another file can be had for the deletions that make room again.
    takes_creates: bool,
}

impl Writer {
    pub(super) fn new(next_seq: u64) -> Self {
        Self { head: None, next_seq }
    }

    /// Serves requests in their order; each is answered.
    pub(super) fn serve(&mut self, requests: VecDeque<Request>, shared: &Shared) {
        let mut group = self.group();
        for request in requests {
            if let Err(error) = shared.check() {
                request.refuse(error);
                continue;
            }
            if !self.has_room(&group, &request) || group.len >= GROUP_BYTES_MAX {
                self.commit(group, shared);
                let room = self.make_room(&request, shared);
                group = self.group();
                if let Err(error) = room {
                    request.refuse(error);
                    continue;
                }
            }
            group.add(request, &shared.index(), &mut self.next_seq);
        }
        self.commit(group, shared);
    }

    /// A group for the place where the log ends. Without a file it takes nothing that needs a record.
    fn group(&self) -> Group {
        let start = self.head.as_ref().map(|head| Start {
            file: head.log.number,
            offset: head.offset,
            commit: head.commit,
        });
        Group::new(start.unwrap_or(Start {
            file: 0,
            offset: 0,
            commit: 0,
        }))
    }

    fn has_room(&self, group: &Group, request: &Request) -> bool {
        let Some(head) = &self.head else {
            return false;
        };
        let welcome = head.takes_creates || !matches!(request, Request::Create { .. });
        // The last block is for the record that ends the file.
        welcome && block_end(head.offset + group.len + request.len()) + BLOCK <= head.len
    }

    /// Begins another file if the request does not fit.
    fn make_room(&mut self, request: &Request, shared: &Shared) -> Result<(), StoreError> {
        let is_create = matches!(request, Request::Create { .. });
        let fits = |head: &Head| block_end(head.offset + request.len()) + BLOCK <= head.len;
        let used = shared.index().bytes();
        if !self.head.as_ref().is_some_and(fits) {
            let len_min = BLOCK + block_end(request.len()) + BLOCK;
            let opened = shared.directory.new_log(len_min, used);
            let (log, len) = opened.map_err(|error| shared.no_room(error))?;
            self.end_file(shared)?;
            self.begin_file(log, len, shared);
        }
        if let Some(head) = self.head.as_mut().filter(|head| is_create && !head.takes_creates) {
            let used = shared.index().bytes();
            let kept = shared.directory.keep_reserve(used);
            kept.map_err(|error| shared.no_room(error))?;
            head.takes_creates = true;
        }
        Ok(())
    }

    fn begin_file(&mut self, log: LogFile, len: u64, shared: &Shared) {
        let log = Arc::new(log);
        let state = FileState {
            log: log.clone(),
            len,
            live: 0,
            sealed: false,
        };
        shared.index().files.insert(log.number, state);
        self.head = Some(Head {
            log,
            len,
            offset: BLOCK,
            commit: 1,
            records: Vec::new(),
            takes_creates: false,
        });
    }

    /// Says in the file that nothing follows, and syncs what was written without.
    fn end_file(&mut self, shared: &Shared) -> Result<(), StoreError> {
        let Some(head) = self.head.take() else {
            return Ok(());
        };
        if let Err(error) = write_end(&head.log, head.offset, head.commit) {
            return Err(shared.fail("a file cannot be ended", &error));
        }
        if let Some(state) = shared.index().files.get_mut(&head.log.number) {
            state.sealed = true;
        }
        shared.ended(head.log.number, head.records);
        Ok(())
    }

    fn commit(&mut self, mut group: Group, shared: &Shared) {
        if group.is_empty() {
            return;
        }
        if !group.has_records() {
            return group.answer(Ok(()));
        }
        let head = self.head.as_mut().expect("records are given a place in a file");
        let written = group.write(|slices| head.log.write(slices, head.offset));
        if let Err(error) = written {
            let why = shared.no_room(error);
            // What was written of it must never be taken for what follows: nothing does.
            return group.answer(self.end_file(shared).and(Err(why)));
        }
        if group.synced {
            // Pages that could not be written may be dropped, and the next sync succeed without them.
            if let Err(error) = head.log.sync() {
                return group.answer(Err(shared.fail("a sync has failed", &error)));
            }
            head.commit += 1;
        }
        let begun = std::mem::replace(&mut head.offset, group.end());
        let filling = (begun..head.offset).contains(&(head.len / 4));
        head.records.extend(group.apply(&mut shared.index()));
        let deleted = group.deletes;
        group.answer(Ok(()));
        if filling {
            shared.head_fills();
        }
        if deleted {
            shared.wake_reclaim();
        }
    }

    /// Makes the deletions durable that were written last.
    pub(super) fn finish(&mut self, shared: &Shared) {
        if shared.check().is_ok()
            && let Some(head) = &self.head
            && let Err(error) = head.log.sync()
        {
            tracing::warn!(%error, "the last deletions may be undone by a power loss");
        }
    }
}

/// Ends a file at `offset`, durably, with everything before it.
pub(super) fn write_end(log: &LogFile, offset: u64, commit: u64) -> io::Result<()> {
    let head = RecordHead {
        kind: Kind::End,
        last: true,
        file: log.number,
        offset,
        seq: 0,
        body_len: 0,
        target: 0,
        commit,
        body_crc: 0,
    };
    let mut bytes = head.encode("");
    bytes.resize((block_end(offset + bytes.len() as u64) - offset) as usize, 0);
    log.write(&mut [io::IoSlice::new(&bytes)], offset)?;
    log.sync()
}
