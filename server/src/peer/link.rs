//! The way of this node's requests to the channels of one other node: one stream there and back, on which answers
//! come as they are ready.
//!
//! - Requests for a channel arrive in the order in which they were handed to the link.
//! - When the stream breaks, what was sent and not answered has an unknown outcome if it was an append; everything
//!   else did not happen. Nothing is sent again here: whoever asked finds out who serves the stream now.
//! - The same goes for requests that are not answered when metadata have had another owner of their channel for a
//!   moment: the node at the other end may be cut off, which its connection shows much later.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use bytes::Bytes;
use millrace_api::id::ChannelId;
use millrace_raft::grpc::Channel;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};
use tokio::time::Instant;
use tonic::Status;
use tonic::body::Body;
use tonic::client::GrpcService;

use super::calls;
use super::codec::{self, Malformed};
use super::directory::Dialer;
use super::messages::Messages;
use super::parts::{Outbox, request_parts};
use super::pb::{self, link_reply::Reply, link_request};
use crate::channel::handle::ReadBounds;
use crate::channel::message::{Append, Read, ReadReply, Refusal, Request};
use crate::deadline::sleep_until;
use crate::frontend::service::types::AppendAck;

/// Where a link is asked for; where that goes, the connection decides.
const LINK: &str = "http://millrace.peer/millrace.peer.v1.Peer/Link";
/// Requests on their way and not answered, beyond which more are refused.
const PENDING_MAX: usize = 65_536;
/// Requests handed to the connection and not taken by it yet.
const OUTGOING_MAX: usize = 256;
/// After a failed connect nobody is kept waiting for the next one.
const RECONNECT_PAUSE: Duration = Duration::from_millis(100);

/// An owner that gave its channel away has this long to bring its last answers here.
const LAST_ANSWERS: Duration = Duration::from_millis(500);

/// A request for a channel of the node at the other end.
pub struct Outgoing {
    pub channel: ChannelId,
    pub request: Request,
}

/// Who waits for an answer.
enum Waiting {
    Append {
        reply: oneshot::Sender<Result<AppendAck, Refusal>>,
        /// Accounts for the batch here as long as it may be under way.
        _permit: OwnedSemaphorePermit,
    },
    Read {
        reply: oneshot::Sender<Result<ReadReply, Refusal>>,
        channel: ChannelId,
    },
    CheckTail(oneshot::Sender<Result<millrace_api::position::StreamPosition, Refusal>>),
    Refresh(oneshot::Sender<Result<(), Refusal>>),
}

/// Serves what is handed to it until every sender is gone.
pub async fn run(dialer: Dialer, mut outgoing: mpsc::Receiver<Outgoing>) {
    while let Some(first) = outgoing.recv().await {
        match dialer.link().await {
            Ok((sender, answers)) => connected(&dialer, first, &mut outgoing, sender, answers).await,
            Err(error) => {
                tracing::warn!(node = %dialer.node(), %error, "the node cannot be reached");
                first.request.refuse(Refusal::Unreachable);
                refuse_for(RECONNECT_PAUSE, &mut outgoing).await;
            }
        }
    }
}

async fn refuse_for(pause: Duration, outgoing: &mut mpsc::Receiver<Outgoing>) {
    let over = tokio::time::sleep(pause);
    tokio::pin!(over);
    loop {
        tokio::select! {
            () = &mut over => return,
            next = outgoing.recv() => match next {
                Some(next) => next.request.refuse(Refusal::Unreachable),
                None => return,
            },
        }
    }
}

