//! Large objects that hold a little of many streams are sorted by stream, under readers.

use std::path::Path;
use std::time::Duration;

use bytesize::ByteSize;
use millrace_api::name::StreamName;
use millrace_api::read::ReadStart;
use millrace_server::config::Settings;
use tokio::time::sleep;

use crate::fixture::{Running, stream};
use crate::segments::{eventually, files, hasty, read, read_all, settled, trim};

/// Flushes each batch by itself. An object of a kilobyte is large.
pub fn sorting(settings: &mut Settings) {
    hasty(settings);
    settings.flush_interval = Some(Duration::from_millis(20));
    settings.flush_bytes = Some(ByteSize::kib(8));
}

/// Objects that a flush wrote, and those that came of others.
fn objects(dir: &Path) -> (usize, usize) {
    let names = files(dir, "segments")
        .into_iter()
        .filter_map(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let (flushed, merged): (Vec<_>, Vec<_>) = names.partition(|name| name.starts_with('f'));
    (flushed.len(), merged.len())
}

/// Two records of every stream, together about four kilobytes.
async fn append(node: &Running, names: &[StreamName], round: u64) {
    for name in names {
        let body = format!("{:08}", 2 * round).repeat(30);
        let acked = node.append(name, &[body.as_bytes(), b"second"]).await;
        acked.expect("an ack");
    }
    sleep(Duration::from_millis(40)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn objects_that_hold_a_little_of_many_streams_are_sorted_and_read_from_every_start() {
    const ROUNDS: u64 = 40;
    let dir = tempfile::tempdir().unwrap();
    let names: Vec<_> = (0..8).map(stream).collect();
    let node = Running::start(dir.path(), sorting).await;
    for name in &names {
        node.create(name).await.unwrap();
    }
    for round in 0..ROUNDS {
        append(&node, &names, round).await;
        // In the middle of whatever is done to them.
        let records = read_all(&node, &names[round as usize % names.len()]).await;
        assert!(records.iter().map(|(seq_num, _)| *seq_num).eq(0..2 * (round + 1)));
    }
    settled(dir.path()).await;
    eventually("large objects are sorted", async || {
        let (flushed, merged) = objects(dir.path());
        flushed < 16 && merged > 0
    })
    .await;
    node.stop().await;

    let node = Running::start(dir.path(), sorting).await;
    for name in &names {
        let all = read_all(&node, name).await;
        assert!(all.iter().map(|(seq_num, _)| *seq_num).eq(0..2 * ROUNDS));
        for (seq_num, body) in all.iter().step_by(2) {
            assert!(body.starts_with(format!("{seq_num:08}").as_bytes()));
        }
        for from in (0..2 * ROUNDS).step_by(7) {
            let rest = read(&node, name, ReadStart::SeqNum(from)).await;
            assert_eq!(rest, all[from as usize..]);
        }
    }
    for name in &names {
        trim(&node, name, u64::MAX).await;
    }
    eventually("nothing is left in the store", async || {
        files(dir.path(), "segments").is_empty()
    })
    .await;
    node.stop().await;
}
