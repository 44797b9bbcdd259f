//! Behaviours 58 to 85, as far as one request shows them.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures::future::join_all;
use millrace_api::command::Command;
use millrace_api::name::FencingToken;
use millrace_api::proto;
use prost::Message;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Api, Reply, input};

async fn append_proto(api: &Api, path: &str, input: &proto::AppendInput) -> Reply {
    let request = api
        .request(Method::POST, path)
        .header("content-type", "application/protobuf")
        .header("accept", "application/protobuf")
        .body(input.encode_to_vec());
    Reply::of(request).await
}

fn command(command: Command) -> proto::AppendInput {
    proto::AppendInput {
        records: vec![command.to_record()],
        ..Default::default()
    }
}

#[tokio::test]
async fn api_058_059_tail_is_that_of_the_last_append() {
    let api = Api::new().await;
    let path = api.stream().await;
    let tail = format!("{path}/tail");
    assert_eq!(
        api.get(&tail).await.expect(200).json(),
        json!({"tail": {"seq_num": 0, "timestamp": 0}})
    );
    let ack = api.append(&path, &["a", "b"]).await;
    assert_eq!(api.get(&tail).await.json()["tail"], ack["tail"]);
    api.get("/streams/none/records/tail")
        .await
        .expect_error(404, "stream_not_found");
}

#[tokio::test]
async fn api_062_ack_has_start_end_and_tail() {
    let api = Api::new().await;
    let path = api.stream().await;
    let records = json!({"records": [{"timestamp": 5, "body": "a"}, {"timestamp": 7, "body": "b"}]});
    let ack = api.post(&path, records.clone()).await.expect(200).json();
    let expected = json!({
        "start": {"seq_num": 0, "timestamp": 5},
        "end": {"seq_num": 2, "timestamp": 7},
        "tail": {"seq_num": 2, "timestamp": 7},
    });
    assert_eq!(ack, expected);
    assert_eq!(
        api.post(&path, records).await.expect(200).json()["start"]["seq_num"],
        2
    );
}

#[tokio::test]
async fn api_063_126_headers_and_bodies_come_back_as_they_were() {
    let api = Api::new().await;
    let path = api.stream().await;
    let headers = json!([["b", "1"], ["a", ""], ["b", "2"]]);
    let records = json!({"records": [{"headers": headers, "body": ""}, {"body": "x"}]});
    api.post(&path, records).await.expect(200);
    let batch = api.get(&format!("{path}?seq_num=0")).await.json();
    assert_eq!(batch["records"][0]["headers"], headers);
    assert!(
        batch["records"][0].get("body").is_none(),
        "an empty body is left out"
    );
    assert!(
        batch["records"][1].get("headers").is_none(),
        "no headers are left out"
    );
}

#[tokio::test]
async fn api_064_batches_have_1_to_1000_records() {
    let api = Api::new().await;
    let path = api.stream().await;
    let records = |n| json!({"records": vec![json!({"body": "x"}); n]});
    api.post(&path, records(0)).await.expect_error(422, "invalid");
    api.post(&path, records(1001)).await.expect_error(422, "invalid");
    let ack = api.post(&path, records(1000)).await.expect(200).json();
    assert_eq!(ack["end"]["seq_num"], 1000);
}

#[tokio::test]
async fn api_065_one_mebibyte_metered_and_not_a_byte_more() {
    let api = Api::new().await;
    let path = api.stream().await;
    let max = 1024 * 1024 - 8;
    let batch = |len: usize| input(&[&"x".repeat(len)]);
    append_proto(&api, &path, &batch(max + 1))
        .await
        .expect_error(422, "invalid");
    append_proto(&api, &path, &batch(max)).await.expect(200);
    // The largest batch also fits as base64 in JSON.
    let body = json!({"records": [{"body": STANDARD.encode(vec![0xff; max])}]});
    let request = api
        .request(Method::POST, &path)
        .header("s2-format", "base64")
        .json(&body);
    Reply::of(request).await.expect(200);
    let two = api
        .get(&format!("{path}?seq_num=0&count=2"))
        .await
        .expect(200)
        .json();
    assert_eq!(
        two["records"].as_array().unwrap().len(),
        1,
        "one such record fills a batch"
    );
}

