//! The data directory: who may use it, and what is where.
//!
//! ```text
//! lock            held by the process that uses the directory
//! identity        format version and node id, written once
//! log/            vote and log
//! current         name of the state in use
//! state-N/        a state; others than the current one are left-overs
//! snapshots/      complete snapshots; only the newest is kept
//! incoming/       what is being received or built; emptied at start
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::Write;
use std::path::{Path, PathBuf};

use millrace_api::id::NodeId;

use crate::error::{MetaError, StoreError};

/// Version of the directory and of everything in it.
const FORMAT: u32 = 1;

const LOCK: &str = "lock";
const IDENTITY: &str = "identity";
const CURRENT: &str = "current";
const STATE_PREFIX: &str = "state-";

/// A data directory that this process holds. The hold ends when this is dropped.
#[derive(Debug)]
pub struct MetaDir {
    path: PathBuf,
    _lock: File,
}

impl MetaDir {
    /// Takes hold of a directory, fresh or this node's own.
    pub fn open(path: &Path, node: NodeId) -> Result<Self, MetaError> {
        std::fs::create_dir_all(path).map_err(|error| StoreError::io("create data directory", error))?;
        let lock = lock(path)?;
        identify(path, node)?;
        let dir = Self {
            path: path.to_owned(),
            _lock: lock,
        };
        remove_if_there(&dir.incoming())?;
        for part in [dir.incoming(), dir.snapshots()] {
            std::fs::create_dir_all(&part).map_err(|error| StoreError::io("create data directory", error))?;
        }
        sync_dir(path)?;
        Ok(dir)
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub fn snapshots(&self) -> PathBuf {
        self.path.join("snapshots")
    }

    pub fn incoming(&self) -> PathBuf {
        self.path.join("incoming")
    }

    /// Where the current state is; states that are not current are removed. On a fresh directory the first state
    /// becomes current.
    pub fn current_state(&self) -> Result<PathBuf, StoreError> {
        let name = match std::fs::read_to_string(self.path.join(CURRENT)) {
            Ok(name) => name.trim().to_owned(),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                let first = self.state_path(1);
                self.make_current(&first)?;
                return Ok(first);
            }
            Err(error) => return Err(StoreError::io("read state pointer", error)),
        };
        if state_number(&name).is_none() {
            return Err(StoreError::corrupt("state pointer", format_args!("{name:?}")));
        }
        for other in self.states()? {
            if other != name {
                remove_if_there(&self.path.join(other))?;
            }
        }
        Ok(self.path.join(name))
    }

    /// A path for a state that does not exist yet.
    pub fn next_state(&self) -> Result<PathBuf, StoreError> {
        let highest = self.states()?.iter().filter_map(|name| state_number(name)).max();
        Ok(self.state_path(highest.unwrap_or(0) + 1))
    }

    /// From here on, and after any crash, this state is the one in use.
    pub fn make_current(&self, state: &Path) -> Result<(), StoreError> {
        let name = state.file_name().unwrap_or_default().to_string_lossy();
        write_durably(&self.path.join(CURRENT), format!("{name}\n").as_bytes())
            .map_err(|error| StoreError::io("write state pointer", error))
    }

    fn state_path(&self, number: u64) -> PathBuf {
        self.path.join(format!("{STATE_PREFIX}{number}"))
    }

    fn states(&self) -> Result<Vec<String>, StoreError> {
        let names = names_in(&self.path)?;
        Ok(names
            .into_iter()
            .filter(|name| state_number(name).is_some())
            .collect())
    }
}

fn state_number(name: &str) -> Option<u64> {
    name.strip_prefix(STATE_PREFIX)?.parse().ok()
}

fn lock(path: &Path) -> Result<File, MetaError> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path.join(LOCK))
        .map_err(|error| StoreError::io("open lock file", error))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => {
            let message = format!("another process uses the data directory {}", path.display());
            Err(MetaError::Unusable(message.into()))
        }
        Err(TryLockError::Error(error)) => Err(StoreError::io("lock data directory", error).into()),
    }
}

/// Checks whose directory it is, or says so in a fresh one.
fn identify(path: &Path, node: NodeId) -> Result<(), MetaError> {
    let file = path.join(IDENTITY);
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if path.join("log").exists() {
                let message = format!("the data directory {} has lost its identity file", path.display());
                return Err(MetaError::Unusable(message.into()));
            }
            let text = format!("format {FORMAT}\nnode {node}\n");
            let written = write_durably(&file, text.as_bytes());
            return Ok(written.map_err(|error| StoreError::io("write identity", error))?);
        }
        Err(error) => return Err(StoreError::io("read identity", error).into()),
    };
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.trim().parse::<u64>().ok())
            .ok_or_else(|| StoreError::corrupt("identity", format_args!("no {name}in {text:?}")))
    };
    let unusable = |message: String| MetaError::Unusable(message.into());
    let format = field("format ")?;
    if format != u64::from(FORMAT) {
        return Err(unusable(format!(
            "the data directory {} has format {format}, this release knows format {FORMAT}",
            path.display()
        )));
    }
    let owner = field("node ")?;
    if owner != node.0 {
        return Err(unusable(format!(
            "the data directory {} belongs to node {owner}, this is node {node}",
            path.display()
        )));
    }
    Ok(())
}

/// Replaces a small file: afterwards, and after any crash, it holds either the old or the new bytes.
pub fn write_durably(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    let part = path.with_extension("part");
    let mut file = File::create(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, path)?;
    File::open(path.parent().unwrap_or(Path::new(".")))?.sync_all()
}

/// Makes names in a directory durable.
pub fn sync_dir(path: &Path) -> Result<(), StoreError> {
    File::open(path)
        .and_then(|dir| dir.sync_all())
        .map_err(|error| StoreError::io("sync directory", error))
}

/// Names in a directory, in order.
pub fn names_in(path: &Path) -> Result<Vec<String>, StoreError> {
    let read = || -> std::io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in std::fs::read_dir(path)? {
            names.push(entry?.file_name().to_string_lossy().into_owned());
        }
        names.sort();
        Ok(names)
    };
    read().map_err(|error| StoreError::io("list directory", error))
}

pub fn remove_if_there(path: &Path) -> Result<(), StoreError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(StoreError::io("remove directory", error))
        }
        _ => Ok(()),
    }
}
