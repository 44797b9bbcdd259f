//! Between the crate's types and its protobuf messages. Decoding refuses what no release wrote, by name.

pub mod command;
pub mod common;
pub mod forward;
pub mod log;
pub mod record;
pub mod refused;
pub mod response;
pub mod rpc;
pub mod segments;

use crate::error::StoreError;

/// Bytes that cannot be understood.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    #[error("not a message: {0}")]
    Message(#[from] prost::DecodeError),
    #[error("{0} is missing")]
    Missing(&'static str),
    /// Also what a later release wrote that this one does not know.
    #[error("{what} has a value that this release does not know: {value}")]
    Unknown { what: &'static str, value: String },
}

impl DecodeError {
    pub fn unknown(what: &'static str, value: impl ToString) -> Self {
        DecodeError::Unknown {
            what,
            value: value.to_string(),
        }
    }

    pub fn in_store(self, what: &'static str) -> StoreError {
        StoreError::corrupt(what, self)
    }
}

/// A message field that every writer sets.
pub fn required<T>(value: Option<T>, what: &'static str) -> Result<T, DecodeError> {
    value.ok_or(DecodeError::Missing(what))
}
