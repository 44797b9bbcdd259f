//! Records outlive their chunks, and their segments go when nobody may read them any more.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use millrace_api::batch::AppendBatch;
use millrace_api::config::{Patch, RetentionPolicy, StreamConfig, StreamReconfiguration};
use millrace_api::name::StreamName;
use millrace_api::proto;
use millrace_api::read::{ReadLimits, ReadRequest, ReadStart};
use millrace_server::config::Settings;
use millrace_server::error::ServiceError;
use millrace_server::frontend::service::types::{CreateStream, ListRequest, ReadEvent};
use millrace_wal::FrameKind;
use millrace_wal::format::decode_chunk;
use prost::Message;
use tokio::time::{Instant, sleep};

use crate::fixture::{Running, batch, stream};

const PATIENCE: Duration = Duration::from_secs(60);

/// Flushes at once, and keeps nothing for long.
pub fn hasty(settings: &mut Settings) {
    settings.flush_interval = Some(Duration::from_millis(100));
    settings.reader_grace = Some(Duration::from_millis(200));
    settings.housekeeping_interval = Some(Duration::from_millis(200));
    settings.idle_timeout = Some(Duration::from_millis(500));
    settings.recent_bytes = Some(bytesize::ByteSize::b(0));
}

/// All files below a directory of the store.
pub fn files(dir: &Path, under: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut open = vec![dir.join("store").join(under)];
    while let Some(dir) = open.pop() {
        for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => open.push(entry.path()),
                _ => found.push(entry.path()),
            }
        }
    }
    found
}

pub async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so().await {
        assert!(Instant::now() < deadline, "not in time: {what}");
        sleep(Duration::from_millis(50)).await;
    }
}

/// Everything from `start` on, with its sequence numbers.
pub async fn read(node: &Running, name: &StreamName, start: ReadStart) -> Vec<(u64, Vec<u8>)> {
    let mut records = Vec::new();
    let mut start = start;
    loop {
        let request = ReadRequest {
            start,
            clamp: false,
            limits: ReadLimits::default(),
            wait: None,
        };
        let batch = match node.frontend.read(&node.basin, name, request).await {
            Ok(batch) if batch.count > 0 => batch,
            Ok(_) | Err(ServiceError::ReadPastTail { .. }) => return records,
            Err(error) => panic!("{error}"),
        };
        for part in batch.parts {
            let decoded = proto::ReadBatch::decode(part).expect("records as stored");
            let pairs = decoded
                .records
                .into_iter()
                .map(|it| (it.seq_num, it.body.to_vec()));
            records.extend(pairs);
        }
        start = ReadStart::SeqNum(batch.last_seq_num + 1);
    }
}

pub async fn read_all(node: &Running, name: &StreamName) -> Vec<(u64, Vec<u8>)> {
    read(node, name, ReadStart::SeqNum(0)).await
}

pub async fn tail(node: &Running, name: &StreamName) -> u64 {
    let tail = node.frontend.check_tail(&node.basin, name).await;
    tail.expect("a tail").seq_num
}

pub async fn trim(node: &Running, name: &StreamName, point: u64) {
    let header = proto::Header {
        name: "".into(),
        value: "trim".into(),
    };
    let record = proto::AppendRecord {
        timestamp: None,
        headers: vec![header],
        body: point.to_be_bytes().to_vec().into(),
    };
    let input = proto::AppendInput {
        records: vec![record],
        match_seq_num: None,
        fencing_token: None,
    };
    let batch = AppendBatch::from_proto(input).expect("a command");
    node.frontend
        .append(&node.basin, name, batch)
        .await
        .expect("an ack");
}

