//! Snapshots: a checkpoint of the state as a directory of files, and how it travels.
//!
//! A snapshot is complete when its manifest stands beside its files; until then it lies in `incoming/`. It travels as
//! the manifest and then pieces of at most [`PIECE_BYTES_MAX`], in order, each with a checksum. What arrives is
//! checked before it is kept.

mod manifest;
mod transfer;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use self::manifest::{MANIFEST, Manifest, encode, list_files, read_manifest, sealed};
pub use self::transfer::{PIECE_BYTES_MAX, Pieces, Receiver};
use crate::codec::DecodeError;
use crate::codec::log::{position_of, stored_membership};
use crate::error::StoreError;
use crate::state::record::{Applied, LogPosition};
use crate::store::dir::{names_in, remove_if_there, sync_dir, write_durably};
use crate::store::state::StateDb;
use crate::types::SnapshotMeta;

/// A complete snapshot. Its files go when nobody holds it, unless it is the one that the node keeps.
#[derive(Debug)]
pub struct Snapshot {
    path: PathBuf,
    manifest: Manifest,
    /// Its files stay on disk when it is dropped.
    kept: AtomicBool,
}

impl Snapshot {
    /// Index of the last entry that it contains.
    pub fn index(&self) -> u64 {
        self.manifest.applied.last.map_or(0, |last| last.index)
    }

    /// Bytes of all files.
    pub fn length(&self) -> u64 {
        self.manifest.files.iter().map(|file| file.length).sum()
    }

    /// The encoded manifest: what a receiver starts with.
    pub fn manifest(&self) -> Vec<u8> {
        encode(&self.manifest)
    }

    /// The files in pieces. Blocks; reads one piece at a time.
    pub fn pieces(self: &Arc<Self>) -> Pieces {
        Pieces::new(self.clone())
    }

    pub(crate) fn meta(&self) -> Result<SnapshotMeta, DecodeError> {
        meta_of(&self.manifest.applied)
    }

    pub(crate) fn last(&self) -> Option<LogPosition> {
        self.manifest.applied.last
    }

    /// Whether its files outlive the last who holds it.
    pub(crate) fn keep(&self, kept: bool) {
        self.kept.store(kept, Ordering::Release);
    }

    /// Makes a snapshot of `state`: durable, and complete, in `snapshots`. Blocks.
    pub(crate) fn build(state: &StateDb, incoming: &Path, snapshots: &Path) -> Result<Arc<Self>, StoreError> {
        state.sync()?;
        let part = incoming.join("checkpoint");
        remove_if_there(&part)?;
        state.checkpoint(&part)?;
        // The checkpoint itself says up to where it goes: the state has moved on meanwhile.
        let applied = StateDb::open_read_only(&part)?.applied()?;
        let manifest = Manifest {
            applied,
            files: list_files(&part)?,
        };
        Self::complete(&part, manifest, snapshots)
    }

    /// Syncs the files in `part`, writes the manifest and moves them to their place.
    fn complete(part: &Path, manifest: Manifest, snapshots: &Path) -> Result<Arc<Self>, StoreError> {
        for file in &manifest.files {
            sync_file(&part.join(&file.name))?;
        }
        let written = write_durably(&part.join(MANIFEST), &sealed(&encode(&manifest)));
        written.map_err(|error| StoreError::io("write snapshot manifest", error))?;
        let path = place(part, snapshots, &name_of(&manifest.applied))?;
        sync_dir(snapshots)?;
        Ok(Arc::new(Self {
            path,
            manifest,
            kept: AtomicBool::new(false),
        }))
    }

    /// The newest complete snapshot; all others are removed.
    pub(crate) fn newest(snapshots: &Path) -> Result<Option<Arc<Self>>, StoreError> {
        let mut newest: Option<Self> = None;
        for name in names_in(snapshots)? {
            let path = snapshots.join(name);
            let Some(manifest) = read_manifest(&path)? else {
                remove_if_there(&path)?;
                continue;
            };
            let found = Self {
                path,
                manifest,
                kept: AtomicBool::new(true),
            };
            match &newest {
                Some(other) if other.last() >= found.last() => remove_if_there(&found.path)?,
                _ => {
                    if let Some(older) = newest.replace(found) {
                        remove_if_there(&older.path)?;
                    }
                }
            }
        }
        Ok(newest.map(Arc::new))
    }

    /// Copies the snapshot to a directory of its own, durably: table files, which never change, as links. Checks that
    /// it holds what its manifest says. Blocks.
    pub(crate) fn unpack(&self, to: &Path) -> Result<(), StoreError> {
        let unpack = || -> std::io::Result<()> {
            std::fs::create_dir_all(to)?;
            for file in &self.manifest.files {
                let (from, to) = (self.path.join(&file.name), to.join(&file.name));
                let linked = file.name.ends_with(".sst") && std::fs::hard_link(&from, &to).is_ok();
                if !linked {
                    std::fs::copy(&from, &to)?;
                    File::open(&to)?.sync_all()?;
                }
            }
            File::open(to)?.sync_all()
        };
        unpack().map_err(|error| StoreError::io("unpack snapshot", error))?;
        let applied = StateDb::open_read_only(to)?.applied()?;
        match applied == self.manifest.applied {
            true => Ok(()),
            false => Err(StoreError::corrupt(
                "snapshot",
                "it is not what its manifest says",
            )),
        }
    }
}

impl Drop for Snapshot {
    fn drop(&mut self) {
        if !self.kept.load(Ordering::Acquire)
            && let Err(error) = remove_if_there(&self.path)
        {
            // It is removed at the next start.
            tracing::warn!(path = %self.path.display(), %error, "cannot remove a snapshot");
        }
    }
}

pub(crate) fn meta_of(applied: &Applied) -> Result<SnapshotMeta, DecodeError> {
    Ok(SnapshotMeta {
        last_log_id: applied.last.map(crate::codec::log::log_id_at),
        last_membership: stored_membership(applied.membership_at, &applied.membership)?,
    })
}

/// Whether the snapshot is the one that this describes.
pub(crate) fn is_described_by(snapshot: &Snapshot, meta: &SnapshotMeta) -> bool {
    snapshot.last() == meta.last_log_id.as_ref().map(position_of)
}

/// Moves a directory to a name of its own: no two snapshots share one, not even at the same index.
fn place(part: &Path, snapshots: &Path, name: &str) -> Result<PathBuf, StoreError> {
    use std::io::ErrorKind;
    let mut number = 0u64;
    loop {
        let path = snapshots.join(format!("{name}-{number}"));
        match std::fs::rename(part, &path) {
            Ok(()) => return Ok(path),
            Err(error)
                if matches!(
                    error.kind(),
                    ErrorKind::DirectoryNotEmpty | ErrorKind::AlreadyExists
                ) =>
            {
                number += 1;
            }
            Err(error) => return Err(StoreError::io("place snapshot", error)),
        }
    }
}

fn name_of(applied: &Applied) -> String {
    let last = applied.last.unwrap_or_default();
    format!("{:020}-{}-{}", last.index, last.term, last.node)
}

fn sync_file(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| StoreError::io("sync snapshot", error))
}
