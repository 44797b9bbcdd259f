//! Streams: create, ensure, list, look at, change, delete.

use millrace_api::config::{ResolvedStreamConfig, StreamConfig, StreamReconfiguration};
use millrace_api::error::ErrorCode;
use millrace_api::id::StreamId;
use millrace_api::json;
use millrace_api::name::{BasinName, StreamName};
use millrace_raft::command::{self, CreateMode, DeleteStream, ReconfigureStream};
use millrace_raft::query::StreamRecord;

use super::basins::{page_limit, request_key};
use super::convert::{provisioned_stream, stream_entry_info};
use super::types::{CreateStream, ListRequest, Page, Provisioned, StreamInfo};
use super::{Frontend, change_error, read_error};
use crate::error::ServiceError;

impl Frontend {
    /// Streams in byte order of their names, those being deleted among them.
    pub async fn list_streams(
        &self,
        basin: &BasinName,
        request: ListRequest,
    ) -> Result<Page<StreamInfo>, ServiceError> {
        self.admit()?;
        self.linearize().await?;
        let basin = self.basin(basin)?;
        let page = self
            .meta
            .state()
            .list_streams(
                basin.id,
                &request.prefix,
                &request.start_after,
                page_limit(request.limit),
            )
            .map_err(|error| read_error(&error.into()))?;
        Ok(Page {
            items: page.items.into_iter().map(stream_entry_info).collect(),
            has_more: page.has_more,
        })
    }

    /// Creates the stream; fails if the name is taken, unless by the same request.
    pub async fn create_stream(
        &self,
        basin: &BasinName,
        name: StreamName,
        request: CreateStream,
    ) -> Result<Provisioned<StreamInfo>, ServiceError> {
        let requested = json::StreamConfig::from(request.config);
        let request_key = request
            .request_token
            .as_ref()
            .map(|token| request_key(token, &requested));
        let mode = CreateMode::CreateOnly { request_key };
        let record = self.provision_stream(basin, name, request.config, mode).await?;
        Ok(provisioned_stream(&record))
    }

    /// Creates the stream, or replaces its configuration; in force when this returns.
    pub async fn ensure_stream(
        &self,
        basin: &BasinName,
        name: StreamName,
        config: StreamConfig,
    ) -> Result<Provisioned<StreamInfo>, ServiceError> {
        let reply = self
            .provision_stream(basin, name, config, CreateMode::Ensure)
            .await?;
        self.refresh(&reply.stream).await;
        Ok(provisioned_stream(&reply))
    }

    pub(super) async fn provision_stream(
        &self,
        basin: &BasinName,
        name: StreamName,
        config: StreamConfig,
        mode: CreateMode,
    ) -> Result<command::StreamProvisioned, ServiceError> {
        self.admit()?;
        config
            .validate()
            .map_err(|error| ServiceError::invalid(error.to_string()))?;
        let command = command::CreateStream {
            basin: basin.clone(),
            name,
            id: StreamId(self.env.random_u128()),
            config,
            mode,
            now_ms: self.env.now_ms(),
        };
        self.meta
            .propose(command)
            .await
            .map_err(|error| change_error(&error))
    }

    pub async fn stream_config(
        &self,
        basin: &BasinName,
        name: &StreamName,
    ) -> Result<ResolvedStreamConfig, ServiceError> {
        self.admit()?;
        self.linearize().await?;
        let basin = self.basin(basin)?;
        let found = self
            .meta
            .state()
            .stream(basin.id, name)
            .map_err(|error| read_error(&error.into()))?;
        let stream = found.ok_or_else(|| stream_not_found(name))?;
        refuse_deleting(&stream)?;
        Ok(stream.config)
    }

    /// Changes single fields; answers the configuration as it is then. In force when this returns.
    pub async fn reconfigure_stream(
        &self,
        basin: &BasinName,
        name: &StreamName,
        change: StreamReconfiguration,
    ) -> Result<ResolvedStreamConfig, ServiceError> {
        self.admit()?;
        change
            .apply(&StreamConfig::default())
            .validate()
            .map_err(|error| ServiceError::invalid(error.to_string()))?;
        let command = ReconfigureStream {
            basin: basin.clone(),
            name: name.clone(),
            change,
        };
        let reply = self
            .meta
            .propose(command)
            .await
            .map_err(|error| change_error(&error))?;
        self.refresh(&reply.stream).await;
        Ok(reply.stream.config)
    }

    /// Marks the stream as deleting. When this returns nothing of it is read or appended any more; its name is free
    /// later.
    pub async fn delete_stream(&self, basin: &BasinName, name: &StreamName) -> Result<(), ServiceError> {
        self.admit()?;
        let command = DeleteStream {
            basin: basin.clone(),
            name: name.clone(),
            now_ms: self.env.now_ms(),
        };
        let reply = self
            .meta
            .propose(command)
            .await
            .map_err(|error| change_error(&error))?;
        self.refresh(&reply.stream).await;
        Ok(())
    }

    /// Has the owner of an active stream act upon its changed metadata.
    async fn refresh(&self, stream: &StreamRecord) {
        let Some(open) = stream.open else { return };
        if let Some(channel) = self.channels.get(open.channel) {
            channel.refresh(stream.id).await;
        }
    }
}

pub(super) fn stream_not_found(name: &StreamName) -> ServiceError {
    ServiceError::new(
        ErrorCode::StreamNotFound,
        format!("stream {name:?} does not exist"),
    )
}

pub(super) fn refuse_deleting(stream: &StreamRecord) -> Result<(), ServiceError> {
    match stream.deletion {
        None => Ok(()),
        Some(_) => {
            let message = format!("stream {:?} is being deleted", stream.name);
            Err(ServiceError::new(ErrorCode::StreamDeletionPending, message))
        }
    }
}
