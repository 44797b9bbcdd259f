//! `millrace.v1.AccountService`

use std::sync::Arc;

use millrace_api::grpc::{self, *};
use tonic::{Request, Response, Status};

use super::error::{invalid, status};
use super::generated::account_service_server::AccountService;
use super::names;
use crate::error::ServiceError;
use crate::frontend::service::Frontend;
use crate::frontend::service::types::{self, CreateBasin, ProvisionOutcome};

pub(super) struct Account(pub Arc<Frontend>);

#[tonic::async_trait]
impl AccountService for Account {
    async fn create_basin(
        &self,
        request: Request<CreateBasinRequest>,
    ) -> Result<Response<CreateBasinResponse>, Status> {
        let request = request.into_inner();
        let name = names::basin(&request.basin)?;
        let create = CreateBasin {
            config: request.config.unwrap_or_default().try_into().map_err(invalid)?,
            location: request.location,
            request_token: names::request_token(request.request_token)?,
        };
        let done = self.0.create_basin(name, create).await.map_err(|e| status(&e))?;
        Ok(Response::new(CreateBasinResponse {
            outcome: outcome(done.outcome).into(),
            basin: Some(info(done.item)),
        }))
    }

    async fn ensure_basin(
        &self,
        request: Request<EnsureBasinRequest>,
    ) -> Result<Response<EnsureBasinResponse>, Status> {
        let request = request.into_inner();
        let name = names::basin(&request.basin)?;
        let create = CreateBasin {
            config: request.config.unwrap_or_default().try_into().map_err(invalid)?,
            location: request.location,
            request_token: None,
        };
        let done = self.0.ensure_basin(name, create).await.map_err(|e| status(&e))?;
        Ok(Response::new(EnsureBasinResponse {
            outcome: outcome(done.outcome).into(),
            basin: Some(info(done.item)),
        }))
    }

    async fn list_basins(
        &self,
        request: Request<ListBasinsRequest>,
    ) -> Result<Response<ListBasinsResponse>, Status> {
        let request = request.into_inner();
        let list = names::list(request.prefix, request.start_after, request.limit);
        let checked = list.check_basins();
        checked.map_err(|why| status(&ServiceError::invalid(why)))?;
        let page = self.0.list_basins(list).await.map_err(|e| status(&e))?;
        Ok(Response::new(ListBasinsResponse {
            basins: page.items.into_iter().map(info).collect(),
            has_more: page.has_more,
        }))
    }

    async fn get_basin_config(
        &self,
        request: Request<GetBasinConfigRequest>,
    ) -> Result<Response<GetBasinConfigResponse>, Status> {
        let name = names::basin(&request.get_ref().basin)?;
        let config = self.0.basin_config(&name).await.map_err(|e| status(&e))?;
        Ok(Response::new(GetBasinConfigResponse {
            config: Some(config.into()),
        }))
    }

    async fn reconfigure_basin(
        &self,
        request: Request<ReconfigureBasinRequest>,
    ) -> Result<Response<ReconfigureBasinResponse>, Status> {
        let request = request.into_inner();
        let name = names::basin(&request.basin)?;
        let change = request.change.unwrap_or_default().try_into().map_err(invalid)?;
        let config = self.0.reconfigure_basin(&name, change).await;
        Ok(Response::new(ReconfigureBasinResponse {
            config: Some(config.map_err(|e| status(&e))?.into()),
        }))
    }

    async fn delete_basin(
        &self,
        request: Request<DeleteBasinRequest>,
    ) -> Result<Response<DeleteBasinResponse>, Status> {
        let name = names::basin(&request.get_ref().basin)?;
        self.0.delete_basin(&name).await.map_err(|e| status(&e))?;
        Ok(Response::new(DeleteBasinResponse {}))
    }

    async fn issue_access_token(
        &self,
        _request: Request<IssueAccessTokenRequest>,
    ) -> Result<Response<IssueAccessTokenResponse>, Status> {
        Err(no_tokens())
    }

    async fn list_access_tokens(
        &self,
        _request: Request<ListAccessTokensRequest>,
    ) -> Result<Response<ListAccessTokensResponse>, Status> {
        Err(no_tokens())
    }

    async fn revoke_access_token(
        &self,
        _request: Request<RevokeAccessTokenRequest>,
    ) -> Result<Response<RevokeAccessTokenResponse>, Status> {
        Err(no_tokens())
    }
}

fn no_tokens() -> Status {
    status(&ServiceError::not_implemented("issuing access tokens"))
}

pub(super) fn outcome(outcome: ProvisionOutcome) -> Outcome {
    match outcome {
        ProvisionOutcome::Created => Outcome::Created,
        ProvisionOutcome::Updated => Outcome::Updated,
        ProvisionOutcome::Noop => Outcome::Noop,
    }
}

fn info(basin: types::BasinInfo) -> grpc::BasinInfo {
    grpc::BasinInfo {
        name: basin.name.to_string(),
        location: basin.location,
        created_at_ms: basin.created_at_ms,
        deleted_at_ms: basin.deleted_at_ms,
    }
}
