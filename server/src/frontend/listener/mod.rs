//! Connections of clients: accepts them, tells HTTP/1.1 from HTTP/2, serves a router on each, and ends them all.
//!
//! One port speaks both versions: HTTP/2 clients are known by the preface they send first, with or without TLS.
//! Everything a connection may hold is bounded: how many there are, how long a handshake or a request's head may
//! take, how large heads and windows are.

mod gather;
mod http1;
mod http2;
mod sniff;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::env::{BoxedIo, Listener};
use crate::tls::Tls;

/// A TLS handshake that takes longer is given up.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after a failed accept: what failed is one connection, or file descriptors have run out for a while.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A port that is being served. Dropping it closes the port and cuts every connection.
pub struct Server {
    addr: SocketAddr,
    connections: TaskTracker,
    shutdown: CancellationToken,
    cut: CancellationToken,
}

impl Server {
    /// Serves `router` on the listener's connections, with TLS or in clear. Connections beyond `connections_max`
    /// wait in the kernel's queue until one ends.
    pub fn start(
        listener: Box<dyn Listener>,
        tls: Option<Tls>,
        router: Router,
        connections_max: usize,
    ) -> io::Result<Self> {
        let server = Self {
            addr: listener.local_addr()?,
            connections: TaskTracker::new(),
            shutdown: CancellationToken::new(),
            cut: CancellationToken::new(),
        };
        let acceptor = Acceptor {
            listener,
            permits: Arc::new(Semaphore::new(connections_max.min(Semaphore::MAX_PERMITS))),
            connections: server.connections.clone(),
            cut: server.cut.clone(),
            connection: Connection {
                router,
                tls,
                shutdown: server.shutdown.clone(),
            },
        };
        server.connections.spawn(acceptor.run());
        Ok(server)
    }

    /// The address that clients reach, with the real port.
    pub fn local_addr(&self) -> SocketAddr {
        self.addr
    }

    /// Takes no more connections and no more requests, lets those under way end, and after `wait` cuts what is
    /// left. When it returns there is no connection.
    pub async fn stop(self, wait: Duration) {
        self.shutdown.cancel();
        self.connections.close();
        if tokio::time::timeout(wait, self.connections.wait()).await.is_err() {
            tracing::warn!(connections = self.connections.len(), "connections are cut");
            self.cut.cancel();
            self.connections.wait().await;
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.shutdown.cancel();
        self.cut.cancel();
    }
}

struct Acceptor {
    listener: Box<dyn Listener>,
    permits: Arc<Semaphore>,
    connections: TaskTracker,
    cut: CancellationToken,
    connection: Connection,
}

impl Acceptor {
    /// Until shutdown; then the port is closed.
    async fn run(self) {
        loop {
            let accepted = tokio::select! {
                accepted = accept(&*self.listener, &self.permits) => accepted,
                () = self.connection.shutdown.cancelled() => return,
            };
            match accepted {
                Ok((io, peer, permit)) => self.spawn(io, peer, permit),
                Err(error) => {
                    tracing::warn!(%error, "connection not accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn spawn(&self, io: BoxedIo, peer: SocketAddr, permit: OwnedSemaphorePermit) {
        let connection = self.connection.clone();
        let cut = self.cut.clone();
        self.connections.spawn(async move {
            let _permit = permit;
            tokio::select! {
                () = connection.serve(io, peer) => {}
                () = cut.cancelled() => {}
            }
        });
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

#[cfg(test)]
mod tests;
