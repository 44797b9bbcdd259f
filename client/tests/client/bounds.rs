//! Memory is bounded whatever the server does. Counts, not clocks: a place that is free is given at once.

use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::{FutureExt, StreamExt};
use millrace_client::{
    AppendSessionOptions, Batch, Client, Error, ProducerOptions, ReadOptions, Stream, Windows,
};

use super::append::quick;
use crate::support::fake::{Appends, Fake, Reads, read_response};

const RECORD: usize = 10_000;
const INFLIGHT: usize = 1 << 20;

fn stream_of(fake: &Fake) -> Stream {
    let windows = Windows {
        stream_bytes: 256 << 10,
        connection_bytes: 512 << 10,
    };
    let client = Client::builder()
        .endpoints([fake.url()])
        .retry(quick())
        .windows(windows);
    let client = client.build().unwrap();
    client.basin("some-basin").unwrap().stream("s").unwrap()
}

#[tokio::test]
async fn a_producer_takes_no_more_than_its_bound_from_a_server_that_stalls() {
    for mode in [Appends::NeverAck, Appends::Deaf] {
        let fake = Fake::start().await;
        fake.state().appends = mode;
        let producer = stream_of(&fake)
            .producer(ProducerOptions {
                bytes_inflight_max: INFLIGHT,
                ..ProducerOptions::default()
            })
            .unwrap();
        let mut produced = 0;
        let body = Bytes::from(vec![7; RECORD]);
        // Also while batches are on their way, and after they were written: only an ack makes room.
        for _ in 0..20 {
            while let Some(ticket) = producer.produce(body.clone()).now_or_never() {
                drop(ticket.unwrap());
                produced += 1;
                assert!(produced * RECORD <= INFLIGHT, "{mode:?}: {produced} records");
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(produced, INFLIGHT / (RECORD + 8 + 256), "{mode:?}");
    }
}

#[tokio::test]
async fn an_append_session_takes_no_more_than_its_bounds_from_a_server_that_stalls() {
    for (bytes_inflight_max, batches_inflight_max, expected) in [
        (INFLIGHT, 1000, INFLIGHT / (RECORD + 6 + 256)),
        (INFLIGHT, 3, 3),
        (1, 9, 1),
    ] {
        let fake = Fake::start().await;
        fake.state().appends = Appends::NeverAck;
        let options = AppendSessionOptions {
            bytes_inflight_max,
            batches_inflight_max,
        };
        let session = stream_of(&fake).append_session(options).unwrap();
        let batch = Batch::new([vec![7; RECORD]]).unwrap();
        let mut submitted = 0;
        for _ in 0..10 {
            while let Some(ticket) = session.submit(batch.clone()).now_or_never() {
                drop(ticket.unwrap());
                submitted += 1;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(submitted, expected, "{bytes_inflight_max} {batches_inflight_max}");
    }
}

#[tokio::test]
async fn acks_of_what_was_never_sent_end_the_session() {
    let fake = Fake::start().await;
    fake.state().appends = Appends::FloodAcks;
    let session = stream_of(&fake)
        .append_session(AppendSessionOptions::default())
        .unwrap();
    let ticket = session.submit(Batch::new(["x"]).unwrap()).await.unwrap();
    let error = ticket.await.unwrap_err();
    assert!(
        matches!(session.close().await, Err(Error::Corrupt(_))),
        "{error:?}"
    );
}

#[tokio::test]
async fn a_reader_that_takes_nothing_stops_a_server_that_floods() {
    let fake = Fake::start().await;
    let body = Bytes::from(vec![7; RECORD]);
    let message = read_response((0..10).map(|seq_num| (seq_num, body.clone())), None);
    fake.state().reads = Reads::Flood(message);
    let mut session = stream_of(&fake).read_session(ReadOptions::from_seq_num(0));
    session.next().await.unwrap().unwrap();
    let mut before = 0;
    loop {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let sent = fake.read_messages.load(Ordering::SeqCst);
        if sent == before {
            break;
        }
        before = sent;
        // The window, and what the server's side buffers on the way into its socket.
        assert!(sent as usize * 10 * RECORD <= 4 << 20, "{sent} messages");
    }
    // The second message repeats the records of the first.
    assert!(matches!(session.next().await, Some(Err(Error::Corrupt(_)))));
    assert!(session.next().await.is_none());
}

#[tokio::test]
async fn a_message_larger_than_any_batch_is_refused() {
    let fake = Fake::start().await;
    let body = Bytes::from(vec![7; 3 << 20]);
    fake.state().reads = Reads::Flood(read_response([(0, body)], None));
    let mut policy = quick();
    policy.patience = Duration::ZERO;
    let client = Client::builder()
        .endpoints([fake.url()])
        .retry(policy)
        .build()
        .unwrap();
    let stream = client.basin("some-basin").unwrap().stream("s").unwrap();
    let mut session = stream.read_session(ReadOptions::from_seq_num(0));
    assert!(session.next().await.unwrap().is_err());
    assert!(session.next().await.is_none());
}
