//! Behaviours 93 to 106, over both versions of HTTP.

use std::time::Duration;

use bytes::Bytes;
use millrace_api::proto;
use millrace_api::s2s::{Compression, Reconnect, encode_message, encode_terminal};
use prost::Message;
use serde_json::{Value, json};

use crate::support::{Api, frame, input};

/// The same client over HTTP/1.1 and HTTP/2.
async fn both() -> [Api; 2] {
    let h1 = Api::new().await;
    let h2 = h1.h2();
    [h1, h2]
}

fn matching(seq_num: u64, bodies: &[&str]) -> proto::AppendInput {
    proto::AppendInput {
        match_seq_num: Some(seq_num),
        ..input(bodies)
    }
}

async fn tail(api: &Api, path: &str) -> Value {
    api.get(&format!("{path}/tail")).await.expect(200).json()["tail"]["seq_num"].clone()
}

#[tokio::test]
async fn api_015_093_acks_come_while_the_request_goes_on() {
    for api in both().await {
        let path = api.stream().await;
        let mut session = api.append_session(&path).await;
        assert_eq!(session.headers["content-type"], "s2s/proto");
        assert_eq!(session.headers["cache-control"], "no-cache, no-transform");
        assert_eq!(session.headers["x-accel-buffering"], "no");
        for n in 0..3 {
            session.submit(&input(&["x"])).await;
            assert_eq!(session.ack().await.end.unwrap().seq_num, n + 1);
        }
        session.finish();
        assert_eq!(session.next().await, None);
    }
}

#[tokio::test]
async fn api_093_refusals_are_plain_answers() {
    for api in both().await {
        let Err(reply) = api.try_append_session("/streams/none/records", None).await else {
            panic!("a session on no stream");
        };
        reply.expect_error(404, "stream_not_found");
    }
}

#[tokio::test]
async fn api_094_pipelined_inputs_are_acked_in_order() {
    for api in both().await {
        let path = api.stream().await;
        let mut session = api.append_session(&path).await;
        let mut all = Vec::new();
        for n in 0..300 {
            let body = n.to_string();
            all.extend_from_slice(&frame(&input(&[&body, &body]), Compression::None));
        }
        session.send(all).await;
        session.finish();
        for n in 0..300 {
            let ack = session.ack().await;
            assert_eq!(ack.start.unwrap_or_default().seq_num, 2 * n);
            assert_eq!(ack.end.unwrap().seq_num, 2 * n + 2);
            assert!(ack.tail.unwrap().seq_num >= 2 * n + 2);
        }
        assert_eq!(session.next().await, None);
        let bodies = api.bodies(&format!("{path}?seq_num=0&count=1000")).await;
        let expected: Vec<_> = (0..600).map(|n| (n / 2).to_string()).collect();
        assert_eq!(bodies, expected);
    }
}

#[tokio::test]
async fn api_095_an_empty_session_ends_cleanly() {
    for api in both().await {
        let path = api.stream().await;
        let mut session = api.append_session(&path).await;
        session.finish();
        assert_eq!(session.next().await, None);
    }
}

#[tokio::test]
async fn api_096_097_the_first_failure_ends_the_session_after_earlier_acks() {
    for api in both().await {
        let path = api.stream().await;
        let mut session = api.append_session(&path).await;
        let mut all = Vec::new();
        for input in [
            matching(0, &["a"]),
            matching(1, &["b"]),
            matching(7, &["c"]),
            matching(2, &["d"]),
        ] {
            all.extend_from_slice(&frame(&input, Compression::None));
        }
        session.send(all).await;
        assert_eq!(session.ack().await.end.unwrap().seq_num, 1);
        assert_eq!(session.ack().await.end.unwrap().seq_num, 2);
        assert_eq!(session.terminal().await, (412, json!({"seq_num_mismatch": 2})));
        assert_eq!(tail(&api, &path).await, 2);
    }
}

#[tokio::test]
async fn api_098_a_wrong_token_ends_the_session_too() {
    for api in both().await {
        let path = api.stream().await;
        let mut session = api.append_session(&path).await;
        let fenced = proto::AppendInput {
            fencing_token: Some("other".into()),
            ..input(&["x"])
        };
        session.submit(&fenced).await;
        assert_eq!(
            session.terminal().await,
            (412, json!({"fencing_token_mismatch": ""}))
        );
    }
}

