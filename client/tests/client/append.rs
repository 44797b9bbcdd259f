//! Append sessions, producers and single appends against a server that breaks.

use std::time::Duration;

use bytes::Bytes;
use millrace_client::{AppendRetry, AppendSessionOptions, Batch, Error, ProducerOptions, RetryPolicy};

use crate::support::fake::{Appends, Fake};

async fn stream_of(fake: &Fake, retry: RetryPolicy) -> millrace_client::Stream {
    let client = millrace_client::Client::builder();
    let client = client.endpoints([fake.url()]).retry(retry).build().unwrap();
    client.basin("some-basin").unwrap().stream("s").unwrap()
}

pub fn quick() -> RetryPolicy {
    RetryPolicy {
        delay_min: Duration::from_millis(1),
        delay_max: Duration::from_millis(5),
        ..RetryPolicy::default()
    }
}

fn one(body: impl ToString) -> Batch {
    Batch::new([body.to_string()]).unwrap()
}

fn bodies(count: usize) -> Vec<Bytes> {
    (0..count).map(|body| Bytes::from(body.to_string())).collect()
}

#[tokio::test]
async fn a_break_at_any_input_leaves_each_batch_once_and_in_order() {
    for at in 1..=12 {
        let fake = Fake::start().await;
        fake.state().appends = Appends::BreakAfter(at);
        let session = stream_of(&fake, quick()).await;
        let session = session.append_session(AppendSessionOptions::default()).unwrap();
        let mut tickets = Vec::new();
        for body in 0..12 {
            tickets.push(session.submit(one(body)).await.unwrap());
        }
        session.close().await.unwrap();
        for (seq_num, ticket) in (0..).zip(tickets) {
            assert_eq!(ticket.await.unwrap().start.seq_num, seq_num, "break at {at}");
        }
        let state = fake.state();
        assert_eq!(state.log, bodies(12), "break at {at}");
        assert_eq!(state.resumes, 1, "break at {at}");
    }
}

#[tokio::test]
async fn a_small_window_of_the_server_is_kept() {
    let fake = Fake::start().await;
    fake.state().window = 2;
    let session = stream_of(&fake, quick()).await;
    let session = session.append_session(AppendSessionOptions::default()).unwrap();
    for body in 0..50 {
        let _ticket = session.submit(one(body)).await.unwrap();
    }
    session.flush().await.unwrap();
    assert_eq!(fake.state().log, bodies(50));
}

#[tokio::test]
async fn a_refusal_that_did_nothing_is_tried_again_under_a_new_writer() {
    let fake = Fake::start().await;
    fake.state().appends = Appends::RefuseOnce;
    let session = stream_of(&fake, quick()).await;
    let session = session.append_session(AppendSessionOptions::default()).unwrap();
    session.submit(one(0)).await.unwrap().await.unwrap();
    assert_eq!(fake.state().log, bodies(1));
    assert_eq!(fake.writers_opened(), 2);
    assert_eq!(fake.state().resumes, 0);
}

#[tokio::test]
async fn a_writer_that_is_forgotten_with_inputs_on_their_way_ends_the_session_as_unknown() {
    let fake = Fake::start().await;
    fake.state().appends = Appends::BreakAfter(2);
    let policy = RetryPolicy {
        delay_min: Duration::from_millis(200),
        delay_max: Duration::from_millis(200),
        ..RetryPolicy::default()
    };
    let session = stream_of(&fake, policy).await;
    let session = session.append_session(AppendSessionOptions::default()).unwrap();
    let first = session.submit(one(0)).await.unwrap();
    let second = session.submit(one(1)).await.unwrap();
    // Both were applied, and their acks are lost; so is the writer, before the session comes again.
    while fake.state().log.len() < 2 {
        tokio::task::yield_now().await;
    }
    fake.forget_writers();
    for ticket in [first, second] {
        let error = ticket.await.unwrap_err();
        assert!(matches!(error, Error::Unknown(_)), "{error:?}");
        assert!(error.may_have_happened());
    }
    let error = session.submit(one(2)).await.unwrap_err();
    assert!(!error.may_have_happened(), "{error:?}");
    assert!(session.close().await.is_err());
    assert_eq!(fake.state().log, bodies(2));
}

#[tokio::test]
async fn a_writer_that_is_forgotten_with_nothing_on_its_way_is_replaced_without_a_word() {
    let fake = Fake::start().await;
    let session = stream_of(&fake, quick()).await;
    let session = session.append_session(AppendSessionOptions::default()).unwrap();
    session.submit(one(0)).await.unwrap().await.unwrap();
    fake.state().appends = Appends::BreakAfter(1);
    let lost = session.submit(one(1)).await.unwrap();
    lost.await.unwrap();
    session.submit(one(2)).await.unwrap().await.unwrap();
    assert_eq!(fake.state().log, bodies(3));
}

