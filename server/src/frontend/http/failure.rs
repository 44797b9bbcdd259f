//! Refusals and failures as responses.

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use millrace_api::error::ErrorCode;
use millrace_api::json::{self, ConditionFailed, ErrorBody, TailResponse};

use super::{headers, media, reply};
use crate::error::ServiceError;

/// A request's end without its result. Written as the API's error body, with the status that its code has.
#[derive(Debug)]
pub(super) struct Failure {
    error: ServiceError,
    /// Where HTTP has a word for it that the API's table of codes lacks.
    status: Option<StatusCode>,
}

impl Failure {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        ServiceError::new(code, message).into()
    }

    pub fn bad_header(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadHeader, message)
    }

    pub fn bad_json(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadJson, message)
    }

    pub fn bad_path(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadPath, message)
    }

    pub fn bad_query(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::BadQuery, message)
    }

    pub fn unknown_path() -> Self {
        let mut failure = Self::bad_path("there is nothing at this path");
        failure.status = Some(StatusCode::NOT_FOUND);
        failure
    }

    pub fn unknown_method() -> Self {
        let mut failure = Self::bad_path("this path does not take this method");
        failure.status = Some(StatusCode::METHOD_NOT_ALLOWED);
        failure
    }
}

impl From<ServiceError> for Failure {
    fn from(error: ServiceError) -> Self {
        Self { error, status: None }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = self.status.unwrap_or_else(|| status(&self.error));
        let mut response = reply::bytes(status, media::JSON, error_body(&self.error).into());
        if let ServiceError::Code {
            retry_after: Some(after),
            ..
        } = &self.error
        {
            let millis = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
            response
                .headers_mut()
                .insert(headers::RETRY_AFTER_MS, millis.into());
            let seconds = millis.div_ceil(1000);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

fn status(error: &ServiceError) -> StatusCode {
    StatusCode::from_u16(error.status()).expect("the table of codes holds valid statuses")
}

/// The body that tells a client of `error`, in a reply as in a session's terminal frame or event.
pub(super) fn error_body(error: &ServiceError) -> Vec<u8> {
    match error {
        ServiceError::Code { code, message, .. } => json::to_vec(&ErrorBody::new(*code, message.as_str())),
        ServiceError::WriterUnknown => json::to_vec(&ErrorBody::new(ErrorCode::Other, error.to_string())),
        ServiceError::FencingTokenMismatch { actual } => {
            json::to_vec(&ConditionFailed::FencingTokenMismatch(actual.clone()))
        }
        ServiceError::SeqNumMismatch { next } => json::to_vec(&ConditionFailed::SeqNumMismatch(*next)),
        ServiceError::ReadPastTail { tail } => json::to_vec(&TailResponse { tail: *tail }),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http_body_util::BodyExt;
    use millrace_api::name::FencingToken;
    use millrace_api::position::StreamPosition;

    use super::*;

    async fn answer(error: ServiceError) -> (u16, String, Option<String>) {
        let response = Failure::from(error).into_response();
        let retry = response
            .headers()
            .get("retry-after-ms")
            .map(|value| value.to_str().unwrap().to_owned());
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap(), retry)
    }

    #[tokio::test]
    async fn api_008_errors_have_code_and_message_and_the_status_of_the_table() {
        for code in ErrorCode::ALL {
            let (status, body, retry) = answer(ServiceError::new(*code, "why \"not\"")).await;
            assert_eq!(status, code.status());
            assert_eq!(body, format!(r#"{{"code":"{code}","message":"why \"not\""}}"#));
            assert_eq!(retry, None);
        }
    }

    #[tokio::test]
    async fn conditions_have_their_own_bodies() {
        let actual = FencingToken::new("t").unwrap();
        let (status, body, _) = answer(ServiceError::FencingTokenMismatch { actual }).await;
        assert_eq!(
            (status, body.as_str()),
            (412, r#"{"fencing_token_mismatch":"t"}"#)
        );
        let (status, body, _) = answer(ServiceError::SeqNumMismatch { next: 3 }).await;
        assert_eq!((status, body.as_str()), (412, r#"{"seq_num_mismatch":3}"#));
        let tail = StreamPosition::new(1, 2);
        let (status, body, _) = answer(ServiceError::ReadPastTail { tail }).await;
        assert_eq!(
            (status, body.as_str()),
            (416, r#"{"tail":{"seq_num":1,"timestamp":2}}"#)
        );
    }

    #[tokio::test]
    async fn the_time_to_wait_is_told_in_milliseconds() {
        let error = ServiceError::Code {
            code: ErrorCode::RateLimited,
            message: "slower".into(),
            retry_after: Some(Duration::from_millis(150)),
        };
        assert_eq!(answer(error).await.2.as_deref(), Some("150"));
    }
}
