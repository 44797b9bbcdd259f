//! Reads as asked for over gRPC, to and from [`crate::read`].

use std::time::Duration;

use super::read_request::Start;
use super::{InvalidMessage, ReadRequest};
use crate::name::{BasinName, StreamName};
use crate::read::{self, ReadQuery, ReadStart};

impl TryFrom<&ReadRequest> for read::ReadRequest {
    type Error = InvalidMessage;

    /// What a session of it reads; a unary read is cut down to its bounds where it is served.
    fn try_from(message: &ReadRequest) -> Result<Self, InvalidMessage> {
        let mut query = ReadQuery {
            clamp: Some(message.clamp),
            count: message.count.map(saturated),
            bytes: message.bytes.map(saturated),
            until: message.until,
            ..ReadQuery::default()
        };
        match message.start {
            None => {}
            Some(Start::SeqNum(seq_num)) => query.seq_num = Some(seq_num),
            Some(Start::Timestamp(timestamp)) => query.timestamp = Some(timestamp),
            Some(Start::TailOffset(offset)) => query.tail_offset = Some(offset),
        }
        let mut request = Self::session(&query).map_err(|error| InvalidMessage(error.to_string()))?;
        request.wait = message.wait_ms.map(Duration::from_millis);
        Ok(request)
    }
}

impl ReadRequest {
    /// The message that asks for `request`. A wait is rounded up to whole milliseconds.
    pub fn new(basin: &BasinName, stream: &StreamName, request: &read::ReadRequest) -> Self {
        let wait_ms = |wait: Duration| u64::try_from(wait.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX);
        Self {
            basin: basin.to_string(),
            stream: stream.to_string(),
            start: Some(match request.start {
                ReadStart::SeqNum(seq_num) => Start::SeqNum(seq_num),
                ReadStart::Timestamp(timestamp) => Start::Timestamp(timestamp),
                ReadStart::TailOffset(offset) => Start::TailOffset(offset),
            }),
            clamp: request.clamp,
            count: request.limits.count.map(|count| count as u64),
            bytes: request.limits.bytes.map(|bytes| bytes as u64),
            until: request.limits.until,
            wait_ms: request.wait.map(wait_ms),
        }
    }
}

/// More than fits in memory is as good as no limit.
fn saturated(limit: u64) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}
