//! Work in the background that no request waits for. Every step is a command that is safe to repeat, and what is left
//! to do stands in metadata: a node that stops in the middle leaves nothing undone.

pub mod deletion;
pub mod housekeeping;
pub mod merge;
pub mod objects;
pub mod pack;
pub mod share;
pub mod sweep;

use std::convert::Infallible;
use std::future::Future;
use std::time::Duration;

use millrace_raft::error::MetaError;

/// Makes rounds for ever, with a pause before each. One that fails is logged with what it holds up, and the next one
/// tries again.
async fn rounds<F>(pause: Duration, held_up: &str, mut round: impl FnMut() -> F) -> Infallible
where
    F: Future<Output = Result<(), MetaError>>,
{
    loop {
        tokio::time::sleep(pause).await;
        if let Err(error) = round().await {
            tracing::warn!(%error, "{held_up}");
        }
    }
}

/// A refusal means "not now", or that somebody else was quicker.
fn tolerate_refusal<T>(result: Result<T, MetaError>) -> Result<Option<T>, MetaError> {
    match result {
        Ok(done) => Ok(Some(done)),
        Err(MetaError::Refused(_)) => Ok(None),
        Err(error) => Err(error),
    }
}
