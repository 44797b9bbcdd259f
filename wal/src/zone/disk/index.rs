//! What is where, and what of each file is still needed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::file::LogFile;
use super::format::record_len;

/// Where an object lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub file: u64,
    /// Of its record.
    pub offset: u64,
    pub body_len: u64,
    pub seq: u64,
}

/// A file, and how much of it is needed.
#[derive(Debug)]
pub(super) struct FileState {
    pub log: Arc<LogFile>,
    /// Bytes that it takes on the disk.
    pub len: u64,
    /// Bytes of records that must not be lost: objects that stand, and deletions whose object's record is still in
    /// another file.
    pub live: u64,
    /// Nothing is appended any more.
    pub sealed: bool,
}

/// All objects and files.
///
/// - An object stands under a key if and only if the key is here. Its record is durable.
/// - A deletion is needed while the file of the object's record exists: otherwise the object would come back.
/// - While a file is being emptied, its objects may have two records. A file that holds the newer ones is not removed
///   before it, so that a deletion that names the newer one outlives the older one as well.
#[derive(Debug, Default)]
pub(super) struct Index {
    pub objects: BTreeMap<Box<str>, Place>,
    pub files: BTreeMap<u64, FileState>,
    /// By the file of the removed object and the file of the deletion: bytes of deletions.
    deletions: BTreeMap<u64, BTreeMap<u64, u64>>,
    /// Files that are being emptied, with the files that their records were copied to.
    pub moving: BTreeMap<u64, BTreeSet<u64>>,
    /// Files with a record that cannot be read: they stay.
    pub damaged: BTreeSet<u64>,
}

impl Index {
    /// Puts an object where it lies now; it may have lain elsewhere.
    pub(super) fn insert(&mut self, key: &str, place: Place) {
        let len = record_len(key, place.body_len);
        let before = match self.objects.get_mut(key) {
            Some(standing) => Some(std::mem::replace(standing, place)),
            None => {
                self.objects.insert(key.into(), place);
                None
            }
        };
        self.grow(place.file, len);
        if let Some(before) = before {
            self.shrink(before.file, record_len(key, before.body_len));
        }
    }

    pub(super) fn remove(&mut self, key: &str) {
        if let Some(place) = self.objects.remove(key) {
            self.shrink(place.file, record_len(key, place.body_len));
        }
    }

    /// Whether a deletion in file `holder`, of an object in file `target`, is needed.
    pub(super) fn needs_deletion(&self, holder: u64, target: u64) -> bool {
        holder != target && self.files.contains_key(&target)
    }

    pub(super) fn add_deletion(&mut self, holder: u64, target: u64, len: u64) {
        if self.needs_deletion(holder, target) {
            *self
                .deletions
                .entry(target)
                .or_default()
                .entry(holder)
                .or_default() += len;
            self.grow(holder, len);
        }
    }

    /// A deletion has been copied from one file to another.
    pub(super) fn move_deletion(&mut self, from: u64, to: u64, target: u64, len: u64) {
        let holders = self.deletions.get_mut(&target);
        if let Some(left) = holders.and_then(|holders| holders.get_mut(&from)) {
            *left = left.saturating_sub(len);
            self.shrink(from, len);
            self.add_deletion(to, target, len);
        }
    }

    /// An object that lies in file `from` now lies in file `to` as well, and counts there.
    pub(super) fn copied(&mut self, from: u64, to: u64) {
        self.moving.entry(from).or_default().insert(to);
    }

    /// Takes out a file that exists no more, durably: deletions of its objects are not needed either.
    pub(super) fn forget(&mut self, file: u64) -> Option<FileState> {
        let state = self.files.remove(&file);
        for (holder, len) in self.deletions.remove(&file).unwrap_or_default() {
            self.shrink(holder, len);
        }
        self.deletions.retain(|_, holders| {
            holders.remove(&file);
            !holders.is_empty()
        });
        self.moving.remove(&file);
        self.damaged.remove(&file);
        state
    }

    /// A file that holds nothing that is needed and may be removed now.
    pub(super) fn empty_file(&self) -> Option<u64> {
        let empty =
            |(file, state): &(&u64, &FileState)| state.sealed && state.live == 0 && !self.received(**file);
        self.files.iter().find(empty).map(|(file, _)| *file)
    }

    /// The file that is best emptied now by copying what is needed of it: one that was begun, or else the one with
    /// the least to copy of those of which less than half is needed, or that are small.
    pub(super) fn file_to_empty(&self, small: u64) -> Option<u64> {
        let whole = |file: &u64| !self.damaged.contains(file);
        if let Some(begun) = self.moving.keys().copied().find(whole) {
            return Some(begun);
        }
        let sparse = |state: &FileState| state.sealed && (state.live * 2 < state.len || state.len <= small);
        self.files
            .iter()
            .filter(|(file, state)| sparse(state) && whole(file) && !self.received(**file))
            .min_by_key(|(_, state)| state.live)
            .map(|(file, _)| *file)
    }

    /// Whether it holds copies of what another file still holds, too.
    fn received(&self, file: u64) -> bool {
        self.moving.values().any(|receivers| receivers.contains(&file))
    }

    /// Bytes of all files on the disk.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().map(|state| state.len).sum()
    }

    fn grow(&mut self, file: u64, len: u64) {
        if let Some(state) = self.files.get_mut(&file) {
            state.live += len;
        }
    }

    fn shrink(&mut self, file: u64, len: u64) {
        if let Some(state) = self.files.get_mut(&file) {
            debug_assert!(
                state.live >= len,
                "more is dropped of file {file} than was needed"
            );
            state.live = state.live.saturating_sub(len);
        }
    }
}
