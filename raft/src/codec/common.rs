//! Ids, names and configurations.

use millrace_api::config::{
    BasinConfig, Cipher, ResolvedStreamConfig, RetentionPolicy, StorageClass, StreamConfig, TimestampingMode,
};
use millrace_api::id::{Incarnation, NodeId};
use millrace_api::name::{BasinName, FencingToken, InvalidName, StreamName};
use millrace_api::position::StreamPosition;

use super::{DecodeError, required};
use crate::pb;
use crate::state::record::{Fencing, Owner};

pub fn id(bytes: &[u8], what: &'static str) -> Result<u128, DecodeError> {
    let bytes: [u8; 16] = bytes
        .try_into()
        .map_err(|_| DecodeError::unknown(what, format_args!("{} bytes", bytes.len())))?;
    Ok(u128::from_be_bytes(bytes))
}

pub fn id_bytes(id: u128) -> Vec<u8> {
    id.to_be_bytes().to_vec()
}

pub fn request_key(bytes: Option<Vec<u8>>) -> Result<Option<[u8; 32]>, DecodeError> {
    let key = |bytes: Vec<u8>| {
        <[u8; 32]>::try_from(bytes.as_slice())
            .map_err(|_| DecodeError::unknown("request_key", format_args!("{} bytes", bytes.len())))
    };
    bytes.map(key).transpose()
}

pub fn request_key_bytes(key: Option<[u8; 32]>) -> Option<Vec<u8>> {
    key.map(|key| key.to_vec())
}

pub fn basin_name(text: &str) -> Result<BasinName, DecodeError> {
    name(BasinName::new(text), "basin name")
}

pub fn stream_name(text: &str) -> Result<StreamName, DecodeError> {
    name(StreamName::new(text), "stream name")
}

fn name<T>(name: Result<T, InvalidName>, what: &'static str) -> Result<T, DecodeError> {
    name.map_err(|error| DecodeError::unknown(what, error))
}

pub fn storage_class(value: i32) -> Result<Option<StorageClass>, DecodeError> {
    match pb::StorageClass::try_from(value) {
        Ok(pb::StorageClass::Unspecified) => Ok(None),
        Ok(pb::StorageClass::Standard) => Ok(Some(StorageClass::Standard)),
        Ok(pb::StorageClass::Express) => Ok(Some(StorageClass::Express)),
        Err(_) => Err(DecodeError::unknown("storage class", value)),
    }
}

pub fn storage_class_number(class: Option<StorageClass>) -> i32 {
    match class {
        None => pb::StorageClass::Unspecified,
        Some(StorageClass::Standard) => pb::StorageClass::Standard,
        Some(StorageClass::Express) => pb::StorageClass::Express,
    }
    .into()
}

pub fn timestamping_mode(value: i32) -> Result<Option<TimestampingMode>, DecodeError> {
    match pb::TimestampingMode::try_from(value) {
        Ok(pb::TimestampingMode::Unspecified) => Ok(None),
        Ok(pb::TimestampingMode::ClientPrefer) => Ok(Some(TimestampingMode::ClientPrefer)),
        Ok(pb::TimestampingMode::ClientRequire) => Ok(Some(TimestampingMode::ClientRequire)),
        Ok(pb::TimestampingMode::Arrival) => Ok(Some(TimestampingMode::Arrival)),
        Err(_) => Err(DecodeError::unknown("timestamping mode", value)),
    }
}

pub fn timestamping_mode_number(mode: Option<TimestampingMode>) -> i32 {
    match mode {
        None => pb::TimestampingMode::Unspecified,
        Some(TimestampingMode::ClientPrefer) => pb::TimestampingMode::ClientPrefer,
        Some(TimestampingMode::ClientRequire) => pb::TimestampingMode::ClientRequire,
        Some(TimestampingMode::Arrival) => pb::TimestampingMode::Arrival,
    }
    .into()
}

pub fn cipher(value: i32) -> Result<Option<Cipher>, DecodeError> {
    match pb::Cipher::try_from(value) {
        Ok(pb::Cipher::Unspecified) => Ok(None),
        Ok(pb::Cipher::Aegis256) => Ok(Some(Cipher::Aegis256)),
        Ok(pb::Cipher::Aes256Gcm) => Ok(Some(Cipher::Aes256Gcm)),
        Err(_) => Err(DecodeError::unknown("cipher", value)),
    }
}

