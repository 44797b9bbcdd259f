//! `millrace.v1.BasinService`

use std::sync::Arc;

use millrace_api::grpc::{self, *};
use tonic::{Request, Response, Status};

use super::account::outcome;
use super::error::{invalid, status};
use super::generated::basin_service_server::BasinService;
use super::names;
use crate::error::ServiceError;
use crate::frontend::service::Frontend;
use crate::frontend::service::types::{self, CreateStream};

pub(super) struct Basin(pub Arc<Frontend>);

#[tonic::async_trait]
impl BasinService for Basin {
    async fn create_stream(
        &self,
        request: Request<CreateStreamRequest>,
    ) -> Result<Response<CreateStreamResponse>, Status> {
        let request = request.into_inner();
        let (basin, name) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
        let create = CreateStream {
            config: request.config.unwrap_or_default().try_into().map_err(invalid)?,
            request_token: names::request_token(request.request_token)?,
        };
        let done = self.0.create_stream(&basin, name, create).await;
        let done = done.map_err(|e| status(&e))?;
        Ok(Response::new(CreateStreamResponse {
            outcome: outcome(done.outcome).into(),
            stream: Some(info(done.item)),
        }))
    }

    async fn ensure_stream(
        &self,
        request: Request<EnsureStreamRequest>,
    ) -> Result<Response<EnsureStreamResponse>, Status> {
        let request = request.into_inner();
        let (basin, name) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
        let config = request.config.unwrap_or_default().try_into().map_err(invalid)?;
        let done = self.0.ensure_stream(&basin, name, config).await;
        let done = done.map_err(|e| status(&e))?;
        Ok(Response::new(EnsureStreamResponse {
            outcome: outcome(done.outcome).into(),
            stream: Some(info(done.item)),
        }))
    }

    async fn list_streams(
        &self,
        request: Request<ListStreamsRequest>,
    ) -> Result<Response<ListStreamsResponse>, Status> {
        let request = request.into_inner();
        let basin = names::basin(&request.basin)?;
        let list = names::list(request.prefix, request.start_after, request.limit);
        let checked = list.check_streams();
        checked.map_err(|why| status(&ServiceError::invalid(why)))?;
        let page = self.0.list_streams(&basin, list).await.map_err(|e| status(&e))?;
        Ok(Response::new(ListStreamsResponse {
            streams: page.items.into_iter().map(info).collect(),
            has_more: page.has_more,
        }))
    }

    async fn get_stream_config(
        &self,
        request: Request<GetStreamConfigRequest>,
    ) -> Result<Response<GetStreamConfigResponse>, Status> {
        let request = request.get_ref();
        let (basin, name) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
        let config = self
            .0
            .stream_config(&basin, &name)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(GetStreamConfigResponse {
            config: Some(config.into()),
        }))
    }

    async fn reconfigure_stream(
        &self,
        request: Request<ReconfigureStreamRequest>,
    ) -> Result<Response<ReconfigureStreamResponse>, Status> {
        let request = request.into_inner();
        let (basin, name) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
        let change = request.change.unwrap_or_default().try_into().map_err(invalid)?;
        let config = self.0.reconfigure_stream(&basin, &name, change).await;
        Ok(Response::new(ReconfigureStreamResponse {
            config: Some(config.map_err(|e| status(&e))?.into()),
        }))
    }

    async fn delete_stream(
        &self,
        request: Request<DeleteStreamRequest>,
    ) -> Result<Response<DeleteStreamResponse>, Status> {
        let request = request.get_ref();
        let (basin, name) = (names::basin(&request.basin)?, names::stream(&request.stream)?);
        self.0
            .delete_stream(&basin, &name)
            .await
            .map_err(|e| status(&e))?;
        Ok(Response::new(DeleteStreamResponse {}))
    }
}

fn info(stream: types::StreamInfo) -> grpc::StreamInfo {
    grpc::StreamInfo {
        name: stream.name.to_string(),
        created_at_ms: stream.created_at_ms,
        deleted_at_ms: stream.deleted_at_ms,
        cipher: stream.cipher.map(|cipher| Cipher::from(cipher).into()),
    }
}
