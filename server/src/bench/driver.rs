//! What the bench needs of an endpoint, whatever the protocol. Names no one: the workloads drive any of them.

use async_trait::async_trait;
use bytes::Bytes;
use millrace_api::config::StorageClass;
use millrace_api::record::SequencedRecord;
use url::Url;

use super::batch::EncodedBatch;

/// Why an endpoint could not be driven any further. Nothing is retried: a measured endpoint that breaks a session
/// has failed the measurement.
#[derive(Debug, thiserror::Error)]
pub enum DriveError {
    #[error("cannot connect to {endpoint}: {reason}")]
    Connect { endpoint: String, reason: String },
    #[error("the connection broke: {0}")]
    Broken(String),
    #[error("the endpoint answered {status}: {body}")]
    Refused { status: u16, body: String },
    #[error("the endpoint does not keep to the protocol: {0}")]
    Protocol(String),
    /// As the client library put it.
    #[error(transparent)]
    Client(#[from] millrace_client::Error),
}

impl DriveError {
    /// Whether the endpoint said that what was asked for does not exist.
    pub fn is_not_found(&self) -> bool {
        match self {
            Self::Refused { status, .. } => *status == 404,
            Self::Client(error) => error.code().is_some_and(|code| code.ends_with("_not_found")),
            _ => false,
        }
    }
}

/// Where an endpoint is and how to be let in.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Of basins; of streams too, with the basin in a header, unless `basin_url` is given.
    pub url: Url,
    /// Of streams. With `{basin}` in its host no header is sent.
    pub basin_url: Option<String>,
    /// Sent as a bearer token.
    pub token: Option<String>,
    /// Whether any certificate will do.
    pub insecure: bool,
}

/// A basin and a stream in it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct StreamRef {
    pub basin: String,
    pub stream: String,
}

/// Sequence numbers that one batch got: `start..end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ack {
    pub start: u64,
    /// Exclusive.
    pub end: u64,
}

/// Which of an endpoint's connections a session goes over. Writers and readers never share one, so that neither's
/// flow control holds back the other; among their own kind, sessions take turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    Writer(usize),
    Reader(usize),
}

/// An endpoint with its connections.
#[async_trait]
pub trait Driver: Send + Sync {
    /// Whether the basin exists.
    async fn has_basin(&self, basin: &str) -> Result<bool, DriveError>;
    async fn create_basin(&self, basin: &str) -> Result<(), DriveError>;
    /// Deletes the basin and its streams; may return before they are gone.
    async fn delete_basin(&self, basin: &str) -> Result<(), DriveError>;
    async fn create_stream(&self, stream: &StreamRef, class: StorageClass) -> Result<(), DriveError>;
    async fn delete_stream(&self, stream: &StreamRef) -> Result<(), DriveError>;
    /// Sequence number that the next record will get.
    async fn tail(&self, stream: &StreamRef) -> Result<u64, DriveError>;
    /// Opens an append session. What refuses it may be told by the first [`Acks::next`] only.
    async fn append_session(
        &self,
        stream: &StreamRef,
        lane: Lane,
    ) -> Result<(Box<dyn Inputs>, Box<dyn Acks>), DriveError>;
    /// Reads from the first record on, `until` exclusive; without it follows the stream for ever.
    async fn read_session(
        &self,
        stream: &StreamRef,
        until: Option<u64>,
        lane: Lane,
    ) -> Result<Box<dyn Batches>, DriveError>;
}

/// The sending side of an append session. Dropping it tells the endpoint that nothing more comes.
#[async_trait]
pub trait Inputs: Send {
    /// Hands a batch over; waits while the connection takes no more. `Ok` says nothing about the endpoint having
    /// it. Where the session has ended, the reason is with its [`Acks`] and this may be `Ok`.
    async fn send(&mut self, batch: &EncodedBatch) -> Result<(), DriveError>;
}

/// The acknowledgements of an append session, one per batch, in order.
#[async_trait]
pub trait Acks: Send {
    /// `None` after the last one. Cancel safe.
    async fn next(&mut self) -> Result<Option<Ack>, DriveError>;
}

/// What a read session delivers.
#[async_trait]
pub trait Batches: Send {
    /// The next batch, which may be a heartbeat without records; `None` after the last one. Cancel safe.
    async fn next(&mut self) -> Result<Option<Delivery>, DriveError>;
}

/// A delivered batch, in the form that its protocol's client has it in.
#[derive(Debug, Clone)]
pub enum Delivery {
    /// A protobuf `ReadBatch`.
    Encoded(Bytes),
    Records(Vec<SequencedRecord>),
}
