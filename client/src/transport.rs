//! Connections to one node, and the figures that they are opened with.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tonic::transport::{Channel, ClientTlsConfig, Endpoint, Uri};

use crate::error::Error;

/// Bytes that the server may send on one stream before they are taken: at 4 GB/s it covers 2 ms of round trip, at the
/// 100 MB/s of one distant reader 80 ms. On loopback a window of 64 KiB, the default of HTTP/2, has a third of the
/// throughput.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
/// The same for all streams of the connection that calls and append sessions share. Their answers are small and are
/// always taken, so that two windows are plenty.
const CALLS_WINDOW_BYTES: u32 = 16 << 20;
/// Read sessions on one connection. A reader that stalls holds up to its own window; the connection's covers as many
/// as may stall together, so that none of them ever stops another.
const READERS_PER_CONNECTION: u32 = 64;
/// A batch in one or two frames: the fewer, the less is spent on each.
const FRAME_BYTES_MAX: u32 = 1 << 20;
/// A dead peer is noticed within about three of these.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);

/// Windows of HTTP/2 flow control: how much a server may send ahead of what is taken here.
///
/// They bound the memory that each reader can cost: its stream window, and the batch in hand.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Windows {
    /// Bytes per read session or call.
    pub stream_bytes: u32,
    /// Bytes of the one connection per node that calls and append sessions share. Those of read sessions get
    /// 64 times `stream_bytes`, one for each session on them.
    pub connection_bytes: u32,
}

impl Default for Windows {
    fn default() -> Self {
        Self {
            stream_bytes: STREAM_WINDOW_BYTES,
            connection_bytes: CALLS_WINDOW_BYTES,
        }
    }
}

/// A byte stream to a server, for [`ClientBuilder::connector`](crate::ClientBuilder::connector).
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

pub(crate) type Connector =
    Arc<dyn Fn(Uri) -> BoxFuture<'static, io::Result<Pin<Box<dyn Io>>>> + Send + Sync>;

/// How every connection is made.
#[derive(Clone)]
pub(crate) struct TransportConfig {
    pub(crate) tls: Option<ClientTlsConfig>,
    pub(crate) connect_timeout: Duration,
    pub(crate) windows: Windows,
    pub(crate) connector: Option<Connector>,
}

/// What a connection is for. Bulk and small answers do not wait for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Lane {
    /// Calls and append sessions, all on one connection.
    Calls,
    /// Read sessions.
    Read,
}

/// A connection, with a place on it that is free again when this is dropped.
#[derive(Debug, Clone)]
pub(crate) struct Place {
    pub(crate) channel: Channel,
    _taken: Arc<()>,
}

/// The connections to one node; made when they are first used, and again by themselves after they broke.
#[derive(Debug)]
pub(crate) struct Connections {
    calls: Endpoint,
    read: Endpoint,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    calls: Option<Place>,
    /// Those without readers are dropped when the next place is asked for, except one.
    read: Vec<Place>,
}

impl Connections {
    pub(crate) fn new(uri: &Uri, config: &TransportConfig) -> Result<Self, Error> {
        let secure = uri.scheme_str() == Some("https");
        let endpoint = |window: u32| -> Result<Endpoint, Error> {
            let endpoint = Endpoint::from(uri.clone())
                .connect_timeout(config.connect_timeout)
                .tcp_nodelay(true)
                .initial_stream_window_size(config.windows.stream_bytes)
                .initial_connection_window_size(window)
                .max_frame_size(FRAME_BYTES_MAX)
                .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
                .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
                .keep_alive_while_idle(true);
            match &config.tls {
                Some(tls) if secure => endpoint
                    .tls_config(tls.clone())
                    .map_err(|error| Error::invalid(format!("TLS: {error}"))),
                _ => Ok(endpoint),
            }
        };
        // The protocol's largest window is 2^31 - 1.
        let read_window = config
            .windows
            .stream_bytes
            .saturating_mul(READERS_PER_CONNECTION)
            .min(i32::MAX as u32);
        Ok(Self {
            calls: endpoint(config.windows.connection_bytes)?,
            read: endpoint(read_window)?,
            open: Mutex::default(),
        })
    }

    /// A place on a connection. Does not wait: what cannot be reached shows when it is used.
    ///
    /// Must be called on a Tokio runtime.
    pub(crate) fn place(&self, lane: Lane, connector: Option<&Connector>) -> Place {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        match lane {
            Lane::Calls => open
                .calls
                .get_or_insert_with(|| Place::new(&self.calls, connector))
                .clone(),
            Lane::Read => {
                let mut idle = 0;
                open.read.retain(|place| {
                    idle += usize::from(place.readers() == 0);
                    place.readers() > 0 || idle == 1
                });
                let free = |place: &&Place| place.readers() < READERS_PER_CONNECTION as usize;
                if let Some(place) = open.read.iter().find(free) {
                    return place.clone();
                }
                let place = Place::new(&self.read, connector);
                open.read.push(place.clone());
                place
            }
        }
    }
}

impl Place {
    fn new(endpoint: &Endpoint, connector: Option<&Connector>) -> Self {
        let channel = match connector.cloned() {
            None => endpoint.connect_lazy(),
            Some(connect) => endpoint.connect_with_connector_lazy(tower::service_fn(move |uri| {
                let connecting = connect(uri);
                async move { connecting.await.map(TokioIo::new) }
            })),
        };
        Self {
            channel,
            _taken: Arc::default(),
        }
    }

    /// Places in use besides the one kept here.
    fn readers(&self) -> usize {
        Arc::strong_count(&self._taken) - 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn connections() -> Connections {
        let config = TransportConfig {
            tls: None,
            connect_timeout: Duration::from_secs(1),
            windows: Windows::default(),
            connector: None,
        };
        Connections::new(&Uri::from_static("http://127.0.0.1:1"), &config).unwrap()
    }

    #[tokio::test]
    async fn readers_share_a_connection_until_its_window_is_spoken_for() {
        let connections = connections();
        let mut places: Vec<_> = (0..=READERS_PER_CONNECTION)
            .map(|_| connections.place(Lane::Read, None))
            .collect();
        let open = || connections.open.lock().unwrap().read.len();
        assert_eq!(open(), 2);
        places.truncate(1);
        places.push(connections.place(Lane::Read, None));
        assert!(open() <= 2);
        places.clear();
        drop(connections.place(Lane::Read, None));
        assert_eq!(open(), 1);
    }

    #[tokio::test]
    async fn calls_are_all_on_one_connection() {
        let connections = connections();
        let first = connections.place(Lane::Calls, None);
        let second = connections.place(Lane::Calls, None);
        assert!(Arc::ptr_eq(&first._taken, &second._taken));
    }
}
