//! A group of one, through its handle.

use millrace_api::config::BasinConfig;
use millrace_api::error::ErrorCode;
use millrace_api::id::{BasinId, NodeId};
use millrace_api::name::BasinName;
use millrace_raft::command::{CreateBasin, CreateMode, InitCell, Outcome};
use millrace_raft::error::MetaError;
use millrace_raft::group::{Blocking, Meta, MetaOptions, Role};

fn options(dir: &std::path::Path, blocking: Blocking) -> MetaOptions {
    let mut options = MetaOptions::new(dir.join("meta"), NodeId(1));
    options.blocking = blocking;
    options
}

fn basin(name: &str, id: u128) -> CreateBasin {
    CreateBasin {
        name: BasinName::new(name).unwrap(),
        id: BasinId(id),
        config: BasinConfig::default(),
        location: None,
        mode: CreateMode::CreateOnly { request_key: None },
        now_ms: 1000,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_acknowledged_is_there_after_a_reopen() {
    for blocking in [Blocking::Pool, Blocking::Inline] {
        let dir = tempfile::tempdir().unwrap();
        let meta = Meta::open(options(dir.path(), blocking)).await.unwrap();
        meta.propose(InitCell { cell_id: 7 }).await.unwrap();
        let made = meta.propose(basin("basin-one", 1)).await.unwrap();
        assert_eq!(made.outcome, Outcome::Created);
        assert_eq!(meta.metrics().role, Role::Leader);
        let checksum = meta.state().checksum().unwrap();
        let index = meta.applied_index();
        meta.shutdown().await;
        drop(meta);

        let meta = Meta::open(options(dir.path(), blocking)).await.unwrap();
        assert!(meta.applied_index() >= index);
        assert_ne!(meta.state().checksum().unwrap(), 0);
        assert_ne!(
            meta.state().checksum().unwrap(),
            checksum,
            "the applied index has moved on"
        );
        assert_eq!(meta.state().cell_id().unwrap(), Some(7));
        let name = BasinName::new("basin-one").unwrap();
        assert_eq!(meta.state().basin(&name).unwrap(), Some(made.basin));
        meta.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_is_an_answer() {
    let dir = tempfile::tempdir().unwrap();
    let meta = Meta::open(options(dir.path(), Blocking::Pool)).await.unwrap();
    meta.propose(basin("basin-one", 1)).await.unwrap();
    match meta.propose(basin("basin-one", 2)).await {
        Err(MetaError::Refused(refused)) => assert_eq!(refused.code(), ErrorCode::ResourceAlreadyExists),
        other => panic!("{other:?}"),
    }
}
