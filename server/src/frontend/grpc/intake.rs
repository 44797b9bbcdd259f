//! Requests on their way in: what messages that are not complete yet may take together, and how long they may take.
//!
//! A message is collected before it is decoded, in a buffer that its first five bytes announce. So its room is asked
//! for as soon as they are known, and given back when it has been decoded. Messages that arrive whole, as those of a
//! busy session mostly do, need none of this.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Buf, Bytes};
use futures::future::BoxFuture;
use http_body::{Body as HttpBody, Frame, SizeHint};
use millrace_api::error::ErrorCode;
use millrace_api::limits::GRPC_APPEND_LEN_MAX;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep, timeout};
use tonic::Status;

use super::error::status;
use super::framing::{HEAD_LEN, message_len};
use crate::error::ServiceError;

/// What all incomplete messages together may take: 64 of the largest at a time.
const BUDGET_BYTES: usize = 64 * GRPC_APPEND_LEN_MAX;
/// How long a message waits for room under the budget before its call is shed.
const BUDGET_WAIT: Duration = Duration::from_secs(1);
/// A message that takes longer to arrive is given up.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(60);

/// Room for incomplete messages. Clones share it.
#[derive(Clone)]
pub(super) struct Intake(Arc<Semaphore>);

impl Default for Intake {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_BYTES)))
    }
}

impl Intake {
    /// The same body, held to the bounds.
    pub fn bounded(&self, body: Body) -> Body {
        Body::new(Bounded {
            inner: body,
            framing: Framing::default(),
            intake: self.clone(),
            room: Room::None,
            deadline: None,
        })
    }

    async fn take(self, len: usize) -> Result<OwnedSemaphorePermit, Status> {
        let bytes = u32::try_from(len).expect("bounded by the longest message");
        match timeout(BUDGET_WAIT, self.0.acquire_many_owned(bytes)).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(status(&ServiceError::new(
                ErrorCode::HotServer,
                "too many requests are being read",
            ))),
        }
    }
}

/// Where in the sequence of messages a body stands.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Framing {
    header: [u8; HEAD_LEN],
    header_len: usize,
    /// Of the message whose header is complete, what has not come yet.
    missing: usize,
    /// Messages that are complete.
    complete: u64,
}

impl Framing {
    fn feed(&mut self, mut data: &[u8]) {
        while !data.is_empty() {
            if self.header_len < HEAD_LEN {
                self.header[self.header_len] = data.get_u8();
                self.header_len += 1;
                self.missing = match self.header_len {
                    HEAD_LEN => self.len(),
                    _ => 0,
                };
            } else {
                let came = self.missing.min(data.len());
                data.advance(came);
                self.missing -= came;
            }
            if self.header_len == HEAD_LEN && self.missing == 0 {
                self.header_len = 0;
                self.complete += 1;
            }
        }
    }

    /// Length of the message whose header is complete.
    fn len(&self) -> usize {
        message_len(&self.header)
    }

    /// Length of a message that is incomplete, if it is known and one that is waited for at all.
    fn incomplete(&self) -> Option<usize> {
        Some(self.len()).filter(|&len| self.missing > 0 && len <= GRPC_APPEND_LEN_MAX)
    }
}

enum Room {
    None,
    Asked(BoxFuture<'static, Result<OwnedSemaphorePermit, Status>>),
    /// For the message that comes after so many.
    Given {
        after: u64,
        _permit: OwnedSemaphorePermit,
    },
}

struct Bounded {
    inner: Body,
    framing: Framing,
    intake: Intake,
    room: Room,
    /// Of the message that is incomplete; and how many came before it.
    deadline: Option<(u64, Pin<Box<Sleep>>)>,
}

impl Bounded {
    /// Ready when the incomplete message has its room, or needs none. That more is asked for means that all complete
    /// messages have been decoded.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        loop {
            match (&mut self.room, self.framing.incomplete()) {
                (Room::Given { after, .. }, Some(_)) if *after == self.framing.complete => {
                    return Poll::Ready(Ok(()));
                }
                (Room::Asked(asked), Some(_)) => {
                    let permit = ready!(asked.as_mut().poll(cx))?;
                    self.room = Room::Given {
                        after: self.framing.complete,
                        _permit: permit,
                    };
                }
                (_, None) => {
                    self.room = Room::None;
                    return Poll::Ready(Ok(()));
                }
                (Room::None | Room::Given { .. }, Some(len)) => {
                    self.room = Room::Asked(Box::pin(self.intake.clone().take(len)));
                }
            }
        }
    }

    /// Ready when the incomplete message has had its time.
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Status> {
        if self.framing.header_len == 0 {
            self.deadline = None;
            return Poll::Pending;
        }
        let complete = self.framing.complete;
        let deadline = match &mut self.deadline {
            Some((after, deadline)) if *after == complete => deadline,
            other => &mut other.insert((complete, Box::pin(sleep(ARRIVAL_TIMEOUT)))).1,
        };
        ready!(deadline.as_mut().poll(cx));
        Poll::Ready(status(&ServiceError::new(
            ErrorCode::RequestTimeout,
            "the message did not arrive in time",
        )))
    }
}

