//! Single appends: what they carry, their conditions, and the commands among them.

use s2_sdk::S2;
use s2_sdk::error::{AppendConditionFailed, AppendError};
use s2_sdk::types::{
    AppendRecord, BasinConfig, CommandRecord, Compression, FencingToken, Header, StreamPosition,
};

use crate::fixture::{
    append, basin_on, batch, config_of_shared, from_seq, input, read, record, stream, stream_in,
};

fn token(text: &str) -> FencingToken {
    text.parse().expect("short enough")
}

#[track_caller]
fn seq_num_mismatch(error: &AppendError) -> u64 {
    match error {
        AppendError::ConditionFailed(AppendConditionFailed::SeqNumMismatch(next)) => *next,
        other => panic!("not a mismatch of sequence numbers: {other:?}"),
    }
}

#[track_caller]
fn token_mismatch(error: &AppendError) -> &str {
    match error {
        AppendError::ConditionFailed(AppendConditionFailed::FencingTokenMismatch(token)) => token,
        other => panic!("not a mismatch of fencing tokens: {other:?}"),
    }
}

#[tokio::test]
async fn records_come_back_with_headers_bodies_and_timestamps() {
    let stream = stream().await;
    let headers = vec![
        Header::new("kind", "a"),
        Header::new("kind", ""),
        Header::new(vec![0xff, 0], vec![0, 0xff]),
    ];
    let full = AppendRecord::new(vec![0, 1, 0xff])
        .unwrap()
        .with_headers(headers.clone())
        .unwrap()
        .with_timestamp(1000);
    let ack = stream
        .append(batch([full, record("").with_timestamp(999)]))
        .await
        .unwrap();
    assert_eq!(ack.start, StreamPosition::new(0, 1000));
    assert_eq!(ack.end, StreamPosition::new(2, 1000), "timestamps do not fall");
    assert_eq!(ack.tail, ack.end);
    assert_eq!(stream.check_tail().await.unwrap(), ack.tail);
    let records = stream.read(from_seq(0)).await.unwrap().records;
    assert_eq!(records[0].headers, headers);
    assert_eq!(records[0].body.as_ref(), [0, 1, 0xff]);
    assert_eq!(
        (records[1].seq_num, records[1].timestamp, records[1].body.len()),
        (1, 1000, 0)
    );
}

#[tokio::test]
async fn compressed_calls_carry_the_same() {
    for compression in [Compression::Gzip, Compression::Zstd] {
        let s2 = S2::new(config_of_shared().with_compression(compression)).unwrap();
        let stream = stream_in(&basin_on(&s2, BasinConfig::new()).await).await;
        let bodies: Vec<_> = (0..50)
            .map(|n| format!("{n} {}", "compressible ".repeat(100)))
            .collect();
        stream.append(batch(bodies.iter().map(record))).await.unwrap();
        assert_eq!(read(&stream, from_seq(0)).await, bodies, "{compression:?}");
    }
}

#[tokio::test]
async fn match_seq_num_holds_or_tells_the_next() {
    let stream = stream().await;
    let first = stream
        .append(input(&["a", "b"]).with_match_seq_num(0))
        .await
        .unwrap();
    assert_eq!(first.end.seq_num, 2);
    for wrong in [0, 1, 3, u64::MAX] {
        let error = stream
            .append(input(&["x"]).with_match_seq_num(wrong))
            .await
            .unwrap_err();
        assert_eq!(seq_num_mismatch(&error), 2);
        assert!(error.has_no_side_effects() && !error.is_retryable());
    }
    stream.append(input(&["c"]).with_match_seq_num(2)).await.unwrap();
    assert_eq!(read(&stream, from_seq(0)).await, ["a", "b", "c"]);
}

#[tokio::test]
async fn a_fence_lets_its_holder_pass_and_tells_others_who_holds_it() {
    let stream = stream().await;
    stream
        .append(batch([CommandRecord::fence(token("one"))]))
        .await
        .unwrap();
    append(&stream, &["without a token"]).await;
    let stale = stream
        .append(input(&["x"]).with_fencing_token(token("zero")))
        .await
        .unwrap_err();
    assert_eq!(token_mismatch(&stale), "one");
    let both = input(&["x"])
        .with_fencing_token(token("zero"))
        .with_match_seq_num(99);
    let both = stream.append(both).await.unwrap_err();
    assert_eq!(token_mismatch(&both), "one", "the token is judged first");

    let rotate = batch([CommandRecord::fence(token("two"))]).with_fencing_token(token("one"));
    stream.append(rotate).await.unwrap();
    let late = stream
        .append(input(&["x"]).with_fencing_token(token("one")))
        .await
        .unwrap_err();
    assert_eq!(token_mismatch(&late), "two");
    stream
        .append(input(&["held"]).with_fencing_token(token("two")))
        .await
        .unwrap();

    stream
        .append(batch([CommandRecord::fence(token(""))]))
        .await
        .unwrap();
    let gone = stream
        .append(input(&["x"]).with_fencing_token(token("two")))
        .await
        .unwrap_err();
    assert_eq!(token_mismatch(&gone), "");
    stream
        .append(input(&["free"]).with_fencing_token(token("")))
        .await
        .unwrap();
    let data = read(&stream, from_seq(0).with_ignore_command_records(true)).await;
    assert_eq!(data, ["without a token", "held", "free"]);
}

#[tokio::test]
async fn a_trim_hides_what_is_before_it_and_nothing_else() {
    let stream = stream().await;
    append(&stream, &["0", "1", "2"]).await;
    let ack = stream.append(batch([CommandRecord::trim(2)])).await.unwrap();
    assert_eq!((ack.start.seq_num, ack.end.seq_num), (3, 4));
    let records = stream.read(from_seq(0)).await.unwrap().records;
    assert_eq!(
        records.iter().map(|record| record.seq_num).collect::<Vec<_>>(),
        [2, 3]
    );
    assert!(records[1].is_command_record());
    assert_eq!(records[1].body.as_ref(), 2u64.to_be_bytes());
    stream.append(batch([CommandRecord::trim(0)])).await.unwrap();
    assert_eq!(
        read(&stream, from_seq(0)).await.len(),
        3,
        "a trim does not go back"
    );
    stream
        .append(batch([CommandRecord::trim(u64::MAX)]))
        .await
        .unwrap();
    assert_eq!(append(&stream, &["after"]).await.start.seq_num, 6);
    assert_eq!(read(&stream, from_seq(0)).await, ["after"]);
}

#[tokio::test]
async fn the_largest_batches_are_taken() {
    let stream = stream().await;
    let many = batch((0..1000).map(|n| record(n.to_string())));
    assert_eq!(stream.append(many).await.unwrap().end.seq_num, 1000);
    let large = stream
        .append(batch([record("x".repeat(1024 * 1024 - 8))]))
        .await
        .unwrap();
    assert_eq!(large.start.seq_num, 1000);
    assert_eq!(read(&stream, from_seq(0)).await.len(), 1000);
    assert_eq!(read(&stream, from_seq(1000)).await[0].len(), 1024 * 1024 - 8);
}
