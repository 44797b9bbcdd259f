//! Requests of other nodes for channels of this one, and heartbeats to this node when it leads.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use futures::stream::{FuturesUnordered, StreamExt};
use millrace_api::batch::AppendBatch;
use millrace_api::id::{ChannelId, StreamId};
use millrace_raft::group::Meta;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::codec::{self, Malformed};
use super::pb::{self, link_reply::Reply, link_request, peer_server};
use crate::channel::handle::{ChannelHandle, ReadBounds};
use crate::channel::message::{Refusal, SessionGate, Source};
use crate::channels::Channels;
use crate::frontend::service::Room;

/// Requests of one link that are being answered; beyond, no more are taken from it.
const ANSWERING_MAX: usize = 8192;
/// Answers that wait for the connection.
const ANSWERED_MAX: usize = 256;
/// A read that waits at the tail is answered after this long, so that nobody waits for a requester that went away.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// Who takes heartbeats in.
#[async_trait]
pub trait Heartbeats: Send + Sync + 'static {
    async fn heartbeat(&self, request: pb::HeartbeatRequest) -> pb::HeartbeatResponse;
}

/// What this node does for others of its cell, until `stop`. Connections outlive that: nothing of the node is kept
/// alive by them.
#[derive(Clone)]
pub struct PeerService {
    node: Arc<ArcSwapOption<PeerParts>>,
    stop: CancellationToken,
}

/// What requests of others are answered with.
pub struct PeerParts {
    pub meta: Meta,
    pub channels: Channels,
    /// Room for appends that others have sent here.
    pub room: Room,
    pub heartbeats: Arc<dyn Heartbeats>,
}

impl PeerService {
    pub fn new(parts: PeerParts, stop: CancellationToken) -> Self {
        let node = Arc::new(ArcSwapOption::from_pointee(parts));
        let (closing, stopped) = (node.clone(), stop.clone());
        tokio::spawn(async move {
            stopped.cancelled().await;
            closing.store(None);
        });
        Self { node, stop }
    }

    fn node(&self) -> Result<Arc<PeerParts>, Status> {
        self.node
            .load_full()
            .ok_or_else(|| Status::unavailable("this node is stopping"))
    }
}

#[async_trait]
impl peer_server::Peer for PeerService {
    async fn heartbeat(
        &self,
        request: Request<pb::HeartbeatRequest>,
    ) -> Result<Response<pb::HeartbeatResponse>, Status> {
        let answer = self.node()?.heartbeats.heartbeat(request.into_inner()).await;
        Ok(Response::new(answer))
    }

    type LinkStream = ReceiverStream<Result<pb::LinkReply, Status>>;