impl HttpBody for Bounded {
    type Data = Bytes;
    type Error = axum::BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::BoxError>>> {
        if let Err(status) = ready!(self.poll_room(cx)) {
            return Poll::Ready(Some(Err(status.into())));
        }
        match Pin::new(&mut self.inner).poll_frame(cx) {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(data) = frame.data_ref() {
                    self.framing.feed(data);
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Ready(None) => Poll::Ready(None),
            Poll::Pending => {
                let status = ready!(self.poll_deadline(cx));
                Poll::Ready(Some(Err(status.into())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use futures::StreamExt;
    use http_body_util::BodyExt;
    use millrace_api::grpc::decode_status_details;
    use proptest::prelude::*;

    use super::*;

    fn message(len: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend(u32::try_from(len).unwrap().to_be_bytes());
        message.resize(HEAD_LEN + len, 7);
        message
    }

    /// A body of these pieces that then says nothing more.
    fn stalling(pieces: Vec<Vec<u8>>) -> Body {
        let pieces = futures::stream::iter(pieces.into_iter().map(Ok::<_, Status>));
        Body::from_stream(pieces.chain(futures::stream::pending()))
    }

    fn code(error: axum::Error) -> String {
        let status = Status::from_error(error.into_inner());
        let detail = decode_status_details(status.details()).expect("a detail");
        detail.code
    }

    #[tokio::test(start_paused = true)]
    async fn messages_that_never_end_are_given_up() {
        for pieces in [vec![vec![0]], vec![message(10), message(9)[..7].to_vec()]] {
            let count = pieces.len();
            let mut body = Intake::default().bounded(stalling(pieces));
            for _ in 0..count {
                body.frame().await.unwrap().unwrap();
            }
            let before = tokio::time::Instant::now();
            let error = body.frame().await.unwrap().unwrap_err();
            assert_eq!(code(error), "request_timeout");
            assert_eq!(before.elapsed(), ARRIVAL_TIMEOUT);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_session_between_messages_may_rest() {
        let mut body = Intake::default().bounded(stalling(vec![message(3), message(0)]));
        body.frame().await.unwrap().unwrap();
        body.frame().await.unwrap().unwrap();
        let rest = timeout(ARRIVAL_TIMEOUT * 10, body.frame()).await;
        assert!(rest.is_err(), "{rest:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn incomplete_messages_share_a_budget_and_give_it_back() {
        let intake = Intake::default();
        let begun = || stalling(vec![message(GRPC_APPEND_LEN_MAX)[..6].to_vec(), vec![7]]);
        let mut held = Vec::new();
        for _ in 0..64 {
            let mut body = intake.bounded(begun());
            body.frame().await.unwrap().unwrap();
            body.frame().await.unwrap().unwrap();
            held.push(body);
        }
        let mut shed = intake.bounded(begun());
        shed.frame().await.unwrap().unwrap();
        let error = shed.frame().await.unwrap().unwrap_err();
        assert_eq!(code(error), "hot_server");
        // What comes whole is not held up.
        let mut whole = intake.bounded(stalling(vec![message(100)]));
        whole.frame().await.unwrap().unwrap();
        held.pop();
        let mut next = intake.bounded(begun());
        next.frame().await.unwrap().unwrap();
        next.frame().await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_given_back_when_the_next_message_is_asked_for() {
        let intake = Intake::default();
        let long = message(1000);
        let pieces = vec![long[..500].to_vec(), long[500..].to_vec(), message(1)];
        let mut body = intake.bounded(stalling(pieces));
        body.frame().await.unwrap().unwrap();
        body.frame().await.unwrap().unwrap();
        assert_eq!(intake.0.available_permits(), BUDGET_BYTES - 1000);
        body.frame().await.unwrap().unwrap();
        assert_eq!(intake.0.available_permits(), BUDGET_BYTES);
    }

    proptest! {
        #[test]
        fn messages_are_counted_however_they_are_cut(
            lens in prop::collection::vec(0..50usize, 0..10),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let all: Vec<u8> = lens.iter().flat_map(|&len| message(len)).collect();
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(all.len() + 1)).collect();
            at.extend([0, all.len()]);
            at.sort_unstable();
            let mut framing = Framing::default();
            for pair in at.windows(2) {
                framing.feed(&all[pair[0]..pair[1]]);
                let ends = lens.iter().scan(0, |end, len| { *end += HEAD_LEN + len; Some(*end) });
                let complete = ends.filter(|&end| end <= pair[1]).count() as u64;
                prop_assert_eq!(framing.complete, complete);
            }
            prop_assert_eq!((framing.header_len, framing.missing), (0, 0));
        }
    }
}
