//! Bodies of unary requests: read whole, decompressed, bounded before and after.

use std::io::Read;
use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::{HeaderMap, header};
use bytes::{Bytes, BytesMut};
use http_body::Body as _;
use http_body_util::BodyExt;
use millrace_api::error::ErrorCode;
use millrace_api::json::{self, BadJson};
use millrace_api::limits::HTTP_BODY_MAX;
use serde::de::DeserializeOwned;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::failure::Failure;
use super::media::{self, ContentType};

/// A body that takes longer to arrive is given up.
const ARRIVAL_TIMEOUT: Duration = Duration::from_secs(60);
/// How long a request waits for room under the budget before it is shed.
const BUDGET_WAIT: Duration = Duration::from_secs(1);
/// The largest window that a zstd frame may ask for, as a power of two: what any decoder is expected to support.
const ZSTD_WINDOW_LOG_MAX: u32 = 23;
/// What all bodies together may take, as sent and decompressed: 64 of the largest at a time.
const BUDGET_BYTES: usize = 64 * 2 * HTTP_BODY_MAX;
/// The budget counts in units of this.
const BUDGET_UNIT: usize = 1024;

/// Bytes that all bodies together may take.
#[derive(Clone)]
pub(super) struct BodyBudget(Arc<Semaphore>);

impl Default for BodyBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(BUDGET_BYTES / BUDGET_UNIT)))
    }
}

impl BodyBudget {
    async fn take(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Failure> {
        let units = u32::try_from(bytes.div_ceil(BUDGET_UNIT)).expect("bounded by a body's size");
        match tokio::time::timeout(BUDGET_WAIT, Arc::clone(&self.0).acquire_many_owned(units)).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(Failure::new(
                ErrorCode::HotServer,
                "too many requests are being read",
            )),
        }
    }
}

/// A body read whole; its share of the budget is held until this is dropped.
pub(super) struct Received {
    pub bytes: Bytes,
    _share: OwnedSemaphorePermit,
}

/// Reads and decompresses a body of at most [`HTTP_BODY_MAX`] bytes; `malformed` is the code for one that is
/// larger, incomplete, or not what its content encoding says.
pub(super) async fn receive(
    budget: &BodyBudget,
    headers: &HeaderMap,
    body: Body,
    malformed: ErrorCode,
) -> Result<Received, Failure> {
    let coding = Coding::of(headers)?;
    let announced = body
        .size_hint()
        .upper()
        .and_then(|bytes| usize::try_from(bytes).ok());
    if announced.is_none() && body.size_hint().lower() > HTTP_BODY_MAX as u64
        || announced.is_some_and(|bytes| bytes > HTTP_BODY_MAX)
    {
        return Err(too_large(malformed));
    }
    let received_max = announced.unwrap_or(HTTP_BODY_MAX);
    let share = budget
        .take(received_max + coding.decoded_share(HTTP_BODY_MAX))
        .await?;
    let collected = tokio::time::timeout(ARRIVAL_TIMEOUT, collect(body, announced, malformed));
    let received = collected.await.map_err(|_| {
        Failure::new(
            ErrorCode::RequestTimeout,
            "the request's body did not arrive in time",
        )
    })??;
    let bytes = coding.decode(received, malformed)?;
    Ok(Received { bytes, _share: share })
}

/// A body that comes in one piece is not copied; the buffer of any other is as large as the body was announced.
async fn collect(mut body: Body, announced: Option<usize>, malformed: ErrorCode) -> Result<Bytes, Failure> {
    let max = announced.unwrap_or(HTTP_BODY_MAX);
    let mut first = Bytes::new();
    let mut joined = BytesMut::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::new(malformed, "the request's body is incomplete"))?;
        let Ok(chunk) = frame.into_data() else {
            continue;
        };
        if first.len() + joined.len() + chunk.len() > max {
            return Err(too_large(malformed));
        }
        if first.is_empty() && joined.is_empty() {
            first = chunk;
            continue;
        }
        if !first.is_empty() {
            joined.reserve(announced.unwrap_or_default());
            joined.extend_from_slice(&std::mem::take(&mut first));
        }
        joined.extend_from_slice(&chunk);
    }
    match joined.is_empty() {
        true => Ok(first),
        false => Ok(joined.freeze()),
    }
}

