//! Configurations as messages, to and from the types of [`crate::config`].
//!
//! A value that an enum does not have is an error, also its `UNSPECIFIED` where a value was given: a setting that was
//! asked for and not understood must not be taken for one that was not asked for.

use super::basin_reconfiguration::StreamCipherChange;
use super::stream_config::Retention;
use super::{
    BasinConfig, BasinReconfiguration, Cipher, InvalidMessage, StorageClass, StreamConfig, StreamConfigField,
    StreamReconfiguration, TimestampingMode,
};
use crate::config::{self, Patch, ResolvedStreamConfig, RetentionPolicy};

impl From<config::Cipher> for Cipher {
    fn from(cipher: config::Cipher) -> Self {
        match cipher {
            config::Cipher::Aegis256 => Self::Aegis256,
            config::Cipher::Aes256Gcm => Self::Aes256Gcm,
        }
    }
}

fn storage_class(number: i32) -> Result<config::StorageClass, InvalidMessage> {
    match StorageClass::try_from(number) {
        Ok(StorageClass::Standard) => Ok(config::StorageClass::Standard),
        Ok(StorageClass::Express) => Ok(config::StorageClass::Express),
        Ok(StorageClass::Unspecified) | Err(_) => Err(unknown("storage_class", number)),
    }
}

fn timestamping_mode(number: i32) -> Result<config::TimestampingMode, InvalidMessage> {
    match TimestampingMode::try_from(number) {
        Ok(TimestampingMode::ClientPrefer) => Ok(config::TimestampingMode::ClientPrefer),
        Ok(TimestampingMode::ClientRequire) => Ok(config::TimestampingMode::ClientRequire),
        Ok(TimestampingMode::Arrival) => Ok(config::TimestampingMode::Arrival),
        Ok(TimestampingMode::Unspecified) | Err(_) => Err(unknown("timestamping_mode", number)),
    }
}

fn cipher(number: i32) -> Result<config::Cipher, InvalidMessage> {
    match Cipher::try_from(number) {
        Ok(Cipher::Aegis256) => Ok(config::Cipher::Aegis256),
        Ok(Cipher::Aes256Gcm) => Ok(config::Cipher::Aes256Gcm),
        Ok(Cipher::Unspecified) | Err(_) => Err(unknown("stream_cipher", number)),
    }
}

fn unknown(field: &str, number: i32) -> InvalidMessage {
    InvalidMessage(format!("`{field}` has no value {number}"))
}

impl TryFrom<StreamConfig> for config::StreamConfig {
    type Error = InvalidMessage;

    fn try_from(message: StreamConfig) -> Result<Self, InvalidMessage> {
        Ok(Self {
            storage_class: message.storage_class.map(storage_class).transpose()?,
            retention: message.retention.map(|retention| match retention {
                Retention::RetentionAgeSecs(secs) => RetentionPolicy::Age(secs),
                Retention::RetentionInfinite(_) => RetentionPolicy::Infinite,
            }),
            timestamping_mode: message.timestamping_mode.map(timestamping_mode).transpose()?,
            timestamping_uncapped: message.timestamping_uncapped,
            delete_on_empty_min_age_secs: message.delete_on_empty_min_age_secs,
        })
    }
}

impl From<config::StreamConfig> for StreamConfig {
    fn from(config: config::StreamConfig) -> Self {
        let storage_class = config.storage_class.map(|class| match class {
            config::StorageClass::Standard => StorageClass::Standard,
            config::StorageClass::Express => StorageClass::Express,
        });
        let timestamping_mode = config.timestamping_mode.map(|mode| match mode {
            config::TimestampingMode::ClientPrefer => TimestampingMode::ClientPrefer,
            config::TimestampingMode::ClientRequire => TimestampingMode::ClientRequire,
            config::TimestampingMode::Arrival => TimestampingMode::Arrival,
        });
        Self {
            storage_class: storage_class.map(Into::into),
            timestamping_mode: timestamping_mode.map(Into::into),
            timestamping_uncapped: config.timestamping_uncapped,
            delete_on_empty_min_age_secs: config.delete_on_empty_min_age_secs,
            retention: config.retention.map(|retention| match retention {
                RetentionPolicy::Age(secs) => Retention::RetentionAgeSecs(secs),
                RetentionPolicy::Infinite => Retention::RetentionInfinite(true),
            }),
        }
    }
}

impl From<ResolvedStreamConfig> for StreamConfig {
    fn from(config: ResolvedStreamConfig) -> Self {
        config::StreamConfig::from(config).into()
    }
}

impl TryFrom<BasinConfig> for config::BasinConfig {
    type Error = InvalidMessage;

    fn try_from(message: BasinConfig) -> Result<Self, InvalidMessage> {
        Ok(Self {
            default_stream_config: message.default_stream_config.unwrap_or_default().try_into()?,
            stream_cipher: message.stream_cipher.map(cipher).transpose()?,
            create_stream_on_append: message.create_stream_on_append,
            create_stream_on_read: message.create_stream_on_read,
        })
    }
}

impl From<config::BasinConfig> for BasinConfig {
    fn from(config: config::BasinConfig) -> Self {
        Self {
            default_stream_config: Some(config.default_stream_config.into()),
            create_stream_on_append: config.create_stream_on_append,
            create_stream_on_read: config.create_stream_on_read,
            stream_cipher: config.stream_cipher.map(|cipher| Cipher::from(cipher).into()),
        }
    }
}

