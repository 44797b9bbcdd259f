//! What can go wrong between a caller and the group, by remedy.

use std::sync::Arc;

use crate::refused::Refused;

/// A store that cannot be read or written, or holds what it must not. The node stops; nothing is guessed.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The disk or the database says no.
    #[error("{what}: {cause}")]
    Io { what: &'static str, cause: Arc<str> },
    /// Bytes that no release of this program wrote, or a relation between them that cannot be.
    #[error("corrupt {what}: {why}")]
    Corrupt { what: &'static str, why: Arc<str> },
}

impl StoreError {
    pub(crate) fn io(what: &'static str, cause: impl std::fmt::Display) -> Self {
        StoreError::Io {
            what,
            cause: cause.to_string().into(),
        }
    }

    pub(crate) fn corrupt(what: &'static str, why: impl std::fmt::Display) -> Self {
        StoreError::Corrupt {
            what,
            why: why.to_string().into(),
        }
    }
}

impl From<StoreError> for std::io::Error {
    fn from(error: StoreError) -> Self {
        std::io::Error::other(error)
    }
}

/// Errors of [`crate::group::Meta`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum MetaError {
    /// Nothing was applied and nothing will be: ask again, here or elsewhere.
    #[error("not now: {0}")]
    Retry(Arc<str>),
    /// It may have been applied, or may still be: look before asking again.
    #[error("outcome unknown: {0}")]
    Unknown(Arc<str>),
    /// This node's group has stopped; it does not come back without a restart.
    #[error("the metadata group has stopped: {0}")]
    Closed(Arc<str>),
    /// The log has decided, or would never take it; nothing was applied.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// Another member sent what cannot be understood, or is damaged. Nothing was changed; this member goes on.
    #[error("from another member: {0}")]
    Invalid(Arc<str>),
    /// The directory cannot be used as asked: another process has it, another node wrote it, or a later release.
    #[error("{0}")]
    Unusable(Arc<str>),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl MetaError {
    /// Whether the same call may succeed later without change. Holds for [`MetaError::Unknown`] too: proposing a
    /// command again is safe as far as its documentation says so.
    pub fn retryable(&self) -> bool {
        matches!(self, MetaError::Retry(_) | MetaError::Unknown(_))
    }

    /// Whether the command may have been applied although this error was returned. `false` is a promise.
    pub fn may_have_happened(&self) -> bool {
        matches!(self, MetaError::Unknown(_) | MetaError::Closed(_))
    }
}
