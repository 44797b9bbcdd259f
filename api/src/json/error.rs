//! Bodies of requests that failed.

use std::borrow::Cow;

use serde::{Deserialize, Serialize};

use crate::error::ErrorCode;
use crate::name::FencingToken;
use crate::position::{SeqNum, StreamPosition};

/// The body of every error but 412 and 416.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// One of [`ErrorCode`]'s texts, or one that a newer server knows.
    pub code: Cow<'static, str>,
    pub message: String,
}

impl ErrorBody {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code: Cow::Borrowed(code.as_str()),
            message: message.into(),
        }
    }
}

/// 412: the append's condition does not hold; what holds instead.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ConditionFailed {
    /// The token in force.
    FencingTokenMismatch(FencingToken),
    /// The next sequence number to be assigned.
    SeqNumMismatch(SeqNum),
}

impl ConditionFailed {
    pub const STATUS: u16 = 412;
}

/// The reply to a check of the tail, and the body of a 416.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TailResponse {
    pub tail: StreamPosition,
}

impl TailResponse {
    /// As the answer to a read that starts where nothing can be read.
    pub const UNREADABLE_STATUS: u16 = 416;
}
