//! Unary calls of `StreamService`.

use bytes::Bytes;
use millrace_api::grpc::error_detail::Reason;
use millrace_api::proto;
use tonic::Code;

use crate::support::{Api, expect_code, expect_reason, input, texts};

#[tokio::test]
async fn an_append_is_durable_and_read_back() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    assert_eq!(api.tail(&stream).await.unwrap(), proto::StreamPosition::default());
    let ack = api.append(&stream, &input(&["a", "b"])).await.unwrap();
    assert_eq!(ack.start.unwrap().seq_num, 0);
    assert_eq!((ack.end.unwrap().seq_num, ack.tail.unwrap().seq_num), (2, 2));
    let batch = api.read(api.whole(&stream)).await.unwrap();
    assert_eq!(texts(&batch.records), ["a", "b"]);
    assert_eq!(batch.tail, ack.tail);
    assert_eq!(Some(api.tail(&stream).await.unwrap()), ack.tail);
}

#[tokio::test]
async fn conditions_are_told_with_what_is_in_force() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    api.append(&stream, &input(&["a"])).await.unwrap();
    let expecting = proto::AppendInput {
        match_seq_num: Some(7),
        ..input(&["b"])
    };
    let refused = api.append(&stream, &expecting).await;
    expect_reason(refused, Code::FailedPrecondition, Reason::SeqNumMismatch(1));
    let fenced = proto::AppendInput {
        fencing_token: Some("mine".into()),
        ..input(&["b"])
    };
    let refused = api.append(&stream, &fenced).await;
    let reason = Reason::FencingTokenMismatch(String::new());
    expect_reason(refused, Code::FailedPrecondition, reason);
    assert_eq!(api.tail(&stream).await.unwrap().seq_num, 1);
}

#[tokio::test]
async fn inputs_that_no_stream_takes_are_refused() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let empty = api.append(&stream, &proto::AppendInput::default()).await;
    expect_code(empty, Code::InvalidArgument, "invalid");
    let many = api.append(&stream, &input(&["x"; 1001])).await;
    expect_code(many, Code::InvalidArgument, "invalid");
    let large = proto::AppendInput {
        records: vec![proto::AppendRecord {
            body: Bytes::from(vec![0; 1024 * 1024]),
            ..Default::default()
        }],
        ..Default::default()
    };
    let refused = api.append(&stream, &large).await;
    expect_code(refused, Code::InvalidArgument, "invalid");
}
