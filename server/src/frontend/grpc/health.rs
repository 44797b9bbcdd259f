//! `grpc.health.v1.Health`: all services of the node serve, or none does.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{BoxStream, unfold};
use tonic::server::NamedService;
use tonic::{Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_server::Health as HealthService;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};

use super::account::Account;
use super::basin::Basin;
use super::generated::account_service_server::AccountServiceServer;
use super::generated::basin_service_server::BasinServiceServer;
use super::stream;
use crate::frontend::service::Frontend;

/// The node as a whole goes by the empty name.
const SERVICES: [&str; 4] = [
    "",
    AccountServiceServer::<Account>::NAME,
    BasinServiceServer::<Basin>::NAME,
    stream::NAME,
];

pub(super) struct Health(pub Arc<Frontend>);

#[tonic::async_trait]
impl HealthService for Health {
    type WatchStream = BoxStream<'static, Result<HealthCheckResponse, Status>>;

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
        Ok(Response::new(watch(self.0.clone(), known)))
    }
}

fn known(request: &HealthCheckRequest) -> bool {
    SERVICES.contains(&request.service.as_str())
}

/// What the next answer of a watch waits for.
#[derive(Clone, Copy)]
enum Awaited {
    Nothing,
    Readiness,
    Stop,
}

/// Tells the state and each change of it; ends when the node stops, so as not to hold that up.
fn watch(frontend: Arc<Frontend>, known: bool) -> BoxStream<'static, Result<HealthCheckResponse, Status>> {
    let answers = unfold(Some(Awaited::Nothing), move |awaited| {
        let frontend = frontend.clone();
        async move {
            let awaited = awaited?;
            match awaited {
                Awaited::Nothing => {}
                Awaited::Readiness => tokio::select! {
                    () = frontend.readied() => {}
                    () = frontend.drained() => {}
                },
                Awaited::Stop => frontend.drained().await,
            }
            let next = match awaited {
                Awaited::Nothing if !frontend.ready() && !frontend.draining() => Some(Awaited::Readiness),
                Awaited::Nothing | Awaited::Readiness => Some(Awaited::Stop),
                Awaited::Stop => None,
            };
            let now = match known {
                true => health(&frontend),
                false => answer(ServingStatus::ServiceUnknown),
            };
            Some((Ok(now), next))
        }
    });
    answers.boxed()
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
