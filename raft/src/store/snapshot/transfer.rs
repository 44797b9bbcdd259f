//! How a snapshot travels: its files in pieces, in order, each with a checksum.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::path::PathBuf;
use std::sync::Arc;

use prost::Message;

use super::Snapshot;
use super::manifest::{Manifest, decode};
use crate::error::StoreError;
use crate::pb;
use crate::store::dir::remove_if_there;

/// Bytes of one piece of a file.
pub const PIECE_BYTES_MAX: usize = 1 << 20;

/// Reads a snapshot piece by piece.
pub struct Pieces {
    snapshot: Arc<Snapshot>,
    at: usize,
    offset: u64,
    open: Option<File>,
}

impl Pieces {
    pub(super) fn new(snapshot: Arc<Snapshot>) -> Self {
        Self {
            snapshot,
            at: 0,
            offset: 0,
            open: None,
        }
    }

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