#[tokio::test]
async fn api_066_067_068_conditions_are_judged_and_told() {
    let api = Api::new().await;
    let path = api.stream().await;
    let append = async |seq_num: Option<u64>, token: Option<&str>| {
        let body = json!({"records": [{"body": "x"}], "match_seq_num": seq_num, "fencing_token": token});
        api.post(&path, body).await
    };
    append(Some(0), None).await.expect(200);
    assert_eq!(
        append(Some(0), None).await.expect(412).json(),
        json!({"seq_num_mismatch": 1})
    );
    append(Some(1), Some("")).await.expect(200);
    let fence = command(Command::Fence(FencingToken::new("mine").unwrap()));
    append_proto(&api, &path, &fence).await.expect(200);
    let mismatch = json!({"fencing_token_mismatch": "mine"});
    assert_eq!(append(None, Some("other")).await.expect(412).json(), mismatch);
    assert_eq!(append(Some(99), Some("other")).await.expect(412).json(), mismatch);
    append(Some(3), Some("mine")).await.expect(200);
    append(None, None).await.expect(200);
    assert_eq!(
        api.get(&format!("{path}/tail")).await.json()["tail"]["seq_num"],
        5
    );
}

#[tokio::test]
async fn api_069_071_fence_applies_after_its_own_batch_and_can_be_lifted() {
    let api = Api::new().await;
    let path = api.stream().await;
    let fence = |token: &str, held: Option<&str>| proto::AppendInput {
        fencing_token: held.map(Into::into),
        ..command(Command::Fence(FencingToken::new(token).unwrap()))
    };
    append_proto(&api, &path, &fence("a", Some(""))).await.expect(200);
    append_proto(&api, &path, &fence("b", Some("b")))
        .await
        .expect(412);
    append_proto(&api, &path, &fence("b", Some("a")))
        .await
        .expect(200);
    append_proto(&api, &path, &fence("", Some("b"))).await.expect(200);
    let tokenless = json!({"records": [{"body": "x"}]});
    api.post(&path, tokenless).await.expect(200);
    let empty = json!({"records": [{"body": "x"}], "fencing_token": ""});
    api.post(&path, empty).await.expect(200);
}

#[tokio::test]
async fn api_070_072_073_malformed_commands_are_invalid() {
    let api = Api::new().await;
    let path = api.stream().await;
    let long = "x".repeat(37);
    for (headers, body) in [
        (json!([["", "fence"]]), long.as_str()),
        (json!([["", "unknown"]]), ""),
        (json!([["", "fence"], ["a", "b"]]), "t"),
        (json!([["", "trim"]]), "7 bytes"),
        (json!([["", "trim"]]), "9 bytes.."),
    ] {
        let record = json!({"records": [{"headers": headers, "body": body}]});
        api.post(&path, record).await.expect_error(422, "invalid");
    }
    let token = json!({"records": [{"body": "x"}], "fencing_token": long});
    api.post(&path, token).await.expect_error(422, "invalid");
    let not_text = json!({"records": [{
        "headers": [["", STANDARD.encode("fence")]], "body": STANDARD.encode([0xff]),
    }]});
    let request = api
        .request(Method::POST, &path)
        .header("s2-format", "base64")
        .json(&not_text);
    Reply::of(request).await.expect_error(422, "invalid");
    assert_eq!(
        api.get(&format!("{path}/tail")).await.json()["tail"]["seq_num"],
        0
    );
}

