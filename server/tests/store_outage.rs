//! A store that fails: appends wait, then fail with a code that is true, and all goes on by itself when it is back.

use std::sync::Arc;
use std::time::Duration;

use millrace_api::batch::AppendBatch;
use millrace_api::config::BasinConfig;
use millrace_api::error::ErrorCode;
use millrace_api::name::{BasinName, StreamName};
use millrace_api::proto;
use millrace_api::read::{ReadQuery, ReadRequest};
use millrace_server::config::{NodeConfig, Settings};
use millrace_server::env::{Env, Stores};
use millrace_server::error::ServiceError;
use millrace_server::frontend::service::Frontend;
use millrace_server::frontend::service::types::CreateBasin;
use millrace_server::node::Node;
use millrace_wal::fault::{Cut, Fault, FaultStore, Faults, Op, Rule};
use millrace_wal::{MemoryStore, StoreError, ZoneStore};

/// Answers one store whatever the URL.
struct OneStore(Arc<dyn ZoneStore>);

impl Stores for OneStore {
    fn open(&self, _url: &str) -> Result<Arc<dyn ZoneStore>, StoreError> {
        Ok(self.0.clone())
    }
}

struct Fixture {
    frontend: Arc<Frontend>,
    faults: Faults,
    basin: BasinName,
    stream: StreamName,
    _dir: tempfile::TempDir,
    node: Node,
}

impl Fixture {
    async fn start(append_timeout: Duration) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let faults = Faults::new(7);
        let store = Arc::new(FaultStore::new(Arc::new(MemoryStore::new()), faults.clone()));
        let settings = Settings {
            data_dir: Some(dir.path().to_owned()),
            store: Some("memory://".into()),
            http_addr: Some(([127, 0, 0, 1], 0).into()),
            append_timeout: Some(append_timeout),
            ..Settings::default()
        };
        let env = Env {
            stores: Arc::new(OneStore(store)),
            ..Env::system()
        };
        let node = Node::start(NodeConfig::resolve(settings).unwrap(), env)
            .await
            .unwrap();
        let frontend = node.frontend().clone();
        let basin = BasinName::new("outage-basin").unwrap();
        let config = BasinConfig {
            create_stream_on_append: true,
            ..BasinConfig::default()
        };
        frontend
            .create_basin(
                basin.clone(),
                CreateBasin {
                    config,
                    ..Default::default()
                },
            )
            .await
            .unwrap();
        Self {
            frontend,
            faults,
            basin,
            stream: StreamName::new("s").unwrap(),
            _dir: dir,
            node,
        }
    }

    async fn append(&self, body: &'static str) -> Result<u64, ServiceError> {
        let record = proto::AppendRecord {
            body: body.into(),
            ..Default::default()
        };
        let input = proto::AppendInput {
            records: vec![record],
            ..Default::default()
        };
        let batch = AppendBatch::from_proto(input).unwrap();
        self.frontend
            .append(&self.basin, &self.stream, batch)
            .await
            .map(|ack| ack.start.seq_num)
    }

    /// Stops the node, so that nothing of it runs when the process ends.
    async fn stop(self) {
        drop(self.frontend);
        self.node.run(async {}).await;
    }

    async fn count(&self) -> usize {
        let query = ReadQuery {
            seq_num: Some(0),
            ..Default::default()
        };
        let request = ReadRequest::unary(&query).unwrap();
        self.frontend
            .read(&self.basin, &self.stream, request)
            .await
            .unwrap()
            .count
    }
}

fn code(error: ServiceError) -> ErrorCode {
    match error {
        ServiceError::Code { code, .. } => code,
        other => panic!("not a code: {other}"),
    }
}

#[tokio::test]
async fn append_during_an_outage_ends_as_unknown_and_becomes_durable_once_when_the_store_is_back() {
    for cut in [Cut::Refusing, Cut::Silent] {
        let fixture = Fixture::start(Duration::from_millis(300)).await;
        assert_eq!(fixture.append("before").await.unwrap(), 0);
        fixture.faults.cut(cut);
        let error = code(fixture.append("during").await.unwrap_err());
        assert_eq!(error, ErrorCode::Other, "it may still become durable");
        assert_eq!(fixture.count().await, 1, "nothing is shown that is not durable");
        fixture.faults.heal();
        let after = tokio::time::timeout(Duration::from_secs(60), async {
            loop {
                if let Ok(seq_num) = fixture.append("after").await {
                    return seq_num;
                }
            }
        });
        let after = after.await.expect("the node recovers without a restart");
        assert!(
            after >= 2,
            "what was unknown has happened, before what came later"
        );
        assert_eq!(fixture.count().await as u64, after + 1);
        fixture.stop().await;
    }
}

#[tokio::test]
async fn append_that_finds_no_room_during_an_outage_is_refused_as_not_applied() {
    let fixture = Fixture::start(Duration::from_millis(200)).await;
    fixture.append("before").await.unwrap();
    fixture.faults.cut(Cut::Silent);
    let big: &'static str = Box::leak("x".repeat(1_000_000).into_boxed_str());
    // 64 MiB of room: what is admitted waits for storage, what is not gets the code that is safe to retry.
    let outcomes = futures::future::join_all((0..80).map(|_| fixture.append(big))).await;
    let codes: Vec<_> = outcomes
        .into_iter()
        .map(|outcome| code(outcome.unwrap_err()))
        .collect();
    let refused = codes.iter().filter(|code| **code == ErrorCode::HotServer).count();
    let unknown = codes.iter().filter(|code| **code == ErrorCode::Other).count();
    assert_eq!(refused + unknown, 80, "{codes:?}");
    assert!((10..=30).contains(&refused), "{refused} refused");
    fixture.faults.heal();
    let landed = tokio::time::timeout(Duration::from_secs(60), async {
        loop {
            if let Ok(seq_num) = fixture.append("after").await {
                return seq_num;
            }
        }
    });
    let landed = landed.await.expect("the node recovers without a restart");
    assert!(
        landed > unknown as u64,
        "all that was admitted has landed, nothing that was refused"
    );
    fixture.stop().await;
}

#[tokio::test]
async fn answers_lost_after_the_effect_never_double_an_append() {
    let fixture = Fixture::start(Duration::from_secs(30)).await;
    fixture
        .faults
        .add(Rule::new(Fault::FailAfter).op(Op::Create).chance(0.5));
    for expected in 0..50 {
        assert_eq!(fixture.append("x").await.unwrap(), expected);
    }
    assert_eq!(fixture.count().await, 50);
    fixture.stop().await;
}
