//! Sessions that follow a stream for a slow consumer.

use std::time::Duration;

use bytesize::ByteSize;
use millrace_server::frontend::service::ReadSession;
use millrace_server::frontend::service::types::ReadEvent;
use tokio::time::{Instant, sleep, timeout};

use crate::fixture::{Running, in_memory, stream};

const WAIT: Duration = Duration::from_millis(200);
/// Longer than the session waits for records.
const PAUSE: Duration = Duration::from_millis(350);
/// More than anything here takes that does not hang.
const PATIENCE: Duration = Duration::from_secs(20);

async fn next(session: &mut ReadSession) -> Option<ReadEvent> {
    let event = timeout(PATIENCE, session.next()).await;
    event
        .expect("the session is stuck")
        .transpose()
        .expect("no error")
}

/// Reads to the end, with a pause after every batch. How many records came in how many batches, and how long the
/// session waited before it ended.
async fn read_slowly(session: &mut ReadSession) -> (usize, usize, Duration) {
    let (mut records, mut batches) = (0, 0);
    let mut waits_since = Instant::now();
    while let Some(event) = next(session).await {
        if let ReadEvent::Batch(batch) = event {
            records += batch.count;
            batches += 1;
            sleep(PAUSE).await;
            waits_since = Instant::now();
        }
    }
    (records, batches, waits_since.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_consumer_of_a_live_session_gets_what_is_there_and_then_the_end() {
    // From memory, and from chunks that are walked again.
    for recent_bytes in [ByteSize::mib(64), ByteSize::b(0)] {
        let dir = tempfile::tempdir().unwrap();
        let node = Running::start(dir.path(), |settings| {
            in_memory(settings);
            settings.recent_bytes = Some(recent_bytes);
        })
        .await;
        let name = stream("live");
        node.create(&name).await.unwrap();
        let mut session = node.session(&name, Some(WAIT)).await.unwrap();
        assert!(
            matches!(next(&mut session).await, Some(ReadEvent::Heartbeat { .. })),
            "it is at the tail"
        );
        let body = vec![b'x'; 300 * 1024];
        for _ in 0..6 {
            node.append(&name, &[&body, &body]).await.unwrap();
        }
        let (records, batches, waited) = read_slowly(&mut session).await;
        assert_eq!(records, 12, "recent_bytes: {recent_bytes}");
        assert!(batches >= 4, "a batch holds 1 MiB at most: {batches}");
        assert!(waited >= WAIT, "it ended after {waited:?} of silence");
        assert!(waited < WAIT * 10, "it ended after {waited:?} of silence");
        assert!(next(&mut session).await.is_none(), "an end is an end");
        node.stop().await;
    }
}

/// Records that come one by one, each within the wait after the one before was taken.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_within_the_wait_keep_a_session_open() {
    let dir = tempfile::tempdir().unwrap();
    let node = Running::start(dir.path(), in_memory).await;
    let name = stream("live");
    node.create(&name).await.unwrap();
    let mut session = node.session(&name, Some(Duration::from_secs(1))).await.unwrap();
    assert!(matches!(
        next(&mut session).await,
        Some(ReadEvent::Heartbeat { .. })
    ));
    for turn in 0..5 {
        let (event, ()) = tokio::join!(next(&mut session), async {
            sleep(Duration::from_millis(300)).await;
            node.append(&name, &[b"x"]).await.unwrap();
        });
        let Some(ReadEvent::Batch(batch)) = event else {
            panic!("in turn {turn}: {event:?}")
        };
        assert_eq!((batch.count, batch.last_seq_num), (1, turn));
    }
    let began = Instant::now();
    while next(&mut session).await.is_some() {}
    assert!(
        began.elapsed() >= Duration::from_millis(990),
        "{:?}",
        began.elapsed()
    );
    node.stop().await;
}

/// The silence that ends a session is the stream's, not its consumer's: what was appended while the consumer was
/// busy with a heartbeat comes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_that_came_while_the_consumer_was_busy_with_a_heartbeat_are_delivered() {
    let dir = tempfile::tempdir().unwrap();
    let node = Running::start(dir.path(), in_memory).await;
    let name = stream("live");
    node.create(&name).await.unwrap();
    let mut session = node.session(&name, Some(WAIT)).await.unwrap();
    assert!(matches!(
        next(&mut session).await,
        Some(ReadEvent::Heartbeat { .. })
    ));
    node.append(&name, &[b"well within the wait"]).await.unwrap();
    sleep(PAUSE).await;
    let event = next(&mut session).await;
    assert!(matches!(event, Some(ReadEvent::Batch(_))), "{event:?}");
}
