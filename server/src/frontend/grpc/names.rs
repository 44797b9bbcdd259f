//! Names and list requests as they stand in messages.

use millrace_api::name::{BasinName, InvalidName, RequestToken, StreamName};
use tonic::Status;

use super::error::status;
use crate::error::ServiceError;
use crate::frontend::service::types::ListRequest;

pub(super) fn basin(name: &str) -> Result<BasinName, Status> {
    BasinName::new(name).map_err(refused)
}

pub(super) fn stream(name: &str) -> Result<StreamName, Status> {
    StreamName::new(name).map_err(refused)
}

pub(super) fn request_token(token: Option<String>) -> Result<Option<RequestToken>, Status> {
    token
        .map(|token| RequestToken::new(token).map_err(refused))
        .transpose()
}

pub(super) fn list(prefix: String, start_after: String, limit: u32) -> ListRequest {
    ListRequest {
        prefix,
        start_after,
        limit: limit as usize,
    }
}

fn refused(error: InvalidName) -> Status {
    status(&ServiceError::invalid(error.to_string()))
}
