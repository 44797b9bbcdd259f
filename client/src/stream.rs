//! A stream: its configuration, and the calls that are over with one answer.

use std::fmt;
use std::sync::Arc;

use millrace_api::command::Command;
use millrace_api::config::{StreamConfig, StreamReconfiguration};
use millrace_api::grpc::{
    AppendRequest, CheckTailRequest, CreateStreamRequest, DeleteStreamRequest, EnsureStreamRequest,
    GetStreamConfigRequest, ReadRequest, ReconfigureStreamRequest,
};
use millrace_api::limits::UNARY_WAIT_MAX;
use millrace_api::name::{BasinName, FencingToken, RequestToken, StreamName};
use millrace_api::position::{SeqNum, StreamPosition};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::append::{AppendAck, AppendSession, AppendSessionOptions, Producer, ProducerOptions};
use crate::basin::{message_error, request_token};
use crate::call::Shared;
use crate::endpoints::Route;
use crate::error::Error;
use crate::info::{Outcome, StreamInfo, outcome, present};
use crate::read::{ReadBatch, ReadOptions, ReadSession};
use crate::record::{Batch, Record};
use crate::retry::{AppendRetry, Safety};
use crate::rpc;

/// A handle on a stream; cheap to clone.
///
/// No method is undone by dropping its future: the request may have been sent, and may be applied.
#[derive(Clone)]
pub struct Stream {
    shared: Arc<Shared>,
    route: Route,
}

impl Stream {
    pub(crate) fn new(shared: Arc<Shared>, basin: BasinName, stream: StreamName) -> Self {
        Self {
            shared,
            route: Route { basin, stream },
        }
    }

    /// Name of its basin.
    pub fn basin(&self) -> &str {
        &self.route.basin
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.route.stream
    }

    /// Creates the stream; it exists when this returns `Ok`.
    ///
    /// Carries a request token of its own, so that it is safe to repeat and is. Cancel safety: a dropped call may
    /// have created it; [`create_with_token`](Self::create_with_token) can be made again.
    ///
    /// # Errors
    /// `resource_already_exists` if a stream of this name exists, `stream_deletion_pending` while one is being
    /// deleted, `basin_not_found`.
    pub async fn create(&self, config: StreamConfig) -> Result<StreamInfo, Error> {
        self.create_as(config, request_token(&self.shared)).await
    }

    /// The same under a token of the caller's, at most 36 bytes: with the same token and configuration it can be
    /// repeated at any time, by anybody, and answers as it did the first time. Cancel safe in that sense.
    pub async fn create_with_token(&self, config: StreamConfig, token: &str) -> Result<StreamInfo, Error> {
        let token = RequestToken::new(token).map_err(|error| Error::invalid(error.to_string()))?;
        self.create_as(config, token.to_string()).await
    }

    async fn create_as(&self, config: StreamConfig, token: String) -> Result<StreamInfo, Error> {
        let message = CreateStreamRequest {
            basin: self.route.basin.to_string(),
            stream: self.route.stream.to_string(),
            config: Some(config.into()),
            request_token: Some(token),
        };
        let reply = self
            .call(Safety::Idempotent, message, async |channel, request| {
                rpc::basin(channel).create_stream(request).await
            })
            .await?;
        present(reply.stream, "stream")?.try_into()
    }

    /// Creates the stream, or replaces its configuration; it is as asked for when this returns `Ok`.
    ///
    /// Cancel safety: a dropped call may have been applied; it can be made again.
    pub async fn ensure(&self, config: StreamConfig) -> Result<(Outcome, StreamInfo), Error> {
        let message = EnsureStreamRequest {
            basin: self.route.basin.to_string(),
            stream: self.route.stream.to_string(),
            config: Some(config.into()),
        };
        let reply = self
            .call(Safety::Idempotent, message, async |channel, request| {
                rpc::basin(channel).ensure_stream(request).await
            })
            .await?;
        Ok((
            outcome(reply.outcome)?,
            present(reply.stream, "stream")?.try_into()?,
        ))
    }

    /// Its configuration. Cancel safe.
    pub async fn config(&self) -> Result<StreamConfig, Error> {
        let message = GetStreamConfigRequest {
            basin: self.route.basin.to_string(),
            stream: self.route.stream.to_string(),
        };
        let reply = self
            .call(Safety::Read, message, async |channel, request| {
                rpc::basin(channel).get_stream_config(request).await
            })
            .await?;
        present(reply.config, "config")?.try_into().map_err(message_error)
    }

