//! Snapshots: a checkpoint of the state as a directory of files, and how it travels.
//!
//! A snapshot is complete when its manifest stands beside its files; until then it lies in `incoming/`. It travels as
//! the manifest and then pieces of at most [`PIECE_BYTES_MAX`], in order, each with a checksum. What arrives is
//! checked before it is kept.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use prost::Message;

use crate::codec::DecodeError;
use crate::codec::log::{
    log_position, log_position_message, members, members_message, position_of, stored_membership,
};
use crate::error::StoreError;
use crate::pb;
use crate::state::record::{Applied, LogPosition};
use crate::store::dir::{names_in, remove_if_there, sync_dir, write_durably};
use crate::store::state::StateDb;
use crate::types::SnapshotMeta;

/// Bytes of one piece of a file.
pub const PIECE_BYTES_MAX: usize = 1 << 20;
/// Files of one snapshot.
const FILES_MAX: usize = 100_000;
/// Version of the manifest and of what it describes.
const FORMAT: u32 = 1;

const MANIFEST: &str = "snapshot.manifest";

#[derive(Debug, Clone, PartialEq, Eq)]
struct FileEntry {
    name: String,
    length: u64,
}

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Manifest {
    applied: Applied,
    files: Vec<FileEntry>,
}

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
        Pieces {
            snapshot: self.clone(),
            at: 0,
            offset: 0,
            open: None,
        }
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

/// Reads a snapshot piece by piece.
pub struct Pieces {
    snapshot: Arc<Snapshot>,
    at: usize,
    offset: u64,
    open: Option<File>,
}

impl Pieces {
    /// The next encoded piece; `None` after the last. Blocks.
    pub fn next_piece(&mut self) -> Result<Option<Vec<u8>>, StoreError> {
        loop {
            let Some(entry) = self.snapshot.manifest.files.get(self.at) else {
                return Ok(None);
            };
            if self.offset == entry.length {
                (self.at, self.offset, self.open) = (self.at + 1, 0, None);
                continue;
            }
            let length = (entry.length - self.offset).min(PIECE_BYTES_MAX as u64) as usize;
            let data = self
                .read(length)
                .map_err(|error| StoreError::io("read snapshot", error))?;
            let piece = pb::SnapshotPiece {
                file: self.at as u32,
                offset: self.offset,
                crc32c: crc32c::crc32c(&data),
                data,
            };
            self.offset += length as u64;
            return Ok(Some(piece.encode_to_vec()));
        }
    }

    fn read(&mut self, length: usize) -> std::io::Result<Vec<u8>> {
        if self.open.is_none() {
            let name = &self.snapshot.manifest.files[self.at].name;
            self.open = Some(File::open(self.snapshot.path.join(name))?);
        }
        let mut data = vec![0; length];
        self.open.as_mut().expect("opened above").read_exact(&mut data)?;
        Ok(data)
    }
}

/// Takes in a snapshot piece by piece. What it has is gone if it is dropped before [`Receiver::finish`].
pub struct Receiver {
    manifest: Manifest,
    part: PathBuf,
    snapshots: PathBuf,
    at: usize,
    offset: u64,
    open: Option<File>,
    finished: bool,
}

impl Receiver {
    /// `part` must not be in use by another receiver. Blocks.
    pub(crate) fn begin(manifest: &[u8], part: PathBuf, snapshots: PathBuf) -> Result<Self, StoreError> {
        let manifest = decode(manifest).map_err(|error| error.in_store("snapshot manifest"))?;
        remove_if_there(&part)?;
        std::fs::create_dir_all(&part).map_err(|error| StoreError::io("receive snapshot", error))?;
        Ok(Self {
            manifest,
            part,
            snapshots,
            at: 0,
            offset: 0,
            open: None,
            finished: false,
        })
    }

    /// Writes the next piece. Pieces come in order, each once. Blocks.
    pub fn accept(&mut self, piece: &[u8]) -> Result<(), StoreError> {
        let refuse = |why: &str| StoreError::corrupt("snapshot piece", why);
        let piece = pb::SnapshotPiece::decode(piece).map_err(|error| refuse(&error.to_string()))?;
        self.skip_complete()
            .map_err(|error| StoreError::io("write snapshot", error))?;
        let entry = self
            .manifest
            .files
            .get(self.at)
            .ok_or_else(|| refuse("one too many"))?;
        let end = self.offset.checked_add(piece.data.len() as u64);
        if piece.file as usize != self.at || piece.offset != self.offset {
            return Err(refuse("out of order"));
        }
        if piece.data.is_empty()
            || piece.data.len() > PIECE_BYTES_MAX
            || end.is_none_or(|end| end > entry.length)
        {
            return Err(refuse("its length does not fit"));
        }
        if crc32c::crc32c(&piece.data) != piece.crc32c {
            return Err(refuse("its checksum is wrong"));
        }
        self.write(&piece.data)
            .map_err(|error| StoreError::io("write snapshot", error))
    }

