//! Reading a stream: its tail, a batch of its records, or a session.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::Response;
use millrace_api::json;
use millrace_api::name::{BasinName, StreamName};
use millrace_api::read::{InvalidRead, ReadQuery, ReadRequest};
use millrace_api::s2s::Compression;
use millrace_api::scan::ScanError;

use super::append::create;
use super::basin::Basin;
use super::failure::Failure;
use super::media::{self, Encoding, Protocol};
use super::query::Parsed;
use super::stream_path::StreamPath;
use super::{App, frames, headers, read_session, reply, sse};
use crate::error::ServiceError;
use crate::frontend::service::Intent;
use crate::frontend::service::types::RecordBatch;
use crate::frontend::session::output::written_by;

/// `GET /streams/{stream}/records/tail`
pub(super) async fn tail(
    State(app): State<App>,
    Basin(basin): Basin,
    StreamPath(stream): StreamPath,
) -> Result<Response, Failure> {
    let tail = app.frontend.check_tail(&basin, &stream).await?;
    Ok(reply::json(StatusCode::OK, &json::TailResponse { tail }))
}

/// `GET /streams/{stream}/records`, in the protocol that the headers ask for.
pub(super) async fn records(
    State(app): State<App>,
    Basin(basin): Basin,
    StreamPath(stream): StreamPath,
    Parsed(query): Parsed<ReadQuery>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    match media::read_protocol(&headers) {
        Protocol::S2s => session(app, &basin, &stream, &query, &headers).await,
        Protocol::EventStream => events(app, &basin, &stream, &query, &headers).await,
        Protocol::Unary(encoding) => unary(app, &basin, &stream, &query, &headers, encoding).await,
    }
}

async fn session(
    app: App,
    basin: &BasinName,
    stream: &StreamName,
    query: &ReadQuery,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let request = ReadRequest::session(query)?;
    let compression = accepted_compression(headers);
    create(&app, basin, stream, Intent::Read, headers).await?;
    let session = app.frontend.read_session(basin, stream, request).await?;
    let body = written_by(|output| read_session::run(app.frontend, session, compression, output));
    Ok(reply::stream(media::S2S, body))
}

async fn events(
    app: App,
    basin: &BasinName,
    stream: &StreamName,
    query: &ReadQuery,
    headers: &HeaderMap,
) -> Result<Response, Failure> {
    let format = headers::format(headers)?;
    let seen = headers::last_event_id(headers)?;
    let request = ReadRequest::session(query)?;
    let request = seen.map_or(request, |seen| request.resume(seen));
    if seen.is_some() && (request.limits.count == Some(0) || request.limits.bytes == Some(0)) {
        // The client has all that it once asked for; where the stream ends by now does not matter to it.
        return Ok(reply::stream(media::EVENT_STREAM, written_by(sse::nothing_left)));
    }
    create(&app, basin, stream, Intent::Read, headers).await?;
    let session = app.frontend.read_session(basin, stream, request).await?;
    let events = sse::Events::new(format, seen);
    let body = written_by(|output| sse::run(app.frontend, session, events, output));
    Ok(reply::stream(media::EVENT_STREAM, body))
}

async fn unary(
    app: App,
    basin: &BasinName,
    stream: &StreamName,
    query: &ReadQuery,
    headers: &HeaderMap,
    encoding: Encoding,
) -> Result<Response, Failure> {
    let request = ReadRequest::unary(query)?;
    // Protobuf carries bytes as they are, so that the format does not matter; a wrong one is an error even then.
    let format = headers::format(headers)?;
    create(&app, basin, stream, Intent::Read, headers).await?;
    let batch = app.frontend.read(basin, stream, request).await?;
    match encoding {
        Encoding::Protobuf => Ok(reply::parts(media::PROTOBUF, frames::read_batch(batch))),
        Encoding::Json => {
            let mut body = Vec::with_capacity(json_capacity(&batch));
            json::write_read_batch(&mut body, parts(&batch), batch.tail, format)?;
            Ok(reply::bytes(StatusCode::OK, media::JSON, body.into()))
        }
    }
}

/// The encoded records of a batch, as the API crate takes them.
pub(super) fn parts(batch: &RecordBatch) -> impl Iterator<Item = &[u8]> {
    batch.parts.iter().map(|part| &part[..])
}

/// About what the batch takes as JSON: text of base64, and some 64 bytes around each record.
pub(super) fn json_capacity(batch: &RecordBatch) -> usize {
    128 + batch.metered_bytes * 4 / 3 + batch.count * 64
}

fn accepted_compression(headers: &HeaderMap) -> Compression {
    let values = headers.get_all(header::ACCEPT_ENCODING).into_iter();
    let offers: Vec<_> = values.filter_map(|value| value.to_str().ok()).collect();
    Compression::from_accept_encoding(&offers.join(","))
}

impl From<ScanError> for Failure {
    fn from(error: ScanError) -> Self {
        ServiceError::from(error).into()
    }
}

impl From<ScanError> for ServiceError {
    /// Records that were stored and cannot be read.
    fn from(error: ScanError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<InvalidRead> for Failure {
    fn from(error: InvalidRead) -> Self {
        ServiceError::invalid(error.to_string()).into()
    }
}
