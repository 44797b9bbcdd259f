//! Segments that only an index in the store names are read, and go, like others.

use std::path::Path;
use std::time::Duration;

use millrace_api::config::{Patch, RetentionPolicy, StreamReconfiguration};
use millrace_api::name::StreamName;
use millrace_api::proto;
use millrace_api::read::{ReadLimits, ReadRequest, ReadStart};
use millrace_server::config::Settings;
use prost::Message;
use tokio::time::sleep;

use crate::fixture::{Running, stream};
use crate::segments::{eventually, files, hasty, read, read_all, settled, tail, trim};

/// Flushes each batch by itself, and packs as soon as there are five segments.
pub fn packing(settings: &mut Settings) {
    hasty(settings);
    settings.flush_interval = Some(Duration::from_millis(20));
    settings.housekeeping_interval = Some(Duration::from_millis(100));
    settings.chain_rows = Some(4);
}

/// Index objects in the store.
pub fn indexes(dir: &Path) -> usize {
    let names = files(dir, "segments")
        .into_iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    names.filter(|name| name.starts_with('i')).count()
}

/// Appends batches of two records, each in a flush of its own or nearly so.
async fn append(node: &Running, names: &[StreamName], batches: u64) {
    for _ in 0..batches {
        for name in names {
            let body = format!("{:08}", tail(node, name).await).repeat(20);
            node.append(name, &[body.as_bytes(), b"second"])
                .await
                .expect("an ack");
        }
        sleep(Duration::from_millis(40)).await;
    }
}

/// The first records from `start` on, with their timestamps.
async fn few(node: &Running, name: &StreamName, start: ReadStart) -> Vec<(u64, u64)> {
    let request = ReadRequest {
        start,
        clamp: false,
        limits: ReadLimits {
            count: Some(3),
            ..ReadLimits::default()
        },
        wait: None,
    };
    let batch = node
        .frontend
        .read(&node.basin, name, request)
        .await
        .expect("records");
    let parts = batch.parts.into_iter();
    let decoded = parts.map(|part| proto::ReadBatch::decode(part).expect("records as stored"));
    let records = decoded.flat_map(|batch| batch.records);
    records.map(|it| (it.seq_num, it.timestamp)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_records_are_found_from_every_start() {
    let dir = tempfile::tempdir().unwrap();
    let names = [stream("a"), stream("b")];
    let node = Running::start(dir.path(), packing).await;
    for name in &names {
        node.create(name).await.unwrap();
    }
    append(&node, &names, 40).await;
    settled(dir.path()).await;
    eventually("segments are packed", async || indexes(dir.path()) >= 4).await;
    node.stop().await;

    // What is asked of the store is asked for anew; what is in an index does not change any more.
    let node = Running::start(dir.path(), packing).await;
    for name in &names {
        let all = read_all(&node, name).await;
        assert!(all.iter().map(|(seq_num, _)| *seq_num).eq(0..80));
        let mut stamped = Vec::new();
        while stamped.len() < 80 {
            stamped.extend(few(&node, name, ReadStart::SeqNum(stamped.len() as u64)).await);
        }
        assert!(stamped.iter().map(|(seq_num, _)| *seq_num).eq(0..80));
        let wanted = |from: usize| stamped[from..].iter().copied().take(3);
        for seq_num in 0..80 {
            let found = few(&node, name, ReadStart::SeqNum(seq_num)).await;
            assert!(found.iter().copied().eq(wanted(seq_num as usize)), "{seq_num}");
            let found = few(&node, name, ReadStart::TailOffset(80 - seq_num)).await;
            assert!(found.iter().copied().eq(wanted(seq_num as usize)), "{seq_num}");
        }
        let (first, last) = (stamped[0].1, stamped[79].1);
        let times = stamped.iter().flat_map(|(_, time)| [time - 1, *time, time + 1]);
        for time in times.filter(|time| *time <= last).chain([0, first]) {
            let at = stamped.partition_point(|(_, stamp)| *stamp < time);
            let found = few(&node, name, ReadStart::Timestamp(time)).await;
            assert!(found.iter().copied().eq(wanted(at)), "at {time}");
        }
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trim_into_an_index_takes_what_is_below_and_leaves_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let name = stream("trimmed");
    let node = Running::start(dir.path(), packing).await;
    node.create(&name).await.unwrap();
    append(&node, std::slice::from_ref(&name), 40).await;
    settled(dir.path()).await;
    eventually("segments are packed", async || indexes(dir.path()) >= 3).await;
    let objects = files(dir.path(), "segments").len();
    for point in [1, 7, 22, 23, 41] {
        trim(&node, &name, point).await;
        let left = read_all(&node, &name).await;
        let end = tail(&node, &name).await;
        assert!(left.iter().map(|(seq_num, _)| *seq_num).eq(point..end));
        sleep(Duration::from_millis(700)).await;
        assert_eq!(read_all(&node, &name).await, left);
    }
    eventually("objects below are deleted", async || {
        files(dir.path(), "segments").len() < objects
    })
    .await;
    trim(&node, &name, u64::MAX).await;
    eventually("nothing is left in the store", async || {
        files(dir.path(), "segments").is_empty()
    })
    .await;
    assert_eq!(read_all(&node, &name).await, []);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn packed_records_go_when_they_are_too_old() {
    let dir = tempfile::tempdir().unwrap();
    let names = [stream("aging"), stream("kept")];
    let node = Running::start(dir.path(), packing).await;
    for name in &names {
        node.create(name).await.unwrap();
    }
    append(&node, &names, 30).await;
    settled(dir.path()).await;
    eventually("segments are packed", async || indexes(dir.path()) >= 4).await;
    let change = StreamReconfiguration {
        retention: Patch::Set(RetentionPolicy::Age(2)),
        ..StreamReconfiguration::default()
    };
    let changed = node
        .frontend
        .reconfigure_stream(&node.basin, &names[0], change)
        .await;
    changed.unwrap();
    eventually("old records are gone", async || {
        read(&node, &names[0], ReadStart::SeqNum(0)).await.is_empty()
    })
    .await;
    let kept = read_all(&node, &names[1]).await;
    assert!(kept.iter().map(|(seq_num, _)| *seq_num).eq(0..60));
    node.frontend.delete_stream(&node.basin, &names[1]).await.unwrap();
    eventually("nothing is left in the store", async || {
        files(dir.path(), "segments").is_empty()
    })
    .await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_that_is_deleted_while_it_is_packed_leaves_nothing_to_its_successor() {
    let dir = tempfile::tempdir().unwrap();
    let name = stream("again");
    let node = Running::start(dir.path(), packing).await;
    let mut seen = 0;
    for life in 0..6 {
        eventually("the name is free", async || node.create(&name).await.is_ok()).await;
        assert_eq!(tail(&node, &name).await, 0);
        append(&node, std::slice::from_ref(&name), 9 + life).await;
        seen = seen.max(indexes(dir.path()));
        let records = read_all(&node, &name).await;
        assert!(records.iter().map(|(seq_num, _)| *seq_num).eq(0..2 * (9 + life)));
        for (seq_num, body) in records.iter().step_by(2) {
            assert!(body.starts_with(format!("{seq_num:08}").as_bytes()));
        }
        node.frontend.delete_stream(&node.basin, &name).await.unwrap();
    }
    assert!(seen > 0, "segments were packed");
    eventually("nothing is left in the store", async || {
        files(dir.path(), "segments").is_empty()
    })
    .await;
    node.stop().await;
}
