//! Deletions that meet what else may happen to a stream: afterwards its name is always free again.

use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use millrace_api::error::ErrorCode;
use millrace_api::name::{BasinName, StreamName};
use millrace_server::error::ServiceError;
use millrace_server::frontend::service::types::{CreateBasin, CreateStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use crate::fixture::{Running, in_memory, stream};

/// From a deletion to the name being free: grace and a few rounds of the task that purges, with room for a busy
/// machine.
const PURGED_WITHIN: Duration = Duration::from_secs(20);

/// What a request may be told that meets a deletion.
fn assert_met_deletion<T>(result: Result<T, ServiceError>) {
    if let Err(error) = result {
        let ServiceError::Code { code, .. } = &error else {
            panic!("{error}")
        };
        let fits = matches!(
            code,
            ErrorCode::StreamDeletionPending | ErrorCode::StreamNotFound | ErrorCode::HotServer
        );
        assert!(fits, "{error}");
    }
}

async fn assert_becomes_free(node: &Running, names: &[StreamName]) {
    let deadline = Instant::now() + PURGED_WITHIN;
    let checks = futures::stream::iter(names).for_each_concurrent(16, |name| async move {
        while let Err(error) = node.create(name).await {
            assert!(Instant::now() < deadline, "{name} stays taken: {error}");
            sleep(Duration::from_millis(200)).await;
        }
        let appended = node.append(name, &[b"of the successor"]).await;
        assert_eq!(appended.expect("the new stream works").start.seq_num, 0, "{name}");
        assert_eq!(node.count(name).await, 1, "{name}");
    });
    checks.await;
}

/// The first use of a stream and its deletion at about the same time, the deletion a little later each time.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_meets_the_first_use_is_finished() {
    const ROUNDS: u64 = 15;
    const AT_A_TIME: u64 = 24;
    let dir = tempfile::tempdir().unwrap();
    let node = Arc::new(Running::start(dir.path(), in_memory).await);
    let mut names = Vec::new();
    for round in 0..ROUNDS {
        let mut racing = JoinSet::new();
        for number in 0..AT_A_TIME {
            let name = stream(format!("{round}/{number}"));
            names.push(name.clone());
            node.create(&name).await.expect("a new stream");
            let (using, its_name) = (node.clone(), name.clone());
            racing.spawn(async move {
                if number % 2 == 0 {
                    assert_met_deletion(using.append(&its_name, &[b"x"]).await);
                } else {
                    assert_met_deletion(using.session(&its_name, None).await);
                }
            });
            let deleting = node.clone();
            racing.spawn(async move {
                sleep(Duration::from_micros(number * 250)).await;
                let deleted = deleting.frontend.delete_stream(&deleting.basin, &name);
                deleted.await.expect("the deletion is taken up");
            });
        }
        while let Some(done) = racing.join_next().await {
            done.unwrap();
        }
    }
    assert_becomes_free(&node, &names).await;
}

/// Streams that were looked at and never written to rest at the channel's next round, some of them while they are
/// being deleted, some while they are used again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deletion_that_meets_a_rest_is_finished() {
    const WORKERS: usize = 12;
    /// From one look for idle streams to the next.
    const REST_INTERVAL: Duration = Duration::from_secs(5);
    let dir = tempfile::tempdir().unwrap();
    let begin = Instant::now() + REST_INTERVAL - Duration::from_millis(200);
    let node = Running::start(dir.path(), |settings| {
        in_memory(settings);
        settings.idle_timeout = Some(Duration::ZERO);
    });
    let node = Arc::new(node.await);
    let end = Instant::now() + REST_INTERVAL + Duration::from_millis(300);
    sleep_until(begin).await;
    let mut workers = JoinSet::new();
    for worker in 0..WORKERS {
        let node = node.clone();
        workers.spawn(async move {
            let mut names = Vec::new();
            while Instant::now() < end {
                let name = stream(format!("{worker}/{}", names.len()));
                node.create(&name).await.expect("a new stream");
                names.push(name.clone());
                drop(
                    node.session(&name, None)
                        .await
                        .expect("a session, given up at once"),
                );
                let deleted = node.frontend.delete_stream(&node.basin, &name);
                if worker % 2 == 0 {
                    deleted.await.expect("the deletion is taken up");
                } else {
                    let (deleted, used) = tokio::join!(deleted, node.session(&name, None));
                    deleted.expect("the deletion is taken up");
                    assert_met_deletion(used);
                }
            }
            names
        });
    }
    let mut names = Vec::new();
    while let Some(done) = workers.join_next().await {
        names.extend(done.unwrap());
    }
    assert!(names.len() > WORKERS, "there were several turns");
    assert_becomes_free(&node, &names).await;
}

/// As many as `MILLRACE_STREAMS` says; usually a few more than one step takes. Prints what it cost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_basin_of_many_streams_goes_while_others_are_served() {
    const CREATES: usize = 64;
    let count: usize = std::env::var("MILLRACE_STREAMS").map_or(2_500, |count| count.parse().unwrap());
    let dir = tempfile::tempdir().unwrap();
    let node = Running::start(dir.path(), in_memory).await;
    let served = stream("served");
    node.create(&served).await.expect("a stream");
    let many = BasinName::new("of-many-streams").unwrap();
    let create_basin = || node.frontend.create_basin(many.clone(), CreateBasin::default());
    create_basin().await.expect("a basin");
    let began = Instant::now();
    futures::stream::iter(0..count)
        .for_each_concurrent(CREATES, |number| {
            let config = CreateStream::default();
            let created = node.frontend.create_stream(&many, stream(number), config);
            async { drop(created.await.expect("a new stream")) }
        })
        .await;
    println!("{count} streams made in {:.1?}", began.elapsed());

    let before = memory_peak_kib();
    let began = Instant::now();
    node.frontend.delete_basin(&many).await.expect("taken up");
    let (mut appends, mut slowest) = (0, Duration::ZERO);
    // The name is free when everything is gone.
    while create_basin().await.is_err() {
        let asked = Instant::now();
        node.append(&served, &[b"meanwhile"]).await.expect("served");
        appends += 1;
        slowest = slowest.max(asked.elapsed());
        assert!(
            began.elapsed() < PURGED_WITHIN + Duration::from_millis(count as u64),
            "it goes on"
        );
        sleep(Duration::from_millis(20)).await;
    }
    println!(
        "deleted in {:.1?}; the slowest of {appends} appends meanwhile {slowest:.1?}; peak memory from {before} to {} KiB",
        began.elapsed(),
        memory_peak_kib(),
    );
    let tail = node
        .frontend
        .check_tail(&node.basin, &served)
        .await
        .expect("a tail");
    assert_eq!(tail.seq_num, appends);
}

fn memory_peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))
        .unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}
