//! What operators and load balancers ask for, outside the API.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::{App, reply};

const TEXT: &str = "text/plain; charset=utf-8";
const METRICS_TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

/// 200 while the node can serve, else 503.
pub(super) async fn health(State(app): State<App>) -> Response {
    match app.frontend.ready() {
        true => reply::bytes(StatusCode::OK, TEXT, "OK".into()),
        false => reply::bytes(StatusCode::SERVICE_UNAVAILABLE, TEXT, "not ready".into()),
    }
}

pub(super) async fn metrics(State(app): State<App>) -> Response {
    reply::bytes(StatusCode::OK, METRICS_TEXT, (app.metrics)().into())
}
