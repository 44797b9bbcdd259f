//! Reads and read sessions.

use bytes::Bytes;
use millrace_api::grpc::ReadRequest;
use millrace_api::grpc::error_detail::Reason;
use millrace_api::grpc::read_request::Start;
use millrace_api::proto;
use tonic::Code;

use crate::support::{Api, expect_code, expect_reason, input, texts};

#[tokio::test]
async fn a_session_follows_the_stream_from_any_start() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    api.append(&stream, &input(&["0", "1", "2"])).await.unwrap();
    let whole = api.whole(&stream);
    let starts = [
        (whole.start, &["0", "1", "2"][..]),
        (Some(Start::SeqNum(2)), &["2"]),
        (Some(Start::TailOffset(2)), &["1", "2"]),
        (Some(Start::Timestamp(0)), &["0", "1", "2"]),
        (None, &[]),
    ];
    let mut sessions = Vec::new();
    for (start, expected) in starts {
        let request = ReadRequest {
            start,
            ..whole.clone()
        };
        let mut session = api.read_session(request).await.unwrap();
        let mut seen = Vec::new();
        while seen.len() < expected.len() {
            seen.extend(texts(&session.records().await));
        }
        assert_eq!(seen, expected);
        sessions.push(session);
    }
    for session in &mut sessions {
        let heartbeat = session.next().await.unwrap().unwrap();
        assert!(heartbeat.records.is_empty(), "at the tail: {heartbeat:?}");
        assert_eq!(heartbeat.tail.unwrap().seq_num, 3);
    }
    api.append(&stream, &input(&["new"])).await.unwrap();
    for session in &mut sessions {
        let batch = session.next().await.unwrap().unwrap();
        assert_eq!(texts(&batch.records), ["new"]);
        assert_eq!(batch.tail.unwrap().seq_num, 4);
    }
}

#[tokio::test]
async fn a_session_ends_at_its_limits() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    api.append(&stream, &input(&["0", "1", "2", "3"])).await.unwrap();
    let whole = api.whole(&stream);
    let limited = [
        (
            ReadRequest {
                count: Some(2),
                ..whole.clone()
            },
            2,
        ),
        (
            ReadRequest {
                bytes: Some(9 * 3),
                ..whole.clone()
            },
            3,
        ),
        (
            ReadRequest {
                until: Some(0),
                ..whole.clone()
            },
            0,
        ),
        (
            ReadRequest {
                wait_ms: Some(50),
                ..whole.clone()
            },
            4,
        ),
        (
            ReadRequest {
                count: Some(u64::MAX),
                ..whole.clone()
            },
            4,
        ),
    ];
    for (request, expected) in limited {
        let mut session = api.read_session(request.clone()).await.unwrap();
        let mut seen = 0;
        while let Some(batch) = session.next().await.unwrap() {
            seen += batch.records.len();
        }
        assert_eq!(seen, expected, "{request:?}");
    }
}

#[tokio::test]
async fn a_read_past_the_tail_is_told_where_that_is() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let ack = api.append(&stream, &input(&["0"])).await.unwrap();
    let past = ReadRequest {
        start: Some(Start::SeqNum(5)),
        ..api.whole(&stream)
    };
    let tail = Reason::ReadPastTail(ack.tail.unwrap());
    let refused = api.read(past.clone()).await;
    expect_reason(refused, Code::OutOfRange, tail.clone());
    let refused = api.read_session(past.clone()).await;
    expect_reason(refused.map(drop), Code::OutOfRange, tail);
    let clamped = ReadRequest { clamp: true, ..past };
    let mut session = api.read_session(clamped).await.unwrap();
    let heartbeat = session.next().await.unwrap().unwrap();
    assert_eq!((heartbeat.records.len(), heartbeat.tail), (0, ack.tail));
}

#[tokio::test]
async fn a_read_that_makes_no_sense_is_refused() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let nonsense = ReadRequest {
        start: Some(Start::Timestamp(5)),
        until: Some(5),
        ..api.whole(&stream)
    };
    expect_code(api.read(nonsense.clone()).await, Code::InvalidArgument, "invalid");
    let refused = api.read_session(nonsense).await.map(drop);
    expect_code(refused, Code::InvalidArgument, "invalid");
}

#[tokio::test]
async fn batches_of_a_long_stream_are_bounded_and_complete() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let body = Bytes::from(vec![b'x'; 100 * 1024]);
    let record = proto::AppendRecord {
        body: body.clone(),
        ..Default::default()
    };
    let ten = proto::AppendInput {
        records: vec![record; 10],
        ..Default::default()
    };
    for _ in 0..8 {
        api.append(&stream, &ten).await.unwrap();
    }
    let unary = api.read(api.whole(&stream)).await.unwrap();
    assert_eq!(unary.records.len(), 10, "1 MiB holds no more");
    let mut session = api.read_session(api.whole(&stream)).await.unwrap();
    let mut next = 0;
    while next < 80 {
        let records = session.records().await;
        assert!(records.len() <= 10);
        for record in records {
            assert_eq!((record.seq_num, record.body), (next, body.clone()));
            next += 1;
        }
    }
}

#[tokio::test]
async fn a_unary_read_waits_for_a_record_if_asked_to() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let request = ReadRequest {
        wait_ms: Some(20_000),
        ..api.whole(&stream)
    };
    let mut reader = api.clone();
    let reading = tokio::spawn(async move { reader.read(request).await });
    api.append(&stream, &input(&["late"])).await.unwrap();
    let batch = reading.await.unwrap().unwrap();
    assert_eq!(texts(&batch.records), ["late"]);
}
