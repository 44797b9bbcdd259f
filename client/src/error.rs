//! What can go wrong, by what the caller can do about it.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use millrace_api::error::ErrorCode;
use millrace_api::grpc::error_detail::Reason;
use millrace_api::grpc::{ErrorDetail, decode_status_details};
use millrace_api::position::{SeqNum, StreamPosition};
use tonic::{Code, Status};

/// A call or session that failed.
///
/// Two questions decide what to do next. [`retryable`](Self::retryable): can the same request succeed later?
/// [`may_have_happened`](Self::may_have_happened): can it have been applied although it failed? A request that is
/// retryable and did not happen may be made again without a second thought; the client did so already, as far as its
/// [`RetryPolicy`](crate::RetryPolicy) went.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The request makes no sense, and was not sent.
    #[error("invalid request: {0}")]
    Invalid(Arc<str>),
    /// No connection could be made; the request was not sent.
    #[error("not connected: {0}")]
    Unreachable(Arc<str>),
    /// The connection broke between the request and its answer.
    #[error("connection broke: {0}")]
    Broken(Arc<str>),
    /// No answer came in time.
    #[error("no answer within {0:?}")]
    Timeout(Duration),
    /// The server answered with an error.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The append's fencing token is not the one in force. Nothing was appended.
    #[error("the stream is fenced with the token {in_force:?}")]
    FencingTokenMismatch {
        /// The token in force; empty if there is none.
        in_force: Arc<str>,
    },
    /// The append's `match_seq_num` is not the next sequence number. Nothing was appended.
    #[error("the next sequence number is {next}")]
    SeqNumMismatch {
        /// What the first record would have got.
        next: SeqNum,
    },
    /// The read starts at or beyond the tail, and was not to wait there.
    #[error("the read starts at or beyond the tail, which is {}", tail.seq_num)]
    PastTail {
        /// Where the stream ends.
        tail: StreamPosition,
    },
    /// The server no longer knows the writer of an append session. Seen as the cause of [`Error::Unknown`].
    #[error("the session's writer is not known any more")]
    WriterUnknown {
        /// As the server says of the inputs that were not acknowledged.
        may_have_happened: bool,
    },
    /// The server's answer breaks the protocol; nothing of it was used.
    #[error("the server's answer makes no sense: {0}")]
    Corrupt(Arc<str>),
    /// Nothing of this input was appended: its session ended before, for the reason given.
    #[error("not appended, the session had ended: {0}")]
    NotApplied(#[source] Arc<Error>),
    /// Whether the request was applied is not known and cannot be found out by asking again. The reason is why the
    /// last try failed.
    #[error("outcome unknown: {0}")]
    Unknown(#[source] Arc<Error>),
    /// The session was closed, or the runtime that it lived on is gone.
    #[error("the session is closed")]
    Closed,
}

/// An error that the server answered with.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message} ({code})")]
#[non_exhaustive]
pub struct ServerError {
    /// A code of the S2 v1 API, such as `stream_not_found`. If something between here and the server answered, the
    /// name of the gRPC status instead.
    pub code: String,
    /// For people.
    pub message: String,
    /// See [`Error::retryable`].
    pub retryable: bool,
    /// See [`Error::may_have_happened`].
    pub may_have_happened: bool,
    /// How long to wait before the next try, when the server knows.
    pub retry_after: Option<Duration>,
    /// Another node may well do better now.
    pub(crate) blames_node: bool,
}

impl Error {
    /// Whether the same request may succeed later, without change.
    ///
    /// Says nothing of what it did the first time: see [`may_have_happened`](Self::may_have_happened).
    pub fn retryable(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Broken(_) | Self::Timeout(_) | Self::WriterUnknown { .. } => true,
            Self::Server(error) => error.retryable,
            Self::NotApplied(cause) | Self::Unknown(cause) => cause.retryable(),
            Self::Invalid(_)
            | Self::FencingTokenMismatch { .. }
            | Self::SeqNumMismatch { .. }
            | Self::PastTail { .. }
            | Self::Corrupt(_)
            | Self::Closed => false,
        }
    }

    /// Whether the request may have been applied although it failed. False is a promise.
    pub fn may_have_happened(&self) -> bool {
        match self {
            Self::Broken(_) | Self::Timeout(_) | Self::Corrupt(_) | Self::Unknown(_) => true,
            Self::Server(error) => error.may_have_happened,
            Self::WriterUnknown { may_have_happened } => *may_have_happened,
            Self::Invalid(_)
            | Self::Unreachable(_)
            | Self::FencingTokenMismatch { .. }
            | Self::SeqNumMismatch { .. }
            | Self::PastTail { .. }
            | Self::NotApplied(_)
            | Self::Closed => false,
        }
    }

    /// The server's code, such as `stream_not_found`, if it answered with one; also that of a session's cause.
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Server(error) => Some(&error.code),
            Self::NotApplied(cause) | Self::Unknown(cause) => cause.code(),
            _ => None,
        }
    }

    /// How long the server asks to wait before the next try.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Server(error) => error.retry_after,
            _ => None,
        }
    }

    /// A condition of the append that did not hold: its own outcome, and that of nothing else.
    pub(crate) fn is_condition(&self) -> bool {
        matches!(
            self,
            Self::FencingTokenMismatch { .. } | Self::SeqNumMismatch { .. }
        )
    }

    /// Whether the node that was asked should rest.
    pub(crate) fn blames_node(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Broken(_) | Self::Timeout(_) => true,
            Self::Server(error) => error.blames_node,
            _ => false,
        }
    }

    /// The same failure after an earlier try of the request that may have been applied.
    pub(crate) fn after_maybe(self) -> Self {
        match self {
            error if error.may_have_happened() => error,
            error => Self::Unknown(Arc::new(error)),
        }
    }

    pub(crate) fn invalid(text: impl AsRef<str>) -> Self {
        Self::Invalid(text.as_ref().into())
    }

    pub(crate) fn corrupt(text: impl AsRef<str>) -> Self {
        Self::Corrupt(text.as_ref().into())
    }
}

