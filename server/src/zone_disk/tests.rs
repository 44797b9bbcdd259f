use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use millrace_api::id::{Incarnation, NodeId, ZoneGen};
use millrace_raft::command::RegisterNode;
use millrace_raft::group::Timing;
use millrace_raft::identity::PeerAddress;
use millrace_wal::{CreateOutcome, DiskOptions, Payload, ReadRange, StoreError, ZoneStore, conformance};
use tokio::runtime::Runtime;
use tokio_util::sync::CancellationToken;

use super::disk::ZoneDisk;
use super::remote::RemoteDisk;
use super::{LIST_PAGE, OBJECT_BYTES_MAX};
use crate::cluster::{Cluster, ClusterConfig};
use crate::control::leases::LeaseTiming;
use crate::env::Env;
use crate::peer::directory::Peers;

const NODE: NodeId = NodeId(1);
const ZONE: ZoneGen = ZoneGen(77);

/// A node that serves its disk on a port of its own, and the way to it.
struct Served {
    cluster: Arc<Cluster>,
    store: ZoneDisk,
    peers: Peers,
    /// Runs what is served; ended, it is as if the process had been killed.
    server: Option<Runtime>,
    stop: CancellationToken,
    _directory: tempfile::TempDir,
}

impl Served {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let any_port = "127.0.0.1:0".parse().unwrap();
        let config = ClusterConfig {
            name: "test".into(),
            node: NODE,
            zone: "a".into(),
            peers: vec![PeerAddress {
                node: NODE,
                address: "127.0.0.1:1".into(),
            }],
            cluster_addr: any_port,
            cluster_advertise: "127.0.0.1:1".into(),
            forward_addr: any_port,
            forward_advertise: None,
            tls: None,
            lease: LeaseTiming::default(),
            timing: Timing::default(),
        };
        let opened = Cluster::open(config, Env::system(), directory.path().join("meta")).await;
        let cluster = Arc::new(opened.unwrap());
        let stop = CancellationToken::new();
        let server = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let (serving, stopped) = (cluster.clone(), stop.clone());
        let served = server.spawn(async move {
            let calls = serving.disk.clone().router();
            serving.serve(calls, stopped).await.unwrap()
        });
        let registered = cluster.meta.propose(RegisterNode {
            node: NODE,
            incarnation: Incarnation(1),
            zone: "a".into(),
            address: served.await.unwrap(),
            proves_old_dead: true,
            now_ms: 1,
        });
        registered.await.unwrap();
        let options = DiskOptions {
            file_bytes: 8 << 20,
            ..DiskOptions::default()
        };
        let store = ZoneDisk::open(&directory.path().join("disk"), options).unwrap();
        Self {
            store,
            peers: cluster.peers(stop.clone()).unwrap(),
            server: Some(server),
            cluster,
            stop,
            _directory: directory,
        }
    }

    /// A node whose disk is the zone.
    async fn with_disk() -> Self {
        let served = Self::start().await;
        let (store, stop) = (served.store.clone(), served.stop.clone());
        served.cluster.disk.serve_disk(store, ZONE, stop);
        served
    }

    fn remote(&self, zone_gen: ZoneGen) -> Arc<dyn ZoneStore> {
        RemoteDisk::new(self.peers.clone(), NODE, zone_gen)
    }

    fn kill(&mut self) {
        if let Some(server) = self.server.take() {
            server.shutdown_background();
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.kill();
    }
}

fn body(len: usize) -> Bytes {
    (0..len as u32)
        .map(|at| (at / 7) as u8 ^ at as u8)
        .collect::<Vec<_>>()
        .into()
}

