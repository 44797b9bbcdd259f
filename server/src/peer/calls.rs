//! Calls to other nodes whose messages are not copied: what is sent is framed already.

use http::{HeaderValue, Method, Request, Response, StatusCode, Uri, Version, header};
use prost::Message;
use tonic::Status;
use tonic::body::Body;
use tonic::metadata::GRPC_CONTENT_TYPE;

use super::messages::Messages;

/// A call of a method, named by a whole address: whose host is of no meaning.
pub(crate) fn request(method: &'static str, messages: Body) -> Request<Body> {
    let mut request = Request::new(messages);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = Uri::from_static(method);
    *request.version_mut() = Version::HTTP_2;
    let headers = request.headers_mut();
    headers.insert(header::TE, HeaderValue::from_static("trailers"));
    headers.insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
    request
}

/// What comes back, or why nothing does.
pub(crate) fn answers<M: Message + Default>(response: Response<Body>) -> Result<Messages<Body, M>, Status> {
    // There before the first message, a status is a refusal.
    match Status::from_header_map(response.headers()) {
        Some(refused) => Err(refused),
        None if response.status() != StatusCode::OK => Err(Status::unavailable(format!(
            "the node answers with {}",
            response.status()
        ))),
        None => Ok(Messages::new(response.into_body())),
    }
}