impl TryFrom<StreamReconfiguration> for config::StreamReconfiguration {
    type Error = InvalidMessage;

    /// A field that is named twice in `clear` is cleared.
    fn try_from(message: StreamReconfiguration) -> Result<Self, InvalidMessage> {
        let set = config::StreamConfig::try_from(message.set.unwrap_or_default())?;
        let mut change = Self {
            storage_class: keep_or_set(set.storage_class),
            retention: keep_or_set(set.retention),
            timestamping_mode: keep_or_set(set.timestamping_mode),
            timestamping_uncapped: keep_or_set(set.timestamping_uncapped),
            delete_on_empty_min_age_secs: keep_or_set(set.delete_on_empty_min_age_secs),
        };
        for number in message.clear {
            match StreamConfigField::try_from(number) {
                Ok(StreamConfigField::StorageClass) => clear(&mut change.storage_class, number)?,
                Ok(StreamConfigField::Retention) => clear(&mut change.retention, number)?,
                Ok(StreamConfigField::TimestampingMode) => clear(&mut change.timestamping_mode, number)?,
                Ok(StreamConfigField::TimestampingUncapped) => {
                    clear(&mut change.timestamping_uncapped, number)?
                }
                Ok(StreamConfigField::DeleteOnEmpty) => {
                    clear(&mut change.delete_on_empty_min_age_secs, number)?;
                }
                Ok(StreamConfigField::Unspecified) | Err(_) => return Err(unknown("clear", number)),
            }
        }
        Ok(change)
    }
}

fn keep_or_set<T>(value: Option<T>) -> Patch<T> {
    value.map_or(Patch::Keep, Patch::Set)
}

fn clear<T>(field: &mut Patch<T>, number: i32) -> Result<(), InvalidMessage> {
    if matches!(field, Patch::Set(_)) {
        let name = StreamConfigField::try_from(number).map_or("a field", |field| field.as_str_name());
        return Err(InvalidMessage(format!("{name} is both set and cleared")));
    }
    *field = Patch::Clear;
    Ok(())
}

impl From<config::StreamReconfiguration> for StreamReconfiguration {
    fn from(change: config::StreamReconfiguration) -> Self {
        let mut cleared = Vec::new();
        let set = config::StreamConfig {
            storage_class: split(
                change.storage_class,
                StreamConfigField::StorageClass,
                &mut cleared,
            ),
            retention: split(change.retention, StreamConfigField::Retention, &mut cleared),
            timestamping_mode: split(
                change.timestamping_mode,
                StreamConfigField::TimestampingMode,
                &mut cleared,
            ),
            timestamping_uncapped: split(
                change.timestamping_uncapped,
                StreamConfigField::TimestampingUncapped,
                &mut cleared,
            ),
            delete_on_empty_min_age_secs: split(
                change.delete_on_empty_min_age_secs,
                StreamConfigField::DeleteOnEmpty,
                &mut cleared,
            ),
        };
        Self {
            set: Some(set.into()),
            clear: cleared,
        }
    }
}

/// What is set; what is cleared goes to the list.
fn split<T>(patch: Patch<T>, field: StreamConfigField, cleared: &mut Vec<i32>) -> Option<T> {
    match patch {
        Patch::Keep => None,
        Patch::Clear => {
            cleared.push(field.into());
            None
        }
        Patch::Set(value) => Some(value),
    }
}

impl TryFrom<BasinReconfiguration> for config::BasinReconfiguration {
    type Error = InvalidMessage;

    fn try_from(message: BasinReconfiguration) -> Result<Self, InvalidMessage> {
        Ok(Self {
            default_stream_config: match message.default_stream_config {
                None => Patch::Keep,
                Some(change) => Patch::Set(change.try_into()?),
            },
            stream_cipher: match message.stream_cipher_change {
                None => Patch::Keep,
                Some(StreamCipherChange::SetStreamCipher(number)) => Patch::Set(cipher(number)?),
                Some(StreamCipherChange::ClearStreamCipher(_)) => Patch::Clear,
            },
            create_stream_on_append: message.create_stream_on_append,
            create_stream_on_read: message.create_stream_on_read,
        })
    }
}

impl From<config::BasinReconfiguration> for BasinReconfiguration {
    /// Clearing the whole default is written as clearing each of its fields.
    fn from(change: config::BasinReconfiguration) -> Self {
        let default_stream_config = match change.default_stream_config {
            Patch::Keep => None,
            Patch::Clear => Some(config::StreamReconfiguration {
                storage_class: Patch::Clear,
                retention: Patch::Clear,
                timestamping_mode: Patch::Clear,
                timestamping_uncapped: Patch::Clear,
                delete_on_empty_min_age_secs: Patch::Clear,
            }),
            Patch::Set(change) => Some(change),
        };
        Self {
            default_stream_config: default_stream_config.map(Into::into),
            create_stream_on_append: change.create_stream_on_append,
            create_stream_on_read: change.create_stream_on_read,
            stream_cipher_change: match change.stream_cipher {
                Patch::Keep => None,
                Patch::Clear => Some(StreamCipherChange::ClearStreamCipher(true)),
                Patch::Set(cipher) => Some(StreamCipherChange::SetStreamCipher(Cipher::from(cipher).into())),
            },
        }
    }
}
