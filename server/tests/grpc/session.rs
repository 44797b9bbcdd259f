//! Append sessions.

use millrace_api::grpc::append_session_request::Message as SessionRequest;
use millrace_api::grpc::append_session_response::Message as SessionReply;
use millrace_api::grpc::error_detail::Reason;
use millrace_api::grpc::{AppendSessionInput, OpenAppendSession, Writer};
use millrace_api::proto;
use prost::Message;
use tonic::Code;

use crate::support::{Api, detail, expect_code, input, texts};

#[tokio::test]
async fn pipelined_inputs_are_acked_in_order_while_the_call_goes_on() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let mut session = api.append_session(&stream, None).await.unwrap();
    assert!(session.writer.id != 0 && session.writer.stream_id.len() == 16);
    assert!(session.window >= 100);
    session.submit(1, &input(&["first"])).await;
    assert_eq!(session.ack().await.0, 1);
    for number in 2..=300 {
        session.submit(number, &input(&["x", "y"])).await;
    }
    for number in 2..=300 {
        let (acked, ack) = session.ack().await;
        assert_eq!(acked, number);
        assert_eq!(ack.start.unwrap().seq_num, 1 + (number - 2) * 2);
        assert_eq!(ack.end.unwrap().seq_num, 3 + (number - 2) * 2);
    }
    session.finish();
    assert_eq!(session.next().await.unwrap(), None);
    assert_eq!(api.tail(&stream).await.unwrap().seq_num, 599);
}

#[tokio::test]
async fn what_was_sent_is_acked_after_the_client_has_ended_its_side() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let mut session = api.append_session(&stream, None).await.unwrap();
    for number in 1..=50 {
        session.submit(number, &input(&["x"])).await;
    }
    session.finish();
    for number in 1..=50 {
        assert_eq!(session.ack().await.0, number);
    }
    assert_eq!(session.next().await.unwrap(), None);
}

#[tokio::test]
async fn the_first_failure_ends_the_session_after_earlier_acks() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let mut session = api.append_session(&stream, None).await.unwrap();
    let matching = |seq_num| proto::AppendInput {
        match_seq_num: Some(seq_num),
        ..input(&["x"])
    };
    for (number, seq_num) in [(1, 0), (2, 1), (3, 7), (4, 2)] {
        session.submit(number, &matching(seq_num)).await;
    }
    let (acks, status) = session.failure().await;
    assert_eq!(acks, 2);
    let told = detail(&status, Code::FailedPrecondition);
    assert_eq!(told.reason, Some(Reason::SeqNumMismatch(2)));
    assert_eq!(api.tail(&stream).await.unwrap().seq_num, 2);
}

#[tokio::test]
async fn a_writer_goes_on_after_a_break_and_nothing_is_applied_twice() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let mut session = api.append_session(&stream, None).await.unwrap();
    let writer = session.writer.clone();
    for number in 1..=5u64 {
        session.submit(number, &input(&[&number.to_string()])).await;
    }
    let first = session.ack().await.1;
    drop(session);

    let mut session = api.append_session(&stream, Some(writer.clone())).await.unwrap();
    assert_eq!(session.writer, writer);
    for number in 1..=7u64 {
        session.submit(number, &input(&[&number.to_string()])).await;
    }
    let (number, again) = session.ack().await;
    assert_eq!((number, again.start, again.end), (1, first.start, first.end));
    for number in 2..=7 {
        assert_eq!(session.ack().await.0, number);
    }
    let batch = api.read(api.whole(&stream)).await.unwrap();
    assert_eq!(texts(&batch.records), ["1", "2", "3", "4", "5", "6", "7"]);
}

#[tokio::test]
async fn a_gap_in_the_numbers_is_refused() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let mut session = api.append_session(&stream, None).await.unwrap();
    session.submit(1, &input(&["1"])).await;
    session.submit(3, &input(&["3"])).await;
    let (acks, status) = session.failure().await;
    assert_eq!(
        (acks, detail(&status, Code::InvalidArgument).code.as_str()),
        (1, "invalid")
    );
    assert_eq!(api.tail(&stream).await.unwrap().seq_num, 1);
}

