//! `/v1/streams`

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use millrace_api::json::{self, Rfc3339};

use super::basin::Basin;
use super::body::{optional_json, required_json};
use super::failure::Failure;
use super::query::{ListQuery, Parsed};
use super::stream_path::StreamPath;
use super::{App, headers, reply};
use crate::frontend::service::types::{CreateStream, StreamInfo};

pub(super) async fn list(
    State(app): State<App>,
    Basin(basin): Basin,
    Parsed(query): Parsed<ListQuery>,
) -> Result<Response, Failure> {
    let page = app.frontend.list_streams(&basin, query.of_streams()?).await?;
    let streams = page.items.into_iter().map(info).collect();
    Ok(reply::json(
        StatusCode::OK,
        &json::ListStreamsResponse {
            streams,
            has_more: page.has_more,
        },
    ))
}

pub(super) async fn create(
    State(app): State<App>,
    Basin(basin): Basin,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let request_token = headers::request_token(&headers)?;
    let request: json::CreateStreamRequest = required_json(&app.bodies, &headers, body).await?;
    let create = CreateStream {
        config: request.config.map(Into::into).unwrap_or_default(),
        request_token,
    };
    let done = app.frontend.create_stream(&basin, request.stream, create).await?;
    Ok(reply::provisioned(
        done.outcome,
        StatusCode::CREATED,
        &info(done.item),
    ))
}

pub(super) async fn ensure(
    State(app): State<App>,
    Basin(basin): Basin,
    StreamPath(stream): StreamPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let config: Option<json::StreamConfig> = optional_json(&app.bodies, &headers, body).await?;
    let config = config.map(Into::into).unwrap_or_default();
    let done = app.frontend.ensure_stream(&basin, stream, config).await?;
    Ok(reply::provisioned(done.outcome, StatusCode::OK, &info(done.item)))
}

pub(super) async fn config(
    State(app): State<App>,
    Basin(basin): Basin,
    StreamPath(stream): StreamPath,
) -> Result<Response, Failure> {
    let config = app.frontend.stream_config(&basin, &stream).await?;
    Ok(reply::json(StatusCode::OK, &json::StreamConfig::from(config)))
}

pub(super) async fn reconfigure(
    State(app): State<App>,
    Basin(basin): Basin,
    StreamPath(stream): StreamPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let change: json::StreamReconfiguration = required_json(&app.bodies, &headers, body).await?;
    let config = app
        .frontend
        .reconfigure_stream(&basin, &stream, change.into())
        .await?;
    Ok(reply::json(StatusCode::OK, &json::StreamConfig::from(config)))
}

pub(super) async fn delete(
    State(app): State<App>,
    Basin(basin): Basin,
    StreamPath(stream): StreamPath,
) -> Result<Response, Failure> {
    app.frontend.delete_stream(&basin, &stream).await?;
    Ok(reply::empty(StatusCode::ACCEPTED))
}

fn info(stream: StreamInfo) -> json::StreamInfo {
    json::StreamInfo {
        name: stream.name,
        created_at: Rfc3339(stream.created_at_ms),
        deleted_at: stream.deleted_at_ms.map(Rfc3339),
        cipher: stream.cipher,
    }
}
