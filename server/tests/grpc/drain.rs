//! A node that stops while gRPC clients are connected.

use std::time::Duration;

use millrace_server::node::Ended;
use tonic::Code;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::support::{Api, PATIENCE, TestNode, detail, input};

#[tokio::test]
async fn a_stopping_node_acks_what_it_took_and_says_so() {
    let mut node = TestNode::start(|settings| settings.stop_timeout = Some(Duration::from_secs(300)));
    let mut api = Api::on(node.addr).await;
    let stream = api.stream().await;
    let mut reads = api.read_session(api.whole(&stream)).await.unwrap();
    reads.next().await.unwrap().expect("a heartbeat");
    let mut session = api.append_session(&stream, None).await.unwrap();
    session.submit(1, &input(&["accepted"])).await;
    assert_eq!(session.ack().await.0, 1);
    assert_eq!(reads.records().await.len(), 1);
    let mut health = HealthClient::new(api.channel.clone());
    let mut watch = health
        .watch(HealthCheckRequest::default())
        .await
        .unwrap()
        .into_inner();
    let state = watch.message().await.unwrap().unwrap();
    assert_eq!(state.status(), ServingStatus::Serving);

    node.begin_stop();
    let (acks, status) = session.failure().await;
    let told = detail(&status, Code::Unavailable);
    assert_eq!((acks, told.code.as_str()), (0, "server_draining"));
    assert!(told.retryable && !told.may_have_happened);
    let status = reads.next().await.unwrap_err();
    assert_eq!(detail(&status, Code::Unavailable).code, "server_draining");
    let state = watch.message().await.unwrap().unwrap();
    assert_eq!(state.status(), ServingStatus::NotServing);
    assert_eq!(watch.message().await.unwrap(), None);
    let ended = tokio::time::timeout(PATIENCE, node.stop()).await;
    assert!(matches!(ended.expect("a stop in time"), Ended::Stopped));
}

#[tokio::test]
async fn a_session_that_was_not_opened_does_not_hold_up_the_stop() {
    let mut node = TestNode::start(|settings| settings.stop_timeout = Some(Duration::from_secs(300)));
    let mut api = Api::on(node.addr).await;
    let mut client = api.records.clone();
    let opening = tokio::spawn(async move {
        let requests = futures::stream::pending();
        client.append_session(requests).await.map(drop)
    });
    // Served by the same connection after the session has begun.
    api.stream().await;
    node.begin_stop();
    let refused = tokio::time::timeout(PATIENCE, opening)
        .await
        .expect("an answer in time");
    let status = refused.unwrap().unwrap_err();
    assert_eq!(detail(&status, Code::Unavailable).code, "server_draining");
    let ended = tokio::time::timeout(PATIENCE, node.stop()).await;
    assert!(matches!(ended.expect("a stop in time"), Ended::Stopped));
}
