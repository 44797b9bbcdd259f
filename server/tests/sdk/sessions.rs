//! Append sessions and the producer.

use std::time::Duration;

use futures::StreamExt;
use s2_sdk::S2Stream;
use s2_sdk::append_session::AppendSession;
use s2_sdk::batching::{BatchLimits, BatchingConfig};
use s2_sdk::error::{AppendConditionFailed, AppendError, AppendSessionError, ProducerError};
use s2_sdk::producer::ProducerConfig;
use s2_sdk::types::{AppendInput, CommandRecord};

use crate::fixture::{append, batch, bodies, count, from_seq, input, read, record, soon, stream};

/// All of the stream, through a session.
async fn all(stream: &S2Stream) -> Vec<String> {
    let tail = stream.check_tail().await.unwrap().seq_num as usize;
    let mut session = stream
        .read_session(from_seq(0).with_stop(count(tail)), Default::default())
        .await
        .unwrap();
    let mut read = Vec::new();
    while let Some(batch) = soon(session.next()).await {
        read.extend(bodies(&batch.unwrap().records));
    }
    read
}

/// Submits one after the other without waiting; answers the outcomes in this order.
async fn submit_all(
    session: &AppendSession,
    inputs: Vec<AppendInput>,
) -> Vec<Result<(u64, u64), AppendSessionError>> {
    let mut tickets = Vec::new();
    for input in inputs {
        tickets.push(session.submit(input).await.expect("the session takes it"));
    }
    let mut outcomes = Vec::new();
    for ticket in tickets {
        outcomes.push(soon(ticket).await.map(|ack| (ack.start.seq_num, ack.end.seq_num)));
    }
    outcomes
}