#[tokio::test]
async fn a_condition_that_fails_ends_the_session_and_later_batches_did_not_happen() {
    let fake = Fake::start().await;
    let session = stream_of(&fake, quick()).await;
    let session = session.append_session(AppendSessionOptions::default()).unwrap();
    let good = session.submit(one(0).match_seq_num(0)).await.unwrap();
    let bad = session.submit(one(1).match_seq_num(7)).await.unwrap();
    let later = session.submit(one(2)).await.unwrap();
    assert_eq!(good.await.unwrap().start.seq_num, 0);
    assert!(matches!(bad.await, Err(Error::SeqNumMismatch { next: 1 })));
    let error = later.await.unwrap_err();
    assert!(matches!(error, Error::NotApplied(_)), "{error:?}");
    assert!(!error.may_have_happened());
    let error = session.submit(one(3)).await.unwrap_err();
    assert!(!error.may_have_happened());
    assert!(matches!(
        session.close().await,
        Err(Error::SeqNumMismatch { next: 1 })
    ));
    assert_eq!(fake.state().log, bodies(1));
}

#[tokio::test]
async fn dropping_the_session_or_a_ticket_does_not_undo() {
    let fake = Fake::start().await;
    let session = stream_of(&fake, quick()).await;
    let session = session.append_session(AppendSessionOptions::default()).unwrap();
    drop(session.submit(one(0)).await.unwrap());
    let kept = session.submit(one(1)).await.unwrap();
    drop(session);
    assert_eq!(kept.await.unwrap().start.seq_num, 1);
    assert_eq!(fake.state().log, bodies(2));
}

#[tokio::test]
async fn a_session_that_makes_no_progress_ends_when_patience_does() {
    let policy = RetryPolicy {
        patience: Duration::from_millis(50),
        ..quick()
    };
    let client = millrace_client::Client::builder();
    let client = client
        .endpoints(["http://127.0.0.1:1"])
        .retry(policy)
        .build()
        .unwrap();
    let stream = client.basin("some-basin").unwrap().stream("s").unwrap();
    let session = stream.append_session(AppendSessionOptions::default()).unwrap();
    let error = session.submit(one(0)).await.unwrap().await.unwrap_err();
    assert!(!error.may_have_happened(), "it was never sent: {error:?}");
    assert!(error.retryable());
}

#[tokio::test]
async fn a_producer_gives_each_record_its_place_across_a_break() {
    let fake = Fake::start().await;
    fake.state().appends = Appends::BreakAfter(2);
    let producer = stream_of(&fake, quick()).await;
    let producer = producer
        .producer(ProducerOptions {
            batch_records_max: 3,
            ..ProducerOptions::default()
        })
        .unwrap();
    let mut tickets = Vec::new();
    for body in 0..10 {
        tickets.push(producer.produce(body.to_string()).await.unwrap());
    }
    producer.close().await.unwrap();
    for (seq_num, ticket) in (0..).zip(tickets) {
        let ack = ticket.await.unwrap();
        assert_eq!(ack.seq_num, seq_num);
        assert!((ack.batch.start.seq_num..ack.batch.end.seq_num).contains(&seq_num));
    }
    assert_eq!(fake.state().log, bodies(10));
}

#[tokio::test]
async fn a_single_append_that_may_have_happened_is_not_made_again() {
    let fake = Fake::start().await;
    fake.state().appends = Appends::BreakAfter(1);
    let stream = stream_of(&fake, quick()).await;
    let error = stream.append(one(0)).await.unwrap_err();
    assert!(error.may_have_happened() && error.retryable(), "{error:?}");
    assert_eq!(fake.state().log, bodies(1));
}

#[tokio::test]
async fn a_matched_append_is_made_again_if_the_policy_says_so_and_ends_as_unknown() {
    let fake = Fake::start().await;
    fake.state().appends = Appends::BreakAfter(1);
    let policy = RetryPolicy {
        appends: AppendRetry::IfMatched,
        ..quick()
    };
    let stream = stream_of(&fake, policy).await;
    // The first try was applied; the second finds its place taken, and cannot tell by whom.
    let error = stream.append(one(0).match_seq_num(0)).await.unwrap_err();
    assert!(matches!(error, Error::Unknown(_)), "{error:?}");
    assert_eq!(fake.calls(), 2);
    assert_eq!(fake.state().log, bodies(1));
}
