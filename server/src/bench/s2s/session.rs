//! Sessions: frames out of a response, batches into a request.

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use http::Response;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use millrace_api::proto;
use millrace_api::s2s::{Frame, FrameDecoder};
use prost::Message;
use tokio::sync::mpsc;

use super::connection::broken;
use super::{read_whole, refused};
use crate::bench::batch::EncodedBatch;
use crate::bench::driver::{Ack, Acks, Batches, Delivery, DriveError, Inputs};

/// The messages of one response.
pub(super) struct FrameReader {
    response: Answer,
    decoder: FrameDecoder,
    /// Received and not decoded yet.
    received: Bytes,
}

enum Answer {
    Waiting(BoxFuture<'static, Result<Response<Incoming>, DriveError>>),
    Open(Incoming),
    Ended,
}

impl FrameReader {
    pub(super) fn new(
        response: impl Future<Output = Result<Response<Incoming>, DriveError>> + Send + 'static,
    ) -> Self {
        Self {
            response: Answer::Waiting(Box::pin(response)),
            decoder: FrameDecoder::new(),
            received: Bytes::new(),
        }
    }

    /// `None` after the last. Cancel safe.
    async fn next(&mut self) -> Result<Option<Bytes>, DriveError> {
        loop {
            let frame = self.decoder.decode(&mut self.received);
            match frame.map_err(|error| DriveError::Protocol(error.to_string()))? {
                Some(Frame::Message(message)) => return Ok(Some(message)),
                Some(Frame::Terminal { status, body }) => return Err(refused(status, &body)),
                None => {}
            }
            let Some(received) = self.receive().await? else {
                let complete = self.decoder.finish();
                return complete
                    .map(|()| None)
                    .map_err(|error| DriveError::Protocol(error.to_string()));
            };
            self.received = received;
        }
    }

    async fn receive(&mut self) -> Result<Option<Bytes>, DriveError> {
        loop {
            match &mut self.response {
                Answer::Waiting(response) => {
                    let response = response.await;
                    // The future is spent, whatever comes of the rest.
                    self.response = Answer::Ended;
                    let response = response?;
                    if response.status() != http::StatusCode::OK {
                        let status = response.status().as_u16();
                        let body = read_whole(response.into_body()).await?;
                        return Err(refused(status, &body));
                    }
                    self.response = Answer::Open(response.into_body());
                }
                Answer::Open(body) => match body.frame().await {
                    None => self.response = Answer::Ended,
                    Some(Err(error)) => return Err(broken(&error)),
                    Some(Ok(frame)) => {
                        if let Ok(data) = frame.into_data() {
                            return Ok(Some(data));
                        }
                    }
                },
                Answer::Ended => return Ok(None),
            }
        }
    }
}

pub(super) struct S2sInputs(mpsc::Sender<Bytes>);

impl S2sInputs {
    pub(super) fn new(body: mpsc::Sender<Bytes>) -> Self {
        Self(body)
    }
}

#[async_trait]
impl Inputs for S2sInputs {
    async fn send(&mut self, batch: &EncodedBatch) -> Result<(), DriveError> {
        // It fails when the request has ended, and then the response says why.
        drop(self.0.send(batch.frame.clone()).await);
        Ok(())
    }
}

pub(super) struct S2sAcks(FrameReader);

impl S2sAcks {
    pub(super) fn new(frames: FrameReader) -> Self {
        Self(frames)
    }
}

#[async_trait]
impl Acks for S2sAcks {
    async fn next(&mut self) -> Result<Option<Ack>, DriveError> {
        let Some(message) = self.0.next().await? else {
            return Ok(None);
        };
        let ack =
            proto::AppendAck::decode(message).map_err(|error| DriveError::Protocol(error.to_string()))?;
        match (ack.start, ack.end) {
            (Some(start), Some(end)) => Ok(Some(Ack {
                start: start.seq_num,
                end: end.seq_num,
            })),
            _ => Err(DriveError::Protocol(
                "an acknowledgement without positions".to_owned(),
            )),
        }
    }
}

pub(super) struct S2sBatches(FrameReader);

impl S2sBatches {
    pub(super) fn new(frames: FrameReader) -> Self {
        Self(frames)
    }
}

#[async_trait]
impl Batches for S2sBatches {
    async fn next(&mut self) -> Result<Option<Delivery>, DriveError> {
        Ok(self.0.next().await?.map(Delivery::Encoded))
    }
}
