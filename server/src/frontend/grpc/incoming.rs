//! The messages of a request, read where the connection put them.
//!
//! A message that lies within one DATA frame shares its memory, and so do the byte fields of what is decoded; one that
//! is cut is copied once, into a buffer of its length.

use std::marker::PhantomData;

use axum::body::Body;
use axum::extract::Request;
use bytes::{Buf, Bytes};
use http_body_util::BodyExt;
use millrace_api::assembler::Assembler;
use millrace_api::error::ErrorCode;
use prost::Message;
use tonic::Status;

use super::error::{status, unreadable};
use super::framing::{HEAD_LEN, checked_len};
use crate::error::ServiceError;

const ENCODING_HEADER: &str = "grpc-encoding";
const ACCEPT_ENCODING_HEADER: &str = "grpc-accept-encoding";
const IDENTITY: &str = "identity";

/// Messages in the order in which they were sent. Their body is to be one that `Intake` bounds.
pub(crate) struct Incoming<M> {
    body: Body,
    len_max: usize,
    assembler: Assembler,
    /// Received and not decoded yet.
    received: Bytes,
    messages: PhantomData<fn() -> M>,
}

impl<M: Message + Default> Incoming<M> {
    /// Of a request whose messages have at most `len_max` bytes each and are not compressed.
    pub fn new(request: Request, len_max: usize) -> Result<Self, Status> {
        match request.headers().get(ENCODING_HEADER) {
            Some(encoding) if encoding != IDENTITY => Err(unknown_encoding()),
            _ => Ok(Self {
                body: request.into_body(),
                len_max,
                assembler: Assembler::new(HEAD_LEN + len_max),
                received: Bytes::new(),
                messages: PhantomData,
            }),
        }
    }

    /// The next message; `None` when the client has ended its side behind a whole one. Cancel safe.
    ///
    /// # Errors
    ///
    /// With a detail where the client or a bound of ours is to blame. Nothing can be read after an error.
    pub async fn next(&mut self) -> Result<Option<M>, Status> {
        loop {
            if let Some(message) = self.decode().map_err(|error| status(&error))? {
                return Ok(Some(message));
            }
            match self.body.frame().await {
                None if self.assembler.is_empty() => return Ok(None),
                None => return Err(status(&bad_proto("the request ends within a message"))),
                // Trailers of a request say nothing that anybody has agreed on.
                Some(Ok(frame)) => self.received = frame.into_data().unwrap_or_default(),
                Some(Err(error)) => return Err(unreadable(Status::from_error(error.into_inner()))),
            }
        }
    }

    /// The one message of a call that takes one.
    pub async fn only(mut self) -> Result<M, Status> {
        let Some(message) = self.next().await? else {
            return Err(status(&bad_proto("the request has no message")));
        };
        match self.next().await? {
            None => Ok(message),
            Some(_) => Err(status(&bad_proto("the request has more than one message"))),
        }
    }

    /// The next message of what has been received, if it is complete.
    fn decode(&mut self) -> Result<Option<M>, ServiceError> {
        let len = |head: &_| checked_len(head, self.len_max);
        let Some(mut message) = self.assembler.take(&mut self.received, len)? else {
            return Ok(None);
        };
        message.advance(HEAD_LEN);
        let decoded = M::decode(message).map_err(|error| bad_proto(error.to_string()))?;
        Ok(Some(decoded))
    }
}

fn bad_proto(message: impl Into<String>) -> ServiceError {
    ServiceError::new(ErrorCode::BadProto, message)
}

