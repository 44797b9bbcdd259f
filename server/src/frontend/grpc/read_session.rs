//! A read session: batches and heartbeats, until the client or the session has had enough.

use std::sync::Arc;

use axum::response::Response;
use millrace_api::grpc::ReadResponse;

use super::error::status;
use super::reply::{self, read_chunks};
use crate::frontend::service::types::ReadEvent;
use crate::frontend::service::{Frontend, ReadSession};
use crate::frontend::session::read;

/// What the session gives. Ends with `OK` where the session ends by its own terms.
pub(super) fn reply(frontend: Arc<Frontend>, session: ReadSession) -> Response {
    reply::stream(|output| async move {
        let chunks = |event| Ok(read_chunks(message(event)));
        let failed = read::run(frontend, session, &output, chunks).await?;
        Ok(failed.map_or(Ok(()), |error| Err(status(&error))))
    })
}

fn message(event: ReadEvent) -> ReadResponse {
    match event {
        ReadEvent::Batch(batch) => ReadResponse::new(batch.parts, batch.tail),
        ReadEvent::Heartbeat { tail, .. } => ReadResponse::new(Vec::new(), Some(tail)),
        ReadEvent::KeepAlive => ReadResponse::default(),
    }
}
