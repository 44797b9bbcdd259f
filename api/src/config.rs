//! Configuration of basins and streams: as asked for, as resolved, and as changed.
//!
//! A stream's configuration is resolved once, when the stream is created or replaced: what was asked for, over
//! the basin's default, over the system's default. Later changes of the basin do not reach existing streams.

use serde::{Deserialize, Serialize};

use crate::limits::RETENTION_AGE_DEFAULT_SECS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum StorageClass {
    Standard,
    Express,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RetentionPolicy {
    /// Seconds since the append; never 0.
    Age(u64),
    Infinite,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TimestampingMode {
    ClientPrefer,
    ClientRequire,
    Arrival,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Cipher {
    #[serde(rename = "aegis-256")]
    Aegis256,
    #[serde(rename = "aes-256-gcm")]
    Aes256Gcm,
}

/// A stream's configuration as asked for, and a basin's default: `None` is "not chosen".
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StreamConfig {
    pub storage_class: Option<StorageClass>,
    pub retention: Option<RetentionPolicy>,
    pub timestamping_mode: Option<TimestampingMode>,
    pub timestamping_uncapped: Option<bool>,
    /// Seconds; 0 turns delete-on-empty off even where the basin's default has it on.
    pub delete_on_empty_min_age_secs: Option<u64>,
}

/// A stream's configuration in force.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ResolvedStreamConfig {
    pub storage_class: StorageClass,
    pub retention: RetentionPolicy,
    pub timestamping_mode: TimestampingMode,
    pub timestamping_uncapped: bool,
    /// Seconds; 0 is off.
    pub delete_on_empty_min_age_secs: u64,
}

impl Default for ResolvedStreamConfig {
    fn default() -> Self {
        Self {
            storage_class: StorageClass::Express,
            retention: RetentionPolicy::Age(RETENTION_AGE_DEFAULT_SECS),
            timestamping_mode: TimestampingMode::ClientPrefer,
            timestamping_uncapped: false,
            delete_on_empty_min_age_secs: 0,
        }
    }
}

impl StreamConfig {
    /// This configuration over the basin's default over the system's.
    pub fn resolve(&self, basin_default: &StreamConfig) -> ResolvedStreamConfig {
        let system = ResolvedStreamConfig::default();
        ResolvedStreamConfig {
            storage_class: self
                .storage_class
                .or(basin_default.storage_class)
                .unwrap_or(system.storage_class),
            retention: self
                .retention
                .or(basin_default.retention)
                .unwrap_or(system.retention),
            timestamping_mode: self
                .timestamping_mode
                .or(basin_default.timestamping_mode)
                .unwrap_or(system.timestamping_mode),
            timestamping_uncapped: self
                .timestamping_uncapped
                .or(basin_default.timestamping_uncapped)
                .unwrap_or(system.timestamping_uncapped),
            delete_on_empty_min_age_secs: self
                .delete_on_empty_min_age_secs
                .or(basin_default.delete_on_empty_min_age_secs)
                .unwrap_or(system.delete_on_empty_min_age_secs),
        }
    }

    /// The error text for a value that no configuration may have.
    pub fn validate(&self) -> Result<(), InvalidConfig> {
        match self.retention {
            Some(RetentionPolicy::Age(0)) => {
                Err(InvalidConfig("retention age must be greater than 0 seconds"))
            }
            _ => Ok(()),
        }
    }
}

impl From<ResolvedStreamConfig> for StreamConfig {
    fn from(resolved: ResolvedStreamConfig) -> Self {
        Self {
            storage_class: Some(resolved.storage_class),
            retention: Some(resolved.retention),
            timestamping_mode: Some(resolved.timestamping_mode),
            timestamping_uncapped: Some(resolved.timestamping_uncapped),
            delete_on_empty_min_age_secs: Some(resolved.delete_on_empty_min_age_secs),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BasinConfig {
    pub default_stream_config: StreamConfig,
    /// Cipher of streams created from now on.
    pub stream_cipher: Option<Cipher>,
    pub create_stream_on_append: bool,
    pub create_stream_on_read: bool,
}

/// One field of a change: absent keeps, null clears, a value sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Patch<T> {
    #[default]
    Keep,
    Clear,
    Set(T),
}

impl<T> Patch<T> {
    pub fn apply(self, current: Option<T>) -> Option<T> {
        match self {
            Patch::Keep => current,
            Patch::Clear => None,
            Patch::Set(value) => Some(value),
        }
    }
}

/// A change of a stream's configuration, or of a basin's default. Nested objects of the wire form are flat here:
/// clearing an object clears each of its fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct StreamReconfiguration {
    pub storage_class: Patch<StorageClass>,
    pub retention: Patch<RetentionPolicy>,
    pub timestamping_mode: Patch<TimestampingMode>,
    pub timestamping_uncapped: Patch<bool>,
    pub delete_on_empty_min_age_secs: Patch<u64>,
}

impl StreamReconfiguration {
    pub fn apply(self, current: &StreamConfig) -> StreamConfig {
        StreamConfig {
            storage_class: self.storage_class.apply(current.storage_class),
            retention: self.retention.apply(current.retention),
            timestamping_mode: self.timestamping_mode.apply(current.timestamping_mode),
            timestamping_uncapped: self.timestamping_uncapped.apply(current.timestamping_uncapped),
            delete_on_empty_min_age_secs: self
                .delete_on_empty_min_age_secs
                .apply(current.delete_on_empty_min_age_secs),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct BasinReconfiguration {
    pub default_stream_config: Patch<StreamReconfiguration>,
    pub stream_cipher: Patch<Cipher>,
    pub create_stream_on_append: Option<bool>,
    pub create_stream_on_read: Option<bool>,
}

impl BasinReconfiguration {
    pub fn apply(self, current: &BasinConfig) -> BasinConfig {
        BasinConfig {
            default_stream_config: match self.default_stream_config {
                Patch::Keep => current.default_stream_config,
                Patch::Clear => StreamConfig::default(),
                Patch::Set(change) => change.apply(&current.default_stream_config),
            },
            stream_cipher: self.stream_cipher.apply(current.stream_cipher),
            create_stream_on_append: self
                .create_stream_on_append
                .unwrap_or(current.create_stream_on_append),
            create_stream_on_read: self
                .create_stream_on_read
                .unwrap_or(current.create_stream_on_read),
        }
    }
}

/// A configuration that no basin or stream may have; the text is meant for the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidConfig(pub &'static str);
