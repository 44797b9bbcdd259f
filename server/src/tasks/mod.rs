//! Work in the background that no request waits for. Every step is a command that is safe to repeat, and what is left
//! to do stands in metadata: a node that stops in the middle leaves nothing undone.

pub mod deletion;
pub mod housekeeping;
pub mod merge;
pub mod objects;
pub mod share;
pub mod sweep;

use millrace_raft::error::MetaError;

/// A refusal means "not now", or that somebody else was quicker.
fn tolerate_refusal<T>(result: Result<T, MetaError>) -> Result<Option<T>, MetaError> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(MetaError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
