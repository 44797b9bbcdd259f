//! Configurations in their nested JSON form, to and from the flat types of [`crate::config`].

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::config::{self, Cipher, Patch, ResolvedStreamConfig, StorageClass, TimestampingMode};

/// Configuration of a stream, and a basin's default. A member that is missing or null is not chosen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage_class: Option<StorageClass>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub retention_policy: Option<RetentionPolicy>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timestamping: Option<TimestampingConfig>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub delete_on_empty: Option<DeleteOnEmptyConfig>,
}

/// `{"age": seconds}` or `{"infinite": {}}`. An age of 0 is JSON like any other and refused by
/// [`config::StreamConfig::validate`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RetentionPolicy {
    Age(u64),
    Infinite {},
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TimestampingConfig {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<TimestampingMode>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncapped: Option<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeleteOnEmptyConfig {
    /// 0, also where it is missing, turns it off.
    pub min_age_secs: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BasinConfig {
    pub default_stream_config: Option<StreamConfig>,
    pub stream_cipher: Option<Cipher>,
    pub create_stream_on_append: bool,
    pub create_stream_on_read: bool,
}

/// Change of a stream's configuration, member by member: missing keeps, null clears, a value sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StreamReconfiguration {
    #[serde(skip_serializing_if = "is_keep")]
    pub storage_class: Patch<StorageClass>,
    #[serde(skip_serializing_if = "is_keep")]
    pub retention_policy: Patch<RetentionPolicy>,
    #[serde(skip_serializing_if = "is_keep")]
    pub timestamping: Patch<TimestampingReconfiguration>,
    #[serde(skip_serializing_if = "is_keep")]
    pub delete_on_empty: Patch<DeleteOnEmptyReconfiguration>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TimestampingReconfiguration {
    #[serde(skip_serializing_if = "is_keep")]
    pub mode: Patch<TimestampingMode>,
    #[serde(skip_serializing_if = "is_keep")]
    pub uncapped: Patch<bool>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct DeleteOnEmptyReconfiguration {
    #[serde(skip_serializing_if = "is_keep")]
    pub min_age_secs: Patch<u64>,
}

/// Change of a basin's configuration. The two switches have no null: they are on, off, or kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct BasinReconfiguration {
    #[serde(skip_serializing_if = "is_keep")]
    pub default_stream_config: Patch<StreamReconfiguration>,
    #[serde(skip_serializing_if = "is_keep")]
    pub stream_cipher: Patch<Cipher>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub create_stream_on_append: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none", deserialize_with = "not_null")]
    pub create_stream_on_read: Option<bool>,
}

fn is_keep<T>(patch: &Patch<T>) -> bool {
    matches!(patch, Patch::Keep)
}

fn not_null<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    bool::deserialize(deserializer).map(Some)
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Patch<T> {
    /// Of a member that is there; one that is not is the default, `Keep`.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Ok(match Option::deserialize(deserializer)? {
            None => Patch::Clear,
            Some(value) => Patch::Set(value),
        })
    }
}

impl<T: Serialize> Serialize for Patch<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Patch::Set(value) => serializer.serialize_some(value),
            // `Keep` does not get here: its member is left out.
            Patch::Keep | Patch::Clear => serializer.serialize_none(),
        }
    }
}

impl From<RetentionPolicy> for config::RetentionPolicy {
    fn from(policy: RetentionPolicy) -> Self {
        match policy {
            RetentionPolicy::Age(secs) => Self::Age(secs),
            RetentionPolicy::Infinite {} => Self::Infinite,
        }
    }
}

impl From<config::RetentionPolicy> for RetentionPolicy {
    fn from(policy: config::RetentionPolicy) -> Self {
        match policy {
            config::RetentionPolicy::Age(secs) => Self::Age(secs),
            config::RetentionPolicy::Infinite => Self::Infinite {},
        }
    }
}

impl From<StreamConfig> for config::StreamConfig {
    fn from(json: StreamConfig) -> Self {
        Self {
            storage_class: json.storage_class,
            retention: json.retention_policy.map(Into::into),
            timestamping_mode: json.timestamping.and_then(|t| t.mode),
            timestamping_uncapped: json.timestamping.and_then(|t| t.uncapped),
            delete_on_empty_min_age_secs: json.delete_on_empty.map(|d| d.min_age_secs),
        }
    }
}

