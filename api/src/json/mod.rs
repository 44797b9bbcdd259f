//! The JSON of the S2 v1 API: requests, replies and error bodies, each a type whose fields are the members.
//!
//! Unknown members are passed over. A wrong type, a negative number or an unknown word is [`BadJson`]; a value
//! that has the right type and is refused all the same is the domain type's error.

mod append;
mod config;
mod encoding;
mod error;
mod name;
mod read;
mod resource;
mod time;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use append::{AppendAck, AppendInput, AppendRecord};
pub use config::{
    BasinConfig, BasinReconfiguration, DeleteOnEmptyConfig, DeleteOnEmptyReconfiguration, RetentionPolicy,
    StreamConfig, StreamReconfiguration, TimestampingConfig, TimestampingReconfiguration,
};
pub use encoding::Format;
pub use error::{ConditionFailed, ErrorBody, TailResponse};
pub use read::{ReadBatch, SequencedRecord, write_read_batch};
pub use resource::{
    BasinInfo, CreateBasinRequest, CreateStreamRequest, EnsureBasinRequest, ListBasinsResponse,
    ListStreamsResponse, State, StreamInfo,
};
pub use time::Rfc3339;

use crate::error::ErrorCode;

/// Text that is not JSON, or JSON of another shape; the text is meant for the client.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct BadJson(#[from] serde_json::Error);

impl BadJson {
    pub fn code(&self) -> ErrorCode {
        ErrorCode::BadJson
    }
}

/// Reads a body that must be there. An array is none: every body of the API is an object, whose members have
/// names. Depth of nesting costs no stack.
pub fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, BadJson> {
    if body.trim_ascii_start().starts_with(b"[") {
        return Err(BadJson(serde::de::Error::custom(
            "expected an object, not an array",
        )));
    }
    Ok(serde_json::from_slice(body)?)
}

/// Reads a body that may be missing: `None` for no bytes, for white space, and for `null`.
pub fn parse_optional<T: DeserializeOwned>(body: &[u8]) -> Result<Option<T>, BadJson> {
    match body.trim_ascii() {
        [] => Ok(None),
        body => parse(body),
    }
}

/// Writes a body, on one line.
///
/// # Panics
/// If the type cannot be JSON, such as a map whose keys are not text; none of this module's is like that.
pub fn to_vec(body: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(body).expect("the type has a JSON form and memory does not fail to write")
}

#[cfg(test)]
mod tests;
