//! Several members in one process, over a transport that hands bytes from one to another.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use futures::StreamExt;
use millrace_api::id::{BasinId, NodeId};
use millrace_raft::command::PurgeBasin;
use millrace_raft::error::MetaError;
use millrace_raft::group::{Fresh, Meta, MetaOptions, Role, Timing};
use millrace_raft::network::{Call, Peer, Pieces, Transport, TransportError};

#[derive(Debug, Clone, Default)]
struct Wire(Arc<Mutex<Members>>);

#[derive(Default)]
struct Members {
    reachable: BTreeMap<u64, Meta>,
    snapshots: u64,
}

impl std::fmt::Debug for Members {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.reachable.keys().fmt(f)
    }
}

impl Wire {
    fn to(&self, peer: &Peer) -> Result<Meta, TransportError> {
        let members = self.0.lock().unwrap();
        members
            .reachable
            .get(&peer.node.0)
            .cloned()
            .ok_or(TransportError::Unreachable("cut".into()))
    }

    fn cut(&self, node: u64) -> Option<Meta> {
        self.0.lock().unwrap().reachable.remove(&node)
    }
}

fn failed(error: MetaError) -> TransportError {
    TransportError::Failed(error.to_string())
}

#[async_trait]
impl Transport for Wire {
    async fn call(
        &self,
        peer: &Peer,
        call: Call,
        request: Vec<u8>,
        timeout: Duration,
    ) -> Result<Vec<u8>, TransportError> {
        assert_eq!(Call::from_number(call as u8), Some(call));
        let to = self.to(peer)?;
        match tokio::time::timeout(timeout, to.serve(call, &request)).await {
            Ok(answer) => answer.map_err(failed),
            Err(_) => Err(TransportError::Failed("time-out".into())),
        }
    }

    async fn send_snapshot(
        &self,
        peer: &Peer,
        opening: Vec<u8>,
        mut pieces: Pieces,
    ) -> Result<Vec<u8>, TransportError> {
        let to = self.to(peer)?;
        let mut incoming = to.receive_snapshot(&opening).await.map_err(failed)?;
        while let Some(piece) = pieces.next().await {
            let piece = piece.map_err(|error| TransportError::Failed(error.to_string()))?;
            incoming = incoming.accept(piece).await.map_err(failed)?;
        }
        self.0.lock().unwrap().snapshots += 1;
        incoming.finish().await.map_err(failed)
    }
}

async fn member(wire: &Wire, dir: &Path, node: u64, fresh: Fresh) -> Meta {
    let mut options = MetaOptions::new(dir.join(node.to_string()), NodeId(node));
    options.transport = Arc::new(wire.clone());
    options.fresh = fresh;
    options.address = format!("member-{node}");
    options.snapshot_entries = 300;
    options.timing = Timing {
        heartbeat_interval: Duration::from_millis(50),
        election_timeout_min: Duration::from_millis(300),
        election_timeout_max: Duration::from_millis(600),
        propose_timeout: Duration::from_secs(5),
    };
    let meta = Meta::open(options).await.unwrap();
    wire.0.lock().unwrap().reachable.insert(node, meta.clone());
    meta
}

async fn within(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..600 {
        if done() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within 30 s: {what}");
}

fn noop(n: u128) -> PurgeBasin {
    PurgeBasin { basin: BasinId(n) }
}

async fn write(meta: &Meta, count: u128) {
    let all = (0..count).map(|n| meta.propose(noop(n)));
    for written in futures::future::join_all(all).await {
        written.unwrap();
    }
}

fn voters(nodes: impl IntoIterator<Item = u64>) -> BTreeSet<NodeId> {
    nodes.into_iter().map(NodeId).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn three_members_agree_through_a_snapshot_and_a_lost_leader() {
    let dir = tempfile::tempdir().unwrap();
    let wire = Wire::default();
    let first = member(&wire, dir.path(), 1, Fresh::GroupOfOne).await;
    for _ in 0..10 {
        write(&first, 200).await;
    }
    within("the log is purged", || first.metrics().purged_index > 0).await;

    let second = member(&wire, dir.path(), 2, Fresh::Join).await;
    let third = member(&wire, dir.path(), 3, Fresh::Join).await;
    for node in [2, 3] {
        first
            .add_learner(NodeId(node), &format!("member-{node}"))
            .await
            .unwrap();
        within("the learner has caught up", || {
            first.lag(NodeId(node)).is_some_and(|lag| lag < 10)
        })
        .await;
    }
    assert!(
        wire.0.lock().unwrap().snapshots >= 2,
        "they began with a snapshot"
    );
    first.change_voters(voters([1, 2, 3])).await.unwrap();
    write(&first, 50).await;
    for member in [&second, &third] {
        // What the member before has proposed counts too: which entry a state is of is part of it.
        let index = first.linearize().await.unwrap();
        member.wait_applied(index).await.unwrap();
        assert_eq!(
            member.state().checksum().unwrap(),
            first.state().checksum().unwrap()
        );
        member.propose(noop(1)).await.unwrap();
        assert!(member.linearize().await.unwrap() >= index);
        match member.confirm_leadership().await {
            Err(error @ MetaError::Retry(_)) => assert!(!error.may_have_happened()),
            other => panic!("a follower says that it leads: {other:?}"),
        }
    }

    drop(wire.cut(1));
    first.shutdown().await;
    assert!(matches!(first.propose(noop(1)).await, Err(MetaError::Closed(_))));
    drop(first);
    let lead = |meta: &Meta| meta.metrics().role == Role::Leader;
    within("another leads", || lead(&second) || lead(&third)).await;
    let leader = if lead(&second) { &second } else { &third };
    let mut written = leader.propose(noop(1)).await;
    while let Err(MetaError::Retry(_)) = written {
        tokio::time::sleep(Duration::from_millis(50)).await;
        written = leader.propose(noop(1)).await;
    }
    written.unwrap();

    let first = member(&wire, dir.path(), 1, Fresh::GroupOfOne).await;
    let index = leader.linearize().await.unwrap();
    first.wait_applied(index).await.unwrap();
    assert_eq!(
        first.state().checksum().unwrap(),
        leader.state().checksum().unwrap()
    );
    assert_ne!(first.metrics().role, Role::Learner);
}
