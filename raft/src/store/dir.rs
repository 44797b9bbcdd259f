//! The data directory: who may use it, and what is where.
//!
//! ```text
//! lock            held by the process that uses the directory
//! identity        format version, node id, cluster and directory id; what is there is never changed
//! lives           incarnations that were registered from here
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
use crate::identity::{ClusterId, DirectoryId, Identity};

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
    identity: Identity,
    _lock: File,
}

/// Who opens a directory.
#[derive(Debug, Clone, Copy)]
pub struct Owner {
    pub node: NodeId,
    /// `None` asks for none.
    pub cluster: Option<ClusterId>,
    /// New and random: given to a directory that has no id yet.
    pub directory: Option<DirectoryId>,
}

impl From<NodeId> for Owner {
    /// A node that asks for no cluster.
    fn from(node: NodeId) -> Self {
        Self {
            node,
            cluster: None,
            directory: None,
        }
    }
}

impl MetaDir {
    /// Takes hold of a directory, fresh or this node's own.
    pub fn open(path: &Path, owner: impl Into<Owner>) -> Result<Self, MetaError> {
        std::fs::create_dir_all(path).map_err(|error| StoreError::io("create data directory", error))?;
        let lock = lock(path)?;
        let identity = identify(path, owner.into())?;
        let dir = Self {
            path: path.to_owned(),
            identity,
            _lock: lock,
        };
        remove_if_there(&dir.incoming())?;
        for part in [dir.incoming(), dir.snapshots()] {
            std::fs::create_dir_all(&part).map_err(|error| StoreError::io("create data directory", error))?;
        }
        sync_dir(path)?;
        Ok(dir)
    }

    pub fn identity(&self) -> Identity {
        self.identity
    }

    pub fn log(&self) -> PathBuf {
        self.path.join("log")
    }

    pub fn lives(&self) -> PathBuf {
        self.path.join("lives")
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

/// Checks whose directory it is, or says so in a fresh one. A cluster or a directory id that it does not have yet is
/// written down.
fn identify(path: &Path, owner: Owner) -> Result<Identity, MetaError> {
    let file = path.join(IDENTITY);
    let text = match std::fs::read_to_string(&file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            if path.join("log").exists() {
                let message = format!("the data directory {} has lost its identity file", path.display());
                return Err(MetaError::Unusable(message.into()));
            }
            let identity = Identity {
                cluster: owner.cluster,
                node: owner.node,
                directory: owner.directory,
            };
            write_identity(&file, &identity)?;
            return Ok(identity);
        }
        Err(error) => return Err(StoreError::io("read identity", error).into()),
    };
    let found = parse_identity(path, &text)?;
    let unusable = |message: String| MetaError::Unusable(message.into());
    if found.node != owner.node {
        return Err(unusable(format!(
            "the data directory {} belongs to node {}, this is node {}",
            path.display(),
            found.node,
            owner.node
        )));
    }
    if let (Some(found), Some(own)) = (found.cluster, owner.cluster)
        && found != own
    {
        return Err(unusable(format!(
            "the data directory {} belongs to cluster {found}, this node is configured for cluster {own}",
            path.display()
        )));
    }
    let identity = Identity {
        cluster: found.cluster.or(owner.cluster),
        directory: found.directory.or(owner.directory),
        ..found
    };
    if identity != found {
        write_identity(&file, &identity)?;
    }
    Ok(identity)
}

fn write_identity(file: &Path, identity: &Identity) -> Result<(), StoreError> {
    let mut text = format!("format {FORMAT}\nnode {}\n", identity.node);
    if let Some(cluster) = identity.cluster {
        text += &format!("cluster {cluster}\n");
    }
    if let Some(directory) = identity.directory {
        text += &format!("directory {directory}\n");
    }
    write_durably(file, text.as_bytes()).map_err(|error| StoreError::io("write identity", error))
}

fn parse_identity(path: &Path, text: &str) -> Result<Identity, MetaError> {
    let field = |name: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))
            .map(str::trim)
    };
    let bad = |name: &str| StoreError::corrupt("identity", format_args!("no valid {name} in {text:?}"));
    let number = |name: &str| {
        let value = field(name).and_then(|value| value.parse::<u64>().ok());
        value.ok_or_else(|| bad(name))
    };
    let format = number("format")?;
    if format != u64::from(FORMAT) {
        let message = format!(
            "the data directory {} has format {format}, this release knows format {FORMAT}",
            path.display()
        );
        return Err(MetaError::Unusable(message.into()));
    }
    let cluster = field("cluster").map(|value| ClusterId::parse(value).ok_or_else(|| bad("cluster")));
    let directory = field("directory").map(|value| DirectoryId::parse(value).ok_or_else(|| bad("directory")));
    Ok(Identity {
        cluster: cluster.transpose()?,
        node: NodeId(number("node")?),
        directory: directory.transpose()?,
    })
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
