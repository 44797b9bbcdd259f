//! Behaviour 106: a node that stops while clients are connected.

use serde_json::json;

use crate::support::{Api, TestNode, input};

#[tokio::test]
async fn api_106_a_stopping_node_acks_what_it_took_and_says_so() {
    for h2 in [false, true] {
        let mut node = TestNode::start(|_| {});
        let api = Api::at(node.addr);
        let api = if h2 { api.h2() } else { api };
        api.post("/basins", json!({"basin": api.basin})).await.expect(201);
        let path = api.stream().await;
        let mut appends = api.append_session(&path).await;
        let mut reads = api.read_session(&path).await.expect("a session");
        reads.batch().await;
        appends.submit(&input(&["accepted"])).await;
        assert_eq!(appends.ack().await.end.unwrap().seq_num, 1);
        assert_eq!(reads.records().await.len(), 1);
        node.begin_stop();
        let (status, body) = appends.terminal().await;
        assert_eq!((status, body["code"].as_str()), (503, Some("server_draining")));
        let (status, body) = reads.terminal().await;
        assert_eq!((status, body["code"].as_str()), (503, Some("server_draining")));
    }
}