/// Waits until everything that is durable is in segments, and its chunks are gone.
pub async fn settled(dir: &Path) {
    let has_records = |path: &PathBuf| {
        // One that was just deleted has none.
        let Ok(bytes) = std::fs::read(path) else {
            return false;
        };
        let chunk = decode_chunk(bytes.into()).expect("a whole chunk");
        let mut kinds = chunk.frames.iter().map(|frame| frame.header.kind);
        kinds.any(|kind| kind == FrameKind::Records)
    };
    eventually("chunks are deleted", async || {
        !files(dir, "wal").iter().any(has_records)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_outlive_their_chunks() {
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..5).map(stream).collect();
    let mut expected: BTreeMap<usize, Vec<(u64, Vec<u8>)>> = BTreeMap::new();
    let mut append = async |node: &Running, round: usize| {
        for number in 0..60 {
            let which = (number * number + round) % names.len();
            let body = format!("{round}/{number}/").repeat(1 + number % 40);
            let ack = node
                .append(&names[which], &[body.as_bytes(), b"!"])
                .await
                .expect("an ack");
            let records = expected.entry(which).or_default();
            records.push((ack.start.seq_num, body.into_bytes()));
            records.push((ack.start.seq_num + 1, b"!".to_vec()));
        }
        expected.clone()
    };
    let mut node = Running::start(dir.path(), hasty).await;
    for name in &names {
        node.create(name).await.unwrap();
    }
    for round in 0..3 {
        let expected = append(&node, round).await;
        if round > 0 {
            settled(dir.path()).await;
            assert!(!files(dir.path(), "segments").is_empty());
        }
        for restarted in [false, true] {
            if restarted {
                node.stop().await;
                node = Running::start(dir.path(), hasty).await;
            }
            for (which, expected) in &expected {
                let name = &names[*which];
                assert_eq!(&read(&node, name, ReadStart::SeqNum(0)).await, expected);
                let middle = expected.len() / 2;
                let from = expected[middle].0;
                assert_eq!(
                    read(&node, name, ReadStart::SeqNum(from)).await,
                    expected[middle..]
                );
                assert_eq!(read(&node, name, ReadStart::Timestamp(0)).await, *expected);
                let end = read(&node, name, ReadStart::TailOffset(3)).await;
                assert_eq!(end, expected[expected.len() - 3..]);
                assert_eq!(tail(&node, name).await, expected.len() as u64);
            }
        }
    }
    // Streams rest now that nothing of them is in the WAL only; they are read without waking them.
    sleep(Duration::from_secs(6)).await;
    for (which, expected) in &expected {
        assert_eq!(&read(&node, &names[*which], ReadStart::SeqNum(0)).await, expected);
        assert_eq!(tail(&node, &names[*which]).await, expected.len() as u64);
    }
    for (which, name) in names.iter().enumerate() {
        let ack = node.append(name, &[b"awake"]).await.expect("an ack");
        assert_eq!(ack.start.seq_num, expected[&which].len() as u64);
    }
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn segments_go_with_what_is_trimmed_or_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let (kept, deleted) = (stream("kept"), stream("deleted"));
    let node = Running::start(dir.path(), hasty).await;
    for name in [&kept, &deleted] {
        node.create(name).await.unwrap();
    }
    for number in 0..10u8 {
        for name in [&kept, &deleted] {
            node.append(name, &[&[number; 300]]).await.unwrap();
        }
        sleep(Duration::from_millis(30)).await;
    }
    settled(dir.path()).await;
    trim(&node, &kept, 4).await;
    let left = read(&node, &kept, ReadStart::SeqNum(0)).await;
    assert_eq!(left.first().map(|(seq_num, _)| *seq_num), Some(4));
    trim(&node, &kept, u64::MAX).await;
    assert_eq!(read(&node, &kept, ReadStart::SeqNum(0)).await, []);
    node.frontend.delete_stream(&node.basin, &deleted).await.unwrap();
    eventually("objects without a live run are deleted", async || {
        files(dir.path(), "segments").is_empty()
    })
    .await;
    assert_eq!(tail(&node, &kept).await, 12);
    let ack = node.append(&kept, &[b"goes on"]).await.unwrap();
    assert_eq!(ack.start.seq_num, 12);
    eventually("the name is free again", async || {
        node.create(&deleted).await.is_ok()
    })
    .await;
    assert_eq!(tail(&node, &deleted).await, 0);
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retention_set_later_applies_to_what_is_there_already() {
    let dir = tempfile::tempdir().unwrap();
    let name = stream("aging");
    let node = Running::start(dir.path(), hasty).await;
    node.create(&name).await.unwrap();
    for number in 0..10u8 {
        node.append(&name, &[&[number; 300]]).await.unwrap();
    }
    settled(dir.path()).await;
    sleep(Duration::from_millis(1500)).await;
    assert_eq!(read(&node, &name, ReadStart::SeqNum(0)).await.len(), 10);
    let change = StreamReconfiguration {
        retention: Patch::Set(RetentionPolicy::Age(1)),
        ..StreamReconfiguration::default()
    };
    node.frontend
        .reconfigure_stream(&node.basin, &name, change)
        .await
        .unwrap();
    eventually("old records are gone", async || {
        read(&node, &name, ReadStart::SeqNum(0)).await.is_empty()
    })
    .await;
    eventually("and their bytes", async || {
        files(dir.path(), "segments").is_empty()
    })
    .await;
    let ack = node.append(&name, &[b"young"]).await.unwrap();
    assert_eq!(ack.start.seq_num, 10);
    assert_eq!(
        read(&node, &name, ReadStart::SeqNum(0)).await,
        [(10, b"young".to_vec())]
    );
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_stream_is_deleted_when_it_is_configured_to_be() {
    let dir = tempfile::tempdir().unwrap();
    let (empty, emptied, full) = (stream("empty"), stream("emptied"), stream("full"));
    let node = Running::start(dir.path(), hasty).await;
    for name in [&empty, &emptied, &full] {
        let config = StreamConfig {
            delete_on_empty_min_age_secs: Some(1),
            ..StreamConfig::default()
        };
        let create = CreateStream {
            config,
            ..CreateStream::default()
        };
        let created = node.frontend.create_stream(&node.basin, name.clone(), create);
        created.await.unwrap();
    }
    node.frontend
        .append(&node.basin, &full, batch(&[b"stays"]))
        .await
        .unwrap();
    node.append(&emptied, &[b"goes"]).await.unwrap();
    trim(&node, &emptied, u64::MAX).await;
    // Without a request to one of them: a stream that is used does not rest.
    eventually("only the full stream is left", async || {
        let list = node
            .frontend
            .list_streams(&node.basin, ListRequest::default())
            .await
            .unwrap();
        let left = list.items.iter().filter(|it| it.deleted_at_ms.is_none());
        left.map(|it| &it.name).eq([&full])
    })
    .await;
    assert_eq!(tail(&node, &full).await, 1);
    node.stop().await;
}

/// What a session from the start delivers up to the tail, a little at a time.
async fn read_slowly(node: &Running, name: &StreamName) -> Vec<u64> {
    let end = tail(node, name).await;
    let mut session = node.session(name, None).await.expect("a session");
    let mut seen = Vec::new();
    while (seen.len() as u64) < end {
        match session.next().await.expect("it follows").expect("records") {
            ReadEvent::Batch(batch) => {
                for part in batch.parts {
                    let decoded = proto::ReadBatch::decode(part).expect("records as stored");
                    for record in decoded.records {
                        let said = String::from_utf8(record.body[..8].to_vec()).unwrap();
                        assert_eq!(said, format!("{:08}", record.seq_num));
                        seen.push(record.seq_num);
                    }
                }
                sleep(Duration::from_millis(20)).await;
            }
            ReadEvent::Heartbeat { .. } | ReadEvent::KeepAlive => {}
        }
    }
    seen
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reader_sees_every_record_once_while_segments_are_merged_and_deleted() {
    const RECORDS: u64 = 600;
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..2).map(stream).collect();
    let node = Running::start(dir.path(), |settings| {
        hasty(settings);
        settings.flush_interval = Some(Duration::from_millis(20));
        // Whoever comes late has to find the records anew.
        settings.reader_grace = Some(Duration::ZERO);
    })
    .await;
    for name in &names {
        node.create(name).await.unwrap();
    }
    let write = async {
        for number in 0..RECORDS {
            let body = format!("{number:08}").repeat(40);
            for name in &names {
                let ack = node.append(name, &[body.as_bytes()]).await.expect("an ack");
                assert_eq!(ack.start.seq_num, number);
            }
            sleep(Duration::from_millis(5)).await;
        }
    };
    let read = async {
        loop {
            for name in &names {
                let seen = read_slowly(&node, name).await;
                assert!(seen.iter().copied().eq(0..seen.len() as u64), "{seen:?}");
                if seen.len() as u64 == RECORDS {
                    return;
                }
            }
        }
    };
    tokio::join!(write, read);
    settled(dir.path()).await;
    let merged = |path: &PathBuf| {
        path.file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('m'))
    };
    eventually("few objects are left", async || {
        let left = files(dir.path(), "segments");
        left.iter().any(merged) && left.len() < 30
    })
    .await;
    for name in &names {
        assert_eq!(read_slowly(&node, name).await.len() as u64, RECORDS);
    }
    node.stop().await;
}
