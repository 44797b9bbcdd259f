//! Appends: one at a time, and sessions of many.

use std::sync::Arc;
use std::time::Duration;

use millrace_api::batch::AppendBatch;
use millrace_api::error::ErrorCode;
use millrace_api::id::{StreamId, WriterId};
use millrace_api::name::{BasinName, StreamName};
use millrace_api::position::SeqNum;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use super::resolve::{Intent, Resolved};
use super::types::AppendAck;
use super::{Frontend, refusal_error};
use crate::channel::handle::{ChannelHandle, Pending};
use crate::channel::message::{Refusal, SessionGate, Source};
use crate::channel::writers::WriterInput;
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
            .append(resolved.stream, batch, Source::Unary, permit)
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
        Ok(self.session(resolved))
    }

    /// Opens a session whose inputs are numbered, so that it outlives breaks: see [`Writer`].
    pub async fn open_writer(
        &self,
        basin: &BasinName,
        stream: &StreamName,
    ) -> Result<(AppendSession, Writer), ServiceError> {
        let mut resolved = self.resolve(basin, stream, Intent::Append).await?;
        if resolved.dormant.is_some() {
            self.linearize().await?;
            resolved = self.resolve(basin, stream, Intent::Append).await?;
        }
        let tail = match resolved.dormant {
            Some(dormant) => dormant.tail,
            None => resolved
                .channel
                .check_tail(resolved.stream)
                .await
                .map_err(refusal_error)?,
        };
        let writer = Writer {
            // 0 stands for none.
            id: WriterId((self.env.random_u128() as u64).max(1)),
            stream: resolved.stream,
            opened_at: tail.seq_num,
        };
        Ok((self.session(resolved), writer))
    }

    /// Goes on with a writer in a new session. Inputs that were not acknowledged are to be submitted again, in
    /// order and under their numbers.
    pub async fn resume_writer(
        &self,
        basin: &BasinName,
        stream: &StreamName,
        writer: Writer,
    ) -> Result<AppendSession, ServiceError> {
        let resolved = self.resolve(basin, stream, Intent::Append).await?;
        if resolved.stream != writer.stream {
            return Err(ServiceError::WriterUnknown);
        }
        Ok(self.session(resolved))
    }

    fn session(&self, resolved: Resolved) -> AppendSession {
        AppendSession {
            stream: resolved.stream,
            channel: resolved.channel,
            gate: SessionGate::default(),
            room: self.room(),
        }
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

/// Who numbers the inputs of a session, from 1 and without gap. As long as the writer is known, an input that is
/// submitted again under its number is not applied again but answered as the first time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Writer {
    pub id: WriterId,
    /// The creation of the stream that the writer was opened on.
    pub stream: StreamId,
    /// The stream's durable tail then.
    pub opened_at: SeqNum,
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
        self.submit_from(Source::Session(self.gate.clone()), batch).await
    }

    /// The same for the writer's input `number`. Acks up to `acked_through` are not asked for again.
    ///
    /// # Errors
    ///
    /// Of the ack: [`ServiceError::WriterUnknown`] if the input may have been applied when it was sent before.
    pub async fn submit_numbered(
        &self,
        writer: &Writer,
        batch: AppendBatch,
        number: u64,
        acked_through: u64,
    ) -> Result<PendingAck, ServiceError> {
        let input = WriterInput {
            writer: writer.id,
            opened_at: writer.opened_at,
            number,
            acked_through,
        };
        self.submit_from(Source::Writer(self.gate.clone(), input), batch)
            .await
    }

    async fn submit_from(&self, source: Source, batch: AppendBatch) -> Result<PendingAck, ServiceError> {
        let permit = self.room.for_batch(&batch).await?;
        let reply = self.channel.append(self.stream, batch, source, permit).await;
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
