//! What was read once is on the disk, also after a restart and while the store does not answer.

use bytesize::ByteSize;
use millrace_server::config::Settings;

use crate::fixture::{Running, stream};
use crate::segments::{hasty, read_all, settled};

/// Keeps no pages in memory, and some on a disk.
fn with_disk(settings: &mut Settings) {
    hasty(settings);
    settings.housekeeping_interval = None;
    settings.cache_bytes = Some(ByteSize::b(0));
    settings.cache_disk_bytes = Some(ByteSize::mib(256));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_page_that_was_read_outlives_the_process_on_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let name = stream("kept");
    let node = Running::start(dir.path(), with_disk).await;
    node.create(&name).await.unwrap();
    for number in 0..20u8 {
        node.append(&name, &[&[number; 30_000]]).await.unwrap();
    }
    settled(dir.path()).await;
    let written = read_all(&node, &name).await;
    assert_eq!(written.len(), 20);
    node.stop().await;
    let store = dir.path().join("store");
    std::fs::rename(store.join("segments"), store.join("away")).unwrap();
    let node = Running::start(dir.path(), with_disk).await;
    assert_eq!(read_all(&node, &name).await, written);
    node.stop().await;
}
