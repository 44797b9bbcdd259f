//! What a client may be told when a request fails, and what is then true.

use std::time::Duration;

use millrace_api::error::ErrorCode;
use millrace_api::name::FencingToken;
use millrace_api::position::{SeqNum, StreamPosition};

/// A refusal or failure on its way to a client. [`ErrorCode`] says what it promises about side effects.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ServiceError {
    #[error("{code}: {message}")]
    Code {
        code: ErrorCode,
        message: String,
        retry_after: Option<Duration>,
    },
    /// 412. Judged against durable state; nothing was applied.
    #[error("the fencing token in force is {actual:?}")]
    FencingTokenMismatch { actual: FencingToken },
    /// 412. Judged against durable state; nothing was applied.
    #[error("the next sequence number is {next}")]
    SeqNumMismatch { next: SeqNum },
    /// 500, code `other`. The session's writer is not known any more: inputs without an acknowledgement may have been
    /// applied.
    #[error(
        "the session's writer is not known any more; inputs without an acknowledgement may have been applied"
    )]
    WriterUnknown,
    /// 416. The read starts at or beyond the tail and may not wait there.
    #[error("the stream ends at {}", tail.seq_num)]
    ReadPastTail { tail: StreamPosition },
}

impl ServiceError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::Code {
            code,
            message: message.into(),
            retry_after: None,
        }
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    pub fn not_implemented(what: &str) -> Self {
        Self::new(
            ErrorCode::NotImplemented,
            format!("{what} is not implemented by this server"),
        )
    }

    /// What a session, or a request that came too late, is told when the node is about to stop.
    pub fn draining() -> Self {
        Self::new(ErrorCode::ServerDraining, "this node is stopping")
    }

    /// HTTP status of the answer.
    pub fn status(&self) -> u16 {
        match self {
            Self::Code { code, .. } => code.status(),
            Self::WriterUnknown => ErrorCode::Other.status(),
            Self::FencingTokenMismatch { .. } | Self::SeqNumMismatch { .. } => 412,
            Self::ReadPastTail { .. } => 416,
        }
    }
}
