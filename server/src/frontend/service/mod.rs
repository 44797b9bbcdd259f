//! The operations of the S2 API over domain types, whatever protocol carries them.
//!
//! - A request is resolved against the metadata first, then goes to the channel that owns the stream, or to the one
//!   that takes it if it is dormant: the same one for every request.
//! - A failure says whether the request may have been applied: see [`crate::error::ServiceError`].

mod append;
mod basins;
mod convert;
mod cut;
mod follow;
mod lifecycle;
mod owner;
mod read;
mod resolve;
mod session;
mod stored;
mod streams;
pub mod types;

use std::sync::Arc;
use std::time::Duration;

use millrace_api::config::StorageClass;
use millrace_api::error::ErrorCode;
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use tokio::sync::Semaphore;
use tokio::time::timeout;

pub use self::append::Room;
use self::follow::Followed;
pub use self::lifecycle::Lifecycle;
pub use self::read::ReadSession;
pub use self::resolve::Intent;
pub use self::session::{AppendSession, PendingAck, Writer};
use crate::channel::message::Refusal;
pub use crate::channel::writers::SESSION_WINDOW;
use crate::channels::Channels;
use crate::chunk_reader::ChunkReader;
use crate::env::Env;
use crate::error::ServiceError;
use crate::segment_reader::SegmentReader;

/// Bounds of what clients can make the node hold, and of how long they wait.
#[derive(Debug, Clone)]
pub struct ServiceLimits {
    /// Bytes of appends that are admitted and not acknowledged, over all clients.
    pub append_bytes_in_flight: usize,
    /// How long an append waits for room before it is refused, and then again for storage.
    pub append_timeout: Duration,
    /// Whether the cell can have streams of class Standard.
    pub standard_streams: bool,
}

/// What every protocol calls. One per node, shared by all connections.
pub struct Frontend {
    env: Env,
    meta: Meta,
    channels: Channels,
    chunks: Arc<ChunkReader>,
    segments: Arc<SegmentReader>,
    followed: Followed,
    limits: ServiceLimits,
    admission: Arc<Semaphore>,
    lifecycle: Lifecycle,
}

impl Frontend {
    pub fn new(
        env: Env,
        meta: Meta,
        channels: Channels,
        chunks: Arc<ChunkReader>,
        segments: Arc<SegmentReader>,
        limits: ServiceLimits,
        lifecycle: Lifecycle,
    ) -> Self {
        let admission = Arc::new(Semaphore::new(limits.append_bytes_in_flight));
        Self {
            env,
            meta,
            channels,
            chunks,
            segments,
            followed: Followed::default(),
            limits,
            admission,
            lifecycle,
        }
    }

    /// Refuses a class that the cell has nothing to store in.
    fn check_class(&self, class: Option<StorageClass>) -> Result<(), ServiceError> {
        match class {
            Some(StorageClass::Standard) if !self.limits.standard_streams => Err(ServiceError::invalid(
                "there are no streams of storage class standard here: the cluster has no store for them (--store). \
                 Use express",
            )),
            _ => Ok(()),
        }
    }

    /// Whether the node can serve.
    pub fn ready(&self) -> bool {
        self.lifecycle.is_ready()
    }

    /// Whether a graceful stop has begun: new requests are refused with `server_draining`.
    pub fn draining(&self) -> bool {
        self.lifecycle.is_draining()
    }

    /// Resolves when the node can serve. Cancel safe.
    pub async fn readied(&self) {
        self.lifecycle.readied().await;
    }

    /// Resolves when draining begins. Cancel safe.
    pub async fn drained(&self) {
        self.lifecycle.drained().await;
    }

    /// Room for appends that are not acknowledged, and how much there is when none waits.
    pub fn append_room(&self) -> (Arc<Semaphore>, usize) {
        (self.admission.clone(), self.limits.append_bytes_in_flight)
    }

    /// Refuses new work while the node stops.
    fn admit(&self) -> Result<(), ServiceError> {
        match self.lifecycle.is_draining() {
            true => Err(ServiceError::new(
                ErrorCode::ServerDraining,
                "this node is stopping",
            )),
            false => Ok(()),
        }
    }

    /// Waits until this node's state holds everything that was committed before the call.
    async fn linearize(&self) -> Result<(), ServiceError> {
        const METADATA_TIMEOUT: Duration = Duration::from_secs(5);
        match timeout(METADATA_TIMEOUT, self.meta.linearize()).await {
            Ok(result) => result.map(|_index| ()).map_err(|error| read_error(&error)),
            Err(_) => Err(ServiceError::new(
                ErrorCode::Unavailable,
                "the metadata group does not answer",
            )),
        }
    }
}

/// A read of metadata failed; reads change nothing, whatever became of the call.
fn read_error(error: &MetaError) -> ServiceError {
    match error {
        MetaError::Store(_) => ServiceError::new(ErrorCode::Storage, error.to_string()),
        _ => ServiceError::new(ErrorCode::Unavailable, error.to_string()),
    }
}

/// A change of metadata failed.
fn change_error(error: &MetaError) -> ServiceError {
    let code = match error {
        MetaError::Refused(refused) => refused.code(),
        error if error.may_have_happened() => ErrorCode::Other,
        MetaError::Store(_) => ErrorCode::Storage,
        _ => ErrorCode::HotServer,
    };
    ServiceError::new(code, error.to_string())
}

/// What a client is told when a channel refused its request.
fn refusal_error(refusal: Refusal) -> ServiceError {
    let message = refusal.to_string();
    let code = match refusal {
        Refusal::FencingTokenMismatch { actual } => return ServiceError::FencingTokenMismatch { actual },
        Refusal::SeqNumMismatch { next } => return ServiceError::SeqNumMismatch { next },
        Refusal::WriterUnknown => return ServiceError::WriterUnknown,
        Refusal::NotHere { .. }
        | Refusal::Stopped
        | Refusal::Unreachable
        | Refusal::SessionEnded
        | Refusal::Full
        | Refusal::Metadata(_) => ErrorCode::HotServer,
        Refusal::NoLease => ErrorCode::Unavailable,
        Refusal::Deleting => ErrorCode::StreamDeletionPending,
        Refusal::NotFound => ErrorCode::StreamNotFound,
        Refusal::Invalid(_) => ErrorCode::Invalid,
        Refusal::Unknown => ErrorCode::Other,
    };
    ServiceError::new(code, message)
}
