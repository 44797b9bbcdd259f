//! Appends: one at a time, and sessions of many.

use std::time::Duration;

use millrace_api::batch::AppendBatch;
use millrace_api::error::ErrorCode;
use millrace_api::id::StreamId;
use millrace_api::name::{BasinName, StreamName};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::resolve::Intent;
use super::types::AppendAck;
use super::{Frontend, refusal_error};
use crate::channel::handle::{ChannelHandle, Pending};
use crate::channel::message::{Refusal, SessionGate};
use crate::error::ServiceError;

/// What a batch costs in memory beside its records until it is acknowledged: headers, index entry, bookkeeping.
const BATCH_OVERHEAD_BYTES: usize = 512;

impl Frontend {
    /// Appends one batch; it is durable when this returns `Ok`.
    pub async fn append(
        &self,
        basin: &BasinName,
        stream: &StreamName,
        batch: AppendBatch,
    ) -> Result<AppendAck, ServiceError> {
        let resolved = self.resolve(basin, stream, Intent::Append).await?;
        let permit = self.room().for_batch(&batch).await?;
        let reply = resolved
            .channel
            .append(resolved.stream, batch, None, permit)
            .await;
        PendingAck {
            reply,
            timeout: self.limits.append_timeout,
        }
        .wait()
        .await
    }

    /// Opens a session on an existing stream, or on one that the basin lets appends create.
    pub async fn append_session(
        &self,
        basin: &BasinName,
        stream: &StreamName,
    ) -> Result<AppendSession, ServiceError> {
        let resolved = self.resolve(basin, stream, Intent::Append).await?;
        Ok(AppendSession {
            stream: resolved.stream,
            channel: resolved.channel,
            gate: SessionGate::default(),
            room: self.room(),
        })
    }

    fn room(&self) -> Room {
        Room {
            bytes: self.admission.clone(),
            bytes_max: self.limits.append_bytes_in_flight,
            timeout: self.limits.append_timeout,
        }
    }
}

/// The node's room for appends that are not acknowledged.
struct Room {
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    timeout: Duration,
}

impl Room {
    /// Waits until the batch fits; refuses it, with nothing applied, when that takes too long.
    async fn for_batch(&self, batch: &AppendBatch) -> Result<OwnedSemaphorePermit, ServiceError> {
        let bytes = (batch.encoded_len_max() + BATCH_OVERHEAD_BYTES).min(self.bytes_max);
        let bytes = u32::try_from(bytes).expect("a batch is smaller than 4 GiB");
        match timeout(self.timeout, self.bytes.clone().acquire_many_owned(bytes)).await {
            Ok(permit) => Ok(permit.expect("the semaphore is never closed")),
            Err(_) => Err(ServiceError::new(
                ErrorCode::HotServer,
                "too many appends wait for storage; nothing was applied, try again",
            )),
        }
    }
}

/// A session of appends to one stream, applied in the order of submission.
///
/// After the first input that fails nothing submitted later is applied. Dropping the session does not undo what was
/// submitted.
pub struct AppendSession {
    stream: StreamId,
    channel: ChannelHandle,
    gate: SessionGate,
    room: Room,
}

impl AppendSession {
    /// Waits for room, then hands the batch over. Acks are to be awaited in the order of submission.
    ///
    /// Not cancel safe: a cancelled call may have handed its batch over.
    pub async fn submit(&self, batch: AppendBatch) -> Result<PendingAck, ServiceError> {
        let permit = self.room.for_batch(&batch).await?;
        let reply = self
            .channel
            .append(self.stream, batch, Some(self.gate.clone()), permit)
            .await;
        Ok(PendingAck {
            reply,
            timeout: self.room.timeout,
        })
    }
}

/// An append on its way. Dropping it does not undo the append.
pub struct PendingAck {
    reply: Pending<AppendAck>,
    timeout: Duration,
}

impl PendingAck {
    /// Waits until the append is durable or has failed, at most for the node's append timeout.
    pub async fn wait(self) -> Result<AppendAck, ServiceError> {
        match timeout(self.timeout, self.reply).await {
            Ok(answer) => answer.unwrap_or(Err(Refusal::Unknown)).map_err(refusal_error),
            Err(_) => Err(ServiceError::new(
                ErrorCode::Other,
                format!(
                    "storage has not confirmed the append within {:?}; it may still become durable",
                    self.timeout
                ),
            )),
        }
    }
}
