//! Appending to a stream: one batch, or a session.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Version, header};
use axum::response::Response;
use bytes::Bytes;
use millrace_api::batch::{AppendBatch, AppendError};
use millrace_api::error::ErrorCode;
use millrace_api::json;
use millrace_api::name::{BasinName, StreamName};
use prost::Message;

use super::basin::Basin;
use super::failure::Failure;
use super::media::{self, ContentType, Encoding};
use super::stream_path::StreamPath;
use super::{App, append_session, body, frames, headers, reply};
use crate::error::ServiceError;
use crate::frontend::service::Intent;
use crate::frontend::session::output::written_by;

/// `POST /streams/{stream}/records`, in the protocol that the content type says.
pub(super) async fn records(
    State(app): State<App>,
    Basin(basin): Basin,
    StreamPath(stream): StreamPath,
    request: Request,
) -> Result<Response, Failure> {
    let (parts, body) = request.into_parts();
    let batch = match media::content_type(&parts.headers) {
        ContentType::S2s => {
            create(&app, &basin, &stream, Intent::Append, &parts.headers).await?;
            return session(&app, &basin, &stream, parts.version, body).await;
        }
        ContentType::Protobuf => {
            let received = body::receive(&app.bodies, &parts.headers, body, ErrorCode::BadProto).await?;
            AppendBatch::decode(received.bytes)?
        }
        _ => from_json(&app, &parts.headers, body).await?,
    };
    create(&app, &basin, &stream, Intent::Append, &parts.headers).await?;
    let ack = app.frontend.append(&basin, &stream, batch).await?;
    Ok(match media::reply_encoding(&parts.headers) {
        Encoding::Json => reply::json(StatusCode::OK, &json::AppendAck::from(frames::ack_message(&ack))),
        Encoding::Protobuf => {
            let message = Bytes::from(frames::ack_message(&ack).encode_to_vec());
            reply::bytes(StatusCode::OK, media::PROTOBUF, message)
        }
    })
}

/// Creates a stream that is missing, if the request says with what configuration.
pub(super) async fn create(
    app: &App,
    basin: &BasinName,
    stream: &StreamName,
    intent: Intent,
    headers: &HeaderMap,
) -> Result<(), Failure> {
    match headers::stream_config(headers)? {
        None => Ok(()),
        Some(config) => Ok(app
            .frontend
            .create_if_missing(basin, stream, intent, config)
            .await?),
    }
}

async fn session(
    app: &App,
    basin: &BasinName,
    stream: &StreamName,
    version: Version,
    body: Body,
) -> Result<Response, Failure> {
    let session = app.frontend.append_session(basin, stream).await?;
    let frontend = Arc::clone(&app.frontend);
    let body = written_by(|output| append_session::run(frontend, session, body, output));
    let mut response = reply::stream(media::S2S, body);
    if version < Version::HTTP_2 {
        // A session that fails leaves input unread, so that its connection cannot carry another request. The client
        // has to know in time.
        response
            .headers_mut()
            .insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    Ok(response)
}

async fn from_json(app: &App, headers: &HeaderMap, body: Body) -> Result<AppendBatch, Failure> {
    let format = headers::format(headers)?;
    let input: json::AppendInput = body::required_json(&app.bodies, headers, body).await?;
    Ok(input.into_batch(format)?)
}

impl From<AppendError> for Failure {
    fn from(error: AppendError) -> Self {
        ServiceError::new(error.code(), error.to_string()).into()
    }
}
