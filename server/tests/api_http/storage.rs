//! Reads that memory cannot answer: a node on files that keeps almost nothing of what it wrote.

use std::time::Duration;

use bytesize::ByteSize;
use serde_json::{Value, json};

use crate::support::{Api, TestNode, input, texts};

/// Records in the long streams here.
const RECORDS: u64 = 600;
/// Makes a long stream larger than what the sockets of a connection take in.
const PADDING: usize = 32 * 1024;

fn forgetful_node(dir: &tempfile::TempDir) -> TestNode {
    TestNode::start_in(dir.path(), |settings| {
        settings.recent_bytes = Some(ByteSize::kib(64));
        settings.read_ahead_bytes = Some(ByteSize::mib(4));
        settings.footer_cache_bytes = Some(ByteSize::mib(1));
        settings.chunk_bytes = Some(ByteSize::kib(64));
    })
}

fn body(n: u64) -> String {
    format!("{n}:{}", "x".repeat(PADDING))
}

/// Appends records `0..RECORDS` in batches of three, each at a timestamp of ten times its batch's first number.
async fn fill(api: &Api, records: &str) {
    for first in (0..RECORDS).step_by(3) {
        let batch: Vec<_> = (first..first + 3)
            .map(|n| json!({"body": body(n), "timestamp": first * 10}))
            .collect();
        let ack = api
            .post(records, json!({"records": batch}))
            .await
            .expect(200)
            .json();
        assert_eq!(ack["start"]["seq_num"], first);
    }
}

fn seq_nums(batch: &Value) -> Vec<u64> {
    let records = batch["records"].as_array().expect("records");
    records
        .iter()
        .map(|record| record["seq_num"].as_u64().unwrap())
        .collect()
}

#[tokio::test]
async fn api_135_a_reader_that_fell_behind_reads_from_chunks_with_its_limits() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = forgetful_node(&dir);
    let api = Api::on(&node).await;
    let records = api.stream().await;
    // Its limits end inside a batch, long after it has fallen behind.
    let limit = RECORDS - 100;
    let path = format!("{records}?seq_num=0&count={limit}");
    let mut counted = api
        .read_session(&format!("{path}&wait=15"))
        .await
        .expect("a session");
    counted.batch().await;
    let mut unlimited = api
        .read_session(&format!("{records}?seq_num=0"))
        .await
        .expect("a session");
    unlimited.batch().await;
    fill(&api, &records).await;

    let mut next = 0;
    while let Some(frame) = counted.next().await {
        let millrace_api::s2s::Frame::Message(message) = frame else {
            panic!("{frame:?}")
        };
        let batch = <millrace_api::proto::ReadBatch as prost::Message>::decode(message).unwrap();
        for record in &batch.records {
            assert_eq!((record.seq_num, &record.body[..]), (next, body(next).as_bytes()));
            assert_eq!(record.timestamp, next / 3 * 30);
            next += 1;
        }
    }
    assert_eq!(next, limit);
    let mut next = 0;
    while next < RECORDS {
        for text in texts(&unlimited.records().await) {
            assert_eq!(text, body(next));
            next += 1;
        }
    }
    api.append(&records, &["live"]).await;
    assert_eq!(texts(&unlimited.records().await), ["live"]);
}

#[tokio::test]
async fn reads_of_what_memory_forgot_start_and_end_where_they_should() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = forgetful_node(&dir);
    let api = Api::on(&node).await;
    let records = api.stream().await;
    fill(&api, &records).await;
    check_reads(&api, &records).await;
    let basin = api.basin.clone();
    drop(node.stop().await);
    // And from a node that has written none of it.
    let node = forgetful_node(&dir);
    let api = Api {
        basin,
        ..Api::at(node.addr)
    };
    check_reads(&api, &records).await;
}

