//! What the server says of basins and streams.

use millrace_api::config::Cipher;
use millrace_api::grpc;

use crate::error::Error;
use crate::list::Named;

/// What a request to create or ensure found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Outcome {
    /// It did not exist.
    Created,
    /// It existed, with another configuration.
    Updated,
    /// It was as asked for already. Also the answer to a request that was made again by the client, when the first
    /// try had been applied.
    Unchanged,
}

/// A basin, as it was when the server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct BasinInfo {
    /// Its name.
    pub name: String,
    /// Where it is, if the server says so.
    pub location: Option<String>,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// Milliseconds since the Unix epoch; set from the moment of deletion until the name is free.
    pub deleted_at_ms: Option<u64>,
}

/// A stream, as it was when the server answered.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct StreamInfo {
    /// Its name.
    pub name: String,
    /// Milliseconds since the Unix epoch.
    pub created_at_ms: u64,
    /// Milliseconds since the Unix epoch; set from the moment of deletion until the name is free.
    pub deleted_at_ms: Option<u64>,
    /// What its records are encrypted with, if they are.
    pub cipher: Option<Cipher>,
}

impl Named for BasinInfo {
    fn name(&self) -> &str {
        &self.name
    }
}

impl Named for StreamInfo {
    fn name(&self) -> &str {
        &self.name
    }
}

impl TryFrom<grpc::BasinInfo> for BasinInfo {
    type Error = Error;

    fn try_from(info: grpc::BasinInfo) -> Result<Self, Error> {
        Ok(Self {
            name: info.name,
            location: info.location,
            created_at_ms: info.created_at_ms,
            deleted_at_ms: info.deleted_at_ms,
        })
    }
}

impl TryFrom<grpc::StreamInfo> for StreamInfo {
    type Error = Error;

    fn try_from(info: grpc::StreamInfo) -> Result<Self, Error> {
        let cipher = match info.cipher.map(grpc::Cipher::try_from).transpose() {
            Ok(None) => None,
            Ok(Some(grpc::Cipher::Aegis256)) => Some(Cipher::Aegis256),
            Ok(Some(grpc::Cipher::Aes256Gcm)) => Some(Cipher::Aes256Gcm),
            Ok(Some(grpc::Cipher::Unspecified)) | Err(_) => {
                return Err(Error::corrupt(
                    "a stream has a cipher that this client does not know",
                ));
            }
        };
        Ok(Self {
            name: info.name,
            created_at_ms: info.created_at_ms,
            deleted_at_ms: info.deleted_at_ms,
            cipher,
        })
    }
}

pub(crate) fn outcome(number: i32) -> Result<Outcome, Error> {
    match grpc::Outcome::try_from(number) {
        Ok(grpc::Outcome::Created) => Ok(Outcome::Created),
        Ok(grpc::Outcome::Updated) => Ok(Outcome::Updated),
        Ok(grpc::Outcome::Noop) => Ok(Outcome::Unchanged),
        Ok(grpc::Outcome::Unspecified) | Err(_) => Err(Error::corrupt(format!("outcome {number}"))),
    }
}

/// A part that the protocol always has.
pub(crate) fn present<T>(part: Option<T>, name: &str) -> Result<T, Error> {
    part.ok_or_else(|| Error::corrupt(format!("a reply without `{name}`")))
}
