//! A bounded queue between two halves of one session.
//!
//! - What is sent arrives in its order. A receiver hears of everything that was sent before its sender went away.
//! - Empty it costs some hundred bytes. Queues that are made for throughput between threads keep kilobytes for items to
//!   come, and sessions that wait are many.
//! - One task at a time waits at each end.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::task::coop::consume_budget;

/// The end that sends.
pub struct Sender<T>(Arc<Mutex<Lane<T>>>);

/// The end that receives.
pub struct Receiver<T>(Arc<Mutex<Lane<T>>>);

/// The receiver is gone; so is what was to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Closed;

struct Lane<T> {
    items: VecDeque<T>,
    items_max: usize,
    has_sender: bool,
    has_receiver: bool,
    /// Of the one who waits for room, or for an item: never both.
    waiting: Option<Waker>,
}

/// A queue in which at most `items_max` items wait.
pub fn lane<T>(items_max: usize) -> (Sender<T>, Receiver<T>) {
    assert!(items_max > 0, "a lane has room");
    let lane = Arc::new(Mutex::new(Lane {
        items: VecDeque::new(),
        items_max,
        has_sender: true,
        has_receiver: true,
        waiting: None,
    }));
    (Sender(lane.clone()), Receiver(lane))
}

/// Room for one item. Nobody else takes it, since there is one sender, who asks for the next when it has used this.
pub struct Room<'a, T>(&'a Sender<T>);

impl<T> Sender<T> {
    /// Waits for room. Cancel safe.
    ///
    /// Whoever is going to wait often had better have nothing to send yet: a future that is given an item has room for
    /// it several times, and sessions that wait are many.
    pub async fn room(&self) -> Result<Room<'_, T>, Closed> {
        // Two halves of one task that always find something to do let others have their turn here.
        consume_budget().await;
        poll_fn(|cx| {
            let mut lane = locked(&self.0);
            if !lane.has_receiver {
                Poll::Ready(Err(Closed))
            } else if lane.items.len() < lane.items_max {
                Poll::Ready(Ok(()))
            } else {
                lane.wait(cx)
            }
        })
        .await?;
        Ok(Room(self))
    }
}

impl<T> Room<'_, T> {
    /// Sends an item, also to a receiver that has gone away since.
    pub fn send(self, item: T) {
        let mut lane = locked(&self.0.0);
        if lane.items.capacity() == 0 {
            // Of most sessions there is one item at a time.
            lane.items.reserve_exact(1);
        }
        lane.items.push_back(item);
        wake(lane);
    }
}

impl<T> Receiver<T> {
    /// The next item; `None` when there is none and the sender is gone.
    pub fn poll_recv(&mut self, cx: &mut Context<'_>) -> Poll<Option<T>> {
        let mut lane = locked(&self.0);
        match lane.items.pop_front() {
            Some(item) => {
                wake(lane);
                Poll::Ready(Some(item))
            }
            None if !lane.has_sender => Poll::Ready(None),
            None => {
                lane.items = VecDeque::new();
                lane.wait(cx)
            }
        }
    }

    /// The next item, if there is one already.
    pub fn try_recv(&mut self) -> Option<T> {
        let mut lane = locked(&self.0);
        let item = lane.items.pop_front();
        if item.is_some() {
            wake(lane);
        }
        item
    }

    /// Waits for the next item; `None` when there is none and the sender is gone. Cancel safe.
    pub async fn recv(&mut self) -> Option<T> {
        poll_fn(|cx| self.poll_recv(cx)).await
    }
}

impl<T> Lane<T> {
    /// The caller is woken when the other end has done something.
    fn wait<R>(&mut self, cx: &Context<'_>) -> Poll<R> {
        match &mut self.waiting {
            Some(waiting) => waiting.clone_from(cx.waker()),
            None => self.waiting = Some(cx.waker().clone()),
        }
        Poll::Pending
    }
}

impl<T> Drop for Sender<T> {
    fn drop(&mut self) {
        let mut lane = locked(&self.0);
        lane.has_sender = false;
        wake(lane);
    }
}

impl<T> Drop for Receiver<T> {
    fn drop(&mut self) {
        let mut lane = locked(&self.0);
        lane.has_receiver = false;
        let items = std::mem::take(&mut lane.items);
        wake(lane);
        // Items may do anything when they go.
        drop(items);
    }
}

/// Wakes whoever waits, after the lock is let go of.
fn wake<T>(mut lane: MutexGuard<'_, Lane<T>>) {
    let waiting = lane.waiting.take();
    drop(lane);
    if let Some(waiting) = waiting {
        waiting.wake();
    }
}

fn locked<T>(lane: &Mutex<Lane<T>>) -> MutexGuard<'_, Lane<T>> {
    lane.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use tokio::task::yield_now;

    use super::*;

    #[tokio::test]
    async fn items_arrive_in_order_and_the_end_follows_them() {
        let (sender, mut receiver) = lane(3);
        let sending = tokio::spawn(async move {
            for item in 0..1000 {
                sender.room().await.expect("somebody listens").send(item);
                if item % 7 == 0 {
                    yield_now().await;
                }
            }
        });
        let mut received = Vec::new();
        while let Some(item) = receiver.recv().await {
            received.push(item);
            if item % 11 == 0 {
                yield_now().await;
            }
            received.extend(receiver.try_recv());
        }
        assert!(received.into_iter().eq(0..1000));
        sending.await.expect("it ends");
    }

    #[tokio::test]
    async fn a_sender_waits_while_there_is_no_room() {
        let (sender, mut receiver) = lane(2);
        for item in 0..2 {
            sender.room().await.expect("somebody listens").send(item);
        }
        assert!(sender.room().now_or_never().is_none());
        assert_eq!(receiver.try_recv(), Some(0));
        let room = sender.room().now_or_never().expect("there is room again");
        room.expect("somebody listens").send(2);
        drop(sender);
        assert_eq!(receiver.recv().await, Some(1));
        assert_eq!(receiver.recv().await, Some(2));
        assert_eq!(receiver.recv().await, None);
    }

    #[tokio::test]
    async fn nothing_is_sent_to_nobody() {
        let (sender, receiver) = lane(1);
        let held = Arc::new(());
        sender.room().await.expect("somebody listens").send(held.clone());
        let waiting = tokio::spawn(async move { sender.room().await.map(drop) });
        yield_now().await;
        drop(receiver);
        assert_eq!(waiting.await.expect("it ends"), Err(Closed));
        assert_eq!(Arc::strong_count(&held), 1, "what waited is gone");
    }

    #[tokio::test]
    async fn a_receiver_is_woken_by_the_end() {
        let (sender, mut receiver) = lane::<u8>(1);
        let waiting = tokio::spawn(async move { receiver.recv().await });
        yield_now().await;
        drop(sender);
        assert_eq!(waiting.await.expect("it ends"), None);
    }
}
