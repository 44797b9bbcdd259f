//! One HTTP/1.1 connection: requests one after another, bodies in both directions at once.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use futures::future::BoxFuture;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;
use hyper::server::conn::http1::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

/// For a request's head, counted from the end of the request before it, and so also for how long a connection
/// may rest. Clients keep connections in pools, which argues against much less.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// All headers of a request together. A stream name of 512 bytes takes 1.5 KiB when escaped.
const HEAD_BYTES_MAX: usize = 64 * 1024;
/// Bytes read or queued for writing at a time: a quarter of the largest batch, so that large bodies take few
/// system calls, and what an idle peer can hold of us stays small.
const BUFFER_BYTES_MAX: usize = 256 * 1024;
/// How long, and how much, a peer may go on sending after the last answer.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: usize = 16 * 1024 * 1024;

/// Serves requests until the peer leaves or, after `shutdown`, until the one under way is answered.
pub(super) async fn serve<T>(io: T, router: Router, shutdown: CancellationToken) -> hyper::Result<()>
where
    T: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let mut connection = Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .max_header_size(HEAD_BYTES_MAX)
        .max_buf_size(BUFFER_BYTES_MAX)
        // A client may end its own direction after the request and still wait for acknowledgements.
        .half_close(true)
        .serve_connection(
            TokioIo::new(io),
            service_fn(move |request| answer(router.clone(), request)),
        );
    let ended = tokio::select! {
        ended = poll_fn(|cx| connection.poll_without_shutdown(cx)) => Some(ended),
        () = shutdown.cancelled() => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            Pin::new(&mut connection).graceful_shutdown();
            poll_fn(|cx| connection.poll_without_shutdown(cx)).await
        }
    };
    linger(connection.into_parts().io.into_inner()).await;
    ended
}

type Answer = BoxFuture<'static, Result<Response, Infallible>>;

/// A refusal that does not wait for the rest of the request says that the connection ends with it. Otherwise a
/// client that has written everything would send its next request here, to nobody.
fn answer(router: Router, request: hyper::Request<Incoming>) -> Answer {
    Box::pin(async move {
        let read = Arc::new(AtomicBool::new(request.body().is_end_stream()));
        let request = request.map(|inner| {
            Body::new(Watched {
                inner,
                read: read.clone(),
            })
        });
        let mut response = router.oneshot(request).await?;
        if !response.status().is_success() && !read.load(Ordering::Relaxed) {
            response
                .headers_mut()
                .insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        Ok(response)
    })
}

/// A request's body that notes when all of it has been read.
struct Watched {
    inner: Incoming,
    read: Arc<AtomicBool>,
}

impl HttpBody for Watched {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<hyper::Result<Frame<Bytes>>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if frame.is_none() || self.inner.is_end_stream() {
            self.read.store(true, Ordering::Relaxed);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Closes our direction, then swallows what still comes. Closing a socket with unread input resets it, and a
/// reset destroys answers that the peer has not read yet: the terminal frame of a session, or the refusal of a
/// request whose body is still on its way.
async fn linger<T: AsyncRead + AsyncWrite + Unpin>(mut io: T) {
    let swallow = async {
        io.shutdown().await?;
        let mut scratch = vec![0; 16 * 1024];
        let mut left = LINGER_BYTES_MAX;
        while left > 0 {
            match io.read(&mut scratch).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok::<(), std::io::Error>(())
    };
    // Nobody is left to be told about an error or a timeout.
    let _ = tokio::time::timeout(LINGER, swallow).await;
}
