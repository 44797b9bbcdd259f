//! A read session over S2S: batches and heartbeats as frames, and a terminal frame where it fails.

use std::sync::Arc;

use millrace_api::s2s::Compression;

use super::frames::{read_event, terminal};
use crate::frontend::service::{Frontend, ReadSession};
use crate::frontend::session::output::{Broken, Output};
use crate::frontend::session::read;

/// Writes what the session gives. Ends without a terminal frame where the session ends by its own terms.
pub(super) async fn run(
    frontend: Arc<Frontend>,
    session: ReadSession,
    compression: Compression,
    output: Output,
) -> Result<(), Broken> {
    let frames = |event| read_event(event, compression);
    match read::run(frontend, session, &output, frames).await? {
        None => Ok(()),
        Some(error) => output.send(terminal(&error)).await,
    }
}
