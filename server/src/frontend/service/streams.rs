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
use super::owner::{OWNER_TIMEOUT, Search};
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
        self.refresh(&reply.stream).await?;
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
        self.check_class(config.storage_class)?;
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
        let changed = change.apply(&StreamConfig::default());
        changed
            .validate()
            .map_err(|error| ServiceError::invalid(error.to_string()))?;
        self.check_class(changed.storage_class)?;
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
        self.refresh(&reply.stream).await?;
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
        self.refresh(&reply.stream).await?;
        Ok(())
    }

    /// Has the owner of an active stream act upon its changed metadata. An owner that cannot be asked answers for the
    /// stream no longer than its lease runs, and the next one knows the change.
    async fn refresh(&self, stream: &StreamRecord) -> Result<(), ServiceError> {
        let applied = self.meta.applied_index();
        let mut search = Search::new(OWNER_TIMEOUT);
        loop {
            let open = match self.meta.state().stream_by_id(stream.id) {
                Ok(Some(StreamRecord { open: Some(open), .. })) => open,
                Ok(_) => return Ok(()),
                Err(error) => return Err(read_error(&error.into())),
            };
            let owner = self
                .channels
                .get(open.channel)
                .map_err(|error| read_error(&error.into()))?;
            let refused = match owner {
                Some(channel) => match channel.refresh(stream.id, applied).await {
                    Ok(()) => return Ok(()),
                    Err(refused) => refused,
                },
                // Nobody answers for the stream, and whoever will knows the change.
                None => return Ok(()),
            };
            match refused.is_elsewhere() {
                true => search.again(self, refused).await?,
                // The stream is not open there: nothing of the old is in force.
                false => return Ok(()),
            }
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
