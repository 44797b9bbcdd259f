//! Compresses replies that are read whole.
//!
//! Sessions are left alone: they compress their own frames, and must not be held back by a compressor. They do not even
//! pass through one, since it takes about as much memory as all that HTTP/2 keeps of a session. Streams of events are
//! passed on as they are.

use std::convert::Infallible;
use std::task::{Context, Poll, ready};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use futures::future::{Either, MapOk, TryFutureExt};
use tower::{Layer, Service};
use tower_http::CompressionLevel;
use tower_http::compression::predicate::{And, NotForContentType, Predicate, SizeAbove};
use tower_http::compression::{Compression, CompressionBody, ResponseFuture};

use super::media::{self, ContentType};

/// Replies of up to this many bytes are sent as they are.
const COMPRESS_ABOVE: u16 = 1024;

type Which = And<SizeAbove, NotForContentType>;

/// Puts a [`Compress`] around a service.
#[derive(Clone)]
pub(super) struct CompressLayer;

impl<S: Clone> Layer<S> for CompressLayer {
    type Service = Compress<S>;

    fn layer(&self, service: S) -> Compress<S> {
        let which = SizeAbove::new(COMPRESS_ABOVE + 1).and(NotForContentType::SSE);
        Compress {
            compressed: Compression::new(service.clone())
                .quality(CompressionLevel::Fastest)
                .compress_when(which),
            session: service,
        }
    }
}

/// One service, with a compressor behind it and without.
#[derive(Clone)]
pub(super) struct Compress<S> {
    session: S,
    compressed: Compression<S, Which>,
}

impl<S> Service<Request> for Compress<S>
where
    S: Service<Request, Response = Response, Error = Infallible>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = Either<S::Future, Compressed<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        ready!(self.session.poll_ready(cx))?;
        Service::<Request>::poll_ready(&mut self.compressed, cx)
    }

    fn call(&mut self, request: Request) -> Self::Future {
        match media::content_type(request.headers()) {
            ContentType::S2s => Either::Left(self.session.call(request)),
            _ => Either::Right(self.compressed.call(request).map_ok(with_any_body as AnyBody)),
        }
    }
}

type Compressed<F> = MapOk<ResponseFuture<F, Which>, AnyBody>;
type AnyBody = fn(http::Response<CompressionBody<Body>>) -> Response;

fn with_any_body(response: http::Response<CompressionBody<Body>>) -> Response {
    response.map(Body::new)
}
