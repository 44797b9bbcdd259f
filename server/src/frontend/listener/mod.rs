//! Connections of clients: accepts them, tells HTTP/1.1 from HTTP/2, serves a router on each, and ends them all.
//!
//! One port speaks both versions: HTTP/2 clients are known by the preface they send first, with or without TLS.
//! Everything a connection may hold is bounded: how many there are, how long a handshake or a request's head may
//! take, how large heads and windows are.

mod http1;
mod http2;
mod sniff;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures::future::BoxFuture;
use hyper::body::Incoming;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use crate::env::{BoxedIo, Listener};
use crate::tls::Tls;

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept: what failed is one connection, or file descriptors have run out for a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How a port is served.
#[derive(Clone)]
pub struct ListenerOptions {
    /// `None` serves in clear.
    pub tls: Option<Tls>,
    /// Connections beyond this wait in the kernel's queue until one ends.
    pub connections_max: usize,
    /// Time that requests under way have to end after shutdown begins; then their connections are cut.
    pub shutdown_wait: Duration,
}

impl Default for ListenerOptions {
    fn default() -> Self {
        Self {
            tls: None,
            connections_max: 16_384,
            shutdown_wait: Duration::from_secs(10),
        }
    }
}

/// Serves `router` on every connection until `shutdown`, then lets requests under way end for at most
/// [`ListenerOptions::shutdown_wait`]. When it returns no connection is left. Dropping it cuts them all.
pub async fn serve(
    listener: Box<dyn Listener>,
    router: Router,
    options: ListenerOptions,
    shutdown: CancellationToken,
) {
    let permits = Arc::new(Semaphore::new(options.connections_max));
    let tasks = TaskTracker::new();
    let cut = CancellationToken::new();
    let _cut_on_drop = cut.clone().drop_guard();
    let connection = Connection {
        router,
        tls: options.tls,
        shutdown: shutdown.clone(),
    };
    loop {
        let accepted = tokio::select! {
            accepted = accept(&*listener, &permits) => accepted,
            () = shutdown.cancelled() => break,
        };
        match accepted {
            Ok((io, peer, permit)) => {
                let connection = connection.clone();
                let cut = cut.clone();
                tasks.spawn(async move {
                    let _permit = permit;
                    tokio::select! {
                        () = connection.serve(io, peer) => {}
                        () = cut.cancelled() => {}
                    }
                });
            }
            Err(error) => {
                tracing::warn!(%error, "connection not accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    tasks.close();
    if tokio::time::timeout(options.shutdown_wait, tasks.wait())
        .await
        .is_err()
    {
        tracing::warn!(connections = tasks.len(), "connections cut at shutdown");
        cut.cancel();
        tasks.wait().await;
    }
}

/// Takes a permit first, so that a connection beyond the bound costs nothing here.
async fn accept(
    listener: &dyn Listener,
    permits: &Arc<Semaphore>,
) -> io::Result<(BoxedIo, SocketAddr, OwnedSemaphorePermit)> {
    let permit = Arc::clone(permits)
        .acquire_owned()
        .await
        .expect("the semaphore is never closed");
    let (io, peer) = listener.accept().await?;
    Ok((io, peer, permit))
}

#[derive(Clone)]
struct Connection {
    router: Router,
    tls: Option<Tls>,
    shutdown: CancellationToken,
}

impl Connection {
    /// What fails here is the peer's doing or the network's, and so is not worth more than a debug line.
    async fn serve(self, io: BoxedIo, peer: SocketAddr) {
        if let Err(error) = self.try_serve(io).await {
            tracing::debug!(%peer, error, "connection ended");
        }
    }

    async fn try_serve(self, io: BoxedIo) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let io = match &self.tls {
            None => io,
            Some(tls) => {
                let handshake = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.acceptor().accept(io));
                let stream = tokio::select! {
                    done = handshake => done??,
                    () = self.shutdown.cancelled() => return Ok(()),
                };
                Box::new(stream) as BoxedIo
            }
        };
        let sniffed = tokio::select! {
            sniffed = sniff::sniff(io) => sniffed?,
            () = self.shutdown.cancelled() => return Ok(()),
        };
        match sniffed {
            sniff::Sniffed::Http1(io) => http1::serve(io, self.router, self.shutdown).await?,
            sniff::Sniffed::Http2(io) => http2::serve(io, self.router, self.shutdown).await?,
            sniff::Sniffed::Closed => {}
        }
        Ok(())
    }
}

type Answer = BoxFuture<'static, Result<Response, std::convert::Infallible>>;

/// The router as a function of one request.
fn service(router: Router) -> impl Fn(hyper::Request<Incoming>) -> Answer + Clone {
    move |request| {
        let request: Request = request.map(Body::new);
        Box::pin(router.clone().oneshot(request))
    }
}

#[cfg(test)]
mod tests;
