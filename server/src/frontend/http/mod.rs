//! The S2 v1 API over HTTP: requests to calls of the service, and its answers back. Nothing is decided here but
//! what a request says and how an answer is written.
//!
//! - `/v1/basins…` and `/v1/streams…`, as the API has them; its access tokens, metrics and locations are refused
//!   as not implemented.
//! - `/health`, `/ping`, `/metrics` for operators.
//!
//! Every refusal, also that of a malformed request, carries the API's error body.

mod append;
mod append_session;
mod basin;
mod basins;
mod body;
mod compress;
mod failure;
mod frames;
mod headers;
mod media;
mod operate;
mod query;
mod read;
mod read_session;
mod reply;
mod sse;
mod stream_path;
mod streams;

use std::sync::Arc;

use axum::Router;
use axum::http::{HeaderMap, HeaderName, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use tower_http::cors::{AllowHeaders, AllowMethods, Any, CorsLayer};

use self::body::BodyBudget;
use self::compress::CompressLayer;
use self::failure::Failure;
use crate::error::ServiceError;
use crate::frontend::grpc;
use crate::frontend::service::Frontend;

/// Response headers that scripts of other origins may see.
const EXPOSED_HEADERS: [HeaderName; 2] = [headers::PROVISION_RESULT, headers::RETRY_AFTER_MS];

/// What an operator may choose about the HTTP API.
#[derive(Clone)]
pub struct HttpOptions {
    /// With `b.example.com`, requests to the host `{basin}.b.example.com` need no `s2-basin` header.
    pub basin_domain: Option<String>,
    /// Whether scripts of any origin may call the API.
    pub cors: bool,
    /// The text of `/metrics`, in the Prometheus format.
    pub metrics: Arc<dyn Fn() -> String + Send + Sync>,
}

/// What every handler has at hand.
#[derive(Clone)]
struct App {
    frontend: Arc<Frontend>,
    basin_domain: Option<Arc<str>>,
    metrics: Arc<dyn Fn() -> String + Send + Sync>,
    bodies: BodyBudget,
}

/// The whole API as a service; cheap to clone.
pub fn router(frontend: Arc<Frontend>, options: HttpOptions) -> Router {
    let app = App {
        frontend,
        basin_domain: options
            .basin_domain
            .map(|domain| domain.to_ascii_lowercase().into()),
        metrics: options.metrics,
        bodies: BodyBudget::default(),
    };
    let router = Router::new()
        .nest("/v1", api_routes())
        .route("/health", get(operate::health))
        .route("/ping", get(operate::health))
        .route("/metrics", get(operate::metrics))
        .fallback(unknown_path)
        .method_not_allowed_fallback(unknown_method)
        .layer(CompressLayer)
        .with_state(app);
    match options.cors {
        true => router.layer(cors()),
        false => router,
    }
}

fn api_routes() -> Router<App> {
    Router::new()
        .route("/basins", get(basins::list).post(basins::create))
        .route(
            "/basins/{basin}",
            get(basins::config)
                .put(basins::ensure)
                .patch(basins::reconfigure)
                .delete(basins::delete),
        )
        .route("/streams", get(streams::list).post(streams::create))
        .route(
            "/streams/{stream}",
            get(streams::config)
                .put(streams::ensure)
                .patch(streams::reconfigure)
                .delete(streams::delete),
        )
        .route(
            "/streams/{stream}/records",
            get(read::records).post(append::records),
        )
        .route("/streams/{stream}/records/tail", get(read::tail))
        .route("/access-tokens", any(tokens))
        .route("/access-tokens/{*rest}", any(tokens))
        .route("/metrics", any(usage))
        .route("/metrics/{*rest}", any(usage))
        .route("/locations", any(locations))
        .route("/locations/{*rest}", any(locations))
}

async fn tokens() -> Failure {
    ServiceError::not_implemented("issuing access tokens").into()
}

async fn usage() -> Failure {
    ServiceError::not_implemented("reporting usage").into()
}

async fn locations() -> Failure {
    ServiceError::not_implemented("choosing locations").into()
}

/// Services of gRPC are paths too; their clients do not understand a reply that is not theirs.
async fn unknown_path(headers: HeaderMap) -> Response {
    match grpc::is_grpc(&headers) {
        true => grpc::unknown_service(),
        false => Failure::unknown_path().into_response(),
    }
}

async fn unknown_method() -> Failure {
    Failure::unknown_method()
}

/// Any origin, method and header. There are no cookies to protect, for credentials travel in a header that a
/// script must already know.
fn cors() -> CorsLayer {
    CorsLayer::new()
        .allow_origin(Any)
        .allow_methods(AllowMethods::mirror_request())
        .allow_headers(AllowHeaders::mirror_request())
        .expose_headers(
            EXPOSED_HEADERS
                .into_iter()
                .chain([header::RETRY_AFTER])
                .collect::<Vec<_>>(),
        )
}