#[tokio::test]
async fn a_writer_of_another_stream_is_unknown() {
    let mut api = Api::new().await;
    let (one, other) = (api.stream().await, api.stream().await);
    let writer = api.append_session(&one, None).await.unwrap().writer;
    let refused = api.append_session(&other, Some(writer)).await.map(drop);
    let told = detail(&refused.unwrap_err(), Code::Unknown);
    assert_eq!(told.reason, Some(Reason::WriterUnknown(true)));
    assert_eq!((told.code.as_str(), told.may_have_happened), ("other", true));
}

#[tokio::test]
async fn sessions_begin_with_their_open_message_and_have_one() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let first = SessionRequest::Input(AppendSessionInput {
        number: 1,
        acked_through: 0,
        input: input(&["x"]).encode_to_vec().into(),
    });
    let refused = api.session_with(first).await.map(drop);
    expect_code(refused, Code::InvalidArgument, "invalid");

    for writer in [
        Writer::default(),
        Writer {
            id: 1,
            opened_at: 0,
            stream_id: vec![0; 15].into(),
        },
    ] {
        let refused = api.append_session(&stream, Some(writer)).await.map(drop);
        expect_code(refused, Code::InvalidArgument, "invalid");
    }

    let mut session = api.append_session(&stream, None).await.unwrap();
    session.submit(1, &input(&["x"])).await;
    session
        .send(SessionRequest::Open(OpenAppendSession {
            basin: api.basin.clone(),
            stream: stream.clone(),
            writer: None,
        }))
        .await;
    let (acks, status) = session.failure().await;
    assert_eq!(
        (acks, detail(&status, Code::InvalidArgument).code.as_str()),
        (1, "invalid")
    );
}

#[tokio::test]
async fn a_session_on_no_stream_is_refused_before_it_opens() {
    let mut api = Api::new().await;
    let refused = api.append_session("none", None).await.map(drop);
    expect_code(refused, Code::NotFound, "stream_not_found");
    let refused = api.append_session("", None).await.map(drop);
    expect_code(refused, Code::InvalidArgument, "invalid");
}

#[tokio::test]
async fn inputs_that_are_none_end_the_session_after_earlier_acks() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    for (bytes, code) in [
        (vec![0xff, 0xff], "bad_proto"),
        (Vec::new(), "invalid"),
        (vec![b'x'; 3 * 1024 * 1024], "bad_proto"),
    ] {
        let mut session = api.append_session(&stream, None).await.unwrap();
        session.submit(1, &input(&["good"])).await;
        session.submit_bytes(2, bytes).await;
        session.submit(3, &input(&["late"])).await;
        let (acks, status) = session.failure().await;
        assert_eq!(
            (acks, detail(&status, Code::InvalidArgument).code.as_str()),
            (1, code)
        );
    }
    let batch = api.read(api.whole(&stream)).await.unwrap();
    assert_eq!(texts(&batch.records), ["good"; 3]);
}

/// More than the server holds of one session: it stops reading, and goes on as acknowledgements leave.
#[tokio::test]
async fn a_client_that_does_not_read_its_acks_is_held_back_and_loses_nothing() {
    let mut api = Api::new().await;
    let stream = api.stream().await;
    let mut session = api.append_session(&stream, None).await.unwrap();
    let window = u64::from(session.window);
    for number in 1..=window {
        session.submit(number, &input(&[&"x".repeat(10_000)])).await;
    }
    for number in 1..=window {
        let Some(SessionReply::Ack(ack)) = session.next().await.unwrap() else {
            panic!("not an acknowledgement");
        };
        assert_eq!(ack.number, number);
    }
    assert_eq!(api.tail(&stream).await.unwrap().seq_num, window);
}
