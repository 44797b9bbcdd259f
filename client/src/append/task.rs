//! The task of an append session: keeps a call open, sends what the [`Outbox`] says, and hands out the answers.

use std::sync::Arc;
use std::time::Duration;

use futures::stream;
use millrace_api::grpc::append_session_request::Message as Ask;
use millrace_api::grpc::append_session_response::Message as Answer;
use millrace_api::grpc::{
    AppendSessionInput, AppendSessionOpened, AppendSessionRequest, AppendSessionResponse, OpenAppendSession,
};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tonic::Streaming;

use super::outbox::{Outbox, Outgoing, Pending};
use super::session::{Held, Progress};
use super::ticket::Waiter;
use crate::call::owner;
use crate::endpoints::Node;
use crate::error::Error;
use crate::info::present;
use crate::pace::Pace;
use crate::rpc;
use crate::stream::Stream;
use crate::transport::{Lane, Place};

/// Inputs between the outbox and the connection. They are also in the outbox, so that this bounds nothing but work.
const QUEUE: usize = 16;
/// A writer is renewed when nothing is unacknowledged and it is older than this: the younger it is, the less an owner
/// has to remember for it to be known, and a new one costs one round trip.
const WRITER_AGE_MAX: Duration = Duration::from_secs(10);

/// An input on its way from the handle.
#[derive(Debug)]
pub(crate) struct Submitted {
    pub(crate) pending: Pending<(Waiter, Held)>,
}

pub(crate) struct Task {
    stream: Stream,
    inbox: mpsc::UnboundedReceiver<Submitted>,
    /// The handle is gone, and all that it sent is in the outbox.
    inbox_ended: bool,
    outbox: Outbox<(Waiter, Held)>,
    progress: watch::Sender<Progress>,
    writer_since: Instant,
    avoid: Option<Arc<Node>>,
}

/// One call that is open.
struct Call {
    requests: mpsc::Sender<AppendSessionRequest>,
    replies: Streaming<AppendSessionResponse>,
    node: Arc<Node>,
    opened: Instant,
    _place: Place,
}

/// Why a call is left.
enum Left {
    /// There is nothing to do any more.
    Done,
    /// Nothing is unacknowledged, and the next input wants a new writer.
    Idle,
    Failed(Error),
}

impl Task {
    pub(crate) fn new(
        stream: Stream,
        inbox: mpsc::UnboundedReceiver<Submitted>,
        progress: watch::Sender<Progress>,
    ) -> Self {
        Self {
            stream,
            inbox,
            inbox_ended: false,
            outbox: Outbox::new(),
            progress,
            writer_since: Instant::now(),
            avoid: None,
        }
    }

    pub(crate) async fn run(mut self) {
        let ended = self.serve().await;
        if let Err(error) = &ended {
            tracing::debug!(%error, stream = self.stream.name(), "an append session failed");
        }
        // First told, then closed: whoever finds the inbox closed finds the reason, too.
        self.progress
            .send_modify(|progress| progress.ended = Some(ended.clone()));
        self.inbox.close();
        while let Ok(submitted) = self.inbox.try_recv() {
            self.outbox.push(submitted.pending);
        }
        let cause = ended.err().unwrap_or(Error::Closed);
        for ((waiter, _held), error) in self.outbox.failed(cause) {
            waiter.resolve(Err(error));
        }
    }

    async fn serve(&mut self) -> Result<(), Error> {
        let mut pace = Pace::new(self.stream.shared());
        loop {
            if self.outbox.is_empty() {
                match self.inbox.recv().await {
                    Some(submitted) => self.outbox.push(submitted.pending),
                    None => return Ok(()),
                }
                pace.progressed();
            }
            let error = match self.open().await {
                Ok(mut call) => match self.exchange(&mut call, &mut pace).await {
                    Left::Done => return Ok(()),
                    Left::Idle => {
                        self.outbox.call_over(false);
                        continue;
                    }
                    Left::Failed(error) => {
                        self.blame(&call.node, &error);
                        error
                    }
                },
                Err(error) => error,
            };
            self.settle(&error)?;
            if self.outbox.is_empty() {
                continue;
            }
            let pause = pace.pause(&error)?;
            tracing::debug!(%error, ?pause, stream = self.stream.name(), "an append session connects again");
            sleep(pause).await;
        }
    }

    /// Whether the session goes on after this error.
    fn settle(&mut self, error: &Error) -> Result<(), Error> {
        match error {
            Error::WriterUnknown { may_have_happened } => match self.outbox.writer_lost(*may_have_happened) {
                true => Ok(()),
                false => Err(error.clone()),
            },
            error if error.retryable() => {
                self.outbox.call_over(error.may_have_happened());
                Ok(())
            }
            error => Err(error.clone()),
        }
    }

    fn blame(&mut self, node: &Arc<Node>, error: &Error) {
        let route = self.stream.route();
        let endpoints = &self.stream.shared().endpoints;
        endpoints.failed(node, Some(route), error, Instant::now());
        self.avoid = error.blames_node().then(|| node.clone());
    }

    /// Opens a call: at the stream's owner as far as it is known, and if the answer names one, there.
    async fn open(&mut self) -> Result<Call, Error> {
        let shared = self.stream.shared().clone();
        let route = self.stream.route().clone();
        let node = shared
            .endpoints
            .pick(Some(&route), self.avoid.as_ref(), Instant::now());
        let (mut call, mut opened) = self.try_open(node).await?;
        if let Some(owner) = shared.endpoints.better(&route, &call.node, Instant::now()) {
            // This call stays as good as it is if the owner cannot be reached from here.
            if let Ok(direct) = self.try_open(owner).await {
                (call, opened) = direct;
            }
        }
        let is_new = self.outbox.resumes().is_none();
        self.outbox
            .opened(present(opened.writer, "writer")?, opened.window)?;
        if is_new {
            self.writer_since = call.opened;
        }
        self.avoid = None;
        Ok(call)
    }

