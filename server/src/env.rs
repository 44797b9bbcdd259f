//! Everything that enters a node from outside other than requests: clocks, randomness, the network, stores, and the
//! threads for work that blocks. A node built with another [`Env`] behaves the same but for these, which is what
//! makes it possible to run it in simulation.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use millrace_raft::group::Blocking;
use millrace_wal::{StoreEnvOptions, StoreError, ZoneStore, open_url};
use tokio::io::{AsyncRead, AsyncWrite};

/// A connection.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}
pub type BoxedIo = Box<dyn Io>;

/// Where connections come from.
#[async_trait]
pub trait Listener: Send + Sync {
    /// The next connection. Cancel safe. An error concerns one connection or a passing shortage; the caller goes
    /// on after a pause.
    async fn accept(&self) -> io::Result<(BoxedIo, SocketAddr)>;
    /// The address that clients reach; tells the port when the one asked for was 0.
    fn local_addr(&self) -> io::Result<SocketAddr>;
}

#[async_trait]
pub trait Network: Send + Sync {
    async fn listen(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>>;
    /// Connects to `host:port`.
    async fn connect(&self, address: &str) -> io::Result<BoxedIo>;
}

/// Clocks and the source of randomness. Durations are measured with `tokio::time`, which the simulator
/// replaces as a whole.
pub trait Ambient: Send + Sync {
    /// Milliseconds since the Unix epoch.
    fn now_ms(&self) -> u64;
    /// Time since the machine started, its sleep included.
    fn boot(&self) -> Duration;
    fn random_u128(&self) -> u128;
}

/// Where stores come from.
pub trait Stores: Send + Sync {
    /// The store that a URL names. Makes no request to it.
    fn open(&self, url: &str) -> Result<Arc<dyn ZoneStore>, StoreError>;
}

#[derive(Clone)]
pub struct Env {
    pub ambient: Arc<dyn Ambient>,
    pub network: Arc<dyn Network>,
    pub stores: Arc<dyn Stores>,
    /// Where the metadata group runs and waits for its disk: on threads of its own, or on those of the caller, where
    /// a run can be repeated.
    pub blocking: Blocking,
}

impl Env {
    /// The real world.
    pub fn system() -> Self {
        Self {
            ambient: Arc::new(SystemAmbient),
            network: Arc::new(TcpNetwork),
            stores: Arc::new(SystemStores),
            blocking: Blocking::Pool,
        }
    }

    pub fn now_ms(&self) -> u64 {
        self.ambient.now_ms()
    }

    pub fn boot(&self) -> Duration {
        self.ambient.boot()
    }

    pub fn random_u128(&self) -> u128 {
        self.ambient.random_u128()
    }
}

struct SystemAmbient;

#[allow(clippy::disallowed_methods)] // The one place where they are read.
impl Ambient for SystemAmbient {
    fn now_ms(&self) -> u64 {
        let since_epoch = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since_epoch.map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
    }

    fn boot(&self) -> Duration {
        let at = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
        Duration::new(at.tv_sec.unsigned_abs(), at.tv_nsec.unsigned_abs() as u32)
    }

    fn random_u128(&self) -> u128 {
        rand::random()
    }
}

struct SystemStores;

impl Stores for SystemStores {
    /// Credentials come from the process environment.
    fn open(&self, url: &str) -> Result<Arc<dyn ZoneStore>, StoreError> {
        open_url(
            url,
            &StoreEnvOptions {
                env: std::env::vars().collect(),
                ..StoreEnvOptions::default()
            },
        )
    }
}

struct TcpNetwork;

#[async_trait]
impl Network for TcpNetwork {
    #[allow(clippy::disallowed_methods)] // The one place that listens.
    async fn listen(&self, addr: SocketAddr) -> io::Result<Box<dyn Listener>> {
        Ok(Box::new(tokio::net::TcpListener::bind(addr).await?))
    }

    #[allow(clippy::disallowed_methods)] // The one place that connects.
    async fn connect(&self, address: &str) -> io::Result<BoxedIo> {
        let stream = tokio::net::TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Box::new(stream))
    }
}

#[async_trait]
impl Listener for tokio::net::TcpListener {
    async fn accept(&self) -> io::Result<(BoxedIo, SocketAddr)> {
        let (stream, peer) = tokio::net::TcpListener::accept(self).await?;
        stream.set_nodelay(true)?;
        Ok((Box::new(stream), peer))
    }

    fn local_addr(&self) -> io::Result<SocketAddr> {
        tokio::net::TcpListener::local_addr(self)
    }
}
