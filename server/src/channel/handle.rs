//! What other tasks may ask of a channel.

use millrace_api::batch::AppendBatch;
use millrace_api::id::{ChannelId, StreamId};
use millrace_api::position::StreamPosition;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::message::{Append, Read, ReadReply, Refusal, Request, Seek, Source};
use crate::frontend::service::types::AppendAck;

/// Requests that may wait for the channel's task before senders wait too. What they hold is bounded by permits.
pub const REQUESTS_QUEUED_MAX: usize = 4096;

/// A way to one channel. Requests of one handle are taken in the order in which they were sent.
#[derive(Clone)]
pub struct ChannelHandle {
    id: ChannelId,
    requests: mpsc::Sender<Request>,
}

/// An answer on its way. Dropping it does not undo the request.
pub type Pending<T> = oneshot::Receiver<Result<T, Refusal>>;

/// How much of a stream one read may answer.
#[derive(Debug, Clone, Copy)]
pub struct ReadBounds {
    pub records_max: usize,
    pub metered_bytes_max: usize,
    /// At the tail, answer when there is more instead of at once.
    pub wait: bool,
}

impl ChannelHandle {
    pub fn new(id: ChannelId) -> (Self, mpsc::Receiver<Request>) {
        let (requests, receiver) = mpsc::channel(REQUESTS_QUEUED_MAX);
        (Self { id, requests }, receiver)
    }

    pub fn id(&self) -> ChannelId {
        self.id
    }

    /// Hands the batch over. Its place behind everything sent before is certain when this returns.
    pub async fn append(
        &self,
        stream: StreamId,
        batch: AppendBatch,
        source: Source,
        permit: OwnedSemaphorePermit,
    ) -> Pending<AppendAck> {
        let (reply, pending) = oneshot::channel();
        self.send(Request::Append(Append {
            stream,
            batch,
            source,
            permit,
            reply,
        }))
        .await;
        pending
    }

    pub async fn read(&self, stream: StreamId, seek: Seek, bounds: ReadBounds) -> Pending<ReadReply> {
        let ReadBounds {
            records_max,
            metered_bytes_max,
            wait,
        } = bounds;
        let (reply, pending) = oneshot::channel();
        self.send(Request::Read(Read {
            stream,
            seek,
            records_max,
            metered_bytes_max,
            wait,
            reply,
        }))
        .await;
        pending
    }

    /// The durable tail.
    pub async fn check_tail(&self, stream: StreamId) -> Result<StreamPosition, Refusal> {
        let (reply, pending) = oneshot::channel();
        self.send(Request::CheckTail { stream, reply }).await;
        pending.await.unwrap_or(Err(Refusal::Stopped))
    }

    /// Returns when the channel acts upon the stream's metadata as they are now in this node's state, or has
    /// stopped.
    pub async fn refresh(&self, stream: StreamId) {
        let (reply, pending) = oneshot::channel();
        self.send(Request::Refresh { stream, reply }).await;
        // A channel that has stopped answers nothing any more, so there is nothing left to put in force.
        let _ = pending.await;
    }

    async fn send(&self, request: Request) {
        if let Err(mpsc::error::SendError(request)) = self.requests.send(request).await {
            request.refuse(Refusal::Stopped);
        }
    }
}