    async fn try_open(&mut self, node: Arc<Node>) -> Result<(Call, AppendSessionOpened), Error> {
        let limit = self.stream.shared().request_timeout;
        let opened = timeout(limit, self.open_at(node.clone())).await;
        let opened = opened.unwrap_or(Err(Error::Timeout(limit)));
        if let Err(error) = &opened {
            self.blame(&node, error);
        }
        opened
    }

    async fn open_at(&self, node: Arc<Node>) -> Result<(Call, AppendSessionOpened), Error> {
        let shared = self.stream.shared();
        let route = self.stream.route();
        let (requests, queue) = mpsc::channel(QUEUE);
        let open = OpenAppendSession {
            basin: route.basin.to_string(),
            stream: route.stream.to_string(),
            writer: self.outbox.resumes(),
        };
        let _ = requests.try_send(ask(Ask::Open(open)));
        let place = shared.endpoints.place(&node, Lane::Calls);
        let response = rpc::stream(place.channel.clone())
            .append_session(shared.request(messages(queue)))
            .await?;
        let owner = owner(response.metadata()).map(str::to_owned);
        let mut replies = response.into_inner();
        let opened = match next_answer(&mut replies).await? {
            Answer::Opened(opened) => opened,
            Answer::Ack(_) => return Err(Error::corrupt("an ack before the session was opened")),
        };
        shared.endpoints.succeeded(&node, Some(route), owner.as_deref());
        let call = Call {
            requests,
            replies,
            node,
            opened: Instant::now(),
            _place: place,
        };
        Ok((call, opened))
    }

    /// Sends and receives until the call fails or is not wanted any more.
    async fn exchange(&mut self, call: &mut Call, pace: &mut Pace) -> Left {
        let ack_within = self.stream.shared().request_timeout;
        let mut ack_by = Instant::now() + ack_within;
        let requests = call.requests.clone();
        loop {
            if self.inbox_ended && self.outbox.is_empty() {
                return Left::Done;
            }
            tokio::select! {
                biased;
                answer = next_answer(&mut call.replies) => {
                    let acked = match answer {
                        Ok(Answer::Ack(ack)) => present(ack.ack, "ack").and_then(|it| self.outbox.acked(ack.number, it)),
                        Ok(Answer::Opened(_)) => Err(Error::corrupt("a session that was opened twice")),
                        Err(_) if self.outbox.is_empty() => return Left::Idle,
                        Err(error) => Err(error),
                    };
                    match acked {
                        Ok(((waiter, held), ack)) => {
                            drop(held);
                            waiter.resolve(Ok(ack));
                            self.progress.send_modify(|progress| progress.acked += 1);
                            pace.progressed();
                            ack_by = Instant::now() + ack_within;
                        }
                        Err(error) => return Left::Failed(error),
                    }
                }
                place = requests.reserve(), if self.outbox.has_next() => {
                    let Ok(place) = place else {
                        // The call takes nothing more; why, its answer says.
                        return Left::Failed(self.last_words(call, ack_within).await);
                    };
                    if !self.outbox.awaits_ack() {
                        ack_by = Instant::now() + ack_within;
                    }
                    if let Some(outgoing) = self.outbox.next() {
                        place.send(input(outgoing));
                    }
                }
                submitted = self.inbox.recv(), if !self.inbox_ended => match submitted {
                    None => self.inbox_ended = true,
                    Some(submitted) => {
                        let was_idle = self.outbox.is_empty();
                        self.outbox.push(submitted.pending);
                        if was_idle && self.writer_since.elapsed() > WRITER_AGE_MAX {
                            return Left::Idle;
                        }
                    }
                },
                () = sleep_until(ack_by), if self.outbox.awaits_ack() => {
                    return Left::Failed(Error::Timeout(ack_within));
                }
            }
        }
    }

    /// How a call ends that takes nothing more. Acks that come before the end are still counted.
    async fn last_words(&mut self, call: &mut Call, limit: Duration) -> Error {
        let listen = async {
            loop {
                match next_answer(&mut call.replies).await {
                    Err(error) => return error,
                    Ok(Answer::Opened(_)) => return Error::corrupt("a session that was opened twice"),
                    Ok(Answer::Ack(ack)) => {
                        let acked = present(ack.ack, "ack").and_then(|it| self.outbox.acked(ack.number, it));
                        match acked {
                            Err(error) => return error,
                            Ok(((waiter, _held), ack)) => {
                                waiter.resolve(Ok(ack));
                                self.progress.send_modify(|progress| progress.acked += 1);
                            }
                        }
                    }
                }
            }
        };
        timeout(limit, listen).await.unwrap_or(Error::Timeout(limit))
    }
}

/// Cancel safe: a message that has come in part stays with the stream.
async fn next_answer(replies: &mut Streaming<AppendSessionResponse>) -> Result<Answer, Error> {
    match replies.message().await? {
        None => Err(Error::Broken("the server ended the session".into())),
        Some(response) => present(response.message, "message"),
    }
}

fn messages(
    mut queue: mpsc::Receiver<AppendSessionRequest>,
) -> impl futures::Stream<Item = AppendSessionRequest> {
    stream::poll_fn(move |cx| queue.poll_recv(cx))
}

fn ask(message: Ask) -> AppendSessionRequest {
    AppendSessionRequest {
        message: Some(message),
    }
}

fn input(outgoing: Outgoing) -> AppendSessionRequest {
    ask(Ask::Input(AppendSessionInput {
        number: outgoing.number,
        acked_through: outgoing.acked_through,
        input: outgoing.input,
    }))
}
