//! A node on the test's own runtime, and short ways to call it.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_api::batch::AppendBatch;
use millrace_api::config::{StorageClass, StreamConfig};
use millrace_api::name::{BasinName, StreamName};
use millrace_api::proto;
use millrace_api::read::{ReadLimits, ReadRequest, ReadStart};
use millrace_server::config::{NodeConfig, Settings};
use millrace_server::env::Env;
use millrace_server::error::ServiceError;
use millrace_server::frontend::service::types::{AppendAck, CreateBasin, CreateStream};
use millrace_server::frontend::service::{Frontend, ReadSession};
use millrace_server::node::{Ended, Node};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// A node that serves, and one basin on it.
pub struct Running {
    pub frontend: Arc<Frontend>,
    pub basin: BasinName,
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Ended>,
}

impl Running {
    /// Starts a node on `dir`, with streams in files below it unless `change` says otherwise.
    pub async fn start(dir: &Path, change: impl FnOnce(&mut Settings)) -> Self {
        Self::start_in(dir, Env::system(), change).await
    }

    /// As [`Running::start`], in a world of the test's own.
    pub async fn start_in(dir: &Path, env: Env, change: impl FnOnce(&mut Settings)) -> Self {
        let mut settings = Settings {
            data_dir: Some(dir.to_owned()),
            http_addr: Some(([127, 0, 0, 1], 0).into()),
            deletion_grace: Some(Duration::from_millis(10)),
            ..Settings::default()
        };
        change(&mut settings);
        let config = NodeConfig::resolve(settings).expect("a valid configuration");
        let node = Node::start(config, env).await.expect("the node starts");
        let frontend = node.frontend().clone();
        let basin = BasinName::new("in-process").unwrap();
        frontend
            .ensure_basin(basin.clone(), CreateBasin::default())
            .await
            .expect("a basin");
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(node.run(async { drop(stopped.await) }));
        Self {
            frontend,
            basin,
            stop,
            ended,
        }
    }

    /// Stops gracefully and waits for the end.
    pub async fn stop(self) {
        drop((self.stop, self.frontend));
        let ended = self.ended.await.expect("the node does not panic");
        assert!(matches!(ended, Ended::Stopped), "{ended:?}");
    }

    pub async fn create(&self, stream: &StreamName) -> Result<(), ServiceError> {
        let created = self
            .frontend
            .create_stream(&self.basin, stream.clone(), CreateStream::default());
        created.await.map(drop)
    }

    pub async fn create_as(&self, stream: &StreamName, class: StorageClass) {
        let config = StreamConfig {
            storage_class: Some(class),
            ..StreamConfig::default()
        };
        let request = CreateStream {
            config,
            ..CreateStream::default()
        };
        let created = self.frontend.create_stream(&self.basin, stream.clone(), request);
        created.await.expect("a stream");
    }

    pub async fn append(&self, stream: &StreamName, bodies: &[&[u8]]) -> Result<AppendAck, ServiceError> {
        self.frontend.append(&self.basin, stream, batch(bodies)).await
    }

    pub async fn session(
        &self,
        stream: &StreamName,
        wait: Option<Duration>,
    ) -> Result<ReadSession, ServiceError> {
        let request = from_start(wait);
        self.frontend.read_session(&self.basin, stream, request).await
    }

    /// Records that a read of the whole stream delivers without waiting.
    pub async fn count(&self, stream: &StreamName) -> usize {
        let request = from_start(None);
        let read = self.frontend.read(&self.basin, stream, request).await;
        read.expect("records").count
    }
}

fn from_start(wait: Option<Duration>) -> ReadRequest {
    ReadRequest {
        start: ReadStart::SeqNum(0),
        clamp: false,
        limits: ReadLimits::default(),
        wait,
    }
}

pub fn batch(bodies: &[&[u8]]) -> AppendBatch {
    let records = bodies.iter().map(|body| proto::AppendRecord {
        timestamp: None,
        headers: vec![],
        body: body.to_vec().into(),
    });
    let input = proto::AppendInput {
        records: records.collect(),
        match_seq_num: None,
        fencing_token: None,
    };
    AppendBatch::from_proto(input).expect("a batch")
}

pub fn stream(name: impl std::fmt::Display) -> StreamName {
    StreamName::new(name.to_string()).expect("a name")
}

pub fn in_memory(settings: &mut Settings) {
    settings.store = Some("memory://".into());
}
