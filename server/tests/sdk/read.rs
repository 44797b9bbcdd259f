//! Single reads and the tail.

use s2_sdk::S2Stream;
use s2_sdk::error::ReadError;
use s2_sdk::types::{
    BasinConfig, CommandRecord, ReadFrom, ReadInput, ReadLimits, ReadStart, ReadStop, StreamPosition,
};

use crate::fixture::{
    Refused, append, basin, batch, bodies, client, count, from, from_seq, read, record, stream, stream_name,
};

/// Five records at the timestamps 10, 20, 20, 20, 30.
async fn five() -> S2Stream {
    let stream = stream().await;
    let timestamps = [10, 20, 20, 20, 30];
    let records = timestamps
        .iter()
        .enumerate()
        .map(|(n, at)| record(n.to_string()).with_timestamp(*at));
    stream.append(batch(records)).await.unwrap();
    stream
}

#[track_caller]
fn unwritten(result: Result<s2_sdk::types::ReadBatch, ReadError>) -> StreamPosition {
    match result {
        Err(ReadError::ReadUnwritten(tail)) => tail,
        other => panic!("not beyond what is written: {other:?}"),
    }
}

#[tokio::test]
async fn the_tail_is_that_of_the_last_append() {
    let stream = stream().await;
    assert_eq!(stream.check_tail().await.unwrap(), StreamPosition::new(0, 0));
    for n in 1..=3 {
        let ack = append(&stream, &["x"]).await;
        assert_eq!(stream.check_tail().await.unwrap(), ack.tail);
        assert_eq!(ack.tail.seq_num, n);
    }
}

#[tokio::test]
async fn limits_are_kept() {
    let stream = five().await;
    let limited = |limits| from_seq(1).with_stop(ReadStop::new().with_limits(limits));
    assert_eq!(
        read(&stream, limited(ReadLimits::new().with_count(2))).await,
        ["1", "2"]
    );
    // Each record has 9 bytes.
    assert_eq!(
        read(&stream, limited(ReadLimits::new().with_bytes(27))).await,
        ["1", "2", "3"]
    );
    assert_eq!(
        read(&stream, limited(ReadLimits::new().with_bytes(26))).await,
        ["1", "2"]
    );
    assert!(
        read(&stream, limited(ReadLimits::new().with_bytes(8)))
            .await
            .is_empty()
    );
    assert!(
        read(&stream, limited(ReadLimits::new().with_count(0)))
            .await
            .is_empty()
    );
    let both = ReadLimits::new().with_count(3).with_bytes(9);
    assert_eq!(read(&stream, limited(both)).await, ["1"]);
    let until = from_seq(0).with_stop(ReadStop::new().with_until(..20));
    assert_eq!(read(&stream, until).await, ["0"]);
}

#[tokio::test]
async fn a_read_starts_where_it_is_told() {
    let stream = five().await;
    assert_eq!(read(&stream, ReadInput::new()).await.len(), 5);
    assert_eq!(read(&stream, from(ReadFrom::Timestamp(0))).await.len(), 5);
    assert_eq!(
        read(&stream, from(ReadFrom::Timestamp(11))).await,
        ["1", "2", "3", "4"]
    );
    assert_eq!(
        read(&stream, from(ReadFrom::Timestamp(20))).await,
        ["1", "2", "3", "4"]
    );
    assert_eq!(read(&stream, from(ReadFrom::Timestamp(30))).await, ["4"]);
    assert_eq!(read(&stream, from(ReadFrom::TailOffset(2))).await, ["3", "4"]);
    assert_eq!(read(&stream, from(ReadFrom::TailOffset(99))).await.len(), 5);
    let batch = stream.read(from(ReadFrom::TailOffset(1))).await.unwrap();
    assert_eq!(batch.tail, Some(StreamPosition::new(5, 30)));
}

#[tokio::test]
async fn beyond_the_tail_the_client_is_told_where_it_is() {
    let stream = five().await;
    let tail = StreamPosition::new(5, 30);
    for start in [
        ReadFrom::SeqNum(5),
        ReadFrom::SeqNum(6),
        ReadFrom::SeqNum(u64::MAX),
        ReadFrom::Timestamp(31),
        ReadFrom::TailOffset(0),
    ] {
        assert_eq!(unwritten(stream.read(from(start)).await), tail, "{start:?}");
    }
    let clamped = ReadStart::new()
        .with_from(ReadFrom::SeqNum(9))
        .with_clamp_to_tail(true);
    let clamped = ReadInput::new().with_start(clamped);
    assert_eq!(unwritten(stream.read(clamped.clone()).await), tail);
    let waiting = clamped.with_stop(ReadStop::new().with_wait(1));
    assert!(read(&stream, waiting).await.is_empty());
    let empty = crate::fixture::stream().await;
    assert_eq!(
        unwritten(empty.read(from_seq(0)).await),
        StreamPosition::new(0, 0)
    );
}

#[tokio::test]
async fn a_waiting_read_returns_with_the_first_record() {
    let stream = stream().await;
    let waiting = from_seq(0).with_stop(ReadStop::new().with_wait(15));
    let append = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        append(&stream, &["late"]).await
    };
    let began = tokio::time::Instant::now();
    let (read, _) = tokio::join!(read(&stream, waiting), append);
    assert_eq!(read, ["late"]);
    assert!(
        began.elapsed() < std::time::Duration::from_secs(10),
        "it waited on"
    );
}

#[tokio::test]
async fn commands_are_delivered_unless_the_client_drops_them() {
    let stream = stream().await;
    append(&stream, &["a"]).await;
    stream
        .append(batch([CommandRecord::fence("t".parse().unwrap())]))
        .await
        .unwrap();
    append(&stream, &["b"]).await;
    let records = stream.read(from_seq(0)).await.unwrap().records;
    assert_eq!(
        records.iter().map(|r| r.is_command_record()).collect::<Vec<_>>(),
        [false, true, false]
    );
    let input = from_seq(0).with_stop(count(2)).with_ignore_command_records(true);
    assert_eq!(
        bodies(&stream.read(input).await.unwrap().records),
        ["a"],
        "the limit counts commands"
    );
}

#[tokio::test]
async fn what_is_not_there_is_named() {
    let basin = basin(BasinConfig::new()).await;
    let missing = basin.stream(stream_name());
    assert_eq!(
        missing.read(from_seq(0)).await.unwrap_err().refusal(),
        (404, "stream_not_found")
    );
    let nowhere = client().basin(crate::fixture::basin_name()).stream(stream_name());
    assert_eq!(
        nowhere.check_tail().await.unwrap_err().refusal(),
        (404, "basin_not_found")
    );
    let append = nowhere.append(crate::fixture::input(&["x"])).await;
    assert_eq!(append.unwrap_err().refusal(), (404, "basin_not_found"));
}
