//! Read sessions: the past, then what comes.

use std::time::Duration;

use futures::StreamExt;
use s2_sdk::error::{ReadError, ReadSessionError};
use s2_sdk::read_session::ReadSession;
use s2_sdk::types::{
    CommandRecord, ReadFrom, ReadInput, ReadLimits, ReadStart, ReadStop, SequencedRecord, StreamPosition,
};

use crate::fixture::{append, batch, bodies, count, from, from_seq, record, soon, stream};

/// The next `count` records at least, whole batches.
async fn take(session: &mut ReadSession, count: usize) -> Vec<SequencedRecord> {
    let mut records = Vec::new();
    while records.len() < count {
        let batch = soon(session.next())
            .await
            .expect("the session goes on")
            .expect("a batch");
        records.extend(batch.records);
    }
    records
}

/// Everything up to a clean end.
async fn drain(mut session: ReadSession) -> Vec<SequencedRecord> {
    let mut records = Vec::new();
    while let Some(batch) = soon(session.next()).await {
        records.extend(batch.expect("a batch").records);
    }
    records
}

#[tokio::test]
async fn api_128_a_session_catches_up_and_follows_without_gap() {
    let stream = stream().await;
    for n in 0..20 {
        append(&stream, &[&format!("{n}"), "second"]).await;
    }
    let mut session = stream
        .read_session(from_seq(0), Default::default())
        .await
        .unwrap();
    let writer = tokio::spawn({
        let stream = stream.clone();
        async move {
            for n in 20..60 {
                append(&stream, &[&format!("{n}"), "second"]).await;
            }
        }
    });
    let records = take(&mut session, 120).await;
    writer.await.unwrap();
    for (at, record) in records.iter().enumerate() {
        assert_eq!(record.seq_num, at as u64);
        let due = if at % 2 == 0 {
            (at / 2).to_string()
        } else {
            "second".into()
        };
        assert_eq!(record.body, due);
    }
}

#[tokio::test]
async fn api_130_a_session_knows_when_it_has_caught_up() {
    let stream = stream().await;
    append(&stream, &["a", "b"]).await;
    let mut session = stream
        .read_session(from_seq(0), Default::default())
        .await
        .unwrap();
    let caught_up = session.caught_up();
    assert_eq!(bodies(&take(&mut session, 2).await), ["a", "b"]);
    // The session has to be polled for its tail to come.
    let tail = tokio::select! {
        tail = soon(caught_up) => tail.unwrap(),
        batch = session.next() => panic!("nothing more was appended: {batch:?}"),
    };
    assert_eq!(tail, stream.check_tail().await.unwrap());
    append(&stream, &["c"]).await;
    assert_eq!(bodies(&take(&mut session, 1).await), ["c"]);
    assert!(session.is_caught_up());
    assert_eq!(session.resume_seq_num(), Some(3));
}

#[tokio::test]
async fn a_session_starts_where_it_is_told() {
    let stream = stream().await;
    let records = [10, 20, 20, 30].map(|at| record(at.to_string()).with_timestamp(at));
    stream.append(batch(records)).await.unwrap();
    let stop = || ReadStop::new().with_limits(ReadLimits::new().with_count(100));
    for (start, first) in [
        (ReadFrom::SeqNum(2), 2),
        (ReadFrom::Timestamp(15), 1),
        (ReadFrom::Timestamp(20), 1),
        (ReadFrom::TailOffset(1), 3),
        (ReadFrom::TailOffset(100), 0),
    ] {
        let session = stream
            .read_session(from(start).with_stop(stop()), Default::default())
            .await
            .unwrap();
        let seen: Vec<_> = drain(session).await.iter().map(|record| record.seq_num).collect();
        assert_eq!(seen, (first..4).collect::<Vec<_>>(), "{start:?}");
    }
    // From now on.
    let mut session = stream
        .read_session(from(ReadFrom::TailOffset(0)), Default::default())
        .await
        .unwrap();
    append(&stream, &["new"]).await;
    assert_eq!(bodies(&take(&mut session, 1).await), ["new"]);
}

