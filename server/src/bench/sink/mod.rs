//! A server that stores nothing: it acknowledges every append, hands followers what is appended, and makes up what
//! others read. What the bench reaches against it is the bench's own ceiling.
//!
//! It speaks S2S over HTTP/2 on a loopback port, through the node's own listener, and runs on threads of its own,
//! whose CPU time is not counted as the client's. It believes its one client and checks nothing.

mod generated;
mod server;
mod streams;

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, Result};
use tokio::runtime::Runtime;

use self::generated::ReadTemplate;
use self::streams::Streams;
use super::driver::Endpoint;
use super::plan::{Plan, Protocol, Target, Workload};
use super::usage::SINK_THREADS;
use crate::env::Env;
use crate::frontend::listener::Server;

/// More than any plan opens: 100 sessions are allowed on each.
const CONNECTIONS_MAX: usize = 10_000;

/// Serves until it is dropped.
pub struct NullSink {
    addr: SocketAddr,
    server: Option<Server>,
    runtime: Option<Runtime>,
}

impl NullSink {
    /// A sink for this plan: its streams hold as many records as the plan would have written first, and wait for as
    /// many followers as the plan has.
    pub fn start(plan: &Plan) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name(SINK_THREADS)
            .enable_all()
            .build()
            .context("start the null sink")?;
        let (held, followers) = match plan.workload {
            Workload::Append => (0, 0),
            Workload::Tail | Workload::Mixed => (0, plan.readers),
            Workload::CatchUp => (plan.preload_batches() * plan.shape.records as u64, 0),
        };
        let router = server::router(
            Streams::new(held, followers),
            ReadTemplate::new(plan.shape, plan.seed),
        );
        let listen = Env::system();
        let (handle, started) = (runtime.handle().clone(), std::sync::mpsc::channel());
        handle.spawn(async move {
            let bound = listen.network.listen((Ipv4Addr::LOCALHOST, 0).into()).await;
            let server = bound.and_then(|listener| Server::start(listener, None, router, CONNECTIONS_MAX));
            // The receiver waits below.
            drop(started.0.send(server));
        });
        let server = started.1.recv().context("the null sink ended at its start")??;
        Ok(Self {
            addr: server.local_addr(),
            server: Some(server),
            runtime: Some(runtime),
        })
    }

    /// It as an endpoint to be driven.
    pub fn target(&self) -> Target {
        Target {
            label: "A",
            protocol: Protocol::S2s,
            endpoint: Endpoint {
                url: format!("http://{}", self.addr)
                    .parse()
                    .expect("an address makes a URL"),
                basin_url: None,
                token: None,
                insecure: false,
            },
            server_pid: None,
        }
    }
}

impl Drop for NullSink {
    fn drop(&mut self) {
        drop(self.server.take());
        if let Some(runtime) = self.runtime.take() {
            // A runtime must not be waited for from within another.
            runtime.shutdown_background();
        }
    }
}
