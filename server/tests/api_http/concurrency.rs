//! Calls that race: changes, deletions and cancellations while records come in.

use std::time::Duration;

use bytes::Bytes;
use serde_json::json;

use crate::support::{Api, PATIENCE, TestNode, input, texts, unique};

/// Waits until the stream's name is free.
async fn purged(api: &Api, path: &str) {
    let gone = async {
        while api.get(path).await.status != 404 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, gone)
        .await
        .expect("the stream is purged");
}

/// Bodies of all records of a stream, in as many reads as it takes.
async fn all(api: &Api, records: &str) -> Vec<String> {
    let tail = api.get(&format!("{records}/tail")).await.expect(200).json();
    let tail = tail["tail"]["seq_num"].as_u64().unwrap();
    let mut bodies = Vec::new();
    while (bodies.len() as u64) < tail {
        let next = api.bodies(&format!("{records}?seq_num={}", bodies.len())).await;
        assert!(!next.is_empty(), "nothing at {}, before {tail}", bodies.len());
        bodies.extend(next);
    }
    bodies
}

#[tokio::test]
async fn api_052_what_goes_on_for_an_old_stream_leaves_the_new_one_alone() {
    let api = Api::new().await;
    api.post("/streams", json!({"stream": "s"})).await.expect(201);
    let records = "/streams/s/records";
    for round in 0..3 {
        // Sessions on the old stream that are still open when its name is taken anew.
        let mut appends = api.append_session(records).await;
        appends.submit(&input(&["old"])).await;
        assert_eq!(appends.ack().await.start.unwrap().seq_num, 0, "round {round}");
        let mut reads = api
            .read_session(&format!("{records}?seq_num=0"))
            .await
            .expect("a session");
        assert_eq!(texts(&reads.records().await), ["old"]);

        api.delete("/streams/s").await.expect(202);
        purged(&api, "/streams/s").await;
        api.post("/streams", json!({"stream": "s"})).await.expect(201);
        appends.submit(&input(&["late"])).await;
        let (status, body) = appends.terminal().await;
        assert!(matches!(status, 404 | 409), "{status} {body}");
        let end = loop {
            match reads.next().await {
                Some(millrace_api::s2s::Frame::Terminal { status, .. }) => break status,
                Some(_) => {}
                None => panic!("a follower of a deleted stream ended as if all were well"),
            }
        };
        assert!(matches!(end, 404 | 409), "{end}");
        // Two rounds of the task that carries deletions out.
        tokio::time::sleep(Duration::from_millis(1200)).await;
        let tail = api.get("/streams/s/records/tail").await.expect(200).json();
        assert_eq!(tail["tail"], json!({"seq_num": 0, "timestamp": 0}));
    }
}

#[tokio::test]
async fn api_090_changes_of_config_lose_no_append() {
    let api = Api::new().await;
    let name = unique("stream");
    api.post("/streams", json!({"stream": name})).await.expect(201);
    let records = format!("/streams/{name}/records");
    let changes = async {
        for n in 1..=40u32 {
            let mode = ["arrival", "client-prefer"][n as usize % 2];
            let change = json!({"retention_policy": {"age": n}, "timestamping": {"mode": mode}});
            api.patch(&format!("/streams/{name}"), change).await.expect(200);
        }
    };
    let appends = async {
        let mut session = api.append_session(&records).await;
        for n in 0..400u64 {
            session.submit(&input(&[&n.to_string()])).await;
            if n % 8 == 7 {
                for due in n - 7..=n {
                    assert_eq!(session.ack().await.start.unwrap().seq_num, due);
                }
            }
        }
        session.finish();
        assert_eq!(session.next().await, None);
    };
    tokio::join!(changes, appends);
    let bodies = all(&api, &records).await;
    assert_eq!(bodies, (0..400).map(|n| n.to_string()).collect::<Vec<_>>());
    let config = api.get(&format!("/streams/{name}")).await.json();
    assert_eq!(config["retention_policy"]["age"], 40);
}

