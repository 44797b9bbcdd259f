//! An append session over S2S: frames of inputs come in, and frames of acknowledgements go out. A failure is told in a
//! terminal frame; a client that has ended its side without one gets none either.

use std::sync::Arc;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use millrace_api::batch::AppendBatch;
use millrace_api::error::ErrorCode;
use millrace_api::s2s::{Frame, FrameDecoder};

use super::frames::{put_ack, terminal};
use crate::error::ServiceError;
use crate::frontend::service::types::AppendAck;
use crate::frontend::service::{AppendSession, Frontend, PendingAck};
use crate::frontend::session::append::{self, Protocol};
use crate::frontend::session::output::{Broken, Output};

/// Runs the session over `body` until either side ends it.
pub(super) fn run(
    frontend: Arc<Frontend>,
    session: AppendSession,
    body: Body,
    output: Output,
) -> impl Future<Output = Result<(), Broken>> {
    let mut inputs = Inputs::new(body);
    async move {
        match append::run(&frontend, &session, &mut inputs, &output).await? {
            None => Ok(()),
            Some(Failure::Terminal(error)) => output.send(terminal(&error)).await,
            Some(Failure::Broken) => Err(Broken),
        }
    }
}

enum Failure {
    Terminal(ServiceError),
    /// The client's side broke; there may still be somebody to read what is owed.
    Broken,
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self::Terminal(error)
    }
}

struct Inputs {
    body: Body,
    decoder: FrameDecoder,
    /// Received and not decoded yet.
    received: Bytes,
}

impl Inputs {
    fn new(body: Body) -> Self {
        Self {
            body,
            decoder: FrameDecoder::new(),
            received: Bytes::new(),
        }
    }
}

impl Protocol for Inputs {
    type Input = AppendBatch;
    type Note = ();
    type Failure = Failure;

    /// Wants the client's side to end after a whole frame.
    async fn next(&mut self) -> Result<Option<AppendBatch>, Failure> {
        loop {
            match self.decoder.decode(&mut self.received) {
                Ok(Some(Frame::Message(message))) => return decode(message).map(Some),
                Ok(Some(Frame::Terminal { .. })) => {
                    return Err(bad_frame("a client does not send terminal frames"));
                }
                Ok(None) => {}
                Err(error) => return Err(bad_frame(error.to_string())),
            }
            match self.body.frame().await {
                None => {
                    let complete = self.decoder.finish();
                    return complete
                        .map(|()| None)
                        .map_err(|error| bad_frame(error.to_string()));
                }
                Some(Ok(frame)) => self.received = frame.into_data().unwrap_or_default(),
                Some(Err(_)) => return Err(Failure::Broken),
            }
        }
    }

    async fn submit(
        &mut self,
        session: &AppendSession,
        batch: AppendBatch,
    ) -> Result<((), PendingAck), ServiceError> {
        Ok(((), session.submit(batch).await?))
    }

    fn put_ack((): (), ack: &AppendAck, out: &mut BytesMut) {
        put_ack(ack, out);
    }
}

fn decode(message: Bytes) -> Result<AppendBatch, Failure> {
    AppendBatch::decode(message).map_err(|error| ServiceError::new(error.code(), error.to_string()).into())
}

fn bad_frame(message: impl Into<String>) -> Failure {
    ServiceError::new(ErrorCode::BadFrame, message).into()
}
