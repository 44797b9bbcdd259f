//! Behaviours 138 to 140.

use std::time::Duration;

use futures::StreamExt;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, PATIENCE, Reply};

#[derive(Debug, Default, PartialEq)]
struct Event {
    name: String,
    id: String,
    data: String,
}

impl Event {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).unwrap()
    }
}

fn parse(text: &str) -> Vec<Event> {
    let block = |block: &str| {
        let mut event = Event::default();
        for line in block.lines() {
            let (field, value) = line.split_once(": ").expect("a field");
            match field {
                "event" => event.name = value.into(),
                "id" => event.id = value.into(),
                "data" => event.data.push_str(value),
                other => panic!("unknown field {other}"),
            }
        }
        event
    };
    text.split("\n\n")
        .filter(|text| !text.is_empty())
        .map(block)
        .collect()
}

fn request(api: &Api, path: &str) -> reqwest::RequestBuilder {
    api.request(Method::GET, path)
        .header("accept", "text/event-stream")
}

/// Every event until the body ends.
async fn events(api: &Api, path: &str, last: Option<&str>) -> Vec<Event> {
    let mut request = request(api, path);
    if let Some(last) = last {
        request = request.header("last-event-id", last);
    }
    let reply = tokio::time::timeout(PATIENCE, Reply::of(request))
        .await
        .expect("an end")
        .expect(200);
    parse(std::str::from_utf8(&reply.body).unwrap())
}

fn done() -> Event {
    Event {
        data: "[DONE]".into(),
        ..Event::default()
    }
}

#[tokio::test]
async fn api_138_139_140_events_have_ids_and_a_clean_end() {
    let api = Api::new().await;
    let path = api.stream().await;
    api.append(&path, &["a"]).await;
    api.append(&path, &["b", "c"]).await;
    let request = request(&api, &format!("{path}?seq_num=0&count=3")).header("accept-encoding", "gzip, zstd");
    let reply = Reply::of(request).await.expect(200);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    assert_eq!(reply.header("cache-control"), Some("no-cache, no-transform"));
    assert_eq!(reply.header("x-accel-buffering"), Some("no"));
    assert_eq!(reply.header("content-encoding"), None);
    let events = parse(std::str::from_utf8(&reply.body).unwrap());
    let (last, batches) = events.split_last().unwrap();
    assert_eq!(*last, done());
    let mut count = 0;
    for batch in batches.iter().filter(|event| event.name == "batch") {
        let records = batch.json()["records"].as_array().unwrap().clone();
        count += records.len();
        let seq_num = records.last().unwrap()["seq_num"].as_u64().unwrap();
        assert_eq!(batch.id, format!("{seq_num},{count},{}", count * 9));
    }
    assert_eq!(count, 3);
}

#[tokio::test]
async fn api_138_a_returning_client_gets_the_rest() {
    let api = Api::new().await;
    let path = api.stream().await;
    api.append(&path, &["a", "b", "c", "d"]).await;
    let all = format!("{path}?seq_num=0&count=3");
    let rest = events(&api, &all, Some("0,1,9")).await;
    let bodies: Vec<_> = rest
        .iter()
        .filter(|event| event.name == "batch")
        .flat_map(|event| event.json()["records"].as_array().unwrap().clone())
        .map(|record| record["body"].clone())
        .collect();
    assert_eq!(bodies, ["b", "c"]);
    let last = rest.iter().rfind(|event| event.name == "batch").unwrap();
    assert_eq!(last.id, "2,3,27", "counted from the first request on");
    assert_eq!(events(&api, &all, Some("2,3,27")).await, [done()]);
    let max = u64::MAX;
    assert_eq!(
        events(&api, &all, Some(&format!("{max},{max},{max}"))).await,
        [done()]
    );
    let unlimited = request(&api, &format!("{path}?seq_num=0")).header("last-event-id", format!("{max},1,9"));
    Reply::of(unlimited).await.expect(416);
}

#[tokio::test]
async fn api_138_malformed_ids_are_refused() {
    let api = Api::new().await;
    let path = api.stream().await;
    for id in ["", "1", "1,2", "1,2,x", "1,2,3,4", "-1,2,3"] {
        let request = request(&api, &path).header("last-event-id", id);
        Reply::of(request).await.expect_error(400, "bad_header");
    }
    let request = request(&api, &path).header("s2-format", "hex");
    Reply::of(request).await.expect_error(400, "bad_header");
}

#[tokio::test]
async fn api_129_130_pings_tell_the_tail_and_live_records_follow() {
    for api in [Api::new().await, Api::new().await.h2()] {
        let path = api.stream().await;
        let response = request(&api, &path).send().await.unwrap();
        let mut chunks = response.bytes_stream();
        let mut text = String::new();
        let mut next = async |until: &str| {
            while !text.contains(until) {
                let chunk = tokio::time::timeout(PATIENCE, chunks.next())
                    .await
                    .expect("in time");
                text.push_str(std::str::from_utf8(&chunk.unwrap().unwrap()).unwrap());
            }
            parse(&std::mem::take(&mut text))
        };
        let ping = &next("event: ping").await[0];
        assert_eq!(ping.json()["tail"], json!({"seq_num": 0, "timestamp": 0}));
        assert!(ping.json()["timestamp"].as_u64().unwrap() > 1_600_000_000_000);
        api.append(&path, &["live"]).await;
        let events = next("event: batch").await;
        let batch = events.iter().find(|event| event.name == "batch").unwrap();
        assert_eq!(batch.json()["records"][0]["body"], "live");
        assert_eq!(batch.json()["tail"]["seq_num"], 1);
        assert_eq!(batch.id, "0,1,12");
    }
}

#[tokio::test]
async fn api_082_events_follow_the_format() {
    let api = Api::new().await;
    let path = api.stream().await;
    api.append(&path, &["line\nbreak"]).await;
    let one = format!("{path}?seq_num=0&count=1");
    assert_eq!(
        events(&api, &one, None).await[0].json()["records"][0]["body"],
        "line\nbreak"
    );
    let request = request(&api, &one).header("s2-format", "base64");
    let reply = Reply::of(request).await.expect(200);
    let first = &parse(std::str::from_utf8(&reply.body).unwrap())[0];
    assert_eq!(first.json()["records"][0]["body"], "bGluZQpicmVhaw==");
}

#[tokio::test]
async fn api_137_139_refusals_are_plain_and_failures_are_events() {
    let api = Api::new().await;
    let reply = Reply::of(request(&api, "/streams/none/records")).await;
    reply.expect_error(404, "stream_not_found");
    api.post("/streams", json!({"stream": "s"})).await.expect(201);
    api.append("/streams/s/records", &["a"]).await;
    let Ok(response) = request(&api, "/streams/s/records").send().await else {
        panic!("no answer");
    };
    tokio::time::sleep(Duration::from_millis(200)).await;
    api.delete("/streams/s").await.expect(202);
    let body = tokio::time::timeout(PATIENCE, response.text())
        .await
        .expect("an end")
        .unwrap();
    let events = parse(&body);
    let last = events.last().unwrap();
    assert_eq!(last.name, "error", "{body}");
    assert_eq!(last.json()["code"], "stream_deletion_pending");
}
