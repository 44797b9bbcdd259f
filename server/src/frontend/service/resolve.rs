//! From names to a stream and the channel that serves it.

use millrace_api::config::{BasinConfig, StreamConfig};
use millrace_api::error::ErrorCode;
use millrace_api::id::StreamId;
use millrace_api::name::{BasinName, StreamName};
use millrace_api::position::{SeqNum, StreamPosition};
use millrace_raft::command::CreateMode;
use millrace_raft::query::StreamRecord;

use super::streams::{refuse_deleting, stream_not_found};
use super::{Frontend, read_error};
use crate::channel::handle::ChannelHandle;
use crate::error::ServiceError;

/// What the request is about to do, and so which setting of the basin lets it create the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Intent {
    Append,
    Read,
}

impl Intent {
    fn may_create(self, basin: &BasinConfig) -> bool {
        match self {
            Intent::Append => basin.create_stream_on_append,
            Intent::Read => basin.create_stream_on_read,
        }
    }
}

/// A stream and where it is served, as this node knows it.
#[derive(Clone)]
pub(super) struct Resolved {
    pub stream: StreamId,
    /// Serves the stream, or takes it when it is dormant.
    pub channel: ChannelHandle,
    /// Set when nobody owns the stream: it stands in metadata alone.
    pub dormant: Option<Dormant>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Dormant {
    pub tail: StreamPosition,
    pub trim: SeqNum,
}

impl Frontend {
    /// Creates the stream with a configuration of the request's own, if it is missing and the basin lets such requests
    /// create it. One that exists is left as it is.
    pub async fn create_if_missing(
        &self,
        basin: &BasinName,
        name: &StreamName,
        intent: Intent,
        config: StreamConfig,
    ) -> Result<(), ServiceError> {
        self.resolve_or_create(basin, name, intent, config)
            .await
            .map(|_resolved| ())
    }

    /// Finds the stream; creates it where the basin says so. Concurrent first requests get one and the same stream.
    pub(super) async fn resolve(
        &self,
        basin_name: &BasinName,
        name: &StreamName,
        intent: Intent,
    ) -> Result<Resolved, ServiceError> {
        self.resolve_or_create(basin_name, name, intent, StreamConfig::default())
            .await
    }

    async fn resolve_or_create(
        &self,
        basin_name: &BasinName,
        name: &StreamName,
        intent: Intent,
        config: StreamConfig,
    ) -> Result<Resolved, ServiceError> {
        self.admit()?;
        let basin = self.basin(basin_name)?;
        let found = self
            .meta
            .state()
            .stream(basin.id, name)
            .map_err(|error| read_error(&error.into()))?;
        let record = match found {
            Some(record) => record,
            None if !intent.may_create(&basin.config) => return Err(stream_not_found(name)),
            None => {
                self.provision_stream(basin_name, name.clone(), config, CreateMode::Auto)
                    .await?
                    .stream
            }
        };
        self.placed(record)
    }

    fn placed(&self, record: StreamRecord) -> Result<Resolved, ServiceError> {
        refuse_deleting(&record)?;
        let channel = match &record.open {
            Some(open) => self.channels.get(open.channel),
            None => self.channels.pick(record.config.storage_class, record.id),
        };
        let channel = channel.ok_or_else(|| {
            ServiceError::new(
                ErrorCode::HotServer,
                "no channel serves the stream at the moment; try again",
            )
        })?;
        let dormant = record.open.is_none().then_some(Dormant {
            tail: record.tail,
            trim: record.trim,
        });
        Ok(Resolved {
            stream: record.id,
            channel,
            dormant,
        })
    }
}
