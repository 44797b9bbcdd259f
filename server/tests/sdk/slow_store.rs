//! What the client makes of a node whose store is slow to answer.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use millrace_wal::MemoryStore;
use millrace_wal::fault::{FaultStore, Faults, Op, Rule};
use s2_sdk::types::BasinConfig;

use crate::fixture::{append, basin_on, client_of, from_seq, soon, stream_in};
use crate::node::TestNode;

/// While a reader waits for records that are there, no heartbeat may tell it that it has them: the client would call
/// itself caught up, and after a reconnect go on at the tail.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn api_130_a_reader_that_waits_for_storage_is_not_caught_up() {
    let faults = Faults::new(1);
    let store = Arc::new(FaultStore::new(Arc::new(MemoryStore::new()), faults.clone()));
    let node = TestNode::start_on(store, |settings| {
        settings.recent_bytes = Some(bytesize::ByteSize(0))
    });
    let s2 = client_of(node.addr);
    let stream = stream_in(&basin_on(&s2, BasinConfig::new()).await).await;
    for n in 0..10 {
        append(&stream, &[&n.to_string()]).await;
    }
    let gate = faults.stall(Rule::default().op(Op::Get), false);
    let mut session = stream
        .read_session(from_seq(0), Default::default())
        .await
        .unwrap();
    // Longer than the longest time between two heartbeats, shorter than the node is patient with its store.
    let stalled = tokio::time::timeout(Duration::from_secs(16), session.next()).await;
    assert!(
        stalled.is_err(),
        "nothing to deliver, and the session goes on: {stalled:?}"
    );
    assert!(!session.is_caught_up(), "ten records are owed");
    assert_eq!(
        session.resume_seq_num(),
        Some(0),
        "where the client would go on after a reconnect"
    );
    gate.open();
    let mut next = 0;
    while next < 10 {
        for record in soon(session.next()).await.unwrap().unwrap().records {
            assert_eq!(record.seq_num, next);
            next += 1;
        }
    }
}
