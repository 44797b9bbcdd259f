//! `millrace.v1.StreamService`: the calls that carry records, and the tail.
//!
//! They are served without the generated code, which copies every message into a buffer of its own, on its way in and
//! on its way out. Everything else is as that has it.

use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::response::Response;
use axum::routing::any;
use bytes::Bytes;
use millrace_api::batch::AppendBatch;
use millrace_api::grpc::*;
use millrace_api::limits::GRPC_APPEND_LEN_MAX;
use millrace_api::{proto, read};
use prost::Message;
use tonic::Status;

use super::error::{invalid, status};
use super::incoming::Incoming;
use super::reply::{self, Refusal, read_chunks};
use super::{SMALL_LEN_MAX, append_session, names, read_session};
use crate::error::ServiceError;
use crate::frontend::service::Frontend;
use crate::frontend::service::types;

/// The service as it is declared.
pub(super) const NAME: &str = "millrace.v1.StreamService";

type Reply = Result<Response, Refusal>;

pub(super) fn router(frontend: Arc<Frontend>) -> Router {
    let path = |rpc| format!("/{NAME}/{rpc}");
    Router::new()
        .route(&path("Append"), any(append))
        .route(&path("AppendSession"), any(append_session))
        .route(&path("Read"), any(read))
        .route(&path("ReadSession"), any(read_session))
        .route(&path("CheckTail"), any(check_tail))
        .with_state(frontend)
}

async fn append(State(frontend): State<Arc<Frontend>>, request: Request) -> Reply {
    let request: AppendRequest = Incoming::new(request, GRPC_APPEND_LEN_MAX)?.only().await?;
    let (basin, stream) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
    let batch = decode(request.input).map_err(|e| status(&e))?;
    let ack = frontend.append(&basin, &stream, batch).await;
    Ok(reply::message(&AppendResponse {
        ack: Some(ack_message(&ack.map_err(|e| status(&e))?)),
    }))
}

async fn append_session(State(frontend): State<Arc<Frontend>>, request: Request) -> Reply {
    let requests = Incoming::new(request, GRPC_APPEND_LEN_MAX)?;
    Ok(append_session::reply(frontend, requests).await?)
}

async fn read(State(frontend): State<Arc<Frontend>>, request: Request) -> Reply {
    let request: ReadRequest = small(request).await?;
    let (basin, stream) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
    let request = read::ReadRequest::try_from(&request).map_err(invalid)?;
    let batch = frontend.read(&basin, &stream, request).await;
    let batch = batch.map_err(|e| status(&e))?;
    Ok(reply::chunks(read_chunks(ReadResponse::new(
        batch.parts,
        batch.tail,
    ))))
}

async fn read_session(State(frontend): State<Arc<Frontend>>, request: Request) -> Reply {
    let request: ReadRequest = small(request).await?;
    let (basin, stream) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
    let request = read::ReadRequest::try_from(&request).map_err(invalid)?;
    let session = frontend.read_session(&basin, &stream, request).await;
    Ok(read_session::reply(frontend, session.map_err(|e| status(&e))?))
}

async fn check_tail(State(frontend): State<Arc<Frontend>>, request: Request) -> Reply {
    let request: CheckTailRequest = small(request).await?;
    let (basin, stream) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
    let tail = frontend.check_tail(&basin, &stream).await;
    Ok(reply::message(&CheckTailResponse {
        tail: Some(tail.map_err(|e| status(&e))?.into()),
    }))
}

/// The one message of a call without records.
async fn small<M: Message + Default>(request: Request) -> Result<M, Status> {
    Incoming::new(request, SMALL_LEN_MAX)?.only().await
}

pub(super) fn decode(input: Bytes) -> Result<AppendBatch, ServiceError> {
    AppendBatch::decode(input).map_err(|error| ServiceError::new(error.code(), error.to_string()))
}

pub(super) fn ack_message(ack: &types::AppendAck) -> proto::AppendAck {
    proto::AppendAck {
        start: Some(ack.start.into()),
        end: Some(ack.end.into()),
        tail: Some(ack.tail.into()),
    }
}