#[tokio::test]
async fn api_101_malformed_input_ends_the_session_with_its_reason() {
    let unknown = proto::AppendInput {
        records: vec![proto::AppendRecord {
            headers: vec![proto::Header {
                name: Bytes::new(),
                value: Bytes::from_static(b"?"),
            }],
            ..Default::default()
        }],
        ..Default::default()
    };
    let not_proto = encode_message(
        &[Bytes::from_static(b"\x0a\xff")],
        Compression::None,
        Reconnect::NotAdvised,
    );
    let cases: [(Bytes, u16, &str); 5] = [
        (encode_terminal(200, b"{}").unwrap(), 400, "bad_frame"),
        (Bytes::from_static(&[0, 0, 0]), 400, "bad_frame"),
        (frame(&input(&[]), Compression::None), 422, "invalid"),
        (frame(&unknown, Compression::None), 422, "invalid"),
        (not_proto.unwrap().concat().into(), 400, "bad_proto"),
    ];
    for api in both().await {
        for (bytes, status, code) in &cases {
            let path = api.stream().await;
            let mut session = api.append_session(&path).await;
            session.submit(&input(&["before"])).await;
            session.send(bytes.clone()).await;
            session.submit(&input(&["after"])).await;
            assert_eq!(session.ack().await.end.unwrap().seq_num, 1);
            let (got, body) = session.terminal().await;
            assert_eq!((got, body["code"].as_str()), (*status, Some(*code)), "{body}");
            assert_eq!(tail(&api, &path).await, 1);
        }
    }
}

#[tokio::test]
async fn api_101_a_body_that_ends_inside_a_frame_is_malformed() {
    let api = Api::new().await;
    let path = api.stream().await;
    let mut session = api.append_session(&path).await;
    let whole = frame(&input(&["x"]), Compression::None);
    session.send(whole.slice(..whole.len() - 1)).await;
    session.finish();
    let (status, body) = session.terminal().await;
    assert_eq!((status, body["code"].as_str()), (400, Some("bad_frame")));
}

#[tokio::test]
async fn api_102_every_compression_is_accepted_in_one_session() {
    for api in both().await {
        let path = api.stream().await;
        let mut session = api.append_session(&path).await;
        let body = "compressible ".repeat(1000);
        for (n, compression) in [Compression::Zstd, Compression::None, Compression::Gzip]
            .into_iter()
            .enumerate()
        {
            session.send(frame(&input(&[&body]), compression)).await;
            assert_eq!(session.ack().await.end.unwrap().seq_num, n as u64 + 1);
        }
        assert_eq!(api.bodies(&format!("{path}?seq_num=0")).await, [&body[..]; 3]);
    }
}

#[tokio::test]
async fn api_104_impossible_frames_are_errors_and_not_crashes() {
    let api = Api::new().await;
    let bomb = zstd::encode_all(&vec![0u8; 64 * 1024 * 1024][..], 1).unwrap();
    let mut bomb_frame = u32::try_from(bomb.len() + 1).unwrap().to_be_bytes()[1..].to_vec();
    bomb_frame.push(0x20);
    bomb_frame.extend_from_slice(&bomb);
    for bytes in [
        vec![0, 0, 0, 0],
        vec![0x20, 0, 1, 0],
        vec![0xff, 0xff, 0xff, 0],
        vec![0, 0, 2, 0x60, 0],
        vec![0, 0, 3, 0x20, 1, 2],
        bomb_frame,
    ] {
        let path = api.stream().await;
        let mut session = api.append_session(&path).await;
        session.send(bytes).await;
        let (status, body) = session.terminal().await;
        assert_eq!((status, body["code"].as_str()), (400, Some("bad_frame")));
    }
}

#[tokio::test]
async fn api_105_frames_may_be_split_anywhere() {
    let api = Api::new().await;
    let path = api.stream().await;
    let mut session = api.append_session(&path).await;
    let whole = frame(&input(&["split"]), Compression::None);
    for at in 1..whole.len() {
        session.send(whole.slice(..at)).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
        session.send(whole.slice(at..)).await;
        assert_eq!(session.ack().await.end.unwrap().seq_num, at as u64);
    }
}

#[tokio::test]
async fn large_batches_flow_through_a_session() {
    for api in both().await {
        let path = api.stream().await;
        let mut session = api.append_session(&path).await;
        let body = "x".repeat(1024 * 1024 - 8);
        for _ in 0..12 {
            session.submit(&input(&[&body])).await;
        }
        session.finish();
        for n in 0..12 {
            assert_eq!(session.ack().await.end.unwrap().seq_num, n + 1);
        }
        let mut read = api
            .read_session(&format!("{path}?seq_num=0&count=12"))
            .await
            .unwrap();
        let mut bytes = 0;
        while let Some(frame) = read.next().await {
            let millrace_api::s2s::Frame::Message(message) = frame else {
                panic!("terminal")
            };
            let batch = proto::ReadBatch::decode(message).unwrap();
            bytes += batch
                .records
                .iter()
                .map(|record| record.body.len())
                .sum::<usize>();
        }
        assert_eq!(bytes, 12 * body.len());
    }
}

#[tokio::test]
async fn a_client_that_vanishes_leaves_the_server_well() {
    for api in both().await {
        let path = api.stream().await;
        for _ in 0..5 {
            let session = api.append_session(&path).await;
            session.submit(&input(&["x"])).await;
            drop(session);
        }
        let start = api.append(&path, &["after"]).await["start"]["seq_num"]
            .as_u64()
            .unwrap();
        assert!(start <= 5);
    }
}