#[tokio::test]
async fn api_074_075_trim_hides_what_is_before_it() {
    let api = Api::new().await;
    let path = api.stream().await;
    api.append(&path, &["a", "b", "c"]).await;
    append_proto(&api, &path, &command(Command::Trim(2)))
        .await
        .expect(200);
    let first = async || api.get(&format!("{path}?seq_num=0")).await.json()["records"][0]["seq_num"].clone();
    let trimmed = async {
        while first().await != json!(2) {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(crate::support::PATIENCE, trimmed)
        .await
        .expect("the trim shows");
    append_proto(&api, &path, &command(Command::Trim(1)))
        .await
        .expect(200);
    assert_eq!(first().await, 2, "a trim never moves back");
    append_proto(&api, &path, &command(Command::Trim(u64::MAX)))
        .await
        .expect(200);
    let ack = api.append(&path, &["after"]).await;
    assert_eq!(ack["start"]["seq_num"], 6);
    assert_eq!(api.bodies(&format!("{path}?seq_num=6")).await, ["after"]);
}

#[tokio::test]
async fn api_076_to_079_timestamps_follow_the_mode() {
    let api = Api::new().await;
    let append = async |stream: &str, timestamps: Value| {
        let stamps = timestamps.as_array().unwrap();
        let records: Vec<_> = stamps
            .iter()
            .map(|t| json!({"timestamp": t, "body": "x"}))
            .collect();
        api.post(&format!("/streams/{stream}/records"), json!({"records": records}))
            .await
    };
    let create = async |stream: &str, timestamping: Value| {
        let config = json!({"timestamping": timestamping});
        api.post("/streams", json!({"stream": stream, "config": config}))
            .await
            .expect(201);
    };
    create("require", json!({"mode": "client-require"})).await;
    append("require", json!([1, null]))
        .await
        .expect_error(422, "invalid");
    assert_eq!(
        api.get("/streams/require/records/tail").await.json()["tail"]["seq_num"],
        0
    );
    let ack = append("require", json!([9, 3])).await.expect(200).json();
    assert_eq!(ack["end"]["timestamp"], 9, "raised to the one before");

    let far = 99_999_999_999_999u64;
    create("capped", json!({"mode": "client-prefer"})).await;
    let ack = append("capped", json!([far])).await.expect(200).json();
    let now = ack["end"]["timestamp"].as_u64().unwrap();
    assert!(now < far && now > 1_600_000_000_000);
    create("uncapped", json!({"uncapped": true})).await;
    let ack = append("uncapped", json!([far])).await.expect(200).json();
    assert_eq!(ack["end"]["timestamp"], far);
    create("arrival", json!({"mode": "arrival"})).await;
    let ack = append("arrival", json!([1])).await.expect(200).json();
    assert!(ack["end"]["timestamp"].as_u64().unwrap() >= now);
}

#[tokio::test]
async fn api_061_080_081_123_streams_are_created_where_the_basin_says_so() {
    let strict = Api::new().await;
    let record = json!({"records": [{"body": "x"}]});
    strict
        .post("/streams/s/records", record.clone())
        .await
        .expect_error(404, "stream_not_found");

    let config = json!({
        "create_stream_on_append": true, "create_stream_on_read": true,
        "default_stream_config": {"retention_policy": {"age": 42}},
    });
    let api = Api::with_config(config).await;
    let invalid = json!({"records": []});
    api.post("/streams/invalid/records", invalid)
        .await
        .expect_error(422, "invalid");
    api.get("/streams/invalid")
        .await
        .expect_error(404, "stream_not_found");
    let appends = join_all((0..16).map(|_| api.post("/streams/s/records", record.clone()))).await;
    let mut starts: Vec<_> = appends
        .into_iter()
        .map(|reply| reply.expect(200).json()["start"]["seq_num"].as_u64().unwrap())
        .collect();
    starts.sort();
    assert_eq!(starts, (0..16).collect::<Vec<_>>());
    assert_eq!(api.get("/streams/s").await.json()["retention_policy"]["age"], 42);
    assert_eq!(
        api.get("/streams/t/records/tail").await.expect(200).json()["tail"]["seq_num"],
        0
    );
    api.get("/streams/r/records?seq_num=0").await.expect(416);
    let until = "/streams/u/records?timestamp=5&until=5";
    api.get(until).await.expect_error(422, "invalid");
    api.get("/streams/u").await.expect_error(404, "stream_not_found");
}

#[tokio::test]
async fn api_082_083_json_base64_and_protobuf_are_one() {
    let api = Api::new().await;
    let path = api.stream().await;
    let bytes = [0u8, 0xff, b'"', b'\n'];
    for format in ["base64", "json-binsafe"] {
        let record = json!({"headers": [[STANDARD.encode("n"), STANDARD.encode("v")]], "body": STANDARD.encode(bytes)});
        let request = api
            .request(Method::POST, &path)
            .header("s2-format", format)
            .json(&json!({"records": [record]}));
        Reply::of(request).await.expect(200);
    }
    let header = proto::Header {
        name: Bytes::from_static(b"n"),
        value: Bytes::from_static(b"v"),
    };
    let record = proto::AppendRecord {
        timestamp: None,
        headers: vec![header.clone()],
        body: Bytes::copy_from_slice(&bytes),
    };
    let batch = proto::AppendInput {
        records: vec![record],
        ..Default::default()
    };
    let reply = append_proto(&api, &path, &batch).await.expect(200);
    assert_eq!(reply.header("content-type"), Some("application/protobuf"));
    let ack = proto::AppendAck::decode(reply.body).unwrap();
    assert_eq!(ack.end.unwrap().seq_num, 3);

    for accept in ["application/protobuf", "application/x-protobuf"] {
        let request = api
            .request(Method::GET, &format!("{path}?seq_num=0"))
            .header("accept", accept);
        let reply = Reply::of(request).await.expect(200);
        assert_eq!(reply.header("content-type"), Some("application/protobuf"));
        let batch = proto::ReadBatch::decode(reply.body).unwrap();
        assert_eq!(batch.records.len(), 3);
        for record in batch.records {
            assert_eq!(record.body, &bytes[..]);
            assert_eq!(record.headers, std::slice::from_ref(&header));
        }
    }
    let request = api
        .request(Method::GET, &format!("{path}?seq_num=0"))
        .header("s2-format", "base64");
    let batch = Reply::of(request).await.expect(200).json();
    assert_eq!(batch["records"][2]["body"], STANDARD.encode(bytes));
    let raw = api.get(&format!("{path}?seq_num=0")).await.json();
    assert_eq!(raw["records"][0]["body"], "\0\u{fffd}\"\n");

    let bad = api.request(Method::POST, &path).header("s2-format", "base64");
    Reply::of(bad.json(&json!({"records": [{"body": "***"}]})))
        .await
        .expect_error(422, "invalid");
    let unknown = api.request(Method::POST, &path).header("s2-format", "hex");
    Reply::of(unknown.json(&json!({"records": [{"body": "x"}]})))
        .await
        .expect_error(400, "bad_header");
    let garbage = api
        .request(Method::POST, &path)
        .header("content-type", "application/protobuf");
    Reply::of(garbage.body("\u{1}garbage"))
        .await
        .expect_error(400, "bad_proto");
}

#[tokio::test]
async fn api_085_plain_streams_ignore_the_key() {
    let api = Api::new().await;
    let path = api.stream().await;
    for key in ["not a key", "AAAA"] {
        let request = api.request(Method::POST, &path).header("s2-encryption-key", key);
        Reply::of(request.json(&json!({"records": [{"body": "x"}]})))
            .await
            .expect(200);
        let request = api
            .request(Method::GET, &format!("{path}?seq_num=0"))
            .header("s2-encryption-key", key);
        Reply::of(request).await.expect(200);
    }
}

#[tokio::test]
async fn api_089_concurrent_appends_get_ranges_of_their_own() {
    let api = Api::new().await;
    let path = api.stream().await;
    let appends = (0..20).map(|n| {
        let (api, path) = (api.clone(), path.clone());
        async move {
            let body = n.to_string();
            let ack = api.append(&path, &[&body, &body]).await;
            (ack["start"]["seq_num"].as_u64().unwrap(), body)
        }
    });
    let mut acks = join_all(appends).await;
    acks.sort();
    let bodies = api.bodies(&format!("{path}?seq_num=0")).await;
    for (n, (start, body)) in acks.iter().enumerate() {
        assert_eq!(*start, 2 * n as u64);
        assert_eq!(&bodies[2 * n], body);
        assert_eq!(&bodies[2 * n + 1], body);
    }
}

#[tokio::test]
async fn api_124_unknown_basin_is_told_before_the_stream() {
    let api = Api::without_basin();
    let record = json!({"records": [{"body": "x"}]});
    api.post("/streams/s/records", record)
        .await
        .expect_error(404, "basin_not_found");
    api.get("/streams/s/records")
        .await
        .expect_error(404, "basin_not_found");
    api.get("/streams/s/records/tail")
        .await
        .expect_error(404, "basin_not_found");
}
