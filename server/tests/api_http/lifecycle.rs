//! Behaviour 106: a node that stops while clients are connected.

use std::time::Duration;

use millrace_api::proto::AppendAck;
use millrace_api::s2s::Frame;
use millrace_server::node::Ended;
use prost::Message;
use serde_json::json;

use crate::support::{Api, PATIENCE, TestNode, input};

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

/// What a session was told before the terminal is exactly what the stream holds.
#[tokio::test]
async fn api_106_inputs_under_way_when_the_node_stops_are_acked_or_not_applied() {
    for after_ms in [0, 30, 80] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut node = TestNode::start_in(dir.path(), |_| {});
        let api = Api::on(&node).await;
        let path = api.stream().await;
        let mut session = api.append_session(&path).await;
        session.submit(&input(&["0"])).await;
        let mut acked = session.ack().await.end.unwrap().seq_num;
        assert_eq!(acked, 1);
        let stop = async {
            tokio::time::sleep(Duration::from_millis(after_ms)).await;
            node.begin_stop();
        };
        let pipelined = async {
            let mut submitted = acked;
            loop {
                for _ in 0..10 {
                    session.submit(&input(&[&submitted.to_string()])).await;
                    submitted += 1;
                }
                for _ in 0..10 {
                    match session.next().await.expect("a terminal before the end") {
                        Frame::Message(message) => {
                            let ack = AppendAck::decode(message).expect("an acknowledgement");
                            assert_eq!(ack.start.unwrap().seq_num, acked);
                            acked = ack.end.unwrap().seq_num;
                        }
                        Frame::Terminal { status, body } => return (status, body, acked),
                    }
                }
            }
        };
        let ((status, body, acked), ()) = tokio::join!(pipelined, stop);
        let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
        assert_eq!((status, body["code"].as_str()), (503, Some("server_draining")));
        assert!(matches!(node.stop().await, Ended::Stopped));

        let node = TestNode::start_in(dir.path(), |_| {});
        let api = Api {
            basin: api.basin,
            ..Api::at(node.addr)
        };
        let tail = api.get(&format!("{path}/tail")).await.expect(200).json();
        assert_eq!(tail["tail"]["seq_num"], acked);
        let last = api.bodies(&format!("{path}?tail_offset=1")).await;
        assert_eq!(last, [(acked - 1).to_string()]);
    }
}

#[tokio::test]
async fn a_node_in_use_stops_long_before_it_would_cut_its_clients() {
    let mut node = TestNode::start(|settings| settings.stop_timeout = Some(Duration::from_secs(300)));
    let api = Api::on(&node).await;
    let path = api.stream().await;
    api.append(&path, &["x"]).await;
    let _h1 = api
        .read_session(&format!("{path}?seq_num=0"))
        .await
        .expect("a session");
    let _h2 = api
        .h2()
        .read_session(&format!("{path}?seq_num=0"))
        .await
        .expect("a session");
    let mut append = api.append_session(&path).await;
    let waiting = tokio::spawn({
        let (api, path) = (api.clone(), path.clone());
        async move { api.get(&format!("{path}?seq_num=1&wait=60")).await }
    });
    tokio::time::sleep(Duration::from_millis(100)).await;
    node.begin_stop();
    append.terminal().await;
    let reply = tokio::time::timeout(PATIENCE, waiting)
        .await
        .expect("an answer in time")
        .unwrap();
    reply.expect_error(503, "server_draining");
    let ended = tokio::time::timeout(PATIENCE, node.stop())
        .await
        .expect("a stop in time");
    assert!(matches!(ended, Ended::Stopped));
}