async fn check_reads(api: &Api, records: &str) {
    let read = async |query: &str| api.get(&format!("{records}?{query}")).await.expect(200).json();
    for from in [0, 1, 2, 299, 300, 301, RECORDS - 5] {
        let batch = read(&format!("seq_num={from}&count=4")).await;
        assert_eq!(seq_nums(&batch), (from..from + 4).collect::<Vec<_>>());
        assert_eq!(batch["records"][3]["body"], body(from + 3));
    }
    // A record is its body and eight bytes.
    let three = (100..103).map(|n| body(n).len() + 8).sum::<usize>();
    assert_eq!(
        seq_nums(&read(&format!("seq_num=100&bytes={three}")).await),
        [100, 101, 102]
    );
    let batch = read(&format!("seq_num=100&bytes={}", three - 1)).await;
    assert_eq!(seq_nums(&batch), [100, 101]);
    assert_eq!(seq_nums(&read("timestamp=300&count=2").await), [30, 31]);
    assert_eq!(seq_nums(&read("timestamp=301&count=2").await), [33, 34]);
    assert_eq!(
        seq_nums(&read("timestamp=0&until=60").await),
        (0..6).collect::<Vec<_>>()
    );
    let batch = read(&format!("tail_offset={}&count=1", RECORDS - 7)).await;
    assert_eq!(seq_nums(&batch), [7]);
    // As much as one reply may hold.
    let batch = read("seq_num=0").await;
    let mut metered = 0;
    let due = (0..RECORDS).take_while(|n| {
        metered += body(*n).len() + 8;
        metered <= 1024 * 1024
    });
    assert_eq!(seq_nums(&batch), due.collect::<Vec<_>>());
}

#[tokio::test]
async fn api_121_where_all_is_trimmed_reads_end_at_once() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = forgetful_node(&dir);
    let mut api = Api::on(&node).await;
    let records = api.stream().await;
    fill(&api, &records).await;
    let trim = json!({"records": [{"headers": [["", "dHJpbQ=="]], "body": "//////////8="}]});
    let request = api
        .request(reqwest::Method::POST, &records)
        .header("s2-format", "base64")
        .json(&trim);
    crate::support::Reply::of(request).await.expect(200);
    for restarted in [false, true] {
        if restarted {
            drop(node.stop().await);
            node = forgetful_node(&dir);
            api.base = format!("http://{}/v1", node.addr);
        }
        let began = tokio::time::Instant::now();
        for query in [
            "seq_num=0".to_owned(),
            "timestamp=0".to_owned(),
            "timestamp=3000".to_owned(),
            format!("seq_num={RECORDS}"),
            "tail_offset=1".to_owned(),
            "tail_offset=1000000&count=5".to_owned(),
        ] {
            let reply = api.get(&format!("{records}?{query}")).await.expect(200).json();
            assert_eq!(reply["records"], json!([]), "{query}");
        }
        let mut limited = api
            .read_session(&format!("{records}?seq_num=0&count=5"))
            .await
            .expect("a session");
        while let Some(frame) = limited.next().await {
            let millrace_api::s2s::Frame::Message(message) = frame else {
                panic!("{frame:?}")
            };
            let batch = <millrace_api::proto::ReadBatch as prost::Message>::decode(message).unwrap();
            assert!(batch.records.is_empty(), "{batch:?}");
        }
        assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    }
    let mut follower = api
        .read_session(&format!("{records}?seq_num=0"))
        .await
        .expect("a session");
    api.append(&records, &["after"]).await;
    assert_eq!(texts(&follower.records().await), ["after"]);
    assert_eq!(api.bodies(&format!("{records}?seq_num=0")).await, ["after"]);
}

/// Trimmed below, forgotten in between, in memory above: one read session goes through all of it.
#[tokio::test]
async fn api_074_a_trim_inside_what_memory_forgot_is_where_reads_begin() {
    let dir = tempfile::tempdir().expect("a directory");
    let node = forgetful_node(&dir);
    let api = Api::on(&node).await;
    let records = api.stream().await;
    fill(&api, &records).await;
    let mut trim = input(&[""]);
    trim.records[0].body = 200u64.to_be_bytes().to_vec().into();
    trim.records[0].headers = vec![millrace_api::proto::Header {
        name: Default::default(),
        value: "trim".into(),
    }];
    let mut appends = api.append_session(&records).await;
    appends.submit(&trim).await;
    assert_eq!(appends.ack().await.start.unwrap().seq_num, RECORDS);
    for query in ["seq_num=0", "seq_num=199", "timestamp=0", "tail_offset=1000000"] {
        let mut session = api
            .read_session(&format!("{records}?{query}"))
            .await
            .expect("a session");
        let mut next = 200;
        while next < RECORDS + 1 {
            for record in session.records().await {
                assert_eq!(record.seq_num, next, "{query}");
                next += 1;
            }
        }
    }
}
