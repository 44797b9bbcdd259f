//! Behaviours 107 to 127.

use std::time::Duration;

use futures::future::join_all;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{Api, Reply};

/// Five records with timestamps 10, 20, 20, 30, 40 and bodies a to e: nine metered bytes each.
async fn five() -> (Api, String) {
    let api = Api::new().await;
    let path = api.stream().await;
    let records: Vec<_> = [(10, "a"), (20, "b"), (20, "c"), (30, "d"), (40, "e")]
        .iter()
        .map(|(timestamp, body)| json!({"timestamp": timestamp, "body": body}))
        .collect();
    api.post(&path, json!({"records": records})).await.expect(200);
    (api, path)
}

async fn read(query: &str) -> String {
    let (api, path) = five().await;
    api.bodies(&format!("{path}?{query}")).await.concat()
}

async fn refused(query: &str) -> Value {
    let (api, path) = five().await;
    let reply: Reply = api.get(&format!("{path}?{query}")).await;
    reply.expect(416).json()
}

fn tail() -> Value {
    json!({"tail": {"seq_num": 5, "timestamp": 40}})
}

#[tokio::test]
async fn api_107_from_the_start_or_416_where_there_is_none() {
    assert_eq!(read("seq_num=0").await, "abcde");
    assert_eq!(read("seq_num=3").await, "de");
    let api = Api::new().await;
    let path = api.stream().await;
    let empty = api.get(&format!("{path}?seq_num=0")).await.expect(416);
    assert_eq!(empty.json(), json!({"tail": {"seq_num": 0, "timestamp": 0}}));
    api.get(&path).await.expect(416);
}

#[tokio::test]
async fn api_108_beyond_the_tail_is_416_unless_it_may_wait_there() {
    assert_eq!(refused("seq_num=6").await, tail());
    assert_eq!(refused("seq_num=5").await, tail());
    assert_eq!(refused("seq_num=6&clamp=true").await, tail());
    assert_eq!(refused("seq_num=6&wait=1").await, tail());
    assert_eq!(refused("seq_num=18446744073709551615").await, tail());
    let began = Instant::now();
    assert_eq!(read("seq_num=99&clamp=true&wait=1").await, "");
    assert!(began.elapsed() >= Duration::from_secs(1));
}

#[tokio::test]
async fn api_109_110_111_112_113_limits_are_kept() {
    for (query, expected) in [
        ("seq_num=0&count=2", "ab"),
        ("seq_num=0&count=5", "abcde"),
        ("seq_num=0&count=5000", "abcde"),
        ("seq_num=0&bytes=27", "abc"),
        ("seq_num=0&bytes=26", "ab"),
        ("seq_num=0&bytes=99999999", "abcde"),
        ("seq_num=0&count=0", ""),
        ("seq_num=0&bytes=0", ""),
        ("seq_num=0&bytes=8", ""),
        ("seq_num=0&bytes=9", "a"),
        ("seq_num=0&count=1&bytes=27", "a"),
        ("seq_num=0&count=4&bytes=18", "ab"),
    ] {
        assert_eq!(read(query).await, expected, "{query}");
    }
}

#[tokio::test]
async fn api_114_tail_offset_counts_back() {
    assert_eq!(refused("tail_offset=0").await, tail());
    assert_eq!(refused("").await, tail());
    assert_eq!(read("tail_offset=3").await, "cde");
    assert_eq!(read("tail_offset=999").await, "abcde");
}

#[tokio::test]
async fn api_115_116_117_timestamps_select() {
    assert_eq!(read("timestamp=0").await, "abcde");
    assert_eq!(read("timestamp=15").await, "bcde");
    assert_eq!(read("timestamp=20").await, "bcde");
    assert_eq!(read("timestamp=40").await, "e");
    assert_eq!(refused("timestamp=41").await, tail());
    assert_eq!(read("seq_num=0&until=20").await, "a");
    assert_eq!(read("seq_num=0&until=21").await, "abc");
    assert_eq!(read("seq_num=0&until=31&count=2").await, "ab");
    assert_eq!(read("timestamp=20&until=30").await, "bc");
}

#[tokio::test]
async fn api_118_119_contradictory_reads_are_invalid() {
    let (api, path) = five().await;
    for query in [
        "timestamp=5&until=5",
        "timestamp=6&until=5",
        "seq_num=0&timestamp=0",
        "seq_num=0&tail_offset=0",
        "timestamp=1&tail_offset=1",
    ] {
        api.get(&format!("{path}?{query}"))
            .await
            .expect_error(422, "invalid");
    }
}

#[tokio::test]
async fn api_005_unparsable_queries_are_told_apart() {
    let (api, path) = five().await;
    for query in [
        "seq_num=-1",
        "seq_num=x",
        "count=",
        "clamp=maybe",
        "wait=1.5",
        "seq_num=0&seq_num=1",
    ] {
        api.get(&format!("{path}?{query}"))
            .await
            .expect_error(400, "bad_query");
    }
}

#[tokio::test]
async fn api_120_a_waiting_read_returns_with_the_first_data() {
    let (api, path) = five().await;
    let waiting = {
        let (api, path) = (api.clone(), path.clone());
        tokio::spawn(async move {
            let bodies = api.bodies(&format!("{path}?seq_num=5&wait=15")).await;
            (bodies, Instant::now())
        })
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    let appended = Instant::now();
    api.append(&path, &["f"]).await;
    let (bodies, returned) = waiting.await.unwrap();
    assert_eq!(bodies, ["f"]);
    assert!(returned.duration_since(appended) < Duration::from_secs(5));
    let began = Instant::now();
    assert_eq!(api.bodies(&format!("{path}?seq_num=5&wait=15")).await, ["f"]);
    assert!(
        began.elapsed() < Duration::from_secs(5),
        "what is there is not waited for"
    );
}

#[tokio::test]
async fn api_059_123_unknown_streams_are_not_found() {
    let api = Api::new().await;
    api.get("/streams/none/records?seq_num=0")
        .await
        .expect_error(404, "stream_not_found");
}

#[tokio::test]
async fn api_126_a_batch_near_the_tail_carries_it() {
    let (api, path) = five().await;
    let batch = api.get(&format!("{path}?seq_num=4")).await.json();
    let record = json!({"seq_num": 4, "timestamp": 40, "body": "e"});
    assert_eq!(batch["records"], json!([record]));
    assert_eq!(batch["tail"], tail()["tail"]);
}

#[tokio::test]
async fn api_125_127_all_readers_see_what_was_acknowledged() {
    let (api, path) = five().await;
    api.append(&path, &["f"]).await;
    let query = format!("{path}?seq_num=0");
    let reads = join_all((0..32).map(|_| api.bodies(&query))).await;
    assert!(reads.iter().all(|bodies| bodies.concat() == "abcdef"));
}