#[tokio::test]
async fn api_091_cancelled_appends_never_share_a_sequence_number() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = TestNode::start_in(dir.path(), |_| {});
    let api = Api::on(&node).await;
    api.post("/streams", json!({"stream": "s"})).await.expect(201);
    let records = "/streams/s/records";
    let mut acked = Vec::new();
    for n in 0..60u64 {
        let body = json!({"records": [{"body": format!("cancelled {n}")}, {"body": "second"}]});
        let request = api.request(reqwest::Method::POST, records).json(&body).send();
        let patience = Duration::from_micros(n * 60);
        if let Ok(reply) = tokio::time::timeout(patience, request).await {
            assert_eq!(reply.expect("an answer").status(), 200);
        }
        let body = format!("kept {n}");
        let ack = api.append(records, &[&body]).await;
        acked.push((ack["start"]["seq_num"].as_u64().unwrap(), body));
    }
    let before = all(&api, records).await;
    drop(node.stop().await);

    let node = TestNode::start_in(dir.path(), |_| {});
    let api = Api {
        base: format!("http://{}/v1", node.addr),
        ..api
    };
    let after = all(&api, records).await;
    // What was cancelled last may have become durable in between, but nothing may have moved.
    assert_eq!(after[..before.len()], before);
    for (at, body) in &acked {
        assert_eq!(after[*at as usize], *body);
    }
    for (at, body) in after
        .iter()
        .enumerate()
        .filter(|(_, body)| body.starts_with("cancelled"))
    {
        assert_eq!(after[at + 1], "second", "half of {body} at {at}");
        assert_eq!(
            after.iter().filter(|other| *other == body).count(),
            1,
            "{body} is there twice"
        );
    }
    let next = api.append(records, &["next"]).await;
    assert_eq!(next["start"]["seq_num"].as_u64().unwrap(), after.len() as u64);
}

#[tokio::test]
async fn api_092_an_append_that_races_with_a_delete_is_before_it_or_refused() {
    for round in 0..5u64 {
        let api = Api::new().await;
        api.post("/streams", json!({"stream": "s"})).await.expect(201);
        let records = "/streams/s/records";
        let writers = (0..4).map(|_| {
            let api = api.clone();
            async move {
                loop {
                    let record = json!({"records": [{"body": "x"}]});
                    let reply = api.post(records, record).await;
                    if reply.status != 200 {
                        reply.expect_error(409, "stream_deletion_pending");
                        return;
                    }
                }
            }
        });
        let pipelined = async {
            let mut session = api.append_session(records).await;
            let mut due = 0;
            let (status, body) = 'session: loop {
                for _ in 0..20 {
                    session.submit(&input(&["x"])).await;
                }
                for _ in 0..20 {
                    match session.next().await.expect("a frame before the end") {
                        millrace_api::s2s::Frame::Message(_) => due += 1,
                        millrace_api::s2s::Frame::Terminal { status, body } => break 'session (status, body),
                    }
                }
            };
            let body: serde_json::Value = serde_json::from_slice(&body).unwrap();
            assert_eq!(
                (status, body["code"].as_str()),
                (409, Some("stream_deletion_pending"))
            );
            assert_eq!(session.next().await, None, "after {due} acks");
        };
        let delete = async {
            tokio::time::sleep(Duration::from_millis(20 + 7 * round)).await;
            api.delete("/streams/s").await.expect(202);
            // From here on nothing is taken.
            let record = json!({"records": [{"body": "late"}]});
            api.post(records, record)
                .await
                .expect_error(409, "stream_deletion_pending");
        };
        let race = async { tokio::join!(futures::future::join_all(writers), pipelined, delete) };
        tokio::time::timeout(PATIENCE, race)
            .await
            .expect("everybody is answered");
    }
}

#[tokio::test]
async fn api_125_what_was_acknowledged_is_read_at_once_by_everybody() {
    let api = Api::new().await;
    let records = api.stream().await;
    let writers = (0..6u64).map(|writer| {
        let (api, records) = (api.clone(), &records);
        // Another connection, and another version of HTTP, than the one that appended.
        let other = api.h2();
        async move {
            for n in 0..40 {
                let body = format!("{writer}/{n}");
                let ack = api.append(records, &[&body]).await;
                let at = ack["start"]["seq_num"].as_u64().unwrap();
                let read = other.bodies(&format!("{records}?seq_num={at}&count=1")).await;
                assert_eq!(read, [body]);
                let tail = other.get(&format!("{records}/tail")).await.expect(200).json();
                assert!(
                    tail["tail"]["seq_num"].as_u64().unwrap() > at,
                    "{tail} after {at}"
                );
                let told = ack["tail"]["seq_num"].as_u64().unwrap();
                assert!(
                    tail["tail"]["seq_num"].as_u64().unwrap() >= told,
                    "{tail} after {told}"
                );
            }
        }
    });
    futures::future::join_all(writers).await;
}

#[tokio::test]
async fn sessions_cut_inside_a_frame_apply_the_whole_ones_before_it() {
    let api = Api::new().await;
    let records = api.stream().await;
    let whole = crate::support::frame(&input(&["whole"]), millrace_api::s2s::Compression::None);
    for cut in [1, 3, 4, whole.len() - 1] {
        let mut session = api.append_session(&records).await;
        session.send(whole.clone()).await;
        session.ack().await;
        session.send(Bytes::copy_from_slice(&whole[..cut])).await;
        session.finish();
        let (status, body) = session.terminal().await;
        assert_eq!(
            (status, body["code"].as_str()),
            (400, Some("bad_frame")),
            "cut at {cut}"
        );
    }
    assert_eq!(all(&api, &records).await, ["whole"; 4]);
}
