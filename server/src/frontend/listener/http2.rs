//! One HTTP/2 connection: many requests at once.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http2::Builder;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use super::gather::gather;

/// Bytes a client may send on one stream before we have read them. More than the 5 MiB that SDKs let wait for
/// acknowledgement, so that their own bound decides and not ours; and 400 MiB/s over a round trip of 20 ms. Messages
/// of 1 MiB over one local connection were measured at 4.6 GB/s with these windows and frames, and at 1.7 GB/s with
/// the defaults of tonic.
const STREAM_WINDOW: u32 = 8 * 1024 * 1024;
/// The same for all streams of a connection: two appenders at full speed do not slow each other, and a peer that sends
/// and never lets us answer holds no more than this.
const CONNECTION_WINDOW: u32 = 16 * 1024 * 1024;
/// Largest DATA frame we take, and what a connection may hold of one that is incomplete. A batch of 1 MiB then comes
/// in one piece or two, and is put together with one copy; another stream waits for at most one such frame.
const FRAME_BYTES_MAX: u32 = 1024 * 1024;
/// Bytes of one stream that wait for the peer's window: one full read batch, so that the next is prepared while
/// the last is sent.
const SEND_BUFFER_BYTES_MAX: usize = 1024 * 1024;
/// Clients expect at least 100 and open further connections at about that many.
const CONCURRENT_STREAMS_MAX: u32 = 250;
/// All headers of a request together, as HTTP/1.1 has it.
const HEADER_LIST_BYTES_MAX: u32 = 64 * 1024;
/// A peer that vanished without closing is noticed after interval and timeout together.
const PING_INTERVAL: Duration = Duration::from_secs(20);
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// Serves requests until the peer leaves or, after `shutdown`, until those under way are answered.
pub(super) async fn serve<T>(io: T, router: Router, shutdown: CancellationToken) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (io, writes) = gather(io);
    let connection = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_BYTES_MAX)
        .max_send_buf_size(SEND_BUFFER_BYTES_MAX)
        .max_concurrent_streams(CONCURRENT_STREAMS_MAX)
        .max_header_list_size(HEADER_LIST_BYTES_MAX)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    let mut connection = pin!(connection);
    tokio::select! {
        served = writes.drive(connection.as_mut()) => served,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            writes.drive(connection).await
        }
    }
}
