//! One connection to a peer, made when it is needed and again when it was lost.

use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use http::Uri;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::body::Body;

use super::connect::{Connect, Io};
use super::signer::Signer;
use super::tls::{Tls, server_name};
use crate::group::GroupRuntime;

/// A connection that takes longer to make does not help any more.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// Between two attempts to connect: the first, and the longest, pause. Below the time of an election.
const BACK_OFF_MIN: Duration = Duration::from_millis(20);
const BACK_OFF_MAX: Duration = Duration::from_millis(500);

/// A peer that does not answer a ping within the time-out is gone.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

const STREAM_WINDOW_BYTES: u32 = 2 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 8 << 20;
const FRAME_BYTES_MAX: u32 = 1 << 20;

/// Why a request has no response.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Lost {
    /// It was not sent.
    #[error("{0}")]
    NotSent(Arc<str>),
    /// It was sent, or part of it.
    #[error("{0}")]
    Sent(Arc<str>),
}

impl Lost {
    pub(super) fn not_sent(cause: impl std::fmt::Display) -> Self {
        Lost::NotSent(cause.to_string().into())
    }
}

/// What the channels of a node, or of an operator, have in common.
pub struct Shared {
    pub connect: Box<dyn Connect>,
    pub tls: Option<Tls>,
    /// Drives the connections, whoever asks for them.
    pub runtime: GroupRuntime,
}

/// A peer as a tonic client sees it. Clones share the connection. Requests get headers that say who sends them; they
/// have no time limit but the caller's.
#[derive(Clone)]
pub struct Channel {
    inner: Arc<Inner>,
}

struct Inner {
    shared: Arc<Shared>,
    signer: Signer,
    link: Mutex<Link>,
}

/// Locked while a connection is made: who comes meanwhile waits for it.
#[derive(Default)]
struct Link {
    sender: Option<SendRequest<Body>>,
    /// Connecting failed, for this reason; not tried again before then.
    failed: Option<(Lost, Instant)>,
    pause: Duration,
    /// The last thing that was logged about it.
    said: Option<String>,
}

impl std::fmt::Debug for Channel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Channel({})", self.inner.signer)
    }
}

impl Channel {
    pub(super) fn new(shared: Arc<Shared>, signer: Signer) -> Self {
        let inner = Inner {
            shared,
            signer,
            link: Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    /// Connects, unless there is a connection. Afterwards a request is sent without waiting for one.
    pub fn ready(&self) -> BoxFuture<'static, Result<(), Lost>> {
        let inner = self.inner.clone();
        Box::pin(async move { inner.sender().await.map(drop) })
    }
}

impl Inner {
    async fn sender(self: &Arc<Self>) -> Result<SendRequest<Body>, Lost> {
        let mut link = self.link.lock().await;
        if let Some(sender) = link.sender.as_ref().filter(|sender| !sender.is_closed()) {
            return Ok(sender.clone());
        }
        link.sender = None;
        if let Some((why, until)) = &link.failed
            && Instant::now() < *until
        {
            return Err(why.clone());
        }
        // Given up by the caller, the attempt counts as failed for those who come next.
        let pause = (link.pause * 2).clamp(BACK_OFF_MIN, BACK_OFF_MAX);
        link.pause = pause;
        link.failed = Some((
            Lost::not_sent("connecting takes too long"),
            Instant::now() + pause,
        ));
        let inner = self.clone();
        let connecting = async move { tokio::time::timeout(CONNECT_TIMEOUT, inner.connect()).await };
        let connected = match self.shared.runtime.handle().spawn(connecting).await {
            Ok(Ok(connected)) => connected,
            Ok(Err(_)) => Err("connecting takes too long".into()),
            Err(_) => Err("this node is stopping".into()),
        };
        match connected {
            Ok(sender) => {
                if link.said.take().is_some() {
                    tracing::info!(peer = %self.signer, "connected to a peer again");
                }
                link.failed = None;
                link.pause = Duration::ZERO;
                link.sender = Some(sender.clone());
                Ok(sender)
            }
            Err(why) => {
                if link.said.as_ref() != Some(&why) {
                    tracing::warn!(peer = %self.signer, why, "cannot connect to a peer");
                    link.said = Some(why.clone());
                }
                let lost = Lost::not_sent(why);
                link.failed = Some((lost.clone(), Instant::now() + pause));
                Err(lost)
            }
        }
    }

    async fn connect(&self) -> Result<SendRequest<Body>, String> {
        let text = |error: &dyn std::fmt::Display| error.to_string();
        let address = self.signer.address();
        let plain = self.shared.connect.connect(address).await;
        let mut io: Box<dyn Io> = plain.map_err(|error| text(&error))?;
        if let Some(tls) = &self.shared.tls {
            let secured = tls.connector().connect(server_name(address)?, io).await;
            io = Box::new(secured.map_err(|error| format!("TLS: {error}"))?);
        }
        let handshake = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .max_frame_size(FRAME_BYTES_MAX)
            .keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(io))
            .await;
        let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
        tokio::spawn(async move {
            // What became of it, requests hear for themselves.
            let _ = connection.await;
        });
        sender.ready().await.map_err(|error| text(&error))?;
        // A connection counts when something came back on it: what is sent into one that nobody serves would have an
        // unknown outcome. Any answer will do.
        let mut hello = http::Request::new(Body::empty());
        *hello.uri_mut() = Uri::from_static(self.signer.hello());
        self.signer.sign(&mut hello).map_err(|lost| text(&lost))?;
        let answered = sender.send_request(hello).await;
        answered.map_err(|error| format!("no answer: {}", chain(&error)))?;
        Ok(sender)
    }

    async fn send(self: &Arc<Self>, mut request: http::Request<Body>) -> Result<http::Response<Body>, Lost> {
        self.signer.sign(&mut request)?;
        let mut sender = self.sender().await?;
        match sender.try_send_request(request).await {
            Ok(response) => Ok(response.map(Body::new)),
            Err(mut error) => {
                let sent = error.take_message().is_none();
                let why: Arc<str> = chain(error.error()).into();
                match sent {
                    true => Err(Lost::Sent(why)),
                    false => Err(Lost::NotSent(why)),
                }
            }
        }
    }
}

/// An error with its causes.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    text
}

impl tower::Service<http::Request<Body>> for Channel {
    type Response = http::Response<Body>;
    type Error = Lost;
    type Future = BoxFuture<'static, Result<Self::Response, Lost>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Lost>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let inner = self.inner.clone();
        Box::pin(async move { inner.send(request).await })
    }
}
