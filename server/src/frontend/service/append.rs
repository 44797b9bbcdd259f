//! Appends, one at a time; sessions of many are in [`super::session`].

use std::sync::Arc;
use std::time::Duration;

use millrace_api::batch::AppendBatch;
use millrace_api::error::ErrorCode;
use millrace_api::name::{BasinName, StreamName};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::Frontend;
use super::resolve::Intent;
use super::types::AppendAck;
use crate::channel::handle::Pending;
use crate::channel::message::{Refusal, Source};
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
        let input = batch.input().clone();
        let mut batch = Some(batch);
        let room = self.room();
        let mut asking = self.asking(basin, stream, Intent::Append);
        loop {
            let resolved = asking.owner().await?;
            let batch = match batch.take() {
                Some(batch) => batch,
                None => AppendBatch::decode(input.clone()).expect("it was decoded before"),
            };
            let permit = room.for_batch(&batch).await?;
            let reply = resolved
                .channel
                .append(resolved.stream, batch, Source::Unary, permit)
                .await;
            match settled(reply, room.timeout).await? {
                Ok(ack) => return Ok(ack),
                Err(refused) => asking.refused(refused).await?,
            }
        }
    }

    /// Room for appends that are not acknowledged.
    pub(crate) fn room(&self) -> Room {
        Room {
            bytes: self.admission.clone(),
            bytes_max: self.limits.append_bytes_in_flight,
            timeout: self.limits.append_timeout,
        }
    }
}

/// The node's room for appends that are not acknowledged. Clones share it.
#[derive(Clone)]
pub struct Room {
    bytes: Arc<Semaphore>,
    bytes_max: usize,
    timeout: Duration,
}

impl Room {
    /// Waits until the batch fits; refuses it, with nothing applied, when that takes too long.
    pub async fn for_batch(&self, batch: &AppendBatch) -> Result<OwnedSemaphorePermit, ServiceError> {
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

    /// How long an append waits for room, and then for storage.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }
}

/// What became of an append that was handed over: the channel's answer, or that there is none within `wait`.
pub(super) async fn settled(
    reply: Pending<AppendAck>,
    wait: Duration,
) -> Result<Result<AppendAck, Refusal>, ServiceError> {
    match timeout(wait, reply).await {
        Ok(answer) => Ok(answer.unwrap_or(Err(Refusal::Unknown))),
        Err(_) => Err(ServiceError::new(
            ErrorCode::Other,
            format!("storage has not confirmed the append within {wait:?}; it may still become durable"),
        )),
    }
}
