//! Replies of many messages that are written by a piece of code which runs while they are read, in the reader's own
//! task.
//!
//! Nothing runs ahead of the reader by more than a stated number of messages, and dropping the reply, as happens when
//! the client goes away, drops the code with all it holds.

use std::pin::Pin;
use std::task::{Context, Poll};

use futures::Stream;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tonic::Status;

/// The call is over, and nobody reads any more.
#[derive(Debug)]
pub(super) struct Gone;

/// Where the code writes.
pub(super) struct Output<T>(mpsc::Sender<T>);

impl<T> Output<T> {
    /// Waits until the reader has room.
    pub async fn send(&self, message: T) -> Result<(), Gone> {
        self.0.send(message).await.map_err(|_| Gone)
    }
}

/// The messages that some code writes; they end when it ends, with its status if it has one.
pub(super) struct Messages<T> {
    /// `None` once it has ended.
    writer: Option<BoxFuture<'static, Result<(), Status>>>,
    messages: mpsc::Receiver<T>,
    /// To be told after the messages that were written before.
    status: Option<Status>,
}

impl<T> Messages<T> {
    /// What `write` writes; it is at most `waiting_max` messages ahead of the reader.
    pub fn written_by<F, W>(waiting_max: usize, write: F) -> Self
    where
        F: FnOnce(Output<T>) -> W,
        W: Future<Output = Result<(), Status>> + Send + 'static,
    {
        let (sender, messages) = mpsc::channel(waiting_max);
        Self {
            writer: Some(Box::pin(write(Output(sender)))),
            messages,
            status: None,
        }
    }
}

impl<T: 'static> Stream for Messages<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Poll::Ready(Some(message)) = self.messages.poll_recv(cx) {
            return Poll::Ready(Some(Ok(message)));
        }
        if let Some(writer) = &mut self.writer
            && let Poll::Ready(end) = writer.as_mut().poll(cx)
        {
            self.writer = None;
            self.status = end.err();
        }
        match (self.messages.poll_recv(cx), &self.writer) {
            (Poll::Ready(Some(message)), _) => Poll::Ready(Some(Ok(message))),
            (Poll::Ready(None), None) => Poll::Ready(self.status.take().map(Err)),
            _ => Poll::Pending,
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;

    use super::*;

    fn gone(_: Gone) -> Status {
        Status::cancelled("gone")
    }

    #[tokio::test]
    async fn messages_come_in_order_and_the_status_follows_them() {
        let mut messages = Messages::written_by(2, |output| async move {
            for n in 0..10u8 {
                output.send(n).await.map_err(gone)?;
                if n % 3 == 0 {
                    tokio::task::yield_now().await;
                }
            }
            Err(Status::aborted("end"))
        });
        for n in 0..10 {
            assert_eq!(messages.next().await.unwrap().unwrap(), n);
        }
        let status = messages.next().await.unwrap().unwrap_err();
        assert_eq!(status.code(), tonic::Code::Aborted);
        assert!(messages.next().await.is_none());
    }

    #[tokio::test]
    async fn a_writer_that_nobody_reads_waits_and_goes_with_its_messages() {
        let written = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let count = written.clone();
        let mut messages = Messages::written_by(3, |output| async move {
            loop {
                output.send(()).await.map_err(gone)?;
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            }
        });
        messages.next().await.unwrap().unwrap();
        assert!(written.load(std::sync::atomic::Ordering::Relaxed) <= 4);
        drop(messages);
        assert_eq!(std::sync::Arc::strong_count(&written), 1);
    }
}