    /// Ends the transfer: the snapshot is complete and durable. Blocks.
    pub fn finish(mut self) -> Result<Arc<Snapshot>, StoreError> {
        self.skip_complete()
            .map_err(|error| StoreError::io("write snapshot", error))?;
        if self.at < self.manifest.files.len() {
            return Err(StoreError::corrupt("snapshot", "pieces are missing"));
        }
        self.finished = true;
        Snapshot::complete(&self.part, self.manifest.clone(), &self.snapshots)
    }

    fn write(&mut self, data: &[u8]) -> std::io::Result<()> {
        if self.open.is_none() {
            self.open = Some(File::create_new(
                self.part.join(&self.manifest.files[self.at].name),
            )?);
        }
        self.open.as_mut().expect("opened above").write_all(data)?;
        self.offset += data.len() as u64;
        Ok(())
    }

    /// Moves on from files that have all their bytes; a file without any is created here.
    fn skip_complete(&mut self) -> std::io::Result<()> {
        while let Some(entry) = self.manifest.files.get(self.at)
            && entry.length == self.offset
        {
            if self.open.is_none() {
                File::create_new(self.part.join(&entry.name))?;
            }
            (self.at, self.offset, self.open) = (self.at + 1, 0, None);
        }
        Ok(())
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        if !self.finished
            && let Err(error) = remove_if_there(&self.part)
        {
            tracing::warn!(path = %self.part.display(), %error, "cannot remove an unfinished snapshot");
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

fn encode(manifest: &Manifest) -> Vec<u8> {
    pb::SnapshotManifest {
        format: FORMAT,
        last_log_id: manifest.applied.last.map(log_position_message),
        membership_log_id: manifest.applied.membership_at.map(log_position_message),
        membership: Some(members_message(&manifest.applied.membership)),
        files: manifest
            .files
            .iter()
            .map(|file| pb::snapshot_manifest::File {
                name: file.name.clone(),
                length: file.length,
            })
            .collect(),
    }
    .encode_to_vec()
}

fn decode(bytes: &[u8]) -> Result<Manifest, DecodeError> {
    let message = pb::SnapshotManifest::decode(bytes)?;
    if message.format != FORMAT {
        return Err(DecodeError::unknown("snapshot format", message.format));
    }
    if message.files.len() > FILES_MAX {
        return Err(DecodeError::unknown("file count", message.files.len()));
    }
    let mut files: Vec<FileEntry> = Vec::with_capacity(message.files.len());
    let mut names = std::collections::BTreeSet::new();
    for file in message.files {
        if !is_file_name(&file.name) || !names.insert(file.name.clone()) {
            return Err(DecodeError::unknown("file name", file.name));
        }
        files.push(FileEntry {
            name: file.name,
            length: file.length,
        });
    }
    Ok(Manifest {
        applied: Applied {
            last: message.last_log_id.map(log_position),
            membership_at: message.membership_log_id.map(log_position),
            membership: members(message.membership.unwrap_or_default()),
        },
        files,
    })
}

/// A name that RocksDB gives to a file that belongs to the data: nothing that leads out of the directory.
fn is_file_name(name: &str) -> bool {
    let data = name == "CURRENT"
        || name.starts_with("MANIFEST-")
        || name.starts_with("OPTIONS-")
        || name.ends_with(".sst")
        || name.ends_with(".log")
        || name.ends_with(".blob");
    data && name.len() <= 64
        && name
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.')
}

fn list_files(path: &Path) -> Result<Vec<FileEntry>, StoreError> {
    let mut files = Vec::new();
    for name in names_in(path)?.into_iter().filter(|name| is_file_name(name)) {
        let metadata =
            std::fs::metadata(path.join(&name)).map_err(|error| StoreError::io("list snapshot", error))?;
        files.push(FileEntry {
            name,
            length: metadata.len(),
        });
    }
    Ok(files)
}

fn sync_file(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|file| file.sync_all())
        .map_err(|error| StoreError::io("sync snapshot", error))
}

/// The manifest as stored: CRC32C, little-endian, and the message.
fn sealed(manifest: &[u8]) -> Vec<u8> {
    [&crc32c::crc32c(manifest).to_le_bytes()[..], manifest].concat()
}

/// The manifest in a directory; `None` if there is none, which is an unfinished snapshot.
fn read_manifest(path: &Path) -> Result<Option<Manifest>, StoreError> {
    let bytes = match std::fs::read(path.join(MANIFEST)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(StoreError::io("read snapshot manifest", error)),
    };
    let (crc, message) = match bytes.split_first_chunk::<4>() {
        Some((crc, message)) => (u32::from_le_bytes(*crc), message),
        None => return Err(StoreError::corrupt("snapshot manifest", "too short")),
    };
    if crc32c::crc32c(message) != crc {
        return Err(StoreError::corrupt("snapshot manifest", "wrong checksum"));
    }
    decode(message)
        .map(Some)
        .map_err(|error| error.in_store("snapshot manifest"))
}
