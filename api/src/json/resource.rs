//! Basins and streams: requests to create them, and what is said about them.

use serde::{Deserialize, Serialize};

use super::{BasinConfig, Rfc3339, StreamConfig};
use crate::config::Cipher;
use crate::name::{BasinName, StreamName};

/// `POST /basins`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateBasinRequest {
    pub basin: BasinName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<BasinConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

/// `PUT /basins/{basin}`; the body may be missing.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct EnsureBasinRequest {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<BasinConfig>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub location: Option<String>,
}

/// `POST /streams`. The body of `PUT /streams/{stream}` is a [`StreamConfig`], or missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreateStreamRequest {
    pub stream: StreamName,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<StreamConfig>,
}

/// Follows from `deleted_at`; kept for clients that read it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Active,
    Deleting,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasinInfo {
    pub name: BasinName,
    #[serde(default)]
    pub location: Option<String>,
    pub created_at: Rfc3339,
    /// Set from the request to delete until the basin is gone.
    #[serde(default)]
    pub deleted_at: Option<Rfc3339>,
    #[serde(default = "State::active")]
    pub state: State,
}

impl State {
    fn active() -> Self {
        Self::Active
    }
}

impl BasinInfo {
    pub fn new(
        name: BasinName,
        location: Option<String>,
        created_at: Rfc3339,
        deleted_at: Option<Rfc3339>,
    ) -> Self {
        let state = match deleted_at {
            None => State::Active,
            Some(_) => State::Deleting,
        };
        Self {
            name,
            location,
            created_at,
            deleted_at,
            state,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamInfo {
    pub name: StreamName,
    pub created_at: Rfc3339,
    /// Set from the request to delete until the stream is gone.
    #[serde(default)]
    pub deleted_at: Option<Rfc3339>,
    /// Fixed when the stream was created; `None` is not encrypted.
    #[serde(default)]
    pub cipher: Option<Cipher>,
}

/// A page of `GET /basins`, in order of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListBasinsResponse {
    pub basins: Vec<BasinInfo>,
    /// Whether names behind the last one match as well.
    pub has_more: bool,
}

/// A page of `GET /streams`, in order of names.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListStreamsResponse {
    pub streams: Vec<StreamInfo>,
    /// Whether names behind the last one match as well.
    pub has_more: bool,
}