fn too_large(malformed: ErrorCode) -> Failure {
    Failure::new(
        malformed,
        format!("the request's body has more than {HTTP_BODY_MAX} bytes"),
    )
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Coding {
    Identity,
    Gzip,
    Zstd,
}

impl Coding {
    fn of(headers: &HeaderMap) -> Result<Self, Failure> {
        let mut values = headers.get_all(header::CONTENT_ENCODING).into_iter();
        let name = match (values.next(), values.next()) {
            (None, _) => return Ok(Self::Identity),
            (Some(value), None) => value.to_str().unwrap_or_default().trim().to_ascii_lowercase(),
            (Some(_), Some(_)) => String::new(),
        };
        match name.as_str() {
            "identity" => Ok(Self::Identity),
            "gzip" | "x-gzip" => Ok(Self::Gzip),
            "zstd" => Ok(Self::Zstd),
            _ => Err(Failure::bad_header(
                "content-encoding is one of gzip, zstd and identity",
            )),
        }
    }

    /// `bytes` if decompressing will need a second buffer.
    fn decoded_share(self, bytes: usize) -> usize {
        match self {
            Self::Identity => 0,
            Self::Gzip | Self::Zstd => bytes,
        }
    }

    fn decode(self, received: Bytes, malformed: ErrorCode) -> Result<Bytes, Failure> {
        let decoded = match self {
            Self::Identity => return Ok(received),
            Self::Gzip => read_bounded(flate2::bufread::MultiGzDecoder::new(&received[..])),
            Self::Zstd => zstd::Decoder::with_buffer(&received[..]).and_then(|mut decoder| {
                decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
                read_bounded(decoder)
            }),
        };
        match decoded {
            Ok(bytes) if bytes.len() > HTTP_BODY_MAX => Err(too_large(malformed)),
            Ok(bytes) => Ok(bytes.into()),
            Err(_) => Err(Failure::new(
                malformed,
                "the request's body is not what its content-encoding says",
            )),
        }
    }
}

/// Stops one byte after the bound, however much more there would be.
fn read_bounded(reader: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    reader.take(HTTP_BODY_MAX as u64 + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// A JSON body that must be there and be said to be JSON.
pub(super) async fn required_json<T: DeserializeOwned>(
    budget: &BodyBudget,
    headers: &HeaderMap,
    body: Body,
) -> Result<T, Failure> {
    match media::content_type(headers) {
        ContentType::Json => {}
        ContentType::Absent => return Err(Failure::bad_json("the content-type header is missing")),
        _ => return Err(Failure::bad_json("the content type is not application/json")),
    }
    let received = receive(budget, headers, body, ErrorCode::BadJson).await?;
    Ok(json::parse(&received.bytes)?)
}

/// A JSON body that may be absent, empty or `null`; where it is there, its type may be left unsaid.
pub(super) async fn optional_json<T: DeserializeOwned>(
    budget: &BodyBudget,
    headers: &HeaderMap,
    body: Body,
) -> Result<Option<T>, Failure> {
    let received = receive(budget, headers, body, ErrorCode::BadJson).await?;
    match media::content_type(headers) {
        ContentType::Json | ContentType::Absent => Ok(json::parse_optional(&received.bytes)?),
        _ if received.bytes.is_empty() => Ok(None),
        _ => Err(Failure::bad_json("the content type is not application/json")),
    }
}

impl From<BadJson> for Failure {
    fn from(error: BadJson) -> Self {
        Self::bad_json(error.to_string())
    }
}
