//! What other tasks may ask of a channel.

use millrace_api::batch::AppendBatch;
use millrace_api::id::{ChannelId, StreamId};
use millrace_api::position::StreamPosition;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

use super::message::{Append, Read, ReadReply, Refusal, Request, Seek, Source};
use crate::frontend::service::types::AppendAck;
use crate::peer::link::Outgoing;

/// Requests that may wait for the channel's task before senders wait too. What they hold is bounded by permits.
pub const REQUESTS_QUEUED_MAX: usize = 4096;

/// A way to one channel. Requests of one handle are taken in the order in which they were sent.
#[derive(Clone)]
pub struct ChannelHandle {
    id: ChannelId,
    way: Way,
    /// The log index of the state by which the asker looks streams up; 0 where that is the channel's node's.
    known_at: u64,
}

#[derive(Clone)]
enum Way {
    /// To the channel's task.
    Here(mpsc::Sender<Request>),
    /// To another node: appends, and everything else.
    There {
        appends: mpsc::Sender<Outgoing>,
        others: mpsc::Sender<Outgoing>,
    },
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
        let way = Way::Here(requests);
        let known_at = 0;
        (Self { id, way, known_at }, receiver)
    }

    /// A channel of another node, by the links to it.
    pub fn remote(id: ChannelId, appends: mpsc::Sender<Outgoing>, others: mpsc::Sender<Outgoing>) -> Self {
        let way = Way::There { appends, others };
        let known_at = 0;
        Self { id, way, known_at }
    }

    /// For an asker who looks streams up in a state as of this log index.
    pub fn known_at(self, known_at: u64) -> Self {
        Self { known_at, ..self }
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
            known_at: self.known_at,
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
            known_at: self.known_at,
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
        let known_at = self.known_at;
        self.send(Request::CheckTail {
            stream,
            known_at,
            reply,
        })
        .await;
        pending.await.unwrap_or(Err(Refusal::Stopped))
    }

    /// Returns when the channel acts upon the stream's metadata as of the log index `applied`, which this node's
    /// state has. A channel that has stopped answers nothing any more; whoever takes it over knows them.
    pub async fn refresh(&self, stream: StreamId, applied: u64) -> Result<(), Refusal> {
        let (reply, pending) = oneshot::channel();
        let request = Request::Refresh {
            stream,
            applied,
            reply,
        };
        self.send(request).await;
        pending.await.unwrap_or(Err(Refusal::Stopped))
    }

    async fn send(&self, request: Request) {
        let refused = match &self.way {
            Way::Here(requests) => requests.send(request).await.err().map(|error| error.0),
            Way::There { appends, others } => {
                let lane = match request {
                    Request::Append(_) => appends,
                    _ => others,
                };
                let channel = self.id;
                let sent = lane.send(Outgoing { channel, request }).await;
                sent.err().map(|error| error.0.request)
            }
        };
        if let Some(request) = refused {
            request.refuse(Refusal::Stopped);
        }
    }
}
