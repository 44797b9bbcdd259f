//! Replies whose messages are written by a piece of code that runs while they are read, without a copy of what is
//! stored.

use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::{Bytes, BytesMut};
use http_body::Frame;
use millrace_api::grpc::ReadResponse;
use prost::Message;
use tonic::Status;
use tonic::metadata::GRPC_CONTENT_TYPE;

use super::framing::{HEAD_LEN, framed, put_head};
use crate::frontend::session::chunks::join_small;
use crate::frontend::session::output::{Broken, End, Output, written_by};

/// Longest key and length of a batch.
const BATCH_HEAD_LEN_MAX: usize = 11;

/// The status that a reply ends with, in its trailers.
pub(super) struct Trailers(pub Result<(), Status>);

impl End for Trailers {
    fn into_frame(self) -> Option<Result<Frame<Bytes>, Broken>> {
        let status = self.0.err().unwrap_or_else(|| Status::ok(""));
        let mut trailers = HeaderMap::with_capacity(3);
        let added = status.add_header(&mut trailers);
        added.expect("a status is escaped where a header cannot hold it");
        Some(Ok(Frame::trailers(trailers)))
    }
}

/// What `write` writes, and then its status. Where nobody reads any more there is nobody to be told either.
pub(crate) fn stream<F, W>(write: F) -> Response
where
    F: FnOnce(Output) -> W,
    W: Future<Output = Result<Result<(), Status>, Broken>> + Send + 'static,
{
    with_head(written_by(|output| {
        let written = write(output);
        async move { Trailers(written.await.unwrap_or(Ok(()))) }
    }))
}

/// One message.
pub(crate) fn message(message: &impl Message) -> Response {
    chunks(vec![framed(message)])
}

/// One message that is in pieces.
pub(super) fn chunks(chunks: Vec<Bytes>) -> Response {
    stream(|output| async move {
        for chunk in chunks {
            output.send(chunk).await?;
        }
        Ok(Ok(()))
    })
}

/// A framed message of records, in the pieces that they are stored in.
pub(super) fn read_chunks(response: ReadResponse) -> Vec<Bytes> {
    let mut head = BytesMut::with_capacity(HEAD_LEN + BATCH_HEAD_LEN_MAX);
    put_head(response.encoded_len(), &mut head);
    join_small(response.into_parts(head))
}

fn with_head(body: Body) -> Response {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    response
}

/// A call that ends before it has anything to say.
#[derive(Debug)]
pub(crate) struct Refusal(Status);

impl From<Status> for Refusal {
    fn from(status: Status) -> Self {
        Self(status)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        self.0.into_http::<tonic::body::Body>().into_response()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{BodyExt, Collected};
    use millrace_api::position::StreamPosition;
    use proptest::prelude::*;
    use tonic::codec::{Codec as _, EncodeBody, SingleMessageCompressionOverride};

    use super::*;
    use crate::error::ServiceError;
    use crate::frontend::grpc::codec::Codec;
    use crate::frontend::grpc::error::status;

    fn refused() -> Status {
        status(&ServiceError::SeqNumMismatch { next: 7 })
    }

    /// What the gRPC library makes of the same messages.
    fn plain(messages: Vec<ReadResponse>, end: Result<(), Status>) -> Body {
        let messages = messages.into_iter().map(Ok).chain(end.err().map(Err));
        Body::new(EncodeBody::new_server(
            Codec::<ReadResponse, ReadResponse>::default().encoder(),
            futures::stream::iter(messages),
            None,
            SingleMessageCompressionOverride::default(),
            None,
        ))
    }

    fn ours(messages: Vec<ReadResponse>, end: Result<(), Status>) -> Body {
        let reply = stream(|output| async move {
            for message in messages {
                for chunk in read_chunks(message) {
                    output.send(chunk).await?;
                }
            }
            Ok(end)
        });
        assert_eq!(reply.headers()[header::CONTENT_TYPE], "application/grpc");
        reply.into_body()
    }

    fn collect(body: Body) -> Collected<Bytes> {
        futures::executor::block_on(body.collect()).unwrap()
    }

    fn response(lens: &[usize], tail: bool) -> ReadResponse {
        let parts = lens.iter().enumerate();
        let parts = parts.map(|(n, &len)| Bytes::from(vec![n as u8; len]));
        ReadResponse::new(parts.collect(), tail.then(|| StreamPosition::new(3, 5)))
    }

    #[test]
    fn a_batch_goes_out_as_it_is_stored() {
        let stored = Bytes::from(vec![7; 100_000]);
        let chunks = read_chunks(ReadResponse::new(vec![stored.clone()], None));
        assert_eq!(chunks.len(), 2);
        assert_eq!(chunks[1].as_ptr(), stored.as_ptr());
    }

    #[test]
    fn one_message_is_on_the_wire_as_the_library_has_it() {
        let response = response(&[10, 20_000], true);
        let expected = collect(plain(vec![response.clone()], Ok(()))).to_bytes();
        assert_eq!(collect(message(&response).into_body()).to_bytes(), expected);
        let chunks = chunks(read_chunks(response));
        assert_eq!(collect(chunks.into_body()).to_bytes(), expected);
    }

    proptest! {
        #[test]
        fn replies_are_on_the_wire_as_the_library_has_them(
            messages in prop::collection::vec(
                (prop::collection::vec(0..40_000usize, 0..6), any::<bool>()),
                0..6,
            ),
            fails: bool,
        ) {
            let messages: Vec<_> = messages.iter().map(|(lens, tail)| response(lens, *tail)).collect();
            let end = || if fails { Err(refused()) } else { Ok(()) };
            let plain = collect(plain(messages.clone(), end()));
            let ours = collect(ours(messages, end()));
            prop_assert_eq!(ours.trailers(), plain.trailers());
            prop_assert_eq!(ours.to_bytes(), plain.to_bytes());
        }
    }
}
