//! Requests of other nodes for channels of this one, and heartbeats to this node when it leads.
//!
//! `millrace.peer.v1.Peer` is served without generated code: see [`super::parts`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use async_trait::async_trait;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use bytes::BytesMut;
use futures::FutureExt;
use futures::stream::{FuturesUnordered, StreamExt};
use millrace_api::batch::AppendBatch;
use millrace_api::id::{ChannelId, StreamId};
use millrace_raft::group::Meta;
use tokio_util::sync::CancellationToken;
use tonic::Status;

use super::codec::{self, Malformed};
use super::directory::MESSAGE_MAX;
use super::messages::Messages;
use super::parts::reply_parts;
use super::pb::{self, link_reply::Reply, link_request};
use crate::channel::handle::{ChannelHandle, ReadBounds};
use crate::channel::message::{Refusal, SessionGate, Source};
use crate::channels::Channels;
use crate::frontend::grpc::framing::put_message;
use crate::frontend::grpc::incoming::Incoming;
use crate::frontend::grpc::reply::{self, Refusal as Refused};
use crate::frontend::service::Room;
use crate::frontend::session::output::{Broken, Output};

/// Requests of one link that are being answered; beyond, no more are taken from it.
const ANSWERING_MAX: usize = 8192;
/// Small answers that are ready at the same time leave together, up to about so many bytes.
const JOINED_MAX: usize = 16 * 1024;
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
    /// Every call that there is.
    pub fn router(self) -> Router {
        Router::new()
            .route("/millrace.peer.v1.Peer/Heartbeat", any(heartbeat))
            .route("/millrace.peer.v1.Peer/Link", any(link))
            .fallback(unknown)
            .with_state(self)
    }

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

async fn heartbeat(State(service): State<PeerService>, request: Request) -> Result<Response, Refused> {
    let request = Incoming::new(request, MESSAGE_MAX)?.only().await?;
    let answer = service.node()?.heartbeats.heartbeat(request).await;
    Ok(reply::message(&answer))
}

async fn link(State(service): State<PeerService>, request: Request) -> Result<Response, Refused> {
    let node = service.node()?;
    let link = Link {
        meta: node.meta.clone(),
        channels: node.channels.clone(),
        room: node.room.clone(),
    };
    let requests = Messages::new(request.into_body());
    // What sends the answers runs the link: they change hands once less.
    Ok(reply::stream(move |output| async move {
        tokio::select! {
            run = link.run(requests, output) => run?,
            () = service.stop.cancelled() => {}
        }
        Ok(Ok(()))
    }))
}

async fn unknown() -> Refused {
    Status::unimplemented("nodes ask nothing like that of each other").into()
}

type Answer = Pin<Box<dyn Future<Output = pb::LinkReply> + Send>>;

struct Link {
    meta: Meta,
    channels: Channels,
    room: Room,
}

impl Link {
    /// Until the other side has ended and everything is answered, or is gone.
    async fn run(self, mut requests: Messages<Body, pb::LinkRequest>, output: Output) -> Result<(), Broken> {
        let mut answering = FuturesUnordered::<Answer>::new();
        let mut open = true;
        while open || !answering.is_empty() {
            tokio::select! {
                Some(answer) = answering.next() => {
                    let mut answers = Answers::new(&output);
                    answers.add(answer).await?;
                    while let Some(Some(answer)) = answering.next().now_or_never() {
                        answers.add(answer).await?;
                    }
                    answers.send().await?;
                }
                request = requests.next(), if open && answering.len() < ANSWERING_MAX => match request {
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
                    Err(_) => return Err(Broken),
                },
            }
        }
        Ok(())
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

/// Answers that leave together.
struct Answers<'a> {
    output: &'a Output,
    /// Framed; none of them is large.
    joined: BytesMut,
}

impl<'a> Answers<'a> {
    fn new(output: &'a Output) -> Self {
        let joined = BytesMut::new();
        Self { output, joined }
    }

    async fn add(&mut self, answer: pb::LinkReply) -> Result<(), Broken> {
        if let Some(Reply::Frames(_)) = answer.reply {
            self.send().await?;
            for part in reply_parts(answer) {
                self.output.send(part).await?;
            }
            return Ok(());
        }
        put_message(&answer, &mut self.joined);
        match self.joined.len() < JOINED_MAX {
            true => Ok(()),
            false => self.send().await,
        }
    }

    async fn send(&mut self) -> Result<(), Broken> {
        self.output.send(self.joined.split().freeze()).await
    }
}

type Later = Pin<Box<dyn Future<Output = Reply> + Send>>;

fn now(reply: Reply) -> Later {
    Box::pin(std::future::ready(reply))
}
