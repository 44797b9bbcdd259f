//! Connections over the simulated network, as nodes and clients make them.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use async_trait::async_trait;
use millrace_server::env::{BoxedIo, Listener, Network};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use turmoil::net::{TcpListener, TcpStream};

use crate::trace::Trace;

const RECEIVED: u8 = 1;
const SENT: u8 = 2;
const CONNECTED: u8 = 3;

/// Every connection there is. Clones share it.
#[derive(Clone)]
pub struct Wires {
    trace: Trace,
    lines: Arc<Mutex<Vec<Weak<Line>>>>,
}

/// One end of a connection.
struct Line {
    ends: (IpAddr, IpAddr),
    broken: Mutex<Broken>,
}

#[derive(Default)]
struct Broken {
    yes: bool,
    /// Who waits to read, and who to write.
    wakers: [Option<Waker>; 2],
}

/// One end of a connection, with its bytes on record.
pub struct Wire {
    stream: TcpStream,
    line: Arc<Line>,
    trace: Trace,
}

impl Wires {
    /// None yet.
    pub fn new(trace: Trace) -> Self {
        Self {
            trace,
            lines: Arc::default(),
        }
    }

    /// Connects to `host:port`, from the host that runs.
    pub async fn connect(&self, address: &str) -> io::Result<Wire> {
        self.wire(TcpStream::connect(address).await?)
    }

    /// Connections between the two hosts end with an error, on both sides: what a peer does that has sent again in
    /// vain for long enough. The simulated network itself sends nothing again, so that a connection that lost
    /// something would hang for ever.
    pub fn reset(&self, between: (IpAddr, IpAddr)) {
        let (a, b) = between;
        self.lock().retain(|line| {
            let Some(line) = line.upgrade() else { return false };
            if line.ends == (a, b) || line.ends == (b, a) {
                line.cut();
            }
            true
        });
    }

    fn wire(&self, stream: TcpStream) -> io::Result<Wire> {
        let (local, peer) = (stream.local_addr()?, stream.peer_addr()?);
        self.trace.absorb(CONNECTED, format!("{local} {peer}").as_bytes());
        let line = Arc::new(Line {
            ends: (local.ip(), peer.ip()),
            broken: Mutex::default(),
        });
        let mut lines = self.lock();
        lines.retain(|line| line.strong_count() > 0);
        lines.push(Arc::downgrade(&line));
        drop(lines);
        Ok(Wire {
            stream,
            line,
            trace: self.trace.clone(),
        })
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Weak<Line>>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[async_trait]
impl Network for Wires {
    async fn listen(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(Listening {
            listener: TcpListener::bind(addr).await?,
            wires: self.clone(),
        }))
    }

    async fn connect(&self, address: &str) -> io::Result<BoxedIo> {
        Ok(Box::new(Wires::connect(self, address).await?))
    }
}

struct Listening {
    listener: TcpListener,
    wires: Wires,
}

#[async_trait]
impl Listener for Listening {
    async fn accept(&self) -> io::Result<(BoxedIo, SocketAddr)> {
        let (stream, peer) = self.listener.accept().await?;
        Ok((Box::new(self.wires.wire(stream)?), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }
}

impl Line {
    fn cut(&self) {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        broken.yes = true;
        broken
            .wakers
            .iter_mut()
            .filter_map(Option::take)
            .for_each(Waker::wake);
    }

    /// An error if it is broken; otherwise the task hears of it when it breaks.
    fn whole(&self, waiting: usize, context: &Context<'_>) -> io::Result<()> {
        let mut broken = self.broken.lock().unwrap_or_else(PoisonError::into_inner);
        if broken.yes {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        broken.wakers[waiting] = Some(context.waker().clone());
        Ok(())
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.line.whole(0, cx)?;
        let before = to.filled().len();
        let polled = Pin::new(&mut self.stream).poll_read(cx, to);
        if let Poll::Ready(Ok(())) = &polled {
            self.trace.absorb(RECEIVED, &to.filled()[before..]);
        }
        polled
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.line.whole(1, cx)?;
        let polled = Pin::new(&mut self.stream).poll_write(cx, bytes);
        if let Poll::Ready(Ok(sent)) = &polled {
            self.trace.absorb(SENT, &bytes[..*sent]);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.line.whole(1, cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