impl From<config::StreamConfig> for StreamConfig {
    fn from(config: config::StreamConfig) -> Self {
        let timestamping = TimestampingConfig {
            mode: config.timestamping_mode,
            uncapped: config.timestamping_uncapped,
        };
        Self {
            storage_class: config.storage_class,
            retention_policy: config.retention.map(Into::into),
            timestamping: (timestamping != TimestampingConfig::default()).then_some(timestamping),
            delete_on_empty: config
                .delete_on_empty_min_age_secs
                .map(|min_age_secs| DeleteOnEmptyConfig { min_age_secs }),
        }
    }
}

impl From<ResolvedStreamConfig> for StreamConfig {
    fn from(config: ResolvedStreamConfig) -> Self {
        config::StreamConfig::from(config).into()
    }
}

impl From<BasinConfig> for config::BasinConfig {
    fn from(json: BasinConfig) -> Self {
        Self {
            default_stream_config: json.default_stream_config.unwrap_or_default().into(),
            stream_cipher: json.stream_cipher,
            create_stream_on_append: json.create_stream_on_append,
            create_stream_on_read: json.create_stream_on_read,
        }
    }
}

impl From<config::BasinConfig> for BasinConfig {
    fn from(config: config::BasinConfig) -> Self {
        let default = config.default_stream_config;
        Self {
            default_stream_config: (default != config::StreamConfig::default()).then(|| default.into()),
            stream_cipher: config.stream_cipher,
            create_stream_on_append: config.create_stream_on_append,
            create_stream_on_read: config.create_stream_on_read,
        }
    }
}

impl From<StreamReconfiguration> for config::StreamReconfiguration {
    fn from(json: StreamReconfiguration) -> Self {
        Self {
            storage_class: json.storage_class,
            retention: map(json.retention_policy, Into::into),
            timestamping_mode: member(json.timestamping, |t| t.mode),
            timestamping_uncapped: member(json.timestamping, |t| t.uncapped),
            delete_on_empty_min_age_secs: member(json.delete_on_empty, |d| d.min_age_secs),
        }
    }
}

impl From<config::StreamReconfiguration> for StreamReconfiguration {
    fn from(change: config::StreamReconfiguration) -> Self {
        let timestamping = TimestampingReconfiguration {
            mode: change.timestamping_mode,
            uncapped: change.timestamping_uncapped,
        };
        let delete_on_empty = DeleteOnEmptyReconfiguration {
            min_age_secs: change.delete_on_empty_min_age_secs,
        };
        Self {
            storage_class: change.storage_class,
            retention_policy: map(change.retention, Into::into),
            timestamping: unless_default(timestamping),
            delete_on_empty: unless_default(delete_on_empty),
        }
    }
}

impl From<BasinReconfiguration> for config::BasinReconfiguration {
    fn from(json: BasinReconfiguration) -> Self {
        Self {
            default_stream_config: map(json.default_stream_config, Into::into),
            stream_cipher: json.stream_cipher,
            create_stream_on_append: json.create_stream_on_append,
            create_stream_on_read: json.create_stream_on_read,
        }
    }
}

impl From<config::BasinReconfiguration> for BasinReconfiguration {
    fn from(change: config::BasinReconfiguration) -> Self {
        Self {
            default_stream_config: map(change.default_stream_config, Into::into),
            stream_cipher: change.stream_cipher,
            create_stream_on_append: change.create_stream_on_append,
            create_stream_on_read: change.create_stream_on_read,
        }
    }
}

fn map<T, U>(patch: Patch<T>, f: impl FnOnce(T) -> U) -> Patch<U> {
    match patch {
        Patch::Keep => Patch::Keep,
        Patch::Clear => Patch::Clear,
        Patch::Set(value) => Patch::Set(f(value)),
    }
}

/// A member of a patched object: clearing the object clears it.
fn member<T, U>(object: Patch<T>, f: impl FnOnce(T) -> Patch<U>) -> Patch<U> {
    match object {
        Patch::Keep => Patch::Keep,
        Patch::Clear => Patch::Clear,
        Patch::Set(object) => f(object),
    }
}

/// An object none of whose members changes is left out.
fn unless_default<T: Default + PartialEq>(object: T) -> Patch<T> {
    match object == T::default() {
        true => Patch::Keep,
        false => Patch::Set(object),
    }
}
