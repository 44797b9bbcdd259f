//! What a snapshot says of itself: the entries that it contains, and its files.

use std::path::Path;

use prost::Message;

use crate::codec::DecodeError;
use crate::codec::log::{log_position, log_position_message, members, members_message};
use crate::error::StoreError;
use crate::pb;
use crate::state::record::Applied;
use crate::store::dir::names_in;

/// Files of one snapshot.
const FILES_MAX: usize = 100_000;
/// Version of the manifest and of what it describes.
const FORMAT: u32 = 1;

/// The manifest's file name. No file of a database is called so.
pub const MANIFEST: &str = "snapshot.manifest";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileEntry {
    pub name: String,
    pub length: u64,
}

/// What a snapshot holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Manifest {
    pub applied: Applied,
    /// In the order in which they travel.
    pub files: Vec<FileEntry>,
}

/// The manifest as it travels.
pub fn encode(manifest: &Manifest) -> Vec<u8> {
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

/// Refuses what no release wrote, and names that lead elsewhere.
pub fn decode(bytes: &[u8]) -> Result<Manifest, DecodeError> {
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
            membership: members(message.membership.unwrap_or_default())?,
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

/// The files of a database, in order of their names.
pub fn list_files(path: &Path) -> Result<Vec<FileEntry>, StoreError> {
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

/// The manifest as stored: CRC32C, little-endian, and the message.
pub fn sealed(manifest: &[u8]) -> Vec<u8> {
    [&crc32c::crc32c(manifest).to_le_bytes()[..], manifest].concat()
}

/// The manifest in a directory; `None` if there is none, which is an unfinished snapshot.
pub fn read_manifest(path: &Path) -> Result<Option<Manifest>, StoreError> {
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
