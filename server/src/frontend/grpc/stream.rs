//! `millrace.v1.StreamService`

use std::sync::Arc;

use bytes::Bytes;
use millrace_api::batch::AppendBatch;
use millrace_api::grpc::*;
use millrace_api::{proto, read};
use tonic::{Request, Response, Status, Streaming};

use super::error::{invalid, status};
use super::generated::stream_service_server::StreamService;
use super::output::Messages;
use super::{append_session, names, read_session};
use crate::error::ServiceError;
use crate::frontend::service::Frontend;
use crate::frontend::service::types;

pub(super) struct Stream(pub Arc<Frontend>);

#[tonic::async_trait]
impl StreamService for Stream {
    type AppendSessionStream = Messages<AppendSessionResponse>;
    type ReadSessionStream = Messages<ReadResponse>;

    async fn append(&self, request: Request<AppendRequest>) -> Result<Response<AppendResponse>, Status> {
        let request = request.into_inner();
        let (basin, stream) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
        let batch = decode(request.input).map_err(|e| status(&e))?;
        let ack = self.0.append(&basin, &stream, batch).await;
        Ok(Response::new(AppendResponse {
            ack: Some(ack_message(&ack.map_err(|e| status(&e))?)),
        }))
    }

    async fn append_session(
        &self,
        request: Request<Streaming<AppendSessionRequest>>,
    ) -> Result<Response<Self::AppendSessionStream>, Status> {
        let acks = append_session::open(self.0.clone(), request.into_inner()).await?;
        Ok(Response::new(acks))
    }

    async fn read(&self, request: Request<ReadRequest>) -> Result<Response<ReadResponse>, Status> {
        let request = request.get_ref();
        let (basin, stream) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
        let request = read::ReadRequest::try_from(request).map_err(invalid)?;
        let batch = self
            .0
            .read(&basin, &stream, request)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(ReadResponse::new(batch.parts, batch.tail)))
    }

    async fn read_session(
        &self,
        request: Request<ReadRequest>,
    ) -> Result<Response<Self::ReadSessionStream>, Status> {
        let request = request.get_ref();
        let (basin, stream) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
        let request = read::ReadRequest::try_from(request).map_err(invalid)?;
        let session = self.0.read_session(&basin, &stream, request).await;
        let session = session.map_err(|e| status(&e))?;
        Ok(Response::new(read_session::messages(self.0.clone(), session)))
    }

    async fn check_tail(
        &self,
        request: Request<CheckTailRequest>,
    ) -> Result<Response<CheckTailResponse>, Status> {
        let request = request.get_ref();
        let (basin, stream) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
        let tail = self.0.check_tail(&basin, &stream).await.map_err(|e| status(&e))?;
        Ok(Response::new(CheckTailResponse {
            tail: Some(tail.into()),
        }))
    }
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