/// Says what would be taken, as gRPC wants it.
fn unknown_encoding() -> Status {
    let error = ServiceError::new(ErrorCode::NotImplemented, "messages are not taken compressed");
    let mut status = status(&error);
    let accepted = IDENTITY.parse().expect("letters");
    status.metadata_mut().insert(ACCEPT_ENCODING_HEADER, accepted);
    status
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use bytes::BytesMut;
    use millrace_api::grpc::{AppendRequest, decode_status_details};
    use proptest::prelude::*;
    use tonic::Code;

    use super::*;
    use crate::frontend::grpc::framing::put_message;

    const LEN_MAX: usize = 1000;

    fn message(len: usize) -> AppendRequest {
        AppendRequest {
            basin: "b".into(),
            stream: "s".into(),
            input: vec![7; len].into(),
        }
    }

    fn framed(messages: &[AppendRequest]) -> Bytes {
        let mut framed = BytesMut::new();
        messages
            .iter()
            .for_each(|message| put_message(message, &mut framed));
        framed.freeze()
    }

    fn incoming(frames: Vec<Bytes>) -> Incoming<AppendRequest> {
        let frames = frames.into_iter().map(Ok::<_, Infallible>);
        let body = Body::from_stream(futures::stream::iter(frames));
        Incoming::new(Request::new(body), LEN_MAX).unwrap()
    }

    async fn all(mut incoming: Incoming<AppendRequest>) -> Result<Vec<AppendRequest>, Status> {
        let mut messages = Vec::new();
        while let Some(message) = incoming.next().await? {
            messages.push(message);
        }
        Ok(messages)
    }

    fn expect_bad_proto(status: &Status, why: &str) {
        assert_eq!(status.code(), Code::InvalidArgument);
        let detail = decode_status_details(status.details()).expect("a detail");
        assert_eq!(detail.code, "bad_proto");
        assert!(status.message().contains(why), "{status:?}");
    }

    #[tokio::test]
    async fn messages_are_the_same_wherever_they_are_cut() {
        let messages = [message(0), message(300), message(5)];
        let whole = framed(&messages);
        for cut in 0..=whole.len() {
            let frames = vec![whole.slice(..cut), whole.slice(cut..)];
            assert_eq!(all(incoming(frames)).await.unwrap(), messages, "{cut}");
        }
        let bytes = whole.chunks(1).map(Bytes::copy_from_slice).collect();
        assert_eq!(all(incoming(bytes)).await.unwrap(), messages);
    }

    #[tokio::test]
    async fn the_input_of_a_message_within_a_frame_lies_in_that_frame() {
        let frame = framed(&[message(300), message(400)]);
        let range = frame.as_ptr_range();
        for message in all(incoming(vec![frame.clone()])).await.unwrap() {
            assert!(range.contains(&message.input.as_ptr()));
        }
    }

    #[tokio::test]
    async fn a_message_that_is_too_long_is_refused_by_its_head() {
        let mut head = BytesMut::new();
        head.extend_from_slice(&[0, 0, 0, 3, 0xe9]);
        let mut incoming = incoming(vec![framed(&[message(1)]), head.freeze()]);
        assert!(incoming.next().await.unwrap().is_some());
        expect_bad_proto(&incoming.next().await.unwrap_err(), "too large");
        assert!(incoming.assembler.capacity() < 100);
    }

    #[tokio::test]
    async fn a_message_that_is_cut_takes_room_for_itself() {
        let whole = framed(&[message(900)]);
        let (first, rest) = (whole.slice(..20), whole.slice(20..));
        let frames = futures::stream::iter([Ok::<_, Infallible>(first)]);
        let body = Body::from_stream(futures::StreamExt::chain(frames, futures::stream::pending()));
        let mut incoming = Incoming::<AppendRequest>::new(Request::new(body), LEN_MAX).unwrap();
        assert!(futures::poll!(std::pin::pin!(incoming.next())).is_pending());
        assert_eq!(incoming.assembler.capacity(), whole.len());
        // What was being waited for goes on where it was left.
        incoming.received = rest;
        assert_eq!(incoming.next().await.unwrap(), Some(message(900)));
    }

    #[tokio::test]
    async fn a_request_that_ends_within_a_message_is_refused() {
        let whole = framed(&[message(3)]);
        for len in 1..whole.len() {
            let refused = all(incoming(vec![whole.slice(..len)])).await.unwrap_err();
            expect_bad_proto(&refused, "within a message");
        }
        assert_eq!(all(incoming(Vec::new())).await.unwrap(), []);
    }

    #[tokio::test]
    async fn what_is_no_message_is_refused() {
        let refused = all(incoming(vec![Bytes::from_static(&[0, 0, 0, 0, 1, 0xff])])).await;
        expect_bad_proto(&refused.unwrap_err(), "");
        let refused = all(incoming(vec![Bytes::from_static(&[1, 0, 0, 0, 0])])).await;
        expect_bad_proto(&refused.unwrap_err(), "compressed");
    }

    #[tokio::test]
    async fn a_call_of_one_message_has_one() {
        let one = incoming(vec![framed(&[message(3)])]).only().await;
        assert_eq!(one.unwrap(), message(3));
        let none = incoming(Vec::new()).only().await;
        expect_bad_proto(&none.unwrap_err(), "no message");
        let two = incoming(vec![framed(&[message(3), message(3)])]).only().await;
        expect_bad_proto(&two.unwrap_err(), "more than one");
    }

    #[test]
    fn compression_is_refused_with_what_is_taken_instead() {
        let request = |encoding: &'static str| {
            let mut request = Request::new(Body::empty());
            let headers = request.headers_mut();
            headers.insert(ENCODING_HEADER, encoding.parse().unwrap());
            Incoming::<AppendRequest>::new(request, LEN_MAX)
        };
        assert!(request("identity").is_ok());
        let refused = request("gzip").err().unwrap();
        assert_eq!(refused.code(), Code::Unimplemented);
        let detail = decode_status_details(refused.details()).expect("a detail");
        assert_eq!(detail.code, "not_implemented");
        assert_eq!(
            refused.metadata().get(ACCEPT_ENCODING_HEADER).unwrap(),
            "identity"
        );
    }

    proptest! {
        #[test]
        fn any_messages_survive_any_cuts(
            lens in prop::collection::vec(0..900usize, 0..6),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..10),
        ) {
            let messages: Vec<_> = lens.into_iter().map(message).collect();
            let whole = framed(&messages);
            let mut at: Vec<_> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            at.extend([0, whole.len()]);
            at.sort_unstable();
            let frames = at.windows(2).map(|pair| whole.slice(pair[0]..pair[1])).collect();
            let read = futures::executor::block_on(all(incoming(frames)));
            prop_assert_eq!(read.unwrap(), messages);
        }
    }
}
