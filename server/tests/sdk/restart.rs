//! What a client finds when a node on files was stopped and another one goes on.

use std::time::Duration;

use futures::StreamExt;
use millrace_server::node::Ended;
use s2_sdk::S2;
use s2_sdk::error::{AppendConditionFailed, AppendError};
use s2_sdk::types::{
    BasinConfig, BasinName, CommandRecord, CreateBasinInput, CreateStreamInput, DeleteStreamInput,
    ReadSessionConfig, ReadSessionRetryPolicy, ReconfigureStreamInput, RetentionPolicy, RetryConfig,
    StreamConfig, StreamPosition, StreamReconfiguration, TimestampingConfig,
};

use crate::fixture::{
    Refused, append, basin_name, batch, client_of, config, from_seq, input, read, record, soon,
};
use crate::node::TestNode;

async fn restarted(node: TestNode, dir: &tempfile::TempDir) -> TestNode {
    let ended = soon(node.stop()).await;
    assert!(matches!(ended, Ended::Stopped), "{ended:?}");
    TestNode::start_in(dir.path(), |_| {})
}

async fn create(s2: &S2, name: &BasinName) {
    let config = BasinConfig::new().with_create_stream_on_append(true);
    s2.create_basin(CreateBasinInput::new(name.clone()).with_config(config))
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn data_and_config_are_there_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (node, name) = (TestNode::start_in(dir.path(), |_| {}), basin_name());
    let s2 = client_of(node.addr);
    create(&s2, &name).await;
    let basin = s2.basin(name.clone());
    let own = StreamConfig::new().with_retention_policy(RetentionPolicy::Age(1234));
    let created = basin
        .create_stream(CreateStreamInput::new("s".parse().unwrap()).with_config(own))
        .await
        .unwrap();
    basin
        .create_stream(CreateStreamInput::new("never used".parse().unwrap()))
        .await
        .unwrap();
    basin
        .create_stream(CreateStreamInput::new("deleted".parse().unwrap()))
        .await
        .unwrap();
    append(&basin.stream("s".parse().unwrap()), &["a", "b"]).await;
    let change = StreamReconfiguration::new().with_storage_class("standard");
    basin
        .reconfigure_stream(ReconfigureStreamInput::new("s".parse().unwrap(), change))
        .await
        .unwrap();
    let last = append(&basin.stream("s".parse().unwrap()), &["c"]).await;
    basin
        .delete_stream(DeleteStreamInput::new("deleted".parse().unwrap()))
        .await
        .unwrap();

    let mut node = node;
    for round in 0..3 {
        node = restarted(node, &dir).await;
        let s2 = client_of(node.addr);
        assert!(
            s2.get_basin_config(name.clone())
                .await
                .unwrap()
                .create_stream_on_append
        );
        let basin = s2.basin(name.clone());
        let config = basin.get_stream_config("s".parse().unwrap()).await.unwrap();
        assert_eq!(config.retention_policy, Some(RetentionPolicy::Age(1234)));
        assert_eq!(config.storage_class.as_deref(), Some("standard"));
        let listed = basin.list_streams(Default::default()).await.unwrap().values;
        let of_s = listed
            .iter()
            .find(|info| info.name.as_ref() == "s")
            .expect("it is listed");
        assert_eq!(of_s.created_at.to_string(), created.created_at.to_string());
        let stream = basin.stream("s".parse().unwrap());
        let tail = stream.check_tail().await.unwrap();
        assert_eq!(tail.seq_num, 3 + round);
        if round == 0 {
            assert_eq!(tail, last.tail);
        }
        assert_eq!(read(&stream, from_seq(0)).await[..3], ["a", "b", "c"]);
        assert_eq!(append(&stream, &["on"]).await.start.seq_num, 3 + round);
        let unused = basin
            .stream("never used".parse().unwrap())
            .check_tail()
            .await
            .unwrap();
        assert_eq!(unused, StreamPosition::new(0, 0));
        let deleted = basin.stream("deleted".parse().unwrap());
        let late = deleted.check_tail().await.unwrap_err();
        assert!(matches!(late.refusal().0, 404 | 409), "{late:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn fencing_token_and_trim_point_survive_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (node, name) = (TestNode::start_in(dir.path(), |_| {}), basin_name());
    let s2 = client_of(node.addr);
    create(&s2, &name).await;
    let stream = s2.basin(name.clone()).stream("s".parse().unwrap());
    append(&stream, &["0", "1", "2", "3"]).await;
    let commands = [
        CommandRecord::fence("holder".parse().unwrap()),
        CommandRecord::trim(3),
    ];
    stream.append(batch(commands)).await.unwrap();

    let mut node = node;
    for round in 0..2 {
        node = restarted(node, &dir).await;
        let stream = client_of(node.addr)
            .basin(name.clone())
            .stream("s".parse().unwrap());
        let wrong = stream
            .append(input(&["x"]).with_fencing_token("other".parse().unwrap()))
            .await;
        match wrong {
            Err(AppendError::ConditionFailed(AppendConditionFailed::FencingTokenMismatch(actual))) => {
                assert_eq!(actual.to_string(), "holder");
            }
            other => panic!("not fenced: {other:?}"),
        }
        let condition = input(&["held"]).with_fencing_token("holder".parse().unwrap());
        let ack = stream
            .append(condition.with_match_seq_num(6 + round))
            .await
            .unwrap();
        assert_eq!(ack.start.seq_num, 6 + round);
        let first = &stream.read(from_seq(0)).await.unwrap().records[0];
        assert_eq!(
            (first.seq_num, first.body.as_ref()),
            (3, &b"3"[..]),
            "below the trim point"
        );
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn api_078_timestamps_do_not_fall_across_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (node, name) = (TestNode::start_in(dir.path(), |_| {}), basin_name());
    let s2 = client_of(node.addr);
    create(&s2, &name).await;
    let far = TimestampingConfig::new().with_uncapped(true);
    let config = StreamConfig::new().with_timestamping(far);
    let basin = s2.basin(name.clone());
    basin
        .create_stream(CreateStreamInput::new("s".parse().unwrap()).with_config(config))
        .await
        .unwrap();
    // Far ahead of any clock that the next node may have.
    let ahead = u64::MAX / 2;
    let stream = basin.stream("s".parse().unwrap());
    stream
        .append(batch([record("ahead").with_timestamp(ahead)]))
        .await
        .unwrap();

    let node = restarted(node, &dir).await;
    let stream = client_of(node.addr).basin(name).stream("s".parse().unwrap());
    assert_eq!(stream.check_tail().await.unwrap(), StreamPosition::new(1, ahead));
    let ack = stream
        .append(batch([record("now"), record("past").with_timestamp(5)]))
        .await
        .unwrap();
    assert_eq!((ack.start.timestamp, ack.end.timestamp), (ahead, ahead));
    let records = stream.read(from_seq(0)).await.unwrap().records;
    assert!(records.iter().all(|record| record.timestamp == ahead));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_deletion_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (node, name) = (TestNode::start_in(dir.path(), |_| {}), basin_name());
    let s2 = client_of(node.addr);
    create(&s2, &name).await;
    let basin = s2.basin(name.clone());
    append(&basin.stream("s".parse().unwrap()), &["old"]).await;
    basin
        .delete_stream(DeleteStreamInput::new("s".parse().unwrap()))
        .await
        .unwrap();

    let node = restarted(node, &dir).await;
    let stream = client_of(node.addr).basin(name).stream("s".parse().unwrap());
    soon(async {
        while let Err(error) = stream.append(input(&["new"])).await {
            assert_eq!(error.refusal(), (409, "stream_deletion_pending"));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    })
    .await;
    assert_eq!(read(&stream, from_seq(0)).await, ["new"]);
}

/// The client's own retries: a session that follows goes on by itself on the node that comes next.
#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_following_session_goes_on_after_a_restart() {
    let dir = tempfile::tempdir().unwrap();
    let (node, name) = (TestNode::start_in(dir.path(), |_| {}), basin_name());
    let addr = node.addr;
    let s2 = S2::new(config(addr).with_retry(RetryConfig::new())).unwrap();
    create(&s2, &name).await;
    let stream = s2.basin(name).stream("s".parse().unwrap());
    append(&stream, &["0"]).await;
    let retries = ReadSessionConfig::new().with_retry_policy(ReadSessionRetryPolicy::Indefinite);
    let mut session = stream.read_session(from_seq(0), retries).await.unwrap();
    let first = soon(session.next()).await.unwrap().unwrap();
    assert_eq!(first.records.len(), 1);

    let follower =
        tokio::spawn(async move { soon(session.next()).await.unwrap().unwrap().records[0].seq_num });
    assert!(matches!(soon(node.stop()).await, Ended::Stopped));
    let _node = TestNode::start_in(dir.path(), |settings| settings.http_addr = Some(addr));
    append(&stream, &["1"]).await;
    assert_eq!(follower.await.unwrap(), 1);
}
