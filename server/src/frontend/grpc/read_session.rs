//! A read session: batches and heartbeats, until the client or the session has had enough.

use std::pin::pin;
use std::sync::Arc;

use millrace_api::grpc::ReadResponse;
use tonic::Status;

use super::error::status;
use super::output::{Messages, Output};
use crate::error::ServiceError;
use crate::frontend::service::types::ReadEvent;
use crate::frontend::service::{Frontend, ReadSession};

/// One batch is got ready while the one before is sent.
const BATCHES_WAITING_MAX: usize = 1;

pub(super) fn messages(frontend: Arc<Frontend>, session: ReadSession) -> Messages<ReadResponse> {
    Messages::written_by(BATCHES_WAITING_MAX, |output| run(frontend, session, output))
}

/// Writes what the session gives. Ends with `OK` where the session ends by its own terms.
async fn run(
    frontend: Arc<Frontend>,
    mut session: ReadSession,
    output: Output<ReadResponse>,
) -> Result<(), Status> {
    let mut drained = pin!(frontend.drained());
    loop {
        let event = tokio::select! {
            biased;
            () = drained.as_mut() => Some(Err(ServiceError::draining())),
            event = session.next() => event,
        };
        let message = match event.transpose().map_err(|error| status(&error))? {
            None => return Ok(()),
            Some(event) => message(event),
        };
        if output.send(message).await.is_err() {
            return Ok(());
        }
    }
}

fn message(event: ReadEvent) -> ReadResponse {
    match event {
        ReadEvent::Batch(batch) => ReadResponse::new(batch.parts, batch.tail),
        ReadEvent::Heartbeat { tail, .. } => ReadResponse::new(Vec::new(), Some(tail)),
        ReadEvent::KeepAlive => ReadResponse::default(),
    }
}
