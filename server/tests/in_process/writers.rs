//! Sessions whose inputs are numbered, across breaks of every kind.

use millrace_server::error::ServiceError;
use millrace_server::frontend::service::Writer;
use millrace_server::frontend::service::types::AppendAck;

use crate::fixture::{Running, batch, in_memory, stream};
use crate::segments::{hasty, settled};

/// Sends inputs `numbers` in a new session of the writer; where each stands.
async fn send(
    node: &Running,
    name: &str,
    writer: Writer,
    numbers: std::ops::RangeInclusive<u64>,
) -> Result<Vec<AppendAck>, ServiceError> {
    let session = node
        .frontend
        .resume_writer(&node.basin, &stream(name), writer)
        .await?;
    let mut pending = Vec::new();
    for number in numbers {
        let body = number.to_string();
        let batch = batch(&[body.as_bytes()]);
        pending.push(session.submit_numbered(&writer, batch, number, 0).await?);
    }
    let mut acks = Vec::new();
    for ack in pending {
        acks.push(ack.wait().await?);
    }
    Ok(acks)
}

fn starts(acks: &[AppendAck]) -> Vec<u64> {
    acks.iter().map(|ack| ack.start.seq_num).collect()
}

async fn open(node: &Running, name: &str) -> Writer {
    let opened = node.frontend.open_writer(&node.basin, &stream(name)).await;
    opened.expect("a writer").1
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_after_a_restart_of_its_node() {
    let dir = tempfile::tempdir().unwrap();
    let node = Running::start(dir.path(), |_| {}).await;
    node.create(&stream("s")).await.unwrap();
    node.append(&stream("s"), &[b"other"]).await.unwrap();
    let writer = open(&node, "s").await;
    assert_eq!(writer.opened_at, 1);
    let before = send(&node, "s", writer, 1..=5).await.unwrap();
    assert_eq!(starts(&before), [1, 2, 3, 4, 5]);
    node.stop().await;

    let node = Running::start(dir.path(), |_| {}).await;
    let after = send(&node, "s", writer, 3..=7).await.unwrap();
    assert_eq!(starts(&after), [3, 4, 5, 6, 7]);
    assert_eq!(
        after[0].start, before[2].start,
        "timestamps too are those of the first time"
    );
    assert_eq!(node.count(&stream("s")).await, 8);
    node.stop().await;
}

/// Its chunks are gone then: what is known of its writers was written anew.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_goes_on_after_its_inputs_were_flushed_and_its_node_restarted() {
    let dir = tempfile::tempdir().unwrap();
    let mut node = Running::start(dir.path(), hasty).await;
    node.create(&stream("s")).await.unwrap();
    let writer = open(&node, "s").await;
    for round in 0..3 {
        let last = 5 * round;
        let before = send(&node, "s", writer, last + 1..=last + 5).await.unwrap();
        settled(dir.path()).await;
        node.stop().await;

        node = Running::start(dir.path(), hasty).await;
        let again = send(&node, "s", writer, last + 3..=last + 5).await.unwrap();
        assert_eq!(starts(&again), starts(&before[2..]), "applied once");
        assert_eq!(node.count(&stream("s")).await as u64, last + 5);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_left_of_a_broken_session_and_the_session_after_it_are_applied_once() {
    let dir = tempfile::tempdir().unwrap();
    let node = Running::start(dir.path(), in_memory).await;
    node.create(&stream("s")).await.unwrap();
    let writer = open(&node, "s").await;
    let sendings = (1..=8).map(|last| send(&node, "s", writer, 1..=last * 10));
    for acks in futures::future::join_all(sendings).await {
        let starts = starts(&acks.expect("every sending is answered"));
        assert!(starts.iter().copied().eq(0..starts.len() as u64), "{starts:?}");
    }
    assert_eq!(node.count(&stream("s")).await, 80);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_does_not_write_into_a_stream_that_was_created_again() {
    let dir = tempfile::tempdir().unwrap();
    let node = Running::start(dir.path(), in_memory).await;
    let name = stream("s");
    node.create(&name).await.unwrap();
    let writer = open(&node, "s").await;
    node.frontend.delete_stream(&node.basin, &name).await.unwrap();
    while node.create(&name).await.is_err() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    assert_eq!(
        send(&node, "s", writer, 1..=1).await,
        Err(ServiceError::WriterUnknown)
    );
    let tail = node.frontend.check_tail(&node.basin, &name).await.unwrap();
    assert_eq!(tail.seq_num, 0);
    node.stop().await;
}
