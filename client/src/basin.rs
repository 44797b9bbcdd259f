//! A basin: its configuration and its streams.

use std::fmt;
use std::sync::Arc;

use futures::Stream as FuturesStream;
use millrace_api::config::{BasinConfig, BasinReconfiguration};
use millrace_api::grpc::{
    CreateBasinRequest, DeleteBasinRequest, EnsureBasinRequest, GetBasinConfigRequest, InvalidMessage,
    ListStreamsRequest, ReconfigureBasinRequest,
};
use millrace_api::name::{BasinName, RequestToken, StreamName};
use tonic::transport::Channel;
use tonic::{Request, Response, Status};

use crate::call::Shared;
use crate::error::Error;
use crate::info::{BasinInfo, Outcome, StreamInfo, outcome, present};
use crate::list::{ListOptions, Page, pages};
use crate::retry::Safety;
use crate::rpc;
use crate::stream::Stream;

/// A handle on a basin; cheap to clone.
///
/// No method is undone by dropping its future: the request may have been sent, and may be applied.
#[derive(Clone)]
pub struct Basin {
    shared: Arc<Shared>,
    name: BasinName,
}

impl Basin {
    pub(crate) fn new(shared: Arc<Shared>, name: BasinName) -> Self {
        Self { shared, name }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A handle on the stream of this name, which need not exist. Asks nobody.
    ///
    /// # Errors
    /// [`Error::Invalid`] if no stream can have the name: 1 to 512 bytes, neither `.` nor `..`.
    pub fn stream(&self, name: impl AsRef<str>) -> Result<Stream, Error> {
        let name = StreamName::new(name).map_err(|error| Error::invalid(error.to_string()))?;
        Ok(Stream::new(self.shared.clone(), self.name.clone(), name))
    }

    /// Creates the basin; it exists when this returns `Ok`.
    ///
    /// Carries a request token of its own, so that it is safe to repeat and is. Cancel safety: a dropped call may
    /// have created it; [`create_with_token`](Self::create_with_token) can be made again.
    ///
    /// # Errors
    /// `resource_already_exists` if a basin of this name exists, `basin_deletion_pending` while one is being deleted.
    pub async fn create(&self, config: BasinConfig) -> Result<BasinInfo, Error> {
        let token = request_token(&self.shared);
        self.create_as(config, token).await
    }

    /// The same under a token of the caller's, at most 36 bytes: with the same token and configuration it can be
    /// repeated at any time, by anybody, and answers as it did the first time. Cancel safe in that sense.
    pub async fn create_with_token(&self, config: BasinConfig, token: &str) -> Result<BasinInfo, Error> {
        let token = RequestToken::new(token).map_err(|error| Error::invalid(error.to_string()))?;
        self.create_as(config, token.to_string()).await
    }

    async fn create_as(&self, config: BasinConfig, token: String) -> Result<BasinInfo, Error> {
        let message = CreateBasinRequest {
            basin: self.name.to_string(),
            config: Some(config.into()),
            location: None,
            request_token: Some(token),
        };
        let reply = self
            .call(Safety::Idempotent, message, async |channel, request| {
                rpc::account(channel).create_basin(request).await
            })
            .await?;
        present(reply.basin, "basin")?.try_into()
    }

    /// Creates the basin, or replaces its configuration; it is as asked for when this returns `Ok`.
    ///
    /// Cancel safety: a dropped call may have been applied; it can be made again.
    pub async fn ensure(&self, config: BasinConfig) -> Result<(Outcome, BasinInfo), Error> {
        let message = EnsureBasinRequest {
            basin: self.name.to_string(),
            config: Some(config.into()),
            location: None,
        };
        let reply = self
            .call(Safety::Idempotent, message, async |channel, request| {
                rpc::account(channel).ensure_basin(request).await
            })
            .await?;
        Ok((
            outcome(reply.outcome)?,
            present(reply.basin, "basin")?.try_into()?,
        ))
    }

    /// Its configuration. Cancel safe.
    pub async fn config(&self) -> Result<BasinConfig, Error> {
        let message = GetBasinConfigRequest {
            basin: self.name.to_string(),
        };
        let reply = self
            .call(Safety::Read, message, async |channel, request| {
                rpc::account(channel).get_basin_config(request).await
            })
            .await?;
        present(reply.config, "config")?.try_into().map_err(message_error)
    }

    /// Changes part of the configuration and gives back the whole as it is then. Streams that exist keep theirs.
    ///
    /// Cancel safety: a dropped call may have been applied; it can be made again.
    pub async fn reconfigure(&self, change: BasinReconfiguration) -> Result<BasinConfig, Error> {
        let message = ReconfigureBasinRequest {
            basin: self.name.to_string(),
            change: Some(change.into()),
        };
        let reply = self
            .call(Safety::Idempotent, message, async |channel, request| {
                rpc::account(channel).reconfigure_basin(request).await
            })
            .await?;
        present(reply.config, "config")?.try_into().map_err(message_error)
    }

    /// Deletes the basin with all its streams: nothing of it can be reached when this returns `Ok`; the name is free
    /// some time later.
    ///
    /// Not repeated when it may have happened, for the name may be somebody else's by then. Cancel safety: a dropped
    /// call may have deleted it.
    pub async fn delete(&self) -> Result<(), Error> {
        let message = DeleteBasinRequest {
            basin: self.name.to_string(),
        };
        self.call(Safety::Once, message, async |channel, request| {
            rpc::account(channel).delete_basin(request).await
        })
        .await?;
        Ok(())
    }

    /// Its streams, in byte order of their names, asked for page by page as they are taken.
    ///
    /// Each page is as of its own time: what is created or deleted meanwhile may be among them or not. Ends after the
    /// first error. Cancel safe: a `next` that is dropped loses nothing.
    ///
    /// ```
    /// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc.rs"));
    /// # #[tokio::main] async fn main() { with_node(|client, basin| async move {
    /// # use millrace_client::*;
    /// use futures::TryStreamExt;
    ///
    /// for name in ["logs/a", "logs/b", "other"] {
    ///     basin.stream(name)?.create(StreamConfig::default()).await?;
    /// }
    /// let logs = basin.streams(ListOptions::default().prefix("logs/"));
    /// let names: Vec<_> = logs.map_ok(|stream| stream.name).try_collect().await?;
    /// assert_eq!(names, ["logs/a", "logs/b"]);
    /// # drop((client, basin)); Ok(()) }).await }
    /// ```
    pub fn streams(
        &self,
        options: ListOptions,
    ) -> impl FuturesStream<Item = Result<StreamInfo, Error>> + Send + use<> {
        let basin = self.clone();
        pages(options, move |page| {
            let basin = basin.clone();
            async move {
                let message = ListStreamsRequest {
                    basin: basin.name.to_string(),
                    prefix: page.prefix,
                    start_after: page.start_after,
                    limit: page.limit,
                };
                let reply = basin
                    .call(Safety::Read, message, |channel, request| async move {
                        rpc::basin(channel).list_streams(request).await
                    })
                    .await?;
                let items = reply.streams.into_iter().map(StreamInfo::try_from);
                Ok(Page {
                    items: items.collect::<Result<_, _>>()?,
                    has_more: reply.has_more,
                })
            }
        })
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
        let shared = &self.shared;
        shared
            .call(None, safety, shared.request_timeout, |channel| {
                call(channel, shared.request(message.clone()))
            })
            .await
    }
}

impl fmt::Debug for Basin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Basin")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Fresh: 32 hexadecimal digits.
pub(crate) fn request_token(shared: &Shared) -> String {
    format!("{:016x}{:016x}", shared.random(), shared.random())
}

pub(crate) fn message_error(error: InvalidMessage) -> Error {
    Error::corrupt(error.to_string())
}
