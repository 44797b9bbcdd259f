//! A group of one, through its handle.

use millrace_api::config::{BasinConfig, StreamConfig};
use millrace_api::error::ErrorCode;
use millrace_api::id::{BasinId, NodeId, StreamId};
use millrace_api::name::{BasinName, StreamName};
use millrace_raft::command::{CreateBasin, CreateMode, CreateStream, InitCell, Outcome};
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

fn stream(name: &str, id: u128) -> CreateStream {
    CreateStream {
        basin: BasinName::new("basin-one").unwrap(),
        name: StreamName::new(name).unwrap(),
        id: StreamId(id),
        config: StreamConfig::default(),
        mode: CreateMode::Auto,
        now_ms: 2000,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_who_create_at_once_one_does() {
    let dir = tempfile::tempdir().unwrap();
    let meta = Meta::open(options(dir.path(), Blocking::Pool)).await.unwrap();
    meta.propose(basin("basin-one", 1)).await.unwrap();
    let all = (1..=500).map(|id| meta.propose(stream("s", id)));
    let made: Vec<_> = futures::future::join_all(all)
        .await
        .into_iter()
        .map(Result::unwrap)
        .collect();
    assert_eq!(
        made.iter()
            .filter(|made| made.outcome == Outcome::Created)
            .count(),
        1
    );
    assert!(made.iter().all(|one| one.stream.id == made[0].stream.id));
    let index = meta.linearize().await.unwrap();
    assert!(meta.applied_index() >= index);
    meta.wait_applied(index).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_in_use_is_refused_until_it_is_free() {
    let dir = tempfile::tempdir().unwrap();
    let meta = Meta::open(options(dir.path(), Blocking::Pool)).await.unwrap();
    match Meta::open(options(dir.path(), Blocking::Pool)).await {
        Err(MetaError::Unusable(why)) => assert!(why.contains("another process"), "{why}"),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("two members share a directory"),
    }
    meta.shutdown().await;
    assert!(matches!(
        meta.propose(InitCell { cell_id: 1 }).await,
        Err(MetaError::Closed(_))
    ));
    drop(meta);
    let other = MetaOptions {
        node: NodeId(2),
        ..options(dir.path(), Blocking::Pool)
    };
    assert!(matches!(Meta::open(other).await, Err(MetaError::Unusable(_))));
    Meta::open(options(dir.path(), Blocking::Pool))
        .await
        .unwrap()
        .shutdown()
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_member_runs_on_when_its_last_handle_is_dropped() {
    let dir = tempfile::tempdir().unwrap();
    for cell_id in 1..=5 {
        let meta = Meta::open(options(dir.path(), Blocking::Pool)).await.unwrap();
        let _ = meta.propose(InitCell { cell_id }).await;
        let other = meta.clone();
        drop(meta);
        assert_eq!(other.state().cell_id().unwrap(), Some(1));
        drop(other);
    }
}

/// Not a test of speed, but a way to see it: `cargo test -p millrace-raft --test group -- --ignored --nocapture`.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes"]
async fn a_million_streams() {
    let dir = tempfile::tempdir().unwrap();
    let meta = Meta::open(options(dir.path(), Blocking::Pool)).await.unwrap();
    meta.propose(basin("basin-one", 1)).await.unwrap();
    let count: u128 = std::env::var("STREAMS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(1_000_000);
    let begun = tokio::time::Instant::now();
    for part in 0..count / 1000 {
        let all = (0..1000)
            .map(|n| part * 1000 + n + 1)
            .map(|id| meta.propose(stream(&format!("s{id}"), id)));
        for made in futures::future::join_all(all).await {
            made.unwrap();
        }
    }
    println!("{count} streams in {:?}", begun.elapsed());
    let mut latencies = Vec::new();
    for n in 0..1000 {
        let at = tokio::time::Instant::now();
        meta.propose(stream(&format!("t{n}"), count + 1 + n))
            .await
            .unwrap();
        latencies.push(at.elapsed());
    }
    latencies.sort();
    println!(
        "create p50 {:?} p99 {:?} max {:?}",
        latencies[500], latencies[990], latencies[999]
    );
    let at = tokio::time::Instant::now();
    let page = meta.state().list_streams(BasinId(1), "s5", "", 1000).unwrap();
    println!(
        "page of {} in {:?}; {:?}",
        page.items.len(),
        at.elapsed(),
        meta.metrics()
    );
    let (log, snapshots) = (dir.path().join("meta/log"), meta.metrics().snapshot_index);
    assert!(log.exists() && snapshots > 0);
}
