//! Failures as gRPC statuses, each with the detail that says what HTTP would say.

use axum::response::{IntoResponse, Response};
use millrace_api::error::ErrorCode;
use millrace_api::grpc::error_detail::Reason;
use millrace_api::grpc::{ErrorDetail, InvalidMessage, encode_status_details};
use tonic::{Code, Status};

use crate::error::ServiceError;

/// The status of a failed call.
pub(super) fn status(error: &ServiceError) -> Status {
    let (code, message) = match error {
        ServiceError::Code { code, message, .. } => (grpc_code(*code), message.clone()),
        ServiceError::FencingTokenMismatch { .. } | ServiceError::SeqNumMismatch { .. } => {
            (Code::FailedPrecondition, error.to_string())
        }
        ServiceError::WriterUnknown => (grpc_code(ErrorCode::Other), error.to_string()),
        ServiceError::ReadPastTail { .. } => (Code::OutOfRange, error.to_string()),
    };
    let details = encode_status_details(code as i32, &message, &detail(error));
    Status::with_details(code, message, details)
}

impl From<ServiceError> for Status {
    fn from(error: ServiceError) -> Self {
        status(&error)
    }
}

/// The one table from S2's codes to gRPC's.
const fn grpc_code(code: ErrorCode) -> Code {
    use ErrorCode::*;
    match code {
        BadFrame | BadHeader | BadJson | BadPath | BadProto | BadQuery | DecryptionFailed | Invalid => {
            Code::InvalidArgument
        }
        AccessTokenNotFound | BasinNotFound | StreamNotFound => Code::NotFound,
        Authn => Code::Unauthenticated,
        PermissionDenied => Code::PermissionDenied,
        QuotaExhausted | RateLimited => Code::ResourceExhausted,
        ResourceAlreadyExists => Code::AlreadyExists,
        BasinDeletionPending | StreamDeletionPending => Code::FailedPrecondition,
        TransactionConflict => Code::Aborted,
        ClientHangup => Code::Cancelled,
        RequestTimeout | UpstreamTimeout => Code::DeadlineExceeded,
        HotServer | ServerDraining | Unavailable => Code::Unavailable,
        NotImplemented => Code::Unimplemented,
        Other => Code::Unknown,
        Storage => Code::Internal,
    }
}

fn detail(error: &ServiceError) -> ErrorDetail {
    let reason = |reason| ErrorDetail {
        reason: Some(reason),
        ..ErrorDetail::default()
    };
    match error {
        ServiceError::Code {
            code, retry_after, ..
        } => ErrorDetail {
            code: code.as_str().to_owned(),
            retryable: code.retryable(),
            may_have_happened: code.may_have_happened(),
            retry_after_ms: retry_after.map(|after| u64::try_from(after.as_millis()).unwrap_or(u64::MAX)),
            reason: None,
        },
        ServiceError::FencingTokenMismatch { actual } => {
            reason(Reason::FencingTokenMismatch(actual.as_str().to_owned()))
        }
        ServiceError::SeqNumMismatch { next } => reason(Reason::SeqNumMismatch(*next)),
        ServiceError::ReadPastTail { tail } => reason(Reason::ReadPastTail((*tail).into())),
        // Never retryable, other than its code: the writer does not come back.
        ServiceError::WriterUnknown => ErrorDetail {
            code: ErrorCode::Other.as_str().to_owned(),
            may_have_happened: true,
            ..reason(Reason::WriterUnknown(true))
        },
    }
}

pub(super) fn invalid(error: InvalidMessage) -> Status {
    status(&ServiceError::invalid(error.to_string()))
}

/// What a message that could not be read ends its call with.
pub(super) fn unreadable(found: Status) -> Status {
    match found.code() {
        // Too long, cut short, or compressed in a way that was not announced.
        _ if !found.details().is_empty() => found,
        Code::OutOfRange | Code::Internal | Code::ResourceExhausted => {
            status(&ServiceError::new(ErrorCode::BadProto, found.message()))
        }
        Code::Unimplemented => status(&ServiceError::new(ErrorCode::NotImplemented, found.message())),
        _ => found,
    }
}

/// The reply with a detail, if it is a failure that has none yet: one that no service was asked about.
pub(super) fn completed(reply: Response) -> Response {
    match Status::from_header_map(reply.headers()) {
        Some(found) if found.code() != Code::Ok && found.details().is_empty() => {
            unreadable(found).into_http::<tonic::body::Body>().into_response()
        }
        _ => reply,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use millrace_api::grpc::decode_status_details;
    use millrace_api::name::FencingToken;
    use millrace_api::position::StreamPosition;

    use super::*;

    fn told(error: &ServiceError) -> (Code, ErrorDetail) {
        let status = status(error);
        (
            status.code(),
            decode_status_details(status.details()).expect("a detail"),
        )
    }

    #[test]
    fn every_code_is_told_with_its_promises() {
        for &code in ErrorCode::ALL {
            let (_, detail) = told(&ServiceError::new(code, "why"));
            assert_eq!(detail.code, code.as_str());
            assert_eq!(detail.retryable, code.retryable());
            assert_eq!(detail.may_have_happened, code.may_have_happened());
            assert_eq!((detail.retry_after_ms, detail.reason), (None, None));
        }
    }

    #[test]
    fn no_failure_is_ok_and_only_what_may_pass_is_unavailable() {
        for &code in ErrorCode::ALL {
            let grpc = grpc_code(code);
            assert_ne!(grpc, Code::Ok);
            if grpc == Code::Unavailable {
                assert!(code.retryable(), "clients retry {code} by themselves");
            }
        }
    }

    #[test]
    fn conditions_carry_what_is_in_force() {
        let actual = FencingToken::new("t").unwrap();
        let (code, detail) = told(&ServiceError::FencingTokenMismatch { actual });
        assert_eq!(code, Code::FailedPrecondition);
        assert_eq!(detail.reason, Some(Reason::FencingTokenMismatch("t".into())));
        let (code, detail) = told(&ServiceError::SeqNumMismatch { next: 0 });
        assert_eq!(code, Code::FailedPrecondition);
        assert_eq!(detail.reason, Some(Reason::SeqNumMismatch(0)));
        let tail = StreamPosition::new(1, 2);
        let (code, detail) = told(&ServiceError::ReadPastTail { tail });
        assert_eq!(code, Code::OutOfRange);
        assert_eq!(detail.reason, Some(Reason::ReadPastTail(tail.into())));
        assert!(!detail.retryable && !detail.may_have_happened);
        let (code, detail) = told(&ServiceError::WriterUnknown);
        assert_eq!(code, Code::Unknown);
        assert_eq!(detail.reason, Some(Reason::WriterUnknown(true)));
        assert!(!detail.retryable && detail.may_have_happened);
    }

    #[test]
    fn the_time_to_wait_is_told_in_milliseconds() {
        let error = ServiceError::Code {
            code: ErrorCode::RateLimited,
            message: "slower".into(),
            retry_after: Some(Duration::from_millis(150)),
        };
        assert_eq!(told(&error).1.retry_after_ms, Some(150));
    }

    #[test]
    fn a_status_with_a_detail_is_left_as_it_is() {
        let before = status(&ServiceError::new(ErrorCode::Storage, "why"));
        let after = unreadable(before.clone());
        assert_eq!(after.code(), Code::Internal);
        assert_eq!(after.details(), before.details());
    }
}
