//! Names that are part of a path. Each is one segment, and is unescaped only after the path was cut into
//! segments, so that an escaped slash belongs to the name.

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use millrace_api::name::{BasinName, StreamName};

use super::App;
use super::failure::Failure;

/// The stream that the path names.
pub(super) struct StreamPath(pub StreamName);

impl FromRequestParts<App> for StreamPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let name = segment(parts, app).await?;
        StreamName::new(name)
            .map(Self)
            .map_err(|error| Failure::bad_path(error.to_string()))
    }
}

/// The basin that the path names.
pub(super) struct BasinPath(pub BasinName);

impl FromRequestParts<App> for BasinPath {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Failure> {
        let name = segment(parts, app).await?;
        BasinName::new(name)
            .map(Self)
            .map_err(|error| Failure::bad_path(error.to_string()))
    }
}

async fn segment(parts: &mut Parts, app: &App) -> Result<String, Failure> {
    let Path(name) = Path::<String>::from_request_parts(parts, app)
        .await
        .map_err(|rejection| Failure::bad_path(rejection.body_text()))?;
    Ok(name)
}
