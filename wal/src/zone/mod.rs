//! Zone stores: create-only key spaces, one failure domain each.

mod blocking;
mod disk;
mod key;
mod local;
mod memory;
mod object;
mod open;
mod payload;
mod preflight;
mod shaped;
mod upload;

use std::fmt::Debug;
use std::ops::Range;

use async_trait::async_trait;
use bytes::Bytes;

pub use blocking::Blocking;
pub use disk::{DISK_OBJECT_BYTES_MAX, DiskOptions, DiskStore};
pub use key::{KEY_LEN_MAX, check_key, check_prefix};
pub use local::LocalStore;
pub use memory::MemoryStore;
pub use object::{ObjectStoreOptions, ObjectStoreZone};
pub use open::{StoreEnvOptions, open_url};
pub use payload::Payload;
pub use preflight::{PreflightError, preflight};
pub use shaped::{Latency, Shape, ShapedStore};

/// What became of a create.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CreateOutcome {
    /// The object stands under the key, durably, and this call put it there.
    Created,
    /// Something stands under the key, or the store reports a conflict with a create that may yet fail. Perhaps an
    /// earlier attempt of the same caller: read it to know.
    Exists,
}

/// Which bytes of an object to read. What lies beyond its end is cut off: a range or suffix that reaches past it
/// gives fewer bytes, perhaps none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadRange {
    Full,
    /// Half-open. A range whose end is before its start is empty.
    Range(Range<u64>),
    /// The last bytes, this many.
    Suffix(u64),
}

impl ReadRange {
    /// The bytes meant, in an object of `len` bytes.
    pub fn within(&self, len: u64) -> Range<u64> {
        match self {
            Self::Full => 0..len,
            Self::Range(range) => {
                let end = range.end.min(len);
                range.start.min(end)..end
            }
            Self::Suffix(suffix) => len.saturating_sub(*suffix)..len,
        }
    }
}

/// Why a store did not do what it was asked, by remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// Ask again. A create or delete that ended like this may have taken effect, or may yet.
    #[error("store unavailable: {0}")]
    Retry(String),
    /// The request can never work: a bad key, a missing bucket, a store that cannot do conditional creates.
    #[error("invalid request to the store: {0}")]
    Invalid(String),
    /// The store knows us and says no, or does not know us.
    #[error("the store denied access: {0}")]
    Denied(String),
    /// The store lost or changed what it holds, or can no longer promise durability. A person should look.
    #[error("the store is corrupt: {0}")]
    Corrupt(String),
}

impl StoreError {
    /// Asking again without changing anything may help.
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Retry(_))
    }

    /// A create or delete that failed like this may have taken effect nevertheless.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, Self::Retry(_) | Self::Corrupt(_))
    }
}

/// A create-only key space.
///
/// - Of any number of racing creates of one key exactly one is ever `Created`, and the object under it is whole from
///   the first moment that anyone can see it.
/// - After `Created` or `Exists`, a `get` sees the object, until it is deleted. Whatever a `get` returned is durable.
/// - `list` is complete for objects created before it began.
/// - Keys are as [`check_key`] says; no key may be another's directory (`a` and `a/b`).
///
/// Dropping a future leaves the outcome unknown: the request may still take effect later.
#[async_trait]
pub trait ZoneStore: Debug + Send + Sync + 'static {
    /// Creates an object of the payload's bytes. An `Err` that [may have happened](StoreError::may_have_happened)
    /// says nothing: try the same key and bytes again.
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError>;

    /// Puts an object under a key that one writer alone ever uses, always with the same bytes: then it needs no
    /// condition, may be repeated after any error, and may repeat by itself. `Ok` means that the object stands there
    /// whole and durable, whoever's attempt put it there. A call that failed or was dropped may still take effect
    /// later, even behind a delete.
    async fn upload(&self, key: &str, payload: &Payload) -> Result<(), StoreError> {
        match self.create(key, payload).await? {
            CreateOutcome::Created => Ok(()),
            // A conflict with a create that came to nothing leaves nothing behind.
            CreateOutcome::Exists => match self.get(key, ReadRange::Suffix(0)).await? {
                Some(_) => Ok(()),
                None => Err(StoreError::Retry("conflict with another upload".into())),
            },
        }
    }

    /// Reads an object or a part of it; `None` if there is none under the key.
    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError>;

    /// As [`get`](Self::get), in pieces of `piece_len` bytes and a last one of what remains; each in memory of its own,
    /// so that one may be kept and others let go.
    ///
    /// # Panics
    /// If `piece_len` is 0.
    async fn get_pieces(
        &self,
        key: &str,
        range: Range<u64>,
        piece_len: usize,
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        let found = self.get(key, ReadRange::Range(range)).await?;
        Ok(found.map(|bytes| match bytes.len() {
            0 => Vec::new(),
            len if len <= piece_len => vec![bytes],
            _ => bytes.chunks(piece_len).map(Bytes::copy_from_slice).collect(),
        }))
    }

    /// The first `limit` keys under `prefix` in byte order, of those after `after` (exclusive). `prefix` is empty or
    /// a directory with its closing slash.
    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError>;

    /// Removes an object; `Ok` also if there was none. A power loss may undo it.
    async fn delete(&self, key: &str) -> Result<(), StoreError>;

    /// What was read of the object is not what was written: where there are several copies, another one is to be read
    /// from now on. A hint, which a store without copies passes over.
    fn doubt(&self, _key: &str) {}
}