pub fn cipher_number(cipher: Option<Cipher>) -> i32 {
    match cipher {
        None => pb::Cipher::Unspecified,
        Some(Cipher::Aegis256) => pb::Cipher::Aegis256,
        Some(Cipher::Aes256Gcm) => pb::Cipher::Aes256Gcm,
    }
    .into()
}

pub fn retention(message: pb::Retention) -> RetentionPolicy {
    match message.age_secs {
        0 => RetentionPolicy::Infinite,
        age => RetentionPolicy::Age(age),
    }
}

/// An age of 0 is refused before it gets here; it would read as "for ever".
pub fn retention_message(policy: RetentionPolicy) -> pb::Retention {
    let age_secs = match policy {
        RetentionPolicy::Age(age) => age,
        RetentionPolicy::Infinite => 0,
    };
    pb::Retention { age_secs }
}

pub fn stream_config(message: pb::StreamConfig) -> Result<StreamConfig, DecodeError> {
    Ok(StreamConfig {
        storage_class: storage_class(message.storage_class)?,
        retention: message.retention.map(retention),
        timestamping_mode: timestamping_mode(message.timestamping_mode)?,
        timestamping_uncapped: message.timestamping_uncapped,
        delete_on_empty_min_age_secs: message.delete_on_empty_min_age_secs,
    })
}

pub fn stream_config_message(config: &StreamConfig) -> pb::StreamConfig {
    pb::StreamConfig {
        storage_class: storage_class_number(config.storage_class),
        retention: config.retention.map(retention_message),
        timestamping_mode: timestamping_mode_number(config.timestamping_mode),
        timestamping_uncapped: config.timestamping_uncapped,
        delete_on_empty_min_age_secs: config.delete_on_empty_min_age_secs,
    }
}

pub fn resolved_config(message: Option<pb::StreamConfig>) -> Result<ResolvedStreamConfig, DecodeError> {
    let config = stream_config(required(message, "stream config")?)?;
    Ok(ResolvedStreamConfig {
        storage_class: required(config.storage_class, "storage class")?,
        retention: required(config.retention, "retention")?,
        timestamping_mode: required(config.timestamping_mode, "timestamping mode")?,
        timestamping_uncapped: required(config.timestamping_uncapped, "timestamping uncapped")?,
        delete_on_empty_min_age_secs: required(config.delete_on_empty_min_age_secs, "delete-on-empty age")?,
    })
}

pub fn basin_config(message: Option<pb::BasinConfig>) -> Result<BasinConfig, DecodeError> {
    let message = required(message, "basin config")?;
    Ok(BasinConfig {
        default_stream_config: stream_config(message.default_stream_config.unwrap_or_default())?,
        stream_cipher: cipher(message.stream_cipher)?,
        create_stream_on_append: message.create_stream_on_append,
        create_stream_on_read: message.create_stream_on_read,
    })
}

pub fn basin_config_message(config: &BasinConfig) -> pb::BasinConfig {
    pb::BasinConfig {
        default_stream_config: Some(stream_config_message(&config.default_stream_config)),
        stream_cipher: cipher_number(config.stream_cipher),
        create_stream_on_append: config.create_stream_on_append,
        create_stream_on_read: config.create_stream_on_read,
    }
}

pub fn position(message: Option<pb::StreamPosition>) -> Result<StreamPosition, DecodeError> {
    let message = required(message, "position")?;
    Ok(StreamPosition::new(message.seq_num, message.timestamp))
}

pub fn position_message(position: StreamPosition) -> Option<pb::StreamPosition> {
    Some(pb::StreamPosition {
        seq_num: position.seq_num,
        timestamp: position.timestamp,
    })
}

pub fn fencing(message: Option<pb::Fencing>) -> Result<Fencing, DecodeError> {
    let message = required(message, "fencing")?;
    Ok(Fencing {
        token: name(FencingToken::new(&message.token), "fencing token")?,
        seq_num: message.seq_num,
    })
}

pub fn fencing_message(fencing: &Fencing) -> Option<pb::Fencing> {
    Some(pb::Fencing {
        token: fencing.token.to_string(),
        seq_num: fencing.seq_num,
    })
}

pub fn owner(message: pb::Owner) -> Result<Owner, DecodeError> {
    Ok(Owner {
        node: NodeId(message.node),
        incarnation: Incarnation(id(&message.incarnation, "incarnation")?),
    })
}

pub fn owner_message(owner: Owner) -> pb::Owner {
    pb::Owner {
        node: owner.node.0,
        incarnation: id_bytes(owner.incarnation.0),
    }
}
