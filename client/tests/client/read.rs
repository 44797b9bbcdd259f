//! Read sessions against a server that breaks.

use bytes::Bytes;
use futures::StreamExt;
use millrace_client::{Client, ReadOptions, Stream};

use super::append::quick;
use crate::support::fake::{Fake, Reads};

fn stream_of(fake: &Fake) -> Stream {
    let client = Client::builder()
        .endpoints([fake.url()])
        .retry(quick())
        .build()
        .unwrap();
    client.basin("some-basin").unwrap().stream("s").unwrap()
}

fn fill(fake: &Fake, records: std::ops::Range<usize>) {
    fake.state()
        .log
        .extend(records.map(|record| Bytes::from(record.to_string())));
}

#[tokio::test]
async fn a_break_at_any_record_leaves_no_gap_and_no_duplicate() {
    for at in 0..8 {
        let fake = Fake::start().await;
        fill(&fake, 0..8);
        fake.state().reads = Reads::BreakAfter(at);
        let mut session = stream_of(&fake).read_session(ReadOptions::from_seq_num(1).count(7));
        let mut next = 1;
        while let Some(batch) = session.next().await {
            for record in batch.unwrap() {
                assert_eq!(record.seq_num, next, "break at {at}");
                assert_eq!(record.body, next.to_string(), "break at {at}");
                next += 1;
            }
        }
        assert_eq!(next, 8, "break at {at}");
    }
}

#[tokio::test]
async fn a_session_says_that_it_is_caught_up() {
    let fake = Fake::start().await;
    fill(&fake, 0..2);
    let mut session = stream_of(&fake).read_session(ReadOptions::from_seq_num(0));
    for _ in 0..2 {
        let batch = session.next().await.unwrap().unwrap();
        assert!(!batch.is_caught_up() && !session.caught_up());
    }
    let heartbeat = session.next().await.unwrap().unwrap();
    assert!(heartbeat.is_empty() && heartbeat.is_caught_up());
    assert!(session.caught_up());
    assert_eq!(session.next_seq_num(), Some(2));
    assert_eq!(session.tail().unwrap().seq_num, 2);
}

#[tokio::test]
async fn a_start_at_the_tail_stays_where_it_was_across_a_break() {
    let fake = Fake::start().await;
    fill(&fake, 0..5);
    fake.state().reads = Reads::BreakAfter(0);
    let mut session = stream_of(&fake).read_session(ReadOptions::from_tail_offset(1));
    let first = session.next().await.unwrap().unwrap();
    assert_eq!(first.records()[0].seq_num, 4);
}