/// Until the stream breaks, or nobody is left to send.
async fn connected(
    dialer: &Dialer,
    first: Outgoing,
    outgoing: &mut mpsc::Receiver<Outgoing>,
    sender: mpsc::Sender<Vec<Bytes>>,
    mut answers: Answers,
) {
    let mut pending = Pending::default();
    let mut next = Some(first);
    let mut channels = dialer.channels_changed();
    // When to give up what waits for channels that have another owner.
    let mut due = None;
    loop {
        if let Some(one) = next.take() {
            let Some((message, id)) = pending.add(one) else {
                continue;
            };
            // Answers are taken while there is no room: the other end may be waiting for that.
            tokio::select! {
                sent = sender.send(request_parts(message)) => if sent.is_err() {
                    pending.never_sent(id);
                    break;
                },
                done = pending.take_answers(&mut answers) => match done {
                    Broken => break,
                },
                // It takes nothing any more.
                () = sleep_until(due) => {
                    pending.never_sent(id);
                    break;
                }
            }
            continue;
        }
        tokio::select! {
            biased;
            answer = answers.next() => match answer {
                Ok(Some(answer)) => pending.answer(answer),
                Ok(None) | Err(_) => break,
            },
            Ok(()) = channels.changed() => due = Some(Instant::now() + LAST_ANSWERS),
            () = sleep_until(due) => {
                let left = pending.abandon(|channel| dialer.may_own(channel));
                due = left.then(|| Instant::now() + LAST_ANSWERS);
            }
            more = outgoing.recv() => match more {
                Some(more) => next = Some(more),
                None if pending.is_empty() => return,
                None => {
                    pending.take_answers(&mut answers).await;
                    break;
                }
            },
        }
    }
    pending.broken();
}

/// The stream has ended.
struct Broken;

#[derive(Default)]
struct Pending {
    waiting: HashMap<u64, Asked>,
    last_id: u64,
}

/// A request that is on its way.
struct Asked {
    channel: ChannelId,
    since: Instant,
    waiting: Waiting,
}

impl Pending {
    fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes the request apart: what is sent, and who waits. Refuses it when too much is under way.
    fn add(&mut self, outgoing: Outgoing) -> Option<(pb::LinkRequest, u64)> {
        let Outgoing { channel, request } = outgoing;
        if self.waiting.len() >= PENDING_MAX {
            request.refuse(Refusal::Stopped);
            return None;
        }
        let (stream, known_at) = (request.stream(), request.known_at());
        let (message, waiting) = match request {
            Request::Append(Append {
                batch,
                source,
                permit,
                reply,
                ..
            }) => (
                link_request::Request::Append(codec::append(&batch, &source)),
                Waiting::Append {
                    reply,
                    _permit: permit,
                },
            ),
            Request::Read(Read {
                seek,
                records_max,
                metered_bytes_max,
                wait,
                reply,
                ..
            }) => {
                let bounds = ReadBounds {
                    records_max,
                    metered_bytes_max,
                    wait,
                };
                (
                    link_request::Request::Read(codec::read(seek, bounds)),
                    Waiting::Read { reply, channel },
                )
            }
            Request::CheckTail { reply, .. } => (
                link_request::Request::CheckTail(pb::CheckTail {}),
                Waiting::CheckTail(reply),
            ),
            Request::Refresh { reply, applied, .. } => (
                link_request::Request::Refresh(pb::Refresh {
                    applied_index: applied,
                }),
                Waiting::Refresh(reply),
            ),
        };
        self.last_id += 1;
        let asked = Asked {
            channel,
            since: Instant::now(),
            waiting,
        };
        self.waiting.insert(self.last_id, asked);
        let message = pb::LinkRequest {
            id: self.last_id,
            channel: channel.0,
            stream: stream.to_bytes().to_vec().into(),
            known_at,
            request: Some(message),
        };
        Some((message, self.last_id))
    }

    async fn take_answers(&mut self, answers: &mut Answers) -> Broken {
        while !self.is_empty() {
            match answers.next().await {
                Ok(Some(answer)) => self.answer(answer),
                Ok(None) | Err(_) => break,
            }
        }
        Broken
    }

    fn answer(&mut self, answer: pb::LinkReply) {
        let Some(asked) = self.waiting.remove(&answer.id) else {
            return;
        };
        let decoded = match answer.reply {
            Some(reply) => asked.waiting.answer(reply),
            None => asked
                .waiting
                .unanswered(Malformed("an answer of a later release")),
        };
        if let Err(error) = decoded {
            tracing::warn!(%error, "a peer's answer was not understood");
        }
    }

    fn never_sent(&mut self, id: u64) {
        match self.waiting.remove(&id).map(|asked| asked.waiting) {
            Some(Waiting::Append { reply, .. }) => drop(reply.send(Err(Refusal::Unreachable))),
            Some(waiting) => waiting.lost(),
            None => {}
        }
    }

