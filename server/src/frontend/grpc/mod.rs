//! The gRPC API: messages to calls of the service, and its answers back. Nothing is decided here but what a message
//! says and how an answer is written.
//!
//! - `millrace.v1`: accounts, basins and streams, as `api/proto` has them; access tokens are refused as not
//!   implemented.
//! - `grpc.health.v1` and server reflection, for load balancers and people.
//!
//! Every failure carries a `millrace.v1.ErrorDetail`, also that of a malformed request. Records pass as the bytes they
//! are: an input is read in place in the frame it came in, stored records go to the connection from where they lie.

mod account;
mod append_session;
mod basin;
mod codec;
mod error;
pub(crate) mod framing;
mod health;
pub(crate) mod incoming;
mod intake;
mod names;
mod read_session;
pub(crate) mod reply;
mod stream;

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::extract::State;
use axum::http::{HeaderMap, Request, StatusCode, Version, header};
use axum::middleware::{Next, from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use millrace_api::error::ErrorCode;
use millrace_api::grpc::FILE_DESCRIPTOR_SET;
use tonic::body::Body;
use tonic::server::NamedService;
use tonic_health::pb::health_server::HealthServer;
use tonic_reflection::server::Builder as Reflection;
use tower::Service;

use self::generated::account_service_server::AccountServiceServer;
use self::generated::basin_service_server::BasinServiceServer;
use self::intake::Intake;
use crate::error::ServiceError;
use crate::frontend::service::Frontend;

/// A message without records: names, a configuration, a token, or a request of health or reflection.
const SMALL_LEN_MAX: usize = 16 * 1024;

mod generated {
    #![allow(clippy::all)]
    include!(concat!(env!("OUT_DIR"), "/millrace.v1.rs"));
}

/// The routes of all services, to be merged into those of HTTP; their paths differ.
pub fn router(frontend: Arc<Frontend>) -> Router {
    let account = AccountServiceServer::new(account::Account(frontend.clone()));
    let basin = BasinServiceServer::new(basin::Basin(frontend.clone()));
    let health = HealthServer::new(health::Health(frontend.clone()));
    let ours = stream::router(frontend);
    let ours = route(ours, account.max_decoding_message_size(SMALL_LEN_MAX));
    let ours = route(ours, basin.max_decoding_message_size(SMALL_LEN_MAX));
    let others = route(Router::new(), health.max_decoding_message_size(SMALL_LEN_MAX));
    let reflection = reflection().build_v1().expect(DESCRIPTORS);
    let others = route(others, reflection.max_decoding_message_size(SMALL_LEN_MAX));
    let reflection = self::reflection().build_v1alpha().expect(DESCRIPTORS);
    let others = route(others, reflection.max_decoding_message_size(SMALL_LEN_MAX));
    ours.layer(from_fn(with_detail))
        .merge(others)
        .layer(from_fn_with_state(Intake::default(), with_bounds))
        .layer(from_fn(over_http_2))
}

const DESCRIPTORS: &str = "the descriptors come from a compiler";

fn reflection() -> Reflection<'static> {
    Reflection::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
}

fn route<S>(router: Router, service: S) -> Router
where
    S: Service<Request<axum::body::Body>, Response = axum::http::Response<Body>, Error = Infallible>
        + NamedService
        + Clone
        + Send
        + Sync
        + 'static,
    S::Future: Send,
{
    router.route_service(&format!("/{}/{{*rpc}}", S::NAME), service)
}

/// A failure that was found before the service was called gets its detail here.
async fn with_detail(request: axum::extract::Request, next: Next) -> Response {
    error::completed(next.run(request).await)
}

/// Whether a request was made by a gRPC client.
pub fn is_grpc(headers: &HeaderMap) -> bool {
    let content_type = headers.get(header::CONTENT_TYPE);
    content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/grpc"))
}

/// What such a client is told about a path that is none of ours.
pub fn unknown_service() -> Response {
    let unknown = ServiceError::new(ErrorCode::NotImplemented, "there is no such service here");
    error::status(&unknown).into_http::<Body>().into_response()
}

async fn with_bounds(State(intake): State<Intake>, request: axum::extract::Request, next: Next) -> Response {
    next.run(request.map(|body| intake.bounded(body))).await
}

/// HTTP/1.1 clients ask for no trailers, and a status in trailers that nobody gets is taken for success.
async fn over_http_2(request: axum::extract::Request, next: Next) -> Response {
    match request.version() {
        Version::HTTP_2 => next.run(request).await,
        _ => (StatusCode::HTTP_VERSION_NOT_SUPPORTED, "gRPC needs HTTP/2").into_response(),
    }
}
