//! `/v1/basins`

use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::Response;
use millrace_api::json::{self, Rfc3339};

use super::body::{optional_json, required_json};
use super::failure::Failure;
use super::query::{ListQuery, Parsed};
use super::stream_path::BasinPath;
use super::{App, headers, reply};
use crate::frontend::service::types::{BasinInfo, CreateBasin};

pub(super) async fn list(
    State(app): State<App>,
    Parsed(query): Parsed<ListQuery>,
) -> Result<Response, Failure> {
    let page = app.frontend.list_basins(query.of_basins()?).await?;
    let basins = page.items.into_iter().map(info).collect();
    Ok(reply::json(
        StatusCode::OK,
        &json::ListBasinsResponse {
            basins,
            has_more: page.has_more,
        },
    ))
}

pub(super) async fn create(
    State(app): State<App>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let request_token = headers::request_token(&headers)?;
    let request: json::CreateBasinRequest = required_json(&app.bodies, &headers, body).await?;
    let create = CreateBasin {
        config: request.config.map(Into::into).unwrap_or_default(),
        location: request.location,
        request_token,
    };
    let done = app.frontend.create_basin(request.basin, create).await?;
    Ok(reply::provisioned(
        done.outcome,
        StatusCode::CREATED,
        &info(done.item),
    ))
}

pub(super) async fn ensure(
    State(app): State<App>,
    BasinPath(basin): BasinPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let request: Option<json::EnsureBasinRequest> = optional_json(&app.bodies, &headers, body).await?;
    let request = request.unwrap_or_default();
    let create = CreateBasin {
        config: request.config.map(Into::into).unwrap_or_default(),
        location: request.location,
        request_token: None,
    };
    let done = app.frontend.ensure_basin(basin, create).await?;
    Ok(reply::provisioned(done.outcome, StatusCode::OK, &info(done.item)))
}

pub(super) async fn config(State(app): State<App>, BasinPath(basin): BasinPath) -> Result<Response, Failure> {
    let config = app.frontend.basin_config(&basin).await?;
    Ok(reply::json(StatusCode::OK, &json::BasinConfig::from(config)))
}

pub(super) async fn reconfigure(
    State(app): State<App>,
    BasinPath(basin): BasinPath,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Failure> {
    let change: json::BasinReconfiguration = required_json(&app.bodies, &headers, body).await?;
    let config = app.frontend.reconfigure_basin(&basin, change.into()).await?;
    Ok(reply::json(StatusCode::OK, &json::BasinConfig::from(config)))
}

pub(super) async fn delete(State(app): State<App>, BasinPath(basin): BasinPath) -> Result<Response, Failure> {
    app.frontend.delete_basin(&basin).await?;
    Ok(reply::empty(StatusCode::ACCEPTED))
}

fn info(basin: BasinInfo) -> json::BasinInfo {
    let created_at = Rfc3339(basin.created_at_ms);
    json::BasinInfo::new(
        basin.name,
        basin.location,
        created_at,
        basin.deleted_at_ms.map(Rfc3339),
    )
}
