//! What a test can do to the world of one cell: cut nodes off from each other, and turn their clocks.

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use async_trait::async_trait;
use millrace_server::env::{Ambient, BoxedIo, Env, Listener, Network, Stores};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// The wire between the nodes of a cell. Clones share it.
#[derive(Clone, Default)]
pub struct Wire {
    state: Arc<Mutex<State>>,
}

#[derive(Default)]
struct State {
    /// Which node listens where, other than for clients.
    nodes: Vec<(SocketAddr, usize)>,
    /// From whom to whom nothing gets through. What was sent waits, as if it were sent again and again.
    cut: BTreeSet<(usize, usize)>,
    waiting: Vec<Waker>,
}

impl Wire {
    /// The node listens there.
    pub fn knows(&self, addr: SocketAddr, node: usize) {
        self.state().nodes.push((addr, node));
    }

    /// Nothing that `from` sends reaches `to` any more.
    pub fn cut(&self, from: usize, to: usize) {
        self.state().cut.insert((from, to));
    }

    /// Nothing gets from or to the node any more.
    pub fn isolate(&self, node: usize, nodes: usize) {
        for other in (0..nodes).filter(|other| *other != node) {
            self.cut(node, other);
            self.cut(other, node);
        }
    }

    /// Everything arrives, also what was held up.
    pub fn heal(&self) {
        let mut state = self.state();
        state.cut.clear();
        for waker in state.waiting.drain(..) {
            waker.wake();
        }
    }

    /// Ready when something sent by `from` gets to `to`.
    fn poll_passes(&self, from: usize, to: usize, cx: &Context<'_>) -> Poll<()> {
        let mut state = self.state();
        if !state.cut.contains(&(from, to)) {
            return Poll::Ready(());
        }
        state.waiting.push(cx.waker().clone());
        Poll::Pending
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The world of one node.
#[derive(Clone)]
pub struct World {
    inner: Env,
    node: usize,
    wire: Wire,
    /// Milliseconds that the machine's clocks are ahead of those of the machine that runs the test.
    ahead_ms: Arc<AtomicU64>,
}

impl World {
    pub fn new(node: usize, wire: Wire) -> Self {
        Self {
            inner: Env::system(),
            node,
            wire,
            ahead_ms: Arc::default(),
        }
    }

    pub fn env(&self, stores: Arc<dyn Stores>) -> Env {
        Env {
            ambient: Arc::new(self.clone()),
            network: Arc::new(self.clone()),
            stores,
            ..Env::system()
        }
    }

    /// The machine slept: all its clocks are later by so much, and no timer has noticed.
    pub fn sleep(&self, time: Duration) {
        let ms = u64::try_from(time.as_millis()).unwrap();
        self.ahead_ms.fetch_add(ms, Ordering::SeqCst);
    }
}

impl Ambient for World {
    fn now_ms(&self) -> u64 {
        self.inner.now_ms() + self.ahead_ms.load(Ordering::SeqCst)
    }

    fn boot(&self) -> Duration {
        self.inner.boot() + Duration::from_millis(self.ahead_ms.load(Ordering::SeqCst))
    }

    fn random_u128(&self) -> u128 {
        self.inner.random_u128()
    }
}

#[async_trait]
impl Network for World {
    async fn listen(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        self.inner.network.listen(addr).await
    }

    async fn connect(&self, address: &str) -> io::Result<BoxedIo> {
        let to = address.parse().ok().and_then(|addr: SocketAddr| {
            let state = self.wire.state();
            state
                .nodes
                .iter()
                .find(|(known, _)| *known == addr)
                .map(|(_, node)| *node)
        });
        let Some(to) = to else {
            return Err(io::Error::other(format!(
                "no node of the cell listens on {address}"
            )));
        };
        let there_and_back = |cx: &mut Context<'_>| {
            let there = self.wire.poll_passes(self.node, to, cx);
            let back = self.wire.poll_passes(to, self.node, cx);
            if there.is_ready() { back } else { there }
        };
        std::future::poll_fn(there_and_back).await;
        let inner = self.inner.network.connect(address).await?;
        Ok(Box::new(Connection {
            inner,
            from: self.node,
            to,
            wire: self.wire.clone(),
        }))
    }
}

/// A connection that `from` made.
struct Connection {
    inner: BoxedIo,
    from: usize,
    to: usize,
    wire: Wire,
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        std::task::ready!(self.wire.poll_passes(self.to, self.from, cx));
        Pin::new(&mut self.inner).poll_read(cx, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        std::task::ready!(self.wire.poll_passes(self.from, self.to, cx));
        Pin::new(&mut self.inner).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
