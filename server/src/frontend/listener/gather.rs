//! Small writes of one connection, put together.
//!
//! HTTP/2 hands over every frame by itself, and the one who has just made a frame is often followed by others that are
//! ready too: a record that a hundred sessions of a connection wait for would be a hundred system calls. So what is
//! written is collected, everybody who is ready gets one turn, and then all of it goes out in one call. A connection
//! that has nothing else to do loses a microsecond by it. Large writes are not copied.

use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

/// Writes of so many bytes are not collected.
const LARGE: usize = 8 * 1024;
/// Bytes that are collected at most.
const COLLECTED_MAX: usize = 64 * 1024;
/// Room for collected bytes that a connection keeps while it has none.
const KEPT_MAX: usize = 4 * 1024;

/// What the one who speaks HTTP reads and writes.
pub(super) struct Gathered<T>(Arc<Mutex<State<T>>>);

/// Lets out what was collected.
pub(super) struct Gathering<T>(Arc<Mutex<State<T>>>);

struct State<T> {
    io: T,
    collected: Vec<u8>,
    /// Of those, bytes that are out.
    written: usize,
    /// Everybody who was ready has had a turn since something was collected.
    waited: bool,
    unflushed: bool,
    /// Of a write that nobody waited for.
    failed: Option<io::Error>,
}

pub(super) fn gather<T>(io: T) -> (Gathered<T>, Gathering<T>) {
    let state = Arc::new(Mutex::new(State {
        io,
        collected: Vec::new(),
        written: 0,
        waited: false,
        unflushed: false,
        failed: None,
    }));
    (Gathered(state.clone()), Gathering(state))
}

impl<T: AsyncRead + AsyncWrite + Unpin> Gathering<T> {
    /// As `connection`, which writes to the other half; what it has written goes out when it waits.
    pub(super) async fn drive<C: Future>(&self, connection: C) -> C::Output {
        let mut connection = std::pin::pin!(connection);
        poll_fn(|cx| {
            let polled = connection.as_mut().poll(cx);
            if polled.is_pending() {
                locked(&self.0).let_out(cx);
            }
            polled
        })
        .await
    }
}

impl<T: AsyncWrite + Unpin> State<T> {
    fn let_out(&mut self, cx: &mut Context<'_>) {
        if self.collected.is_empty() && !self.unflushed {
            return;
        }
        if !self.collected.is_empty() && !self.waited {
            self.waited = true;
            // To the end of the queue of those who are ready.
            cx.waker().wake_by_ref();
            return;
        }
        let done = match self.drain(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.io).poll_flush(cx),
            other => other,
        };
        self.unflushed = done.is_pending();
        if let Poll::Ready(Err(error)) = done {
            // The next who writes or flushes hears of it.
            self.failed = Some(error);
            cx.waker().wake_by_ref();
        }
    }

    fn drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while self.written < self.collected.len() {
            let rest = &self.collected[self.written..];
            match ready!(Pin::new(&mut self.io).poll_write(cx, rest))? {
                0 => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                written => self.written += written,
            }
        }
        self.collected.clear();
        self.collected.shrink_to(KEPT_MAX);
        (self.written, self.waited) = (0, false);
        Poll::Ready(Ok(()))
    }

    fn check(&mut self) -> io::Result<()> {
        self.failed.take().map_or(Ok(()), Err)
    }
}

