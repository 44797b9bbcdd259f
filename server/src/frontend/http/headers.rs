//! The API's own headers.

use axum::http::{HeaderMap, HeaderName};
use millrace_api::config::StreamConfig;
use millrace_api::json::{self, Format};
use millrace_api::name::RequestToken;
use millrace_api::sse::LastEventId;

use super::failure::Failure;

pub(super) const BASIN: HeaderName = HeaderName::from_static("s2-basin");
pub(super) const REQUEST_TOKEN: HeaderName = HeaderName::from_static("s2-request-token");
pub(super) const STREAM_CONFIG: HeaderName = HeaderName::from_static("s2-stream-config");
pub(super) const FORMAT: HeaderName = HeaderName::from_static("s2-format");
pub(super) const PROVISION_RESULT: HeaderName = HeaderName::from_static("s2-provision-result");
pub(super) const RETRY_AFTER_MS: HeaderName = HeaderName::from_static("retry-after-ms");
pub(super) const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
pub(super) const ACCEL_BUFFERING: HeaderName = HeaderName::from_static("x-accel-buffering");

/// The value of a header that is given at most once.
pub(super) fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Result<Option<&'a str>, Failure> {
    let mut values = headers.get_all(name).into_iter();
    match (values.next(), values.next()) {
        (None, _) => Ok(None),
        (Some(_), Some(_)) => Err(Failure::bad_header(format!("{name} is given more than once"))),
        (Some(value), None) => match value.to_str() {
            Ok(text) => Ok(Some(text.trim())),
            Err(_) => Err(Failure::bad_header(format!("{name} is not plain text"))),
        },
    }
}

/// The idempotency token of a create request.
pub(super) fn request_token(headers: &HeaderMap) -> Result<Option<RequestToken>, Failure> {
    let Some(text) = text(headers, &REQUEST_TOKEN)? else {
        return Ok(None);
    };
    RequestToken::new(text)
        .map(Some)
        .map_err(|error| Failure::bad_header(format!("{REQUEST_TOKEN}: {error}")))
}

/// How bytes stand in JSON; raw unless said otherwise.
pub(super) fn format(headers: &HeaderMap) -> Result<Format, Failure> {
    let Some(text) = text(headers, &FORMAT)? else {
        return Ok(Format::default());
    };
    Format::parse(text).ok_or_else(|| Failure::bad_header(format!("{FORMAT} is neither raw nor base64")))
}

/// The configuration that a stream gets if the request creates it.
pub(super) fn stream_config(headers: &HeaderMap) -> Result<Option<StreamConfig>, Failure> {
    let Some(text) = text(headers, &STREAM_CONFIG)? else {
        return Ok(None);
    };
    let config: json::StreamConfig = serde_json::from_str(text)
        .map_err(|error| Failure::bad_header(format!("{STREAM_CONFIG}: {error}")))?;
    Ok(Some(config.into()))
}

/// The last event that a returning client has seen.
pub(super) fn last_event_id(headers: &HeaderMap) -> Result<Option<LastEventId>, Failure> {
    let Some(text) = text(headers, &LAST_EVENT_ID)? else {
        return Ok(None);
    };
    text.parse()
        .map(Some)
        .map_err(|error| Failure::bad_header(format!("{error}")))
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderValue;

    use super::*;

    fn with(name: &HeaderName, value: &[u8]) -> HeaderMap {
        HeaderMap::from_iter([(name.clone(), HeaderValue::from_bytes(value).unwrap())])
    }

    #[test]
    fn formats_and_their_aliases() {
        assert_eq!(format(&HeaderMap::new()).unwrap(), Format::Raw);
        for (value, expected) in [
            ("raw", Format::Raw),
            ("json", Format::Raw),
            (" base64", Format::Base64),
            ("json-binsafe", Format::Base64),
        ] {
            assert_eq!(format(&with(&FORMAT, value.as_bytes())).unwrap(), expected);
        }
        assert!(format(&with(&FORMAT, b"hex")).is_err());
        assert!(format(&with(&FORMAT, b"")).is_err());
        assert!(format(&with(&FORMAT, b"\xff")).is_err());
    }

    #[test]
    fn api_012_request_tokens_have_at_most_36_bytes() {
        let token = |len| request_token(&with(&REQUEST_TOKEN, &vec![b'x'; len]));
        assert!(token(36).unwrap().is_some());
        assert!(token(37).is_err());
        assert!(request_token(&HeaderMap::new()).unwrap().is_none());
    }

    #[test]
    fn a_header_given_twice_is_refused() {
        let mut headers = with(&BASIN, b"a");
        headers.append(BASIN, HeaderValue::from_static("b"));
        assert!(text(&headers, &BASIN).is_err());
    }
}
