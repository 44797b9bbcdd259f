//! A read session: events written as they come, until the client or the session has had enough.

use std::pin::pin;
use std::sync::Arc;

use bytes::Bytes;

use super::output::{Broken, Output};
use crate::error::ServiceError;
use crate::frontend::service::types::ReadEvent;
use crate::frontend::service::{Frontend, ReadSession};

/// Writes the chunks that `encode` makes of what the session gives. Answers the failure that ended it, which is still
/// to be told; `None` where the session ended by its own terms.
pub async fn run(
    frontend: Arc<Frontend>,
    mut session: ReadSession,
    output: &Output,
    mut encode: impl FnMut(ReadEvent) -> Result<Vec<Bytes>, ServiceError>,
) -> Result<Option<ServiceError>, Broken> {
    let mut drained = pin!(frontend.drained());
    loop {
        let event = tokio::select! {
            biased;
            () = drained.as_mut() => Some(Err(ServiceError::draining())),
            event = session.next() => event,
        };
        let Some(event) = event else {
            return Ok(None);
        };
        match event.and_then(&mut encode) {
            Ok(chunks) => {
                for chunk in chunks {
                    output.send(chunk).await?;
                }
            }
            Err(error) => return Ok(Some(error)),
        }
    }
}