#[tokio::test]
async fn api_136_beyond_the_tail_a_session_is_refused_or_clamped() {
    let stream = stream().await;
    append(&stream, &["a"]).await;
    match stream.read_session(from_seq(5), Default::default()).await {
        Err(ReadSessionError::Read(ReadError::ReadUnwritten(tail))) => assert_eq!(tail.seq_num, 1),
        Err(other) => panic!("{other:?}"),
        Ok(_) => panic!("a session beyond the tail"),
    }
    let start = ReadStart::new()
        .with_from(ReadFrom::SeqNum(5))
        .with_clamp_to_tail(true);
    let mut session = stream
        .read_session(ReadInput::new().with_start(start), Default::default())
        .await
        .unwrap();
    append(&stream, &["b"]).await;
    let records = take(&mut session, 1).await;
    assert_eq!((records[0].seq_num, bodies(&records)), (1, vec!["b".to_owned()]));
}

#[tokio::test]
async fn api_133_limits_hold_across_the_past_and_what_comes() {
    let stream = stream().await;
    append(&stream, &["0", "1", "2"]).await;
    let stop = count(5).with_wait(15);
    let session = stream
        .read_session(from_seq(0).with_stop(stop), Default::default())
        .await
        .unwrap();
    let writer = async {
        for n in 3..9 {
            tokio::time::sleep(Duration::from_millis(20)).await;
            append(&stream, &[&n.to_string()]).await;
        }
    };
    let (records, ()) = tokio::join!(drain(session), writer);
    assert_eq!(bodies(&records), ["0", "1", "2", "3", "4"]);
}

#[tokio::test]
async fn api_131_a_session_ends_after_the_silence_it_may_wait() {
    let stream = stream().await;
    append(&stream, &["a"]).await;
    let stop = ReadStop::new().with_wait(1);
    let session = stream
        .read_session(from_seq(0).with_stop(stop), Default::default())
        .await
        .unwrap();
    assert_eq!(bodies(&drain(session).await), ["a"]);
}

#[tokio::test]
async fn a_trim_moves_later_readers_and_leaves_followers_in_order() {
    let stream = stream().await;
    append(&stream, &["0", "1", "2"]).await;
    let mut follower = stream
        .read_session(from_seq(0), Default::default())
        .await
        .unwrap();
    assert_eq!(take(&mut follower, 3).await.len(), 3);
    stream.append(batch([CommandRecord::trim(2)])).await.unwrap();
    append(&stream, &["4"]).await;
    let seen: Vec<_> = take(&mut follower, 2)
        .await
        .iter()
        .map(|record| record.seq_num)
        .collect();
    assert_eq!(seen, [3, 4]);
    let late = from_seq(0)
        .with_stop(count(100))
        .with_ignore_command_records(true);
    let late = stream.read_session(late, Default::default()).await.unwrap();
    let seen: Vec<_> = drain(late).await.iter().map(|record| record.seq_num).collect();
    assert_eq!(seen, [2, 4]);
}

#[tokio::test]
async fn api_127_followers_see_the_same() {
    let stream = stream().await;
    let mut followers = Vec::new();
    for _ in 0..8 {
        followers.push(
            stream
                .read_session(from_seq(0), Default::default())
                .await
                .unwrap(),
        );
    }
    let writer = async {
        for n in 0..50 {
            append(&stream, &[&n.to_string()]).await;
        }
    };
    let readers = futures::future::join_all(followers.iter_mut().map(|follower| take(follower, 50)));
    let (seen, ()) = tokio::join!(readers, writer);
    for records in seen {
        assert_eq!(
            bodies(&records),
            (0..50).map(|n| n.to_string()).collect::<Vec<_>>()
        );
    }
}

#[tokio::test]
async fn a_session_on_an_empty_stream_waits_at_its_start() {
    let stream = stream().await;
    let mut session = stream
        .read_session(from_seq(0), Default::default())
        .await
        .unwrap();
    let caught_up = session.caught_up();
    let tail = tokio::select! {
        tail = soon(caught_up) => tail.unwrap(),
        batch = session.next() => panic!("nothing was appended: {batch:?}"),
    };
    assert_eq!(tail, StreamPosition::new(0, 0));
    append(&stream, &["first"]).await;
    assert_eq!(take(&mut session, 1).await[0].seq_num, 0);
}
