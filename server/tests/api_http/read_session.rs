//! Behaviours 128 to 137.

use std::time::Duration;

use millrace_api::s2s::Frame;
use serde_json::json;
use tokio::time::Instant;

use crate::support::{Api, Session, texts};

async fn both() -> [Api; 2] {
    let h1 = Api::new().await;
    let h2 = h1.h2();
    [h1, h2]
}

async fn open(api: &Api, path: &str) -> Session {
    match api.read_session(path).await {
        Ok(session) => session,
        Err(reply) => panic!("{}: {:?}", reply.status, reply.body),
    }
}

/// Bodies until the session ends.
async fn drain(mut session: Session) -> String {
    let mut all = String::new();
    while let Some(frame) = session.next().await {
        let Frame::Message(message) = frame else {
            panic!("terminal");
        };
        let batch: millrace_api::proto::ReadBatch = prost::Message::decode(message).unwrap();
        all.push_str(&texts(&batch.records).concat());
    }
    all
}

#[tokio::test]
async fn api_128_130_140_catch_up_then_follow_without_gap() {
    for api in both().await {
        let path = api.stream().await;
        api.append(&path, &["a", "b"]).await;
        let mut session = open(&api, &format!("{path}?seq_num=0")).await;
        assert_eq!(session.headers["content-type"], "s2s/proto");
        assert_eq!(session.headers["cache-control"], "no-cache, no-transform");
        assert_eq!(session.headers["x-accel-buffering"], "no");
        assert_eq!(texts(&session.records().await), ["a", "b"]);
        let caught_up = session.batch().await;
        assert!(caught_up.records.is_empty());
        assert_eq!(caught_up.tail.unwrap().seq_num, 2);
        for n in 2..6 {
            let body = n.to_string();
            api.append(&path, &[&body]).await;
            let batch = session.batch().await;
            assert_eq!(batch.records[0].seq_num, n);
            assert_eq!(texts(&batch.records), [body]);
            assert_eq!(batch.tail.unwrap().seq_num, n + 1);
        }
    }
}

#[tokio::test]
async fn api_129_a_heartbeat_comes_at_once_at_the_tail() {
    for api in both().await {
        let path = api.stream().await;
        let mut session = open(&api, &path).await;
        let first = tokio::time::timeout(Duration::from_secs(3), session.batch()).await;
        assert_eq!(first.expect("at once").tail, Some(Default::default()));
    }
}

#[tokio::test]
async fn api_129_heartbeats_go_on_in_silence() {
    let api = Api::new().await;
    let path = api.stream().await;
    let mut session = open(&api, &path).await;
    session.batch().await;
    let began = Instant::now();
    assert!(session.batch().await.records.is_empty());
    assert!(began.elapsed() >= Duration::from_secs(4) && began.elapsed() < Duration::from_secs(17));
}

#[tokio::test]
async fn api_131_wait_ends_a_silent_session() {
    for api in both().await {
        let path = api.stream().await;
        let began = Instant::now();
        let session = open(&api, &format!("{path}?wait=1")).await;
        assert_eq!(drain(session).await, "");
        assert!(began.elapsed() >= Duration::from_secs(1) && began.elapsed() < Duration::from_secs(5));
    }
}

#[tokio::test]
async fn api_133_limits_end_the_session_exactly() {
    for api in both().await {
        let path = api.stream().await;
        for (timestamp, body) in [(10, "a"), (20, "b"), (30, "c")] {
            let record = json!({"records": [{"timestamp": timestamp, "body": body}]});
            api.post(&path, record).await.expect(200);
        }
        for (query, expected) in [
            ("seq_num=0&count=2", "ab"),
            ("seq_num=0&bytes=18", "ab"),
            ("seq_num=0&until=30", "ab"),
            ("seq_num=0&count=0", ""),
        ] {
            let session = open(&api, &format!("{path}?{query}")).await;
            assert_eq!(drain(session).await, expected, "{query}");
        }
        // Across the boundary between what is there and what comes.
        let session = open(&api, &format!("{path}?seq_num=2&count=3&wait=15")).await;
        let reading = tokio::spawn(drain(session));
        tokio::time::sleep(Duration::from_millis(200)).await;
        api.append(&path, &["d", "e", "f"]).await;
        assert_eq!(reading.await.unwrap(), "cde");
    }
}

#[tokio::test]
async fn api_134_a_record_that_does_not_fit_ends_the_session() {
    let api = Api::new().await;
    let path = api.stream().await;
    let session = open(&api, &format!("{path}?bytes=20&wait=15")).await;
    let reading = tokio::spawn(drain(session));
    tokio::time::sleep(Duration::from_millis(200)).await;
    api.append(&path, &["a"]).await;
    api.append(&path, &["much too long for what is left"]).await;
    assert_eq!(reading.await.unwrap(), "a");
}

#[tokio::test]
async fn api_136_beyond_the_tail_is_a_plain_416_unless_clamped() {
    for api in both().await {
        let path = api.stream().await;
        api.append(&path, &["a"]).await;
        let Err(reply) = api.read_session(&format!("{path}?seq_num=9")).await else {
            panic!("a session beyond the tail");
        };
        assert_eq!(reply.expect(416).json()["tail"]["seq_num"], 1);
        let mut session = open(&api, &format!("{path}?seq_num=9&clamp=true")).await;
        assert_eq!(session.batch().await.tail.unwrap().seq_num, 1);
        api.append(&path, &["b"]).await;
        assert_eq!(texts(&session.records().await), ["b"]);
    }
}

#[tokio::test]
async fn api_137_refusals_are_plain_answers() {
    let api = Api::new().await;
    let refused = async |path: &str| api.read_session(path).await.err().expect("no session");
    refused("/streams/none/records")
        .await
        .expect_error(404, "stream_not_found");
    let path = api.stream().await;
    refused(&format!("{path}?seq_num=1&timestamp=1"))
        .await
        .expect_error(422, "invalid");
    refused(&format!("{path}?seq_num=x"))
        .await
        .expect_error(400, "bad_query");
}

#[tokio::test]
async fn api_103_frames_are_compressed_when_asked() {
    let api = Api::new().await;
    let path = api.stream().await;
    let body = "compressible ".repeat(2000);
    api.append(&path, &[&body]).await;
    for (accept, flags) in [("zstd, gzip", 0x20), ("gzip", 0x40), ("br", 0)] {
        let request = api
            .request(reqwest::Method::GET, &format!("{path}?seq_num=0&count=1"))
            .header("content-type", "s2s/proto")
            .header("accept-encoding", accept);
        let reply = crate::support::Reply::of(request).await.expect(200);
        assert_eq!(reply.header("content-encoding"), None);
        assert_eq!(reply.body[3] & 0x60, flags, "{accept}");
        assert_eq!(reply.body.len() < body.len(), flags != 0);
    }
}

#[tokio::test]
async fn api_135_a_slow_reader_loses_nothing() {
    let api = Api::new().await;
    let path = api.stream().await;
    let mut session = open(&api, &path).await;
    session.batch().await;
    let body = "x".repeat(256 * 1024);
    for n in 0..60 {
        api.append(&path, &[&format!("{n}:{body}")]).await;
    }
    let mut next = 0;
    while next < 60 {
        for record in session.records().await {
            assert_eq!(record.seq_num, next);
            assert!(record.body.starts_with(format!("{next}:").as_bytes()));
            next += 1;
        }
    }
}