impl<T: AsyncWrite + Unpin> AsyncWrite for Gathered<T> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let mut state = locked(&self.0);
        state.check()?;
        let len: usize = slices.iter().map(|slice| slice.len()).sum();
        if len >= LARGE || state.collected.len() + len > COLLECTED_MAX {
            ready!(state.drain(cx))?;
        }
        if len >= LARGE {
            let io = Pin::new(&mut state.io);
            return match io.is_write_vectored() {
                true => io.poll_write_vectored(cx, slices),
                // The longest of them alone, with what comes before it in turn.
                false => io.poll_write(
                    cx,
                    slices.iter().find(|slice| !slice.is_empty()).map_or(&[], |it| it),
                ),
            };
        }
        for slice in slices {
            state.collected.extend_from_slice(slice);
        }
        Poll::Ready(Ok(len))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    /// What was collected is not waited for.
    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = locked(&self.0);
        state.check()?;
        match state.collected.is_empty() {
            true => Pin::new(&mut state.io).poll_flush(cx),
            false => Poll::Ready(Ok(())),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut state = locked(&self.0);
        state.check()?;
        ready!(state.drain(cx))?;
        Pin::new(&mut state.io).poll_shutdown(cx)
    }
}

impl<T: AsyncRead + Unpin> AsyncRead for Gathered<T> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut locked(&self.0).io).poll_read(cx, buf)
    }
}

/// Both halves are used by one task: nobody ever waits here.
fn locked<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
    use tokio::task::yield_now;

    use super::*;

    /// Notes each write, or fails it.
    #[derive(Default)]
    struct Recorder {
        writes: Vec<Vec<u8>>,
        broken: bool,
    }

    impl AsyncWrite for Recorder {
        fn poll_write(
            mut self: Pin<&mut Self>,
            _: &mut Context<'_>,
            bytes: &[u8],
        ) -> Poll<io::Result<usize>> {
            if self.broken {
                return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
            }
            self.writes.push(bytes.to_vec());
            Poll::Ready(Ok(bytes.len()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    impl AsyncRead for Recorder {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    #[tokio::test]
    async fn small_writes_go_out_together_when_their_writer_waits() {
        let (mut gathered, gathering) = gather(Recorder::default());
        let writes = async {
            for word in ["one ", "two "] {
                gathered.write_all(word.as_bytes()).await.unwrap();
                gathered.flush().await.unwrap();
            }
            yield_now().await;
            // Its turn has come again before they went out.
            gathered.write_all(b"three").await.unwrap();
            yield_now().await;
            gathered.write_all(b"later").await.unwrap();
            gathered.shutdown().await.unwrap();
        };
        gathering.drive(writes).await;
        let out = &locked(&gathering.0).io.writes;
        assert_eq!(out[..], [&b"one two three"[..], b"later"]);
    }

    #[tokio::test]
    async fn everything_arrives_in_its_order() {
        const WRITES: usize = 400;
        let (near, mut far): (DuplexStream, DuplexStream) = duplex(1000);
        let (mut gathered, gathering) = gather(near);
        let mut expected = Vec::new();
        for number in 0..WRITES {
            let len = if number % 7 == 0 {
                LARGE + number
            } else {
                1 + number % 900
            };
            expected.extend(std::iter::repeat_n(number as u8, len));
        }
        let bytes = expected.clone();
        let writes = async move {
            let mut rest = &bytes[..];
            for number in 0..WRITES {
                let len = if number % 7 == 0 {
                    LARGE + number
                } else {
                    1 + number % 900
                };
                let (now, later) = rest.split_at(len);
                gathered.write_all(now).await.unwrap();
                rest = later;
            }
            gathered.shutdown().await.unwrap();
        };
        let mut arrived = Vec::new();
        let (_, read) = tokio::join!(gathering.drive(writes), far.read_to_end(&mut arrived));
        read.unwrap();
        assert!(arrived == expected);
    }

    #[tokio::test]
    async fn a_write_that_failed_is_told_to_the_next() {
        let (mut gathered, gathering) = gather(Recorder {
            broken: true,
            ..Recorder::default()
        });
        let writes = async {
            gathered.write_all(b"lost").await.unwrap();
            loop {
                yield_now().await;
                if let Err(error) = gathered.flush().await {
                    return error;
                }
            }
        };
        assert_eq!(gathering.drive(writes).await.kind(), io::ErrorKind::BrokenPipe);
    }
}
