//! What the service takes and gives, whatever protocol carries it.

use bytes::Bytes;
use millrace_api::config::{BasinConfig, Cipher, StreamConfig};
use millrace_api::limits::{BASIN_NAME_LEN_MAX, STREAM_NAME_LEN_MAX};
use millrace_api::name::{BasinName, RequestToken, StreamName};
use millrace_api::position::{SeqNum, StreamPosition};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BasinInfo {
    pub name: BasinName,
    pub location: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// Set from the moment of deletion until the name is free again.
    pub deleted_at_ms: Option<u64>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamInfo {
    pub name: StreamName,
    pub created_at_ms: u64,
    /// Set from the moment of deletion until the name is free again.
    pub deleted_at_ms: Option<u64>,
    pub cipher: Option<Cipher>,
}

/// What a create or an ensure did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProvisionOutcome {
    Created,
    Updated,
    /// Nothing: it was already so, or the request is a replay of the one that created it.
    Noop,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provisioned<T> {
    pub outcome: ProvisionOutcome,
    pub item: T,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateBasin {
    pub config: BasinConfig,
    pub location: Option<String>,
    /// Makes the request repeatable: the same token and configuration again answers the first outcome.
    pub request_token: Option<RequestToken>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CreateStream {
    pub config: StreamConfig,
    pub request_token: Option<RequestToken>,
}

/// Names in byte order, those with `prefix`, strictly after `start_after`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListRequest {
    pub prefix: String,
    pub start_after: String,
    /// 1 to [`millrace_api::limits::LIST_PAGE_MAX`]; every other value means that maximum.
    pub limit: usize,
}

impl ListRequest {
    /// Whether both texts are parts of basin names: nothing that no basin's name can contain or begin with. The error
    /// is meant for the client.
    pub fn check_basins(&self) -> Result<(), String> {
        for text in [&self.prefix, &self.start_after] {
            let possible = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
            if text.len() > BASIN_NAME_LEN_MAX || text.starts_with('-') || !text.bytes().all(possible) {
                return Err(format!("no basin name begins with {text:?}"));
            }
        }
        Ok(())
    }

    /// The same for stream names.
    pub fn check_streams(&self) -> Result<(), String> {
        match self.prefix.len().max(self.start_after.len()) > STREAM_NAME_LEN_MAX {
            true => Err(format!("a stream name has at most {STREAM_NAME_LEN_MAX} bytes")),
            false => Ok(()),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page<T> {
    pub items: Vec<T>,
    pub has_more: bool,
}

/// The batch is durable. `end` is exclusive and carries the last record's timestamp; `tail` may be further on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendAck {
    pub start: StreamPosition,
    pub end: StreamPosition,
    pub tail: StreamPosition,
}

/// Records as they are stored: `parts` in order are the bytes of `ReadBatch.records`, never cut inside a record.
#[derive(Debug, Clone, Default)]
pub struct RecordBatch {
    pub parts: Vec<Bytes>,
    pub count: usize,
    pub metered_bytes: usize,
    /// Sequence number of the last record; 0 when there is none.
    pub last_seq_num: SeqNum,
    /// Present when the batch was read near the tail.
    pub tail: Option<StreamPosition>,
}

impl RecordBatch {
    /// Adds the records that follow directly.
    pub fn extend(&mut self, next: RecordBatch) {
        self.parts.extend(next.parts);
        self.count += next.count;
        self.metered_bytes += next.metered_bytes;
        self.last_seq_num = next.last_seq_num;
        self.tail = next.tail;
    }
}

/// What a read session has to say next.
#[derive(Debug, Clone)]
pub enum ReadEvent {
    /// At least one record.
    Batch(RecordBatch),
    /// Nothing came for a while, and records are owed: whoever takes the tail for the place to go on from would miss
    /// them, so it is not told.
    KeepAlive,
    /// The reader stands at `tail`; nothing came for a while.
    Heartbeat { tail: StreamPosition, now_ms: u64 },
}
