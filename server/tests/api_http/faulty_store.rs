//! What reaches the client while the store holds back: nothing that is not durable, and nothing out of order.

use std::sync::Arc;
use std::time::Duration;

use millrace_api::s2s::Frame;
use millrace_wal::MemoryStore;
use millrace_wal::fault::{FaultStore, Faults, Op, Rule};
use serde_json::json;

use crate::support::{Api, PATIENCE, TestNode, input, texts};

/// Long enough for an answer that is due at once, if it were given.
const A_WHILE: Duration = Duration::from_millis(300);

fn node() -> (TestNode, Faults) {
    let faults = Faults::new(1);
    let store = FaultStore::new(Arc::new(MemoryStore::new()), faults.clone());
    (TestNode::start_on(Arc::new(store), |_| {}), faults)
}

#[tokio::test]
async fn api_088_125_acks_wait_for_earlier_writes_and_readers_for_acks() {
    let (node, faults) = node();
    let api = Api::on(&node).await;
    let records = api.stream().await;
    let mut follower = api
        .read_session(&format!("{records}?seq_num=0"))
        .await
        .expect("a session");
    follower.batch().await;
    let mut session = api.append_session(&records).await;
    session.submit(&input(&["warm"])).await;
    session.ack().await;
    assert_eq!(texts(&follower.records().await), ["warm"]);

    // The first write hangs; the second is durable.
    let gate = faults.stall(Rule::default().op(Op::Create).times(1), false);
    session.submit(&input(&["first"])).await;
    gate.reached(1).await;
    session.submit(&input(&["second"])).await;
    let early = tokio::time::timeout(A_WHILE, session.next()).await;
    assert!(early.is_err(), "acknowledged before the first: {early:?}");
    let seen = tokio::time::timeout(A_WHILE, follower.next()).await;
    assert!(seen.is_err(), "a follower sees {seen:?}");
    let tail = api.get(&format!("{records}/tail")).await.expect(200).json();
    assert_eq!(tail["tail"]["seq_num"], 1);
    assert_eq!(api.bodies(&format!("{records}?seq_num=0")).await, ["warm"]);
    gate.open();
    for due in 1..3 {
        assert_eq!(session.ack().await.start.unwrap().seq_num, due);
    }
    let mut seen = Vec::new();
    while seen.len() < 2 {
        seen.extend(texts(&follower.records().await));
    }
    assert_eq!(seen, ["first", "second"]);
}

#[tokio::test]
async fn api_099_a_failed_condition_is_told_when_what_it_was_judged_on_is_durable() {
    let (node, faults) = node();
    let api = Api::on(&node).await;
    let records = api.stream().await;
    api.append(&records, &["warm"]).await;
    let gate = faults.stall(Rule::default().op(Op::Create).times(1), false);
    let append = tokio::spawn({
        let (api, records) = (api.clone(), records.clone());
        async move { api.append(&records, &["under way"]).await }
    });
    gate.reached(1).await;
    let conditional = json!({"records": [{"body": "x"}], "match_seq_num": 1});
    let refused = tokio::spawn({
        let (api, records) = (api.clone(), records.clone());
        async move { api.post(&records, conditional).await }
    });
    tokio::time::sleep(A_WHILE).await;
    assert!(
        !refused.is_finished() && !append.is_finished(),
        "told of what may be lost"
    );
    gate.open();
    let told = tokio::time::timeout(PATIENCE, refused)
        .await
        .expect("in time")
        .unwrap();
    assert_eq!(told.expect(412).json(), json!({"seq_num_mismatch": 2}));
    assert_eq!(append.await.unwrap()["start"]["seq_num"], 1);
}

#[tokio::test]
async fn api_106_a_stop_waits_for_the_storage_of_what_was_accepted() {
    let (mut node, faults) = node();
    let api = Api::on(&node).await;
    let records = api.stream().await;
    let mut session = api.append_session(&records).await;
    session.submit(&input(&["warm"])).await;
    session.ack().await;
    let gate = faults.stall(Rule::default().op(Op::Create).times(1), false);
    session.submit(&input(&["accepted"])).await;
    gate.reached(1).await;
    node.begin_stop();
    let early = tokio::time::timeout(A_WHILE, session.next()).await;
    assert!(early.is_err(), "the session ended owing an ack: {early:?}");
    gate.open();
    assert_eq!(session.ack().await.start.unwrap().seq_num, 1);
    match session.next().await {
        Some(Frame::Terminal { status: 503, body }) => {
            assert!(String::from_utf8_lossy(&body).contains("server_draining"));
        }
        other => panic!("not a terminal: {other:?}"),
    }
}