impl From<Status> for Error {
    fn from(status: Status) -> Self {
        if let Some(detail) = decode_status_details(status.details()) {
            return from_detail(detail, &status);
        }
        if status.source().is_some() {
            return from_transport(&status);
        }
        from_code(&status)
    }
}

fn from_detail(detail: ErrorDetail, status: &Status) -> Error {
    match detail.reason {
        Some(Reason::FencingTokenMismatch(token)) => Error::FencingTokenMismatch {
            in_force: token.into(),
        },
        Some(Reason::SeqNumMismatch(next)) => Error::SeqNumMismatch { next },
        Some(Reason::ReadPastTail(tail)) => Error::PastTail { tail: tail.into() },
        Some(Reason::WriterUnknown(_)) => Error::WriterUnknown {
            may_have_happened: detail.may_have_happened,
        },
        None => {
            let draining = [ErrorCode::ServerDraining, ErrorCode::Unavailable]
                .iter()
                .any(|code| code.as_str() == detail.code);
            Error::Server(Box::new(ServerError {
                blames_node: draining,
                code: detail.code,
                message: status.message().to_owned(),
                retryable: detail.retryable,
                may_have_happened: detail.may_have_happened,
                retry_after: detail.retry_after_ms.map(Duration::from_millis),
            }))
        }
    }
}

/// The status was made on this side of the connection. Only where the cause shows that no byte of the request went
/// out is it known not to have happened: no connection was there, or it closed before the request's turn came.
fn from_transport(status: &Status) -> Error {
    let mut source = status.source();
    let mut text = status.message().to_owned();
    while let Some(error) = source {
        text = error.to_string();
        let unsent = error.is::<tonic::ConnectError>()
            || error
                .downcast_ref::<hyper::Error>()
                .is_some_and(hyper::Error::is_canceled);
        if unsent {
            return Error::Unreachable(text.into());
        }
        source = error.source();
    }
    Error::Broken(text.into())
}

/// Somebody answered who is not Millrace, such as a proxy, or the answer was cut off.
fn from_code(status: &Status) -> Error {
    let (retryable, may_have_happened) = match status.code() {
        Code::InvalidArgument
        | Code::NotFound
        | Code::AlreadyExists
        | Code::PermissionDenied
        | Code::FailedPrecondition
        | Code::OutOfRange
        | Code::Unauthenticated
        | Code::Unimplemented => (false, false),
        Code::Ok | Code::DataLoss => (false, true),
        Code::Cancelled
        | Code::Unknown
        | Code::DeadlineExceeded
        | Code::ResourceExhausted
        | Code::Aborted
        | Code::Internal
        | Code::Unavailable => (true, true),
    };
    Error::Server(Box::new(ServerError {
        code: format!("{:?}", status.code()),
        message: status.message().to_owned(),
        retryable,
        may_have_happened,
        retry_after: None,
        blames_node: retryable,
    }))
}

#[cfg(test)]
mod tests {
    use millrace_api::grpc::encode_status_details;

    use super::*;

    fn detailed(detail: &ErrorDetail) -> Error {
        let details = encode_status_details(Code::Aborted as i32, "text", detail);
        Status::with_details(Code::Aborted, "text", details).into()
    }

    #[test]
    fn the_detail_of_a_status_decides_and_not_its_code() {
        let error = detailed(&ErrorDetail {
            code: "hot_server".into(),
            retryable: true,
            may_have_happened: false,
            retry_after_ms: Some(7),
            reason: None,
        });
        assert!(error.retryable() && !error.may_have_happened());
        assert_eq!(error.code(), Some("hot_server"));
        assert_eq!(error.retry_after(), Some(Duration::from_millis(7)));
    }

    #[test]
    fn conditions_are_final_and_did_not_happen() {
        for reason in [
            Reason::FencingTokenMismatch("t".into()),
            Reason::SeqNumMismatch(7),
        ] {
            let error = detailed(&ErrorDetail {
                reason: Some(reason),
                ..Default::default()
            });
            assert!(
                error.is_condition() && !error.retryable() && !error.may_have_happened(),
                "{error}"
            );
        }
    }

    #[test]
    fn a_status_of_unknown_origin_may_have_happened_unless_it_refuses() {
        let error = Error::from(Status::unavailable("proxy"));
        assert!(error.retryable() && error.may_have_happened() && error.blames_node());
        let error = Error::from(Status::not_found("proxy"));
        assert!(!error.retryable() && !error.may_have_happened());
    }

    #[test]
    fn a_failed_connection_did_not_send_the_request() {
        let refused = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let status = Status::from_error(Box::new(tonic::ConnectError(Box::new(refused))));
        let error = Error::from(status);
        assert!(matches!(error, Error::Unreachable(_)), "{error:?}");
        assert!(!error.may_have_happened());
    }

    #[test]
    fn a_refusal_after_a_try_of_unknown_outcome_is_unknown() {
        let error = Error::SeqNumMismatch { next: 3 }.after_maybe();
        assert!(error.may_have_happened() && matches!(error, Error::Unknown(_)));
    }
}