    /// Changes part of the configuration and gives back the whole as it is then.
    ///
    /// Cancel safety: a dropped call may have been applied; it can be made again.
    pub async fn reconfigure(&self, change: StreamReconfiguration) -> Result<StreamConfig, Error> {
        let message = ReconfigureStreamRequest {
            basin: self.route.basin.to_string(),
            stream: self.route.stream.to_string(),
            change: Some(change.into()),
        };
        let reply = self
            .call(Safety::Idempotent, message, async |channel, request| {
                rpc::basin(channel).reconfigure_stream(request).await
            })
            .await?;
        present(reply.config, "config")?.try_into().map_err(message_error)
    }

    /// Deletes the stream: nothing of it can be read or appended when this returns `Ok`; the name is free some time
    /// later.
    ///
    /// Not repeated when it may have happened, for the name may be somebody else's by then. Cancel safety: a dropped
    /// call may have deleted it.
    pub async fn delete(&self) -> Result<(), Error> {
        let message = DeleteStreamRequest {
            basin: self.route.basin.to_string(),
            stream: self.route.stream.to_string(),
        };
        self.call(Safety::Once, message, async |channel, request| {
            rpc::basin(channel).delete_stream(request).await
        })
        .await?;
        Ok(())
    }

    /// Appends one batch; it is durable when this returns `Ok`.
    ///
    /// For one batch after the other, an [`append_session`](Self::append_session) is faster, and goes on where a
    /// single append has to say that the outcome is unknown. Appends that are on their way together may land in any
    /// order.
    ///
    /// An error whose [`may_have_happened`](Error::may_have_happened) is false promises that nothing was appended.
    /// Others are only followed by another try if [`AppendRetry::IfMatched`] says so and the batch has a
    /// `match_seq_num`. Cancel safety: a dropped call may have appended.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc.rs"));
    /// # #[tokio::main] async fn main() { with_node(|client, basin| async move {
    /// # use millrace_client::*;
    /// # let stream = basin.stream("s")?;
    /// let batch = Batch::new([Record::new("body").header("name", "value")])?;
    /// let ack = stream.append(batch.match_seq_num(0)).await?;
    /// assert_eq!(ack.end.seq_num, 1);
    ///
    /// // Somebody has been there already: nothing was appended.
    /// let late = Batch::new(["late"])?.match_seq_num(0);
    /// let error = stream.append(late).await.unwrap_err();
    /// assert!(matches!(error, Error::SeqNumMismatch { next: 1 }));
    /// assert!(!error.may_have_happened());
    /// # drop((client, basin)); Ok(()) }).await }
    /// ```
    pub async fn append(&self, batch: Batch) -> Result<AppendAck, Error> {
        let repeatable = batch.is_matched() && self.shared.policy.appends == AppendRetry::IfMatched;
        let safety = if repeatable {
            Safety::Idempotent
        } else {
            Safety::Once
        };
        let records = batch.records();
        let message = AppendRequest {
            basin: self.route.basin.to_string(),
            stream: self.route.stream.to_string(),
            input: batch.encode(),
        };
        drop(batch);
        let reply = self
            .call(safety, message, async |channel, request| {
                rpc::stream(channel).append(request).await
            })
            .await?;
        AppendAck::checked(present(reply.ack, "ack")?, records)
    }

    /// Fences the stream: from this record on, an append that carries a token must carry this one. An empty token
    /// lifts the fence. The fence is in force when this returns `Ok`.
    ///
    /// Changes nothing for appends that carry no token. Cancel safety and errors as for [`append`](Self::append).
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc.rs"));
    /// # #[tokio::main] async fn main() { with_node(|client, basin| async move {
    /// # use millrace_client::*;
    /// # let stream = basin.stream("s")?;
    /// let mine = FencingToken::new("writer-2").unwrap();
    /// stream.fence(&mine).await?;
    /// stream.append(Batch::new(["x"])?.fencing_token(&mine)).await?;
    ///
    /// let old = FencingToken::new("writer-1").unwrap();
    /// let error = stream.append(Batch::new(["y"])?.fencing_token(&old)).await.unwrap_err();
    /// assert!(matches!(error, Error::FencingTokenMismatch { .. }));
    /// # drop((client, basin)); Ok(()) }).await }
    /// ```
    pub async fn fence(&self, token: &FencingToken) -> Result<AppendAck, Error> {
        self.append(fence_batch(token)?).await
    }

