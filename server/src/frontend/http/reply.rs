//! Responses that are written whole.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderValue, Response as HttpResponse, StatusCode, header};
use axum::response::Response;
use bytes::Bytes;
use http_body::{Frame, SizeHint};
use serde::Serialize;

use super::{headers, media};
use crate::frontend::service::types::ProvisionOutcome;

pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = HttpResponse::new(Body::empty());
    *response.status_mut() = status;
    response
}

pub(super) fn bytes(status: StatusCode, content_type: &'static str, body: Bytes) -> Response {
    with_type(status, content_type, Body::from(body))
}

pub(super) fn json(status: StatusCode, value: &impl Serialize) -> Response {
    bytes(status, media::JSON, millrace_api::json::to_vec(value).into())
}

/// A body in pieces that are sent as they are, with a length.
pub(super) fn parts(content_type: &'static str, parts: Vec<Bytes>) -> Response {
    let left = parts.iter().map(|part| part.len() as u64).sum();
    with_type(
        StatusCode::OK,
        content_type,
        Body::new(Parts {
            parts: parts.into(),
            left,
        }),
    )
}

/// 201 for what was created; else what `otherwise` says. The outcome is told in a header as well.
pub(super) fn provisioned(
    outcome: ProvisionOutcome,
    otherwise: StatusCode,
    item: &impl Serialize,
) -> Response {
    let (status, word) = match outcome {
        ProvisionOutcome::Created => (StatusCode::CREATED, "created"),
        ProvisionOutcome::Updated => (otherwise, "updated"),
        ProvisionOutcome::Noop => (otherwise, "noop"),
    };
    let mut response = json(status, item);
    response
        .headers_mut()
        .insert(headers::PROVISION_RESULT, HeaderValue::from_static(word));
    response
}

/// A response that goes on for as long as there is something to say: proxies must neither keep nor gather it.
pub(super) fn stream(content_type: &'static str, body: Body) -> Response {
    let mut response = with_type(StatusCode::OK, content_type, body);
    let map = response.headers_mut();
    map.insert(
        header::CACHE_CONTROL,
        HeaderValue::from_static("no-cache, no-transform"),
    );
    map.insert(headers::ACCEL_BUFFERING, HeaderValue::from_static("no"));
    response
}

fn with_type(status: StatusCode, content_type: &'static str, body: Body) -> Response {
    let mut response = HttpResponse::new(body);
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}

struct Parts {
    parts: VecDeque<Bytes>,
    left: u64,
}

impl http_body::Body for Parts {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let part = self.parts.pop_front();
        self.left -= part.as_ref().map_or(0, |part| part.len() as u64);
        Poll::Ready(part.map(|part| Ok(Frame::data(part))))
    }

    fn is_end_stream(&self) -> bool {
        self.parts.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
