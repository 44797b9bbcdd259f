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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::io::Write;

    use axum::http::{HeaderValue, StatusCode};
    use axum::response::IntoResponse;

    use super::*;

    const MIB: usize = 1024 * 1024;

    async fn receive_as(coding: &'static str, body: Body) -> Result<Bytes, StatusCode> {
        let headers = HeaderMap::from_iter([(header::CONTENT_ENCODING, HeaderValue::from_static(coding))]);
        receive(&BodyBudget::default(), &headers, body, ErrorCode::BadProto)
            .await
            .map(|received| received.bytes)
            .map_err(|failure| failure.into_response().status())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn in_chunks(bytes: &[u8], len: usize) -> Body {
        let chunks: Vec<_> = bytes
            .chunks(len)
            .map(|chunk| Ok::<_, Infallible>(chunk.to_vec()))
            .collect();
        Body::from_stream(futures::stream::iter(chunks))
    }

    #[tokio::test]
    async fn a_body_in_one_piece_is_not_copied() {
        let bytes = Bytes::from(vec![1; MIB]);
        let received = receive_as("identity", Body::from(bytes.clone())).await.unwrap();
        assert_eq!(received.as_ptr(), bytes.as_ptr());
    }

    #[tokio::test]
    async fn pieces_are_joined_in_order() {
        let bytes: Vec<u8> = (0..MIB).map(|n| (n % 251) as u8).collect();
        for len in [1000, 65_536, MIB] {
            assert_eq!(
                receive_as("identity", in_chunks(&bytes, len)).await.unwrap(),
                bytes
            );
        }
        assert_eq!(receive_as("identity", Body::empty()).await.unwrap(), "");
    }

    #[tokio::test]
    async fn api_011_the_bound_holds_for_what_is_sent_and_for_what_it_becomes() {
        let most = vec![0; HTTP_BODY_MAX];
        let more = vec![0; HTTP_BODY_MAX + 1];
        let zstd = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        for coding in ["identity", "gzip", "zstd"] {
            let encode = |bytes: &[u8]| match coding {
                "gzip" => gzip(bytes),
                "zstd" => zstd(bytes),
                _ => bytes.to_vec(),
            };
            assert_eq!(
                receive_as(coding, in_chunks(&encode(&most), MIB))
                    .await
                    .unwrap()
                    .len(),
                most.len()
            );
            assert_eq!(
                receive_as(coding, Body::from(encode(&most))).await.unwrap().len(),
                most.len()
            );
            for body in [in_chunks(&encode(&more), MIB), Body::from(encode(&more))] {
                assert_eq!(
                    receive_as(coding, body).await,
                    Err(StatusCode::BAD_REQUEST),
                    "{coding}"
                );
            }
        }
    }

    #[tokio::test]
    async fn a_window_beyond_what_decoders_support_is_refused() {
        let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
        encoder.window_log(27).unwrap();
        encoder.include_contentsize(false).unwrap();
        encoder.write_all(&[7; 1000]).unwrap();
        let bytes = encoder.finish().unwrap();
        assert_eq!(
            receive_as("zstd", Body::from(bytes)).await,
            Err(StatusCode::BAD_REQUEST)
        );
    }

    #[tokio::test]
    async fn truncated_and_foreign_bytes_are_refused() {
        let bytes = gzip(b"hello");
        assert_eq!(
            receive_as("gzip", Body::from(bytes[..10].to_vec())).await,
            Err(StatusCode::BAD_REQUEST)
        );
        assert_eq!(
            receive_as("zstd", Body::from(bytes)).await,
            Err(StatusCode::BAD_REQUEST)
        );
        assert_eq!(
            receive_as("br", Body::from("x")).await,
            Err(StatusCode::BAD_REQUEST)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_arrive_is_given_up() {
        let never = Body::from_stream(futures::stream::pending::<Result<Bytes, Infallible>>());
        assert_eq!(
            receive_as("identity", never).await,
            Err(StatusCode::REQUEST_TIMEOUT)
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_beyond_the_budget_is_shed_and_the_budget_comes_back() {
        let budget = BodyBudget::default();
        let headers = HeaderMap::new();
        let get = || {
            receive(
                &budget,
                &headers,
                Body::from(vec![0; HTTP_BODY_MAX]),
                ErrorCode::BadProto,
            )
        };
        let mut held = Vec::new();
        while let Ok(received) = get().await {
            held.push(received);
        }
        assert_eq!(held.len() * HTTP_BODY_MAX, BUDGET_BYTES);
        let shed = get().await.err().unwrap().into_response().status();
        assert_eq!(shed, StatusCode::BAD_GATEWAY);
        held.pop();
        assert!(get().await.is_ok());
    }
}