    async fn link(
        &self,
        request: Request<Streaming<pb::LinkRequest>>,
    ) -> Result<Response<Self::LinkStream>, Status> {
        let (answers, stream) = mpsc::channel(ANSWERED_MAX);
        let node = self.node()?;
        let link = Link {
            meta: node.meta.clone(),
            channels: node.channels.clone(),
            room: node.room.clone(),
        };
        let stop = self.stop.clone();
        tokio::spawn(async move {
            tokio::select! {
                () = link.run(request.into_inner(), answers) => {}
                () = stop.cancelled() => {}
            }
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

type Answer = Pin<Box<dyn Future<Output = pb::LinkReply> + Send>>;

struct Link {
    meta: Meta,
    channels: Channels,
    room: Room,
}

impl Link {
    /// Until the other side has ended and everything is answered, or is gone.
    async fn run(
        self,
        mut requests: Streaming<pb::LinkRequest>,
        answers: mpsc::Sender<Result<pb::LinkReply, Status>>,
    ) {
        let mut answering = FuturesUnordered::<Answer>::new();
        let mut open = true;
        while open || !answering.is_empty() {
            tokio::select! {
                Some(answer) = answering.next() => {
                    if answers.send(Ok(answer)).await.is_err() {
                        return;
                    }
                }
                request = requests.message(), if open && answering.len() < ANSWERING_MAX => match request {
                    Ok(Some(request)) => {
                        let id = request.id;
                        let answer = self.take(request).await.unwrap_or_else(|malformed| {
                            let refused = Refusal::Invalid(malformed.to_string());
                            now(codec::refusal_reply(refused, 0))
                        });
                        answering.push(Box::pin(async move {
                            pb::LinkReply { id, reply: Some(answer.await) }
                        }));
                    }
                    Ok(None) => open = false,
                    // Nobody is there to be answered.
                    Err(_) => return,
                },
            }
        }
    }

    /// Hands the request to its channel before the next one is taken; the answer comes later.
    async fn take(&self, request: pb::LinkRequest) -> Result<Later, Malformed> {
        let stream = codec::stream_id(&request.stream)?;
        let Some(channel) = self.channels.local(ChannelId(request.channel)) else {
            let applied = self.meta.applied_index();
            return Ok(now(codec::refusal_reply(Refusal::NotHere { applied }, applied)));
        };
        let channel = channel.known_at(request.known_at);
        match request.request.ok_or(Malformed("a request of a later release"))? {
            link_request::Request::Append(append) => self.append(channel, stream, append).await,
            link_request::Request::Read(read) => self.read(channel, stream, &read).await,
            link_request::Request::CheckTail(_) => Ok(self.check_tail(channel, stream)),
            link_request::Request::Refresh(refresh) => Ok(self.refresh(channel, stream, refresh)),
        }
    }

    async fn append(
        &self,
        channel: ChannelHandle,
        stream: StreamId,
        append: pb::Append,
    ) -> Result<Later, Malformed> {
        let Ok(batch) = AppendBatch::decode(append.input) else {
            return Err(Malformed("an append"));
        };
        let source = match append.writer {
            // A gate of its own: what follows a refused input leaves a gap in the numbers, and is refused for that.
            Some(input) => Source::Writer(SessionGate::default(), codec::writer_input(input)),
            None => Source::Unary,
        };
        // Bounds what this node holds for others; nothing was applied when there is none in time.
        let Ok(permit) = self.room.for_batch(&batch).await else {
            return Ok(now(Reply::Refusal(pb::Refusal {
                refusal: Some(pb::refusal::Refusal::Busy(true)),
            })));
        };
        let pending = channel.append(stream, batch, source, permit).await;
        let meta = self.meta.clone();
        Ok(Box::pin(async move {
            let answer = pending.await.unwrap_or(Err(Refusal::Unknown));
            codec::ack_reply(answer, meta.applied_index())
        }))
    }

    async fn read(
        &self,
        channel: ChannelHandle,
        stream: StreamId,
        read: &pb::Read,
    ) -> Result<Later, Malformed> {
        let (seek, bounds) = codec::seek_and_bounds(read)?;
        let pending = channel.read(stream, seek, bounds).await;
        let meta = self.meta.clone();
        Ok(Box::pin(async move {
            let answer = match tokio::time::timeout(WAIT_MAX, pending).await {
                Ok(answer) => answer,
                Err(_) => {
                    let at_once = ReadBounds {
                        wait: false,
                        ..bounds
                    };
                    channel.read(stream, seek, at_once).await.await
                }
            };
            codec::read_reply(answer.unwrap_or(Err(Refusal::Stopped)), meta.applied_index())
        }))
    }

    fn check_tail(&self, channel: ChannelHandle, stream: StreamId) -> Later {
        let meta = self.meta.clone();
        Box::pin(async move {
            match channel.check_tail(stream).await {
                Ok(tail) => Reply::Tail(codec::position(tail)),
                Err(refused) => codec::refusal_reply(refused, meta.applied_index()),
            }
        })
    }

    fn refresh(&self, channel: ChannelHandle, stream: StreamId, refresh: pb::Refresh) -> Later {
        let meta = self.meta.clone();
        Box::pin(async move {
            if meta.wait_applied(refresh.applied_index).await.is_err() {
                return codec::refusal_reply(Refusal::Stopped, 0);
            }
            match channel.refresh(stream, refresh.applied_index).await {
                Ok(()) => Reply::Refreshed(pb::Refreshed {}),
                Err(refused) => codec::refusal_reply(refused, meta.applied_index()),
            }
        })
    }
}

type Later = Pin<Box<dyn Future<Output = Reply> + Send>>;

fn now(reply: Reply) -> Later {
    Box::pin(std::future::ready(reply))
}
