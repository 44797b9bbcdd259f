//! `grpc.health.v1.Health`: all services of the node serve, or none does.

use std::sync::Arc;

use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as HealthService;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::account::Account;
use super::basin::Basin;
use super::generated::account_service_server::AccountServiceServer;
use super::generated::basin_service_server::BasinServiceServer;
use super::generated::stream_service_server::StreamServiceServer;
use super::output::{Messages, Output};
use super::stream::Stream;
use crate::frontend::service::Frontend;

/// The node as a whole goes by the empty name.
const SERVICES: [&str; 4] = [
    "",
    AccountServiceServer::<Account>::NAME,
    BasinServiceServer::<Basin>::NAME,
    StreamServiceServer::<Stream>::NAME,
];

pub(super) struct Health(pub Arc<Frontend>);

#[tonic::async_trait]
impl HealthService for Health {
    type WatchStream = Messages<HealthCheckResponse>;

    async fn check(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<HealthCheckResponse>, Status> {
        match known(request.get_ref()) {
            true => Ok(Response::new(health(&self.0))),
            false => Err(Status::not_found("there is no such service")),
        }
    }

    async fn watch(
        &self,
        request: Request<HealthCheckRequest>,
    ) -> Result<Response<Self::WatchStream>, Status> {
        let known = known(request.get_ref());
        let frontend = self.0.clone();
        let changes = Messages::written_by(1, move |output| async move {
            watch(&frontend, known, &output).await;
            Ok(())
        });
        Ok(Response::new(changes))
    }
}

fn known(request: &HealthCheckRequest) -> bool {
    SERVICES.contains(&request.service.as_str())
}

/// Tells the state and each change of it; ends when the node stops, so as not to hold that up.
async fn watch(frontend: &Frontend, known: bool, output: &Output<HealthCheckResponse>) {
    let now = |frontend: &Frontend| match known {
        true => health(frontend),
        false => answer(ServingStatus::ServiceUnknown),
    };
    if !frontend.ready() && !frontend.draining() {
        if output.send(now(frontend)).await.is_err() {
            return;
        }
        tokio::select! {
            () = frontend.readied() => {}
            () = frontend.drained() => {}
        }
    }
    if output.send(now(frontend)).await.is_err() {
        return;
    }
    frontend.drained().await;
    // Nobody is left to be told if this fails.
    let _ = output.send(now(frontend)).await;
}

fn health(frontend: &Frontend) -> HealthCheckResponse {
    answer(match frontend.ready() {
        true => ServingStatus::Serving,
        false => ServingStatus::NotServing,
    })
}

fn answer(status: ServingStatus) -> HealthCheckResponse {
    HealthCheckResponse {
        status: status.into(),
    }
}
