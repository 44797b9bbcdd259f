//! From names to a stream and the channel that serves it.

use millrace_api::bug::{Bug, planted};
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
use crate::channel::message::{ReadReply, ReadView, Seek};
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

impl Dormant {
    pub fn view(self) -> ReadView {
        ReadView {
            tail: self.tail,
            trim: self.trim,
        }
    }

    /// What an owner would answer to a read: everything is in segments, which this node's state names.
    pub fn answer(self, seek: Seek) -> ReadReply {
        let Self { tail, trim } = self;
        let at_tail = match seek {
            Seek::SeqNum(seq_num) => seq_num.max(trim) >= tail.seq_num,
            Seek::Timestamp(timestamp) => timestamp > tail.timestamp || trim >= tail.seq_num,
        };
        match at_tail {
            true => ReadReply::AtTail { view: self.view() },
            false => ReadReply::Segments {
                end: tail.seq_num,
                known_at: 0,
                view: self.view(),
            },
        }
    }
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
        if let Ok(Some(record)) = self.look_up(basin_name, name)
            && record.deletion.is_none()
        {
            return self.placed(record);
        }
        // This node may not have heard yet of what is there now.
        if !planted(Bug::MissUnconfirmed) {
            self.linearize().await?;
        }
        let record = match self.look_up(basin_name, name)? {
            Some(record) => record,
            None if !intent.may_create(&self.basin(basin_name)?.config) => {
                return Err(stream_not_found(name));
            }
            None => {
                self.provision_stream(basin_name, name.clone(), config, CreateMode::Auto)
                    .await?
                    .stream
            }
        };
        self.placed(record)
    }

    /// The stream that the name leads to in this node's state; an error if its basin is not there.
    fn look_up(
        &self,
        basin_name: &BasinName,
        name: &StreamName,
    ) -> Result<Option<StreamRecord>, ServiceError> {
        let basin = self.basin(basin_name)?;
        let found = self.meta.state().stream(basin.id, name);
        found.map_err(|error| read_error(&error.into()))
    }

    fn placed(&self, record: StreamRecord) -> Result<Resolved, ServiceError> {
        refuse_deleting(&record)?;
        let channel = match &record.open {
            Some(open) => self.channels.get(open.channel),
            None => self.channels.pick(record.config.storage_class, record.id),
        };
        let channel = channel.map_err(|error| read_error(&error.into()))?;
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
