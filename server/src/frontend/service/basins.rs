//! Basins: create, ensure, list, look at, change, delete.

use millrace_api::config::{BasinConfig, BasinReconfiguration, Cipher};
use millrace_api::error::ErrorCode;
use millrace_api::id::BasinId;
use millrace_api::json;
use millrace_api::limits::LIST_PAGE_MAX;
use millrace_api::name::{BasinName, RequestToken};
use millrace_raft::command::{self, CreateMode, DeleteBasin, ReconfigureBasin};
use millrace_raft::query::BasinRecord;
use serde::Serialize;
use sha2::{Digest, Sha256};

use super::convert::{basin_info, provisioned_basin};
use super::types::{BasinInfo, CreateBasin, ListRequest, Page, Provisioned};
use super::{Frontend, change_error, read_error};
use crate::error::ServiceError;

impl Frontend {
    /// Basins in byte order of their names, those being deleted among them.
    pub async fn list_basins(&self, request: ListRequest) -> Result<Page<BasinInfo>, ServiceError> {
        self.admit()?;
        self.linearize().await?;
        let page = self
            .meta
            .state()
            .list_basins(&request.prefix, &request.start_after, page_limit(request.limit))
            .map_err(|error| read_error(&error.into()))?;
        Ok(Page {
            items: page.items.iter().map(basin_info).collect(),
            has_more: page.has_more,
        })
    }

    /// Creates the basin; fails if the name is taken, unless by the same request.
    pub async fn create_basin(
        &self,
        name: BasinName,
        request: CreateBasin,
    ) -> Result<Provisioned<BasinInfo>, ServiceError> {
        let requested = (
            json::BasinConfig::from(request.config),
            request.location.as_deref(),
        );
        let request_key = request
            .request_token
            .as_ref()
            .map(|token| request_key(token, &requested));
        self.provision_basin(name, request, CreateMode::CreateOnly { request_key })
            .await
    }

    /// Creates the basin, or replaces its configuration as a whole.
    pub async fn ensure_basin(
        &self,
        name: BasinName,
        request: CreateBasin,
    ) -> Result<Provisioned<BasinInfo>, ServiceError> {
        self.provision_basin(name, request, CreateMode::Ensure).await
    }

    async fn provision_basin(
        &self,
        name: BasinName,
        request: CreateBasin,
        mode: CreateMode,
    ) -> Result<Provisioned<BasinInfo>, ServiceError> {
        self.admit()?;
        refuse_cipher(request.config.stream_cipher)?;
        request
            .config
            .default_stream_config
            .validate()
            .map_err(|e| ServiceError::invalid(e.to_string()))?;
        self.check_class(request.config.default_stream_config.storage_class)?;
        let command = command::CreateBasin {
            name,
            id: BasinId(self.env.random_u128()),
            config: request.config,
            location: request.location,
            mode,
            now_ms: self.env.now_ms(),
        };
        let reply = self
            .meta
            .propose(command)
            .await
            .map_err(|error| change_error(&error))?;
        Ok(provisioned_basin(&reply))
    }

    /// Also while the basin is being deleted.
    pub async fn basin_config(&self, name: &BasinName) -> Result<BasinConfig, ServiceError> {
        self.admit()?;
        self.linearize().await?;
        Ok(self.basin(name)?.config)
    }

    /// Changes single fields; answers the configuration as it is then. Existing streams keep theirs.
    pub async fn reconfigure_basin(
        &self,
        name: &BasinName,
        change: BasinReconfiguration,
    ) -> Result<BasinConfig, ServiceError> {
        self.admit()?;
        if let millrace_api::config::Patch::Set(cipher) = change.stream_cipher {
            refuse_cipher(Some(cipher))?;
        }
        let streams = change.apply(&BasinConfig::default()).default_stream_config;
        streams
            .validate()
            .map_err(|error| ServiceError::invalid(error.to_string()))?;
        self.check_class(streams.storage_class)?;
        let command = ReconfigureBasin {
            name: name.clone(),
            change,
        };
        let reply = self
            .meta
            .propose(command)
            .await
            .map_err(|error| change_error(&error))?;
        Ok(reply.basin.config)
    }

    /// Marks the basin as deleting: nothing is created in it any more. Its streams and its name go later.
    pub async fn delete_basin(&self, name: &BasinName) -> Result<(), ServiceError> {
        self.admit()?;
        let command = DeleteBasin {
            name: name.clone(),
            now_ms: self.env.now_ms(),
        };
        self.meta
            .propose(command)
            .await
            .map_err(|error| change_error(&error))?;
        Ok(())
    }

    /// As this node knows it.
    pub(super) fn basin(&self, name: &BasinName) -> Result<BasinRecord, ServiceError> {
        let found = self
            .meta
            .state()
            .basin(name)
            .map_err(|error| read_error(&error.into()))?;
        found.ok_or_else(|| {
            ServiceError::new(ErrorCode::BasinNotFound, format!("basin {name:?} does not exist"))
        })
    }
}

/// What was asked to be encrypted is never stored in clear.
fn refuse_cipher(cipher: Option<Cipher>) -> Result<(), ServiceError> {
    match cipher {
        None => Ok(()),
        Some(_) => Err(ServiceError::not_implemented("encryption (stream_cipher)")),
    }
}

/// The page size that a limit means.
pub(super) fn page_limit(limit: usize) -> usize {
    if (1..=LIST_PAGE_MAX).contains(&limit) {
        limit
    } else {
        LIST_PAGE_MAX
    }
}

/// Identifies a create request: a replay has the same token and asks for the same. What was requested is hashed in its
/// JSON form, which later releases write in the same way.
pub(super) fn request_key(token: &RequestToken, requested: &impl Serialize) -> [u8; 32] {
    let mut hash = Sha256::new();
    hash.update((token.len() as u64).to_be_bytes());
    hash.update(token.as_bytes());
    hash.update(serde_json::to_vec(requested).expect("configurations have a JSON form"));
    hash.finalize().into()
}
