//! An append session: inputs come in and acknowledgements go out at the same time, on one request.
//!
//! - Acknowledgements are in the order of their inputs, one each.
//! - The first failure ends the session: a terminal frame after all earlier acknowledgements, and nothing that
//!   came later is applied.
//! - When the client has ended its side, what is owed is delivered and the response ends without a terminal.
//! - When the node is to stop, no further input is taken and a terminal says so, after what is owed.

use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::poll;
use http_body_util::BodyExt;
use millrace_api::batch::AppendBatch;
use millrace_api::error::ErrorCode;
use millrace_api::s2s::{Frame, FrameDecoder};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TryRecvError;

use super::failure::draining;
use super::frames::{put_ack, terminal};
use super::output::{Broken, Output};
use crate::error::ServiceError;
use crate::frontend::service::types::AppendAck;
use crate::frontend::service::{AppendSession, Frontend, PendingAck};

/// Inputs that may wait for their acknowledgement; the service bounds their bytes.
const INPUTS_PENDING_MAX: usize = 1024;
/// Acknowledgements are sent together while more of them are ready, up to this many bytes.
const ACK_CHUNK_BYTES: usize = 16 * 1024;

/// What the input side tells the output side, in order.
enum Owed {
    Ack(PendingAck),
    /// Nothing comes after it.
    Terminal(ServiceError),
    /// The client's side broke; there may still be somebody to read what is owed.
    Broken,
}

/// Runs the session over `body` until either side ends it.
pub(super) async fn run(
    frontend: Arc<Frontend>,
    session: AppendSession,
    body: Body,
    output: Output,
) -> Result<(), Broken> {
    let (owed, to_deliver) = mpsc::channel(INPUTS_PENDING_MAX);
    let deliver = deliver(to_deliver, output);
    let take_inputs = take_inputs(frontend, session, body, owed);
    let mut deliver = pin!(deliver);
    tokio::select! {
        biased;
        delivered = deliver.as_mut() => delivered,
        () = take_inputs => deliver.await,
    }
}

/// Ends when nothing more is to be taken; dropping `owed` is then the output side's sign to end.
async fn take_inputs(frontend: Arc<Frontend>, session: AppendSession, body: Body, owed: mpsc::Sender<Owed>) {
    let mut inputs = Inputs::new(body);
    let mut drained = pin!(frontend.drained());
    loop {
        let input = tokio::select! {
            biased;
            () = drained.as_mut() => Err(Owed::Terminal(draining())),
            input = inputs.next() => input,
        };
        let next = match input {
            Ok(None) => return,
            Ok(Some(batch)) => match session.submit(batch).await {
                Ok(pending) => Owed::Ack(pending),
                Err(error) => Owed::Terminal(error),
            },
            Err(end) => end,
        };
        let last = !matches!(next, Owed::Ack(_));
        if owed.send(next).await.is_err() || last {
            return;
        }
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

    /// The next input; `None` when the client has ended its side after a whole frame. Cancel safe.
    async fn next(&mut self) -> Result<Option<AppendBatch>, Owed> {
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
                Some(Err(_)) => return Err(Owed::Broken),
            }
        }
    }
}

fn decode(message: Bytes) -> Result<AppendBatch, Owed> {
    AppendBatch::decode(message)
        .map_err(|error| Owed::Terminal(ServiceError::new(error.code(), error.to_string())))
}

fn bad_frame(message: impl Into<String>) -> Owed {
    Owed::Terminal(ServiceError::new(ErrorCode::BadFrame, message))
}

/// Writes what is owed, each as soon as it and all before it are known.
async fn deliver(mut owed: mpsc::Receiver<Owed>, output: Output) -> Result<(), Broken> {
    let mut chunk = BytesMut::new();
    loop {
        let next = match owed.try_recv() {
            Ok(next) => next,
            Err(TryRecvError::Disconnected) => return output.send(chunk.freeze()).await,
            Err(TryRecvError::Empty) => {
                output.send(chunk.split().freeze()).await?;
                match owed.recv().await {
                    Some(next) => next,
                    None => return Ok(()),
                }
            }
        };
        let outcome = match next {
            Owed::Ack(pending) => wait(pending, &mut chunk, &output).await?,
            Owed::Terminal(error) => Err(error),
            Owed::Broken => {
                output.send(chunk.freeze()).await?;
                return Err(Broken);
            }
        };
        match outcome {
            Ok(ack) => put_ack(&ack, &mut chunk),
            Err(error) => {
                chunk.extend_from_slice(&terminal(&error));
                return output.send(chunk.freeze()).await;
            }
        }
        if chunk.len() >= ACK_CHUNK_BYTES {
            output.send(chunk.split().freeze()).await?;
        }
    }
}

/// Waits for one acknowledgement; sends what has gathered in `chunk` before it really has to wait.
async fn wait(
    pending: PendingAck,
    chunk: &mut BytesMut,
    output: &Output,
) -> Result<Result<AppendAck, ServiceError>, Broken> {
    let mut outcome = pin!(pending.wait());
    if let Poll::Ready(outcome) = poll!(outcome.as_mut()) {
        return Ok(outcome);
    }
    output.send(chunk.split().freeze()).await?;
    Ok(outcome.await)
}