#[tokio::test]
async fn api_094_pipelined_batches_are_acked_in_order() {
    let stream = stream().await;
    let session = stream.append_session(Default::default());
    let sizes: Vec<usize> = (0..300).map(|n| n % 7 + 1).collect();
    let mut next = 0;
    let mut due = Vec::new();
    let mut inputs = Vec::new();
    for size in &sizes {
        inputs.push(batch((next..next + size).map(|n| record(n.to_string()))));
        due.push((next as u64, (next + size) as u64));
        next += size;
    }
    let outcomes: Result<Vec<_>, _> = submit_all(&session, inputs).await.into_iter().collect();
    assert_eq!(outcomes.expect("every batch is acknowledged"), due);
    soon(session.close()).await.unwrap();
    assert_eq!(
        all(&stream).await,
        (0..next).map(|n| n.to_string()).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn several_mebibytes_flow_through_a_session() {
    let stream = stream().await;
    let session = stream.append_session(Default::default());
    let body = "x".repeat(500 * 1024);
    let inputs: Vec<_> = (0..24).map(|n| input(&[&format!("{n}:{body}")])).collect();
    let outcomes = submit_all(&session, inputs).await;
    assert!(outcomes.iter().all(Result::is_ok));
    soon(session.close()).await.unwrap();
    for (n, read) in all(&stream).await.iter().enumerate() {
        assert!(read.starts_with(&format!("{n}:")) && read.len() == body.len() + 1 + n.to_string().len());
    }
}

#[tokio::test]
async fn api_096_097_the_first_mismatch_ends_the_session_and_nothing_later_is_applied() {
    let stream = stream().await;
    let session = stream.append_session(Default::default());
    let inputs = vec![
        input(&["a"]).with_match_seq_num(0),
        input(&["b"]).with_match_seq_num(1),
        input(&["wrong"]).with_match_seq_num(7),
        input(&["would fit"]).with_match_seq_num(2),
        input(&["unconditional"]),
    ];
    let mut tickets = Vec::new();
    for input in inputs {
        // The session may have ended when the last ones come.
        if let Ok(ticket) = session.submit(input).await {
            tickets.push(ticket);
        }
    }
    let mut outcomes = Vec::new();
    for ticket in tickets {
        outcomes.push(soon(ticket).await);
    }
    assert_eq!(outcomes[0].as_ref().unwrap().start.seq_num, 0);
    assert_eq!(outcomes[1].as_ref().unwrap().start.seq_num, 1);
    let mismatch = |error: &AppendSessionError| {
        matches!(
            error,
            AppendSessionError::Append(AppendError::ConditionFailed(
                AppendConditionFailed::SeqNumMismatch(2)
            ))
        )
    };
    assert!(mismatch(outcomes[2].as_ref().unwrap_err()), "{:?}", outcomes[2]);
    assert!(outcomes[3..].iter().all(Result::is_err));
    assert!(soon(session.close()).await.is_err());
    assert_eq!(read(&stream, from_seq(0)).await, ["a", "b"]);
}

#[tokio::test]
async fn api_098_a_fence_ends_the_session_of_the_former_writer() {
    let stream = stream().await;
    let former = stream.append_session(Default::default());
    let token = || "former".parse().unwrap();
    let fence = batch([CommandRecord::fence(token())]);
    let outcomes = submit_all(&former, vec![fence, input(&["a"]).with_fencing_token(token())]).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    stream
        .append(batch([CommandRecord::fence("later".parse().unwrap())]))
        .await
        .unwrap();
    let outcome = submit_all(&former, vec![input(&["late"]).with_fencing_token(token())]).await;
    match &outcome[0] {
        Err(AppendSessionError::Append(AppendError::ConditionFailed(
            AppendConditionFailed::FencingTokenMismatch(actual),
        ))) => assert_eq!(actual.to_string(), "later"),
        other => panic!("not fenced: {other:?}"),
    }
    let data = read(&stream, from_seq(0).with_ignore_command_records(true)).await;
    assert_eq!(data, ["a"]);
}

#[tokio::test]
async fn api_095_a_session_without_input_closes() {
    let session = stream().await.append_session(Default::default());
    soon(session.close()).await.unwrap();
}

#[tokio::test]
async fn api_100_a_session_survives_silence() {
    let stream = stream().await;
    let session = stream.append_session(Default::default());
    submit_all(&session, vec![input(&["before"])]).await[0]
        .as_ref()
        .unwrap();
    // Longer than the pauses after which anything here looks at idle streams.
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_eq!(
        *submit_all(&session, vec![input(&["after"])]).await[0]
            .as_ref()
            .unwrap(),
        (1, 2)
    );
    soon(session.close()).await.unwrap();
}

#[tokio::test]
async fn api_089_sessions_at_the_same_time_get_ranges_of_their_own() {
    let stream = stream().await;
    let writers = (0..4).map(|writer| {
        let stream = stream.clone();
        async move {
            let session = stream.append_session(Default::default());
            let inputs = (0..50)
                .map(|n| input(&[&format!("{writer}/{n}"), "second"]))
                .collect();
            let outcomes = submit_all(&session, inputs).await;
            soon(session.close()).await.unwrap();
            outcomes
        }
    });
    let outcomes = futures::future::join_all(writers).await;
    let mut starts = Vec::new();
    for of_writer in &outcomes {
        let of_writer: Vec<_> = of_writer
            .iter()
            .map(|outcome| *outcome.as_ref().unwrap())
            .collect();
        assert!(of_writer.is_sorted(), "a writer's batches keep their order");
        assert!(of_writer.iter().all(|(start, end)| end - start == 2));
        starts.extend(of_writer.iter().map(|(start, _)| *start));
    }
    starts.sort_unstable();
    assert_eq!(starts, (0..200).map(|n| n * 2).collect::<Vec<u64>>());
    let read = all(&stream).await;
    for (writer, of_writer) in outcomes.iter().enumerate() {
        for (n, outcome) in of_writer.iter().enumerate() {
            let start = outcome.as_ref().unwrap().0 as usize;
            assert_eq!(read[start], format!("{writer}/{n}"));
        }
    }
}

#[tokio::test]
async fn a_producer_gets_every_record_in_once_and_in_order() {
    let stream = stream().await;
    let limits = BatchLimits::new().with_max_batch_records(40).unwrap();
    let batching = BatchingConfig::new()
        .with_linger(Duration::from_millis(1))
        .with_limits(limits);
    let producer = stream.producer(
        ProducerConfig::new()
            .with_batching(batching)
            .with_match_seq_num(0),
    );
    let mut tickets = Vec::new();
    for n in 0..1000 {
        tickets.push(producer.submit(record(n.to_string())).await.unwrap());
    }
    for (n, ticket) in tickets.into_iter().enumerate() {
        let ack = soon(ticket).await.unwrap();
        assert_eq!(ack.seq_num, n as u64);
        assert!((ack.batch.start.seq_num..ack.batch.end.seq_num).contains(&ack.seq_num));
    }
    soon(producer.close()).await.unwrap();
    assert_eq!(
        all(&stream).await,
        (0..1000).map(|n| n.to_string()).collect::<Vec<_>>()
    );
}

#[tokio::test]
async fn a_producer_that_is_not_alone_is_told() {
    let stream = stream().await;
    append(&stream, &["somebody else"]).await;
    let producer = stream.producer(ProducerConfig::new().with_match_seq_num(0));
    let error = match producer.submit(record("x")).await {
        Ok(ticket) => soon(ticket).await.unwrap_err(),
        Err(error) => error,
    };
    let told = matches!(
        &error,
        ProducerError::Append(AppendSessionError::Append(AppendError::ConditionFailed(
            AppendConditionFailed::SeqNumMismatch(1)
        )))
    );
    assert!(told, "{error:?}");
    assert_eq!(read(&stream, from_seq(0)).await, ["somebody else"]);
}
