//! A response body written by a piece of code that runs while the body is read, in the reader's own task.
//!
//! Nothing runs ahead of the reader by more than a few chunks, and dropping the body, as happens when the client
//! goes away, drops the code with all it holds.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body::Frame;

use super::lane::{Receiver, Room, Sender, lane};

/// Chunks that may wait for the connection: a batch's parts, so that they leave in one go.
const CHUNKS_WAITING_MAX: usize = 16;

/// The reader is gone, or the body cannot be brought to its proper end. The connection tells the client so by
/// breaking off.
#[derive(Debug, thiserror::Error)]
#[error("the body was broken off")]
pub struct Broken;

/// Where the code writes.
pub struct Output(Sender<Bytes>);

impl Output {
    /// Waits until the connection has room for a chunk.
    pub async fn room(&self) -> Result<Room<'_, Bytes>, Broken> {
        self.0.room().await.map_err(|_| Broken)
    }

    /// Waits until the connection has room. Empty chunks are passed over.
    pub async fn send(&self, chunk: Bytes) -> Result<(), Broken> {
        if !chunk.is_empty() {
            self.room().await?.send(chunk);
        }
        Ok(())
    }
}

/// What a body ends with, after all chunks.
pub trait End: Send + 'static {
    /// A last frame, or the error that breaks the body off; `None` is a proper end without more.
    fn into_frame(self) -> Option<Result<Frame<Bytes>, Broken>>;
}

impl End for Result<(), Broken> {
    fn into_frame(self) -> Option<Result<Frame<Bytes>, Broken>> {
        self.err().map(Err)
    }
}

/// The body that `write` writes; it ends when `write` ends, with what that says.
pub fn written_by<F, W>(write: F) -> Body
where
    F: FnOnce(Output) -> W,
    W: Future<Output: End> + Send + 'static,
{
    let (sender, chunks) = lane(CHUNKS_WAITING_MAX);
    let write = write(Output(sender));
    // A block that awaits it would have room for it twice, for as long as the session lives.
    let writer: BoxFuture<'static, _> = Box::pin(write.map(End::into_frame));
    Body::new(Written {
        writer: Some(writer),
        chunks,
        last: None,
    })
}

type LastFrame = Option<Result<Frame<Bytes>, Broken>>;

struct Written {
    /// `None` once it has ended.
    writer: Option<BoxFuture<'static, LastFrame>>,
    chunks: Receiver<Bytes>,
    /// To be told after the chunks that were written before.
    last: LastFrame,
}

impl http_body::Body for Written {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<LastFrame> {
        if let Some(chunk) = self.chunks.try_recv() {
            return Poll::Ready(Some(Ok(Frame::data(chunk))));
        }
        if let Some(writer) = &mut self.writer
            && let Poll::Ready(last) = writer.as_mut().poll(cx)
        {
            self.writer = None;
            self.last = last;
        }
        match (ready!(self.chunks.poll_recv(cx)), &self.writer) {
            (Some(chunk), _) => Poll::Ready(Some(Ok(Frame::data(chunk)))),
            (None, None) => Poll::Ready(self.last.take()),
            // The sender lives in the writer; one that has given it away ends in its own time.
            (None, Some(_)) => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;

    type Ended = Result<(), Broken>;

    #[tokio::test]
    async fn chunks_come_in_order_and_the_end_follows_them() {
        let body = written_by(|output| async move {
            for n in 0..100u8 {
                output.send(Bytes::from(vec![n])).await?;
                if n % 7 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Ended::Ok(())
        });
        let bytes = body.collect().await.unwrap().to_bytes();
        assert_eq!(bytes, (0..100u8).collect::<Vec<_>>());
    }

    #[tokio::test]
    async fn a_broken_body_gives_what_was_written_and_then_an_error() {
        let mut body = written_by(|output| async move {
            output.send(Bytes::from_static(b"x")).await?;
            Ended::Err(Broken)
        });
        let first = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert_eq!(first, &b"x"[..]);
        assert!(body.frame().await.unwrap().is_err());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn dropping_the_body_drops_the_writer() {
        let held = std::sync::Arc::new(());
        let in_writer = held.clone();
        let mut body = written_by(|output| async move {
            output.send(Bytes::from_static(b"x")).await?;
            std::future::pending::<()>().await;
            drop(in_writer);
            Ended::Ok(())
        });
        body.frame().await.unwrap().unwrap();
        assert_eq!(std::sync::Arc::strong_count(&held), 2);
        drop(body);
        assert_eq!(std::sync::Arc::strong_count(&held), 1);
    }

    #[tokio::test]
    async fn a_writer_that_nobody_reads_waits() {
        let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = written.clone();
        let mut body = written_by(|output| async move {
            while output.send(Bytes::from_static(b"x")).await.is_ok() {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
            Ended::Ok(())
        });
        body.frame().await.unwrap().unwrap();
        assert!(written.load(std::sync::atomic::Ordering::Relaxed) <= CHUNKS_WAITING_MAX + 1);
    }
}