/// Every call there is fails like this.
async fn all_fail(zone: &dyn ZoneStore, like: fn(&StoreError) -> bool) {
    let payload = Payload::from(body(100));
    let results = [
        zone.create("a", &payload).await.map(drop),
        zone.upload("a", &payload).await,
        zone.get("a", ReadRange::Full).await.map(drop),
        zone.list("", None, 10).await.map(drop),
        zone.delete("a").await,
    ];
    for (call, result) in results.into_iter().enumerate() {
        let error = result.expect_err("it fails");
        assert!(like(&error), "call {call}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_disk_of_another_node_keeps_every_promise_of_a_zone() {
    let served = Served::with_disk().await;
    conformance::suite(served.remote(ZONE)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_that_is_another_zone_refuses_everything_and_does_nothing() {
    let served = Served::with_disk().await;
    served.store.create("a", &Payload::from(body(5))).await.unwrap();
    all_fail(
        &*served.remote(ZoneGen(78)),
        |error| matches!(error, StoreError::Retry(why) if why.contains("another zone")),
    )
    .await;
    assert_eq!(served.store.list("", None, 10).await.unwrap(), ["a"]);
    assert_eq!(
        served.store.get("a", ReadRange::Full).await.unwrap(),
        Some(body(5))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_a_disk_may_have_one_later() {
    let served = Served::start().await;
    let remote = served.remote(ZONE);
    all_fail(&*remote, StoreError::retryable).await;
    let stop = CancellationToken::new();
    served
        .cluster
        .disk
        .serve_disk(served.store.clone(), ZONE, stop.clone());
    let payload = Payload::from(body(100));
    assert_eq!(remote.create("a", &payload).await, Ok(CreateOutcome::Created));
    stop.cancel();
    while remote.get("a", ReadRange::Full).await.is_ok() {
        tokio::task::yield_now().await;
    }
    all_fail(&*remote, StoreError::retryable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_was_killed_does_not_answer() {
    let mut served = Served::with_disk().await;
    let remote = served.remote(ZONE);
    let payload = Payload::from(body(100));
    assert_eq!(remote.create("a", &payload).await, Ok(CreateOutcome::Created));
    served.kill();
    all_fail(&*remote, StoreError::retryable).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_under_way_when_a_node_is_killed_has_an_unknown_outcome() {
    let mut served = Served::with_disk().await;
    let remote = served.remote(ZONE);
    let payload = Payload::from(body(3 << 20));
    let creates = (0..50).map(|n| {
        let (remote, payload) = (remote.clone(), payload.clone());
        tokio::spawn(async move { remote.create(&format!("k/{n:02}"), &payload).await })
    });
    let creates: Vec<_> = creates.collect();
    while served.store.list("", None, 1).await.unwrap().is_empty() {
        tokio::task::yield_now().await;
    }
    served.kill();
    for (n, create) in creates.into_iter().enumerate() {
        match create.await.unwrap() {
            Ok(outcome) => {
                assert_eq!(outcome, CreateOutcome::Created);
                let stands = served
                    .store
                    .get(&format!("k/{n:02}"), ReadRange::Full)
                    .await
                    .unwrap();
                assert!(stands == Some(payload.to_bytes()), "{n}");
            }
            Err(error) => assert!(error.retryable(), "{error}"),
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn large_objects_travel_in_pieces_up_to_a_bound() {
    let served = Served::with_disk().await;
    let remote = served.remote(ZONE);
    let whole = body(OBJECT_BYTES_MAX as usize);
    let parts = [10, 100_000, 2 << 20, 5].iter().scan(0, |at, len| {
        let part = whole.slice(*at..*at + len);
        *at += len;
        Some(part)
    });
    let mut parts: Vec<Bytes> = parts.collect();
    let cut: usize = parts.iter().map(Bytes::len).sum();
    parts.push(whole.slice(cut..));
    let payload = Payload::new(parts);
    assert_eq!(remote.create("large", &payload).await, Ok(CreateOutcome::Created));
    assert!(remote.get("large", ReadRange::Full).await.unwrap() == Some(whole.clone()));
    let part = remote
        .get("large", ReadRange::Range(1_000_000..9_000_001))
        .await
        .unwrap();
    assert!(part == Some(whole.slice(1_000_000..9_000_001)));
    let larger = Payload::new(vec![whole, Bytes::from_static(b"x")]);
    let refused = remote.create("larger", &larger).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_that_wait_for_room_do_not_block_those_that_have_it() {
    let served = Served::with_disk().await;
    let remote = served.remote(ZONE);
    let payload = Payload::from(body(20 << 20));
    let calls = (0..12).map(|n| {
        let (remote, payload) = (remote.clone(), payload.clone());
        tokio::spawn(async move {
            let key = format!("k/{n}");
            assert_eq!(remote.create(&key, &payload).await, Ok(CreateOutcome::Created));
            let read = remote.get(&key, ReadRange::Full).await.unwrap();
            assert!(read == Some(payload.to_bytes()));
        })
    });
    for call in join_all(calls.collect::<Vec<_>>()).await {
        call.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_on_their_way_do_not_hold_up_chunks() {
    let served = Served::with_disk().await;
    let remote = served.remote(ZONE);
    let segment = Payload::from(body(16 << 20));
    let uploads = (0..6).map(|n| {
        let (remote, segment) = (remote.clone(), segment.clone());
        tokio::spawn(async move { remote.upload(&format!("segments/{n}"), &segment).await })
    });
    let uploads: Vec<_> = uploads.collect();
    let chunk = Payload::from(body(100));
    for n in 0..20 {
        let created = remote.create(&format!("wal/{n}"), &chunk).await;
        assert_eq!(created, Ok(CreateOutcome::Created));
    }
    for uploaded in join_all(uploads).await {
        assert_eq!(uploaded.unwrap(), Ok(()));
    }
    assert_eq!(remote.upload("segments/0", &segment).await, Ok(()), "once more");
    assert_eq!(remote.list("segments/", None, 10).await.unwrap().len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_listings_come_in_pages() {
    let served = Served::with_disk().await;
    let payload = Payload::from(Bytes::new());
    let mut keys: Vec<String> = (0..2 * LIST_PAGE + 1).map(|n| format!("k/{n:05}")).collect();
    for group in keys.chunks(500) {
        join_all(group.iter().map(|key| served.store.create(key, &payload))).await;
    }
    let remote = served.remote(ZONE);
    assert_eq!(remote.list("k/", None, usize::MAX).await.as_ref(), Ok(&keys));
    assert_eq!(
        remote.list("k/", None, LIST_PAGE + 1).await.unwrap(),
        keys[..LIST_PAGE + 1]
    );
    let rest = keys.split_off(LIST_PAGE);
    assert_eq!(
        remote
            .list("k/", keys.last().map(String::as_str), usize::MAX)
            .await,
        Ok(rest)
    );
}