    /// The same, but only if `current` is the token in force.
    ///
    /// # Errors
    /// [`Error::FencingTokenMismatch`] if it is not.
    pub async fn fence_if(&self, current: &FencingToken, token: &FencingToken) -> Result<AppendAck, Error> {
        self.append(fence_batch(token)?.fencing_token(current)).await
    }

    /// Gives up the records before `seq_num`. That they may go is durable when this returns `Ok`; when they cannot be
    /// read any more is for the server to choose. A stream is never trimmed beyond the trim itself.
    ///
    /// Cancel safety and errors as for [`append`](Self::append).
    pub async fn trim(&self, seq_num: SeqNum) -> Result<AppendAck, Error> {
        self.append(Batch::one(Record::command(&Command::Trim(seq_num)))?)
            .await
    }

    /// The next sequence number, with the last record's timestamp: every append that was acknowledged before this
    /// was called is behind it. Cancel safe.
    pub async fn check_tail(&self) -> Result<StreamPosition, Error> {
        let message = CheckTailRequest {
            basin: self.route.basin.to_string(),
            stream: self.route.stream.to_string(),
        };
        let reply = self
            .call(Safety::Read, message, async |channel, request| {
                rpc::stream(channel).check_tail(request).await
            })
            .await?;
        Ok(present(reply.tail, "tail")?.into())
    }

    /// Reads one batch of what is there, at most 1000 records and 1 MiB; waits only for the first record, only if
    /// asked to, and at most 60 s.
    ///
    /// An empty batch says that no record came. Cancel safe.
    ///
    /// # Errors
    /// [`Error::PastTail`] if the read starts at or beyond the tail and is not to wait there.
    pub async fn read(&self, options: ReadOptions) -> Result<ReadBatch, Error> {
        let request = options.request();
        let limit = self.shared.request_timeout + request.wait.unwrap_or_default().min(UNARY_WAIT_MAX);
        let message = ReadRequest::new(&self.route.basin, &self.route.stream, &request);
        let reply = self
            .call_within(limit, Safety::Read, message, async |channel, request| {
                rpc::stream(channel).read(request).await
            })
            .await?;
        ReadBatch::decode(reply.into_batch_bytes())
    }

    /// Reads batch after batch, across breaks of the connection; see [`ReadSession`]. Asks nobody before the first
    /// batch is taken.
    pub fn read_session(&self, options: ReadOptions) -> ReadSession {
        ReadSession::new(self.clone(), options)
    }

    /// Appends batch after batch, in order, many on their way at once; see [`AppendSession`]. Asks nobody before the
    /// first batch is submitted: a stream that does not exist shows in the first ticket.
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of a Tokio runtime, on which the session lives.
    pub fn append_session(&self, options: AppendSessionOptions) -> Result<AppendSession, Error> {
        AppendSession::new(self.clone(), options)
    }

    /// Appends record after record, in batches that it makes by itself; see [`Producer`].
    ///
    /// # Errors
    /// [`Error::Invalid`] outside of a Tokio runtime, on which the producer lives.
    pub fn producer(&self, options: ProducerOptions) -> Result<Producer, Error> {
        Producer::new(self.clone(), options)
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(crate) fn route(&self) -> &Route {
        &self.route
    }

    async fn call<M: Clone, T, F>(
        &self,
        safety: Safety,
        message: M,
        call: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        self.call_within(self.shared.request_timeout, safety, message, call)
            .await
    }

    async fn call_within<M: Clone, T, F>(
        &self,
        limit: std::time::Duration,
        safety: Safety,
        message: M,
        call: impl Fn(Channel, Request<M>) -> F,
    ) -> Result<T, Error>
    where
        F: Future<Output = Result<Response<T>, Status>>,
    {
        let shared = &self.shared;
        shared
            .call(Some(&self.route), safety, limit, |channel| {
                call(channel, shared.request(message.clone()))
            })
            .await
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream")
            .field("basin", &self.route.basin)
            .field("name", &self.route.stream)
            .finish_non_exhaustive()
    }
}

fn fence_batch(token: &FencingToken) -> Result<Batch, Error> {
    Batch::one(Record::command(&Command::Fence(token.clone())))
}