    /// Gives up what has waited long enough for channels that the node may not own any more. Whether something else
    /// waits for them.
    fn abandon(&mut self, may_own: impl Fn(ChannelId) -> bool) -> bool {
        let asked_for: BTreeSet<_> = self.waiting.values().map(|asked| asked.channel).collect();
        let lost: BTreeSet<_> = asked_for
            .into_iter()
            .filter(|channel| !may_own(*channel))
            .collect();
        let late = self
            .waiting
            .extract_if(|_, asked| lost.contains(&asked.channel) && asked.since.elapsed() >= LAST_ANSWERS);
        for (_, asked) in late {
            asked.waiting.lost();
        }
        self.waiting.values().any(|asked| lost.contains(&asked.channel))
    }

    fn broken(&mut self) {
        for (_, asked) in self.waiting.drain() {
            asked.waiting.lost();
        }
    }
}

impl Waiting {
    fn answer(self, reply: Reply) -> Result<(), Malformed> {
        match self {
            Self::Append { reply: to, _permit } => {
                let answer = match reply {
                    Reply::Ack(ack) => codec::ack(ack).map(Ok),
                    Reply::Refusal(refused) => codec::from_refusal(refused).map(Err),
                    _ => Err(Malformed("an answer to something else")),
                };
                let (answer, error) = split(answer, Refusal::Unknown);
                let _ = to.send(answer);
                error
            }
            Self::Read { reply: to, channel } => {
                let (answer, error) = split(codec::from_read_reply(reply, channel), Refusal::Unreachable);
                let _ = to.send(answer);
                error
            }
            Self::CheckTail(to) => {
                let answer = match reply {
                    Reply::Tail(tail) => codec::from_position(Some(tail)).map(Ok),
                    Reply::Refusal(refused) => codec::from_refusal(refused).map(Err),
                    _ => Err(Malformed("an answer to something else")),
                };
                let (answer, error) = split(answer, Refusal::Unreachable);
                let _ = to.send(answer);
                error
            }
            Self::Refresh(to) => {
                let answer = match reply {
                    Reply::Refreshed(_) => Ok(Ok(())),
                    Reply::Refusal(refused) => codec::from_refusal(refused).map(Err),
                    _ => Err(Malformed("an answer to something else")),
                };
                let (answer, error) = split(answer, Refusal::Unreachable);
                let _ = to.send(answer);
                error
            }
        }
    }

    fn unanswered(self, why: Malformed) -> Result<(), Malformed> {
        self.lost();
        Err(why)
    }

    /// No answer will come.
    fn lost(self) {
        match self {
            Self::Append { reply, .. } => drop(reply.send(Err(Refusal::Unknown))),
            Self::Read { reply, .. } => drop(reply.send(Err(Refusal::Unreachable))),
            Self::CheckTail(reply) => drop(reply.send(Err(Refusal::Unreachable))),
            Self::Refresh(reply) => drop(reply.send(Err(Refusal::Unreachable))),
        }
    }
}

/// What the asker is told, and what is to be logged.
fn split<T>(
    answer: Result<Result<T, Refusal>, Malformed>,
    otherwise: Refusal,
) -> (Result<T, Refusal>, Result<(), Malformed>) {
    match answer {
        Ok(answer) => (answer, Ok(())),
        Err(error) => (Err(otherwise), Err(error)),
    }
}

/// What comes back on a link.
pub type Answers = Messages<Body, pb::LinkReply>;

/// Where framed requests go, each as its parts, and what comes back.
pub type Opened = (mpsc::Sender<Vec<Bytes>>, Answers);

/// Opens the stream on a connection. It ends when the sender is gone.
pub async fn open(mut channel: Channel) -> Result<Opened, Status> {
    let (sender, messages) = mpsc::channel(OUTGOING_MAX);
    let request = calls::request(LINK, Body::new(Outbox::new(messages)));
    let response = channel.call(request).await;
    let response = response.map_err(|lost| Status::unavailable(lost.to_string()))?;
    Ok((sender, calls::answers(response)?))
}

#[cfg(test)]
#[path = "link_tests.rs"]
mod tests;
