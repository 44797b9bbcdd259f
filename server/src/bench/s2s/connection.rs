//! One HTTP/2 connection.

use std::sync::Arc;
use std::time::Duration;

use http::{Request, Response};
use hyper::body::Incoming;
use hyper::client::conn::http2::{Builder, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::TcpStream;
use url::Url;

use super::tls;
use super::upload::Upload;
use crate::bench::driver::DriveError;
use crate::env::BoxedIo;

/// Bytes that one session may receive before they are read: several batches of the largest size, so that the
/// endpoint never waits for the bench to say that it has room, and 400 MiB/s over a round trip of 20 ms.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
/// The same for all sessions of a connection. More than one session's, so that a reader that is behind does not stop
/// the others; not more, for it bounds what the bench holds per connection.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Largest DATA frame that the endpoint may send: a whole S2S frame with room to spare. One that arrives in a single
/// piece is read where it lies; of one that is cut, the pieces must be copied together.
const FRAME_BYTES_MAX: u32 = 3 * 1024 * 1024;
/// Bytes of one session that wait for the endpoint's window: the batch that is being sent and the next one.
const SEND_BUFFER_BYTES_MAX: usize = 2 * 1024 * 1024;
/// A connection attempt that takes longer has failed.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Cheap to clone; closed when the last clone and the last session are gone.
#[derive(Clone)]
pub(super) struct Connection {
    sender: SendRequest<Upload>,
}

impl Connection {
    pub(super) async fn open(url: &Url, insecure: bool) -> Result<Self, DriveError> {
        let failed = |reason: String| DriveError::Connect {
            endpoint: url.to_string(),
            reason,
        };
        let connecting = async {
            let io = dial(url, insecure).await?;
            Builder::new(TokioExecutor::new())
                .timer(TokioTimer::new())
                .initial_stream_window_size(STREAM_WINDOW)
                .initial_connection_window_size(CONNECTION_WINDOW)
                .max_frame_size(FRAME_BYTES_MAX)
                .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
                .handshake(TokioIo::new(io))
                .await
                .map_err(|error| error.to_string())
        };
        let (sender, connection) = tokio::time::timeout(CONNECT_TIMEOUT, connecting)
            .await
            .map_err(|_| failed(format!("no connection within {CONNECT_TIMEOUT:?}")))?
            .map_err(failed)?;
        // Whatever ends it also ends the requests on it, which say so.
        tokio::spawn(async move { drop(connection.await) });
        Ok(Self { sender })
    }

    /// Resolves when the answer's head is there. The request is under way at once, before the first poll.
    pub(super) fn send(
        &self,
        request: Request<Upload>,
    ) -> impl Future<Output = Result<Response<Incoming>, DriveError>> + Send + 'static {
        let response = self.sender.clone().send_request(request);
        async move { response.await.map_err(|error| broken(&error)) }
    }
}

pub(super) fn broken(error: &hyper::Error) -> DriveError {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    DriveError::Broken(text)
}

#[allow(clippy::disallowed_methods)] // The bench is a client of other systems: its connections are its own affair.
async fn dial(url: &Url, insecure: bool) -> Result<BoxedIo, String> {
    let host = url.host_str().ok_or("the URL has no host")?;
    let port = url.port_or_known_default().ok_or("the URL has no port")?;
    // An IPv6 address stands in brackets in a URL only.
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let tcp = TcpStream::connect((host, port))
        .await
        .map_err(|error| error.to_string())?;
    tcp.set_nodelay(true).map_err(|error| error.to_string())?;
    match url.scheme() {
        "http" => Ok(Box::new(tcp)),
        "https" => {
            let config = tls::config(insecure)?;
            let name = rustls::pki_types::ServerName::try_from(host.to_owned())
                .map_err(|error| error.to_string())?;
            let stream = tokio_rustls::TlsConnector::from(Arc::new(config))
                .connect(name, tcp)
                .await
                .map_err(|error| error.to_string())?;
            Ok(Box::new(stream))
        }
        other => Err(format!("{other} is neither http nor https")),
    }
}
