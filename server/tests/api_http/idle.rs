//! Streams that nobody uses for a while: what they are asked afterwards is answered as if they had been in use.

use std::time::Duration;

use serde_json::json;

use crate::support::{Api, PATIENCE, TestNode, input, texts};

/// Longer than the pause between two looks at idle streams, and the time a stream here may be idle.
const IDLE: Duration = Duration::from_secs(6);

fn impatient_node() -> TestNode {
    TestNode::start(|settings| settings.idle_timeout = Some(Duration::from_millis(500)))
}

/// A request that makes the stream active and leaves no record.
async fn activate(api: &Api, records: &str) {
    let wrong = json!({"records": [{"body": "x"}], "match_seq_num": 7});
    let reply = api.post(records, wrong).await.expect(412).json();
    assert_eq!(reply, json!({"seq_num_mismatch": 0}));
}

#[tokio::test]
async fn api_060_a_stream_that_rested_serves_again() {
    let node = impatient_node();
    let api = Api::on(&node).await;
    let mut streams = Vec::new();
    for _ in 0..4 {
        let records = api.stream().await;
        activate(&api, &records).await;
        streams.push(records);
    }
    let [tail, append, read, session] = &streams[..] else {
        unreachable!("four were made")
    };
    // Twice: activated, rested, activated.
    for round in 0..2 {
        tokio::time::sleep(IDLE).await;
        let answer = api.get(&format!("{tail}/tail")).await.expect(200).json();
        assert_eq!(
            answer["tail"],
            json!({"seq_num": 0, "timestamp": 0}),
            "round {round}"
        );
        activate(&api, tail).await;
        activate(&api, read).await;
    }
    assert_eq!(api.append(append, &["first"]).await["start"]["seq_num"], 0);
    assert_eq!(api.append(append, &["second"]).await["start"]["seq_num"], 1);
    assert_eq!(
        api.bodies(&format!("{append}?seq_num=0")).await,
        ["first", "second"]
    );
    let refused = api.get(&format!("{read}?seq_num=0")).await.expect(416).json();
    assert_eq!(refused, json!({"tail": {"seq_num": 0, "timestamp": 0}}));
    let mut appends = api.append_session(session).await;
    appends.submit(&input(&["in a session"])).await;
    assert_eq!(appends.ack().await.start.unwrap().seq_num, 0);
}

#[tokio::test]
async fn api_060_what_is_done_to_a_stream_at_rest_takes_effect() {
    let node = impatient_node();
    let api = Api::on(&node).await;
    for name in ["changed", "deleted"] {
        api.post("/streams", json!({"stream": name})).await.expect(201);
        activate(&api, &format!("/streams/{name}/records")).await;
    }
    tokio::time::sleep(IDLE).await;
    api.patch(
        "/streams/changed",
        json!({"timestamping": {"mode": "client-require"}}),
    )
    .await
    .expect(200);
    let records = "/streams/changed/records";
    api.post(records, json!({"records": [{"body": "without"}]}))
        .await
        .expect_error(422, "invalid");
    let with = json!({"records": [{"body": "with", "timestamp": 5}]});
    let ack = api.post(records, with).await.expect(200).json();
    assert_eq!(ack["start"], json!({"seq_num": 0, "timestamp": 5}));

    api.delete("/streams/deleted").await.expect(202);
    let gone = async {
        while api.get("/streams/deleted").await.status != 404 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone).await.expect("it is purged");
}

/// Sessions that were open through the silence: the stream is in use, or comes back into use, for them.
#[tokio::test]
async fn api_100_132_sessions_outlive_the_idling_of_their_stream() {
    let node = impatient_node();
    let api = Api::on(&node).await;
    let (followed, appended) = (api.stream().await, api.stream().await);
    let mut follower = api
        .read_session(&format!("{followed}?seq_num=0"))
        .await
        .expect("a session");
    let mut appends = api.append_session(&appended).await;
    activate(&api, &appended).await;
    tokio::time::sleep(IDLE).await;

    appends.submit(&input(&["after silence"])).await;
    assert_eq!(appends.ack().await.start.unwrap().seq_num, 0);
    assert_eq!(
        api.bodies(&format!("{appended}?seq_num=0")).await,
        ["after silence"]
    );
    api.append(&followed, &["at last"]).await;
    assert_eq!(texts(&follower.records().await), ["at last"]);
    tokio::time::sleep(IDLE).await;
    api.append(&followed, &["and again"]).await;
    assert_eq!(texts(&follower.records().await), ["and again"]);
}

#[tokio::test]
async fn requests_around_the_moment_of_rest_are_all_answered() {
    let node = TestNode::start(|settings| settings.idle_timeout = Some(Duration::ZERO));
    let api = Api::on(&node).await;
    let records = api.stream().await;
    let until = tokio::time::Instant::now() + Duration::from_secs(8);
    let clients = (0..3).map(|_| async {
        while tokio::time::Instant::now() < until {
            activate(&api, &records).await;
            let tail = api.get(&format!("{records}/tail")).await.expect(200).json();
            assert_eq!(tail["tail"]["seq_num"], 0);
        }
    });
    futures::future::join_all(clients).await;
    assert_eq!(api.append(&records, &["first"]).await["start"]["seq_num"], 0);
}
