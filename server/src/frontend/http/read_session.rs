//! A read session: batches and heartbeats as frames, until the client or the session has had enough.

use std::pin::pin;
use std::sync::Arc;

use millrace_api::s2s::Compression;

use super::failure::draining;
use super::frames::{read_event, terminal};
use super::output::{Broken, Output};
use crate::frontend::service::{Frontend, ReadSession};

/// Writes what the session gives. Ends without a terminal frame where the session ends by its own terms.
pub(super) async fn run(
    frontend: Arc<Frontend>,
    mut session: ReadSession,
    compression: Compression,
    output: Output,
) -> Result<(), Broken> {
    let mut drained = pin!(frontend.drained());
    loop {
        let event = tokio::select! {
            biased;
            () = drained.as_mut() => Some(Err(draining())),
            event = session.next() => event,
        };
        let event = match event {
            None => return Ok(()),
            Some(event) => event,
        };
        match event.and_then(|event| read_event(event, compression)) {
            Ok(chunks) => {
                for chunk in chunks {
                    output.send(chunk).await?;
                }
            }
            Err(error) => return output.send(terminal(&error)).await,
        }
    }
}
