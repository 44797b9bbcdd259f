use std::path::{Path, PathBuf};

use super::*;

mod crash;
mod full;
mod reclaiming;
mod speed;
mod torn;

/// Small files, so that there are many.
const FILE_BYTES: u64 = 64 << 10;

fn options() -> DiskOptions {
    DiskOptions {
        file_bytes: FILE_BYTES,
        blocking: Blocking::Inline,
        ..DiskOptions::default()
    }
}

/// A directory in memory where there is one: what is tested is what is written, not the disk.
fn directory() -> tempfile::TempDir {
    let memory = Path::new("/dev/shm");
    match memory.is_dir() {
        true => tempfile::tempdir_in(memory).expect("a directory"),
        false => tempfile::tempdir().expect("a directory"),
    }
}

fn open(path: &Path) -> DiskStore {
    DiskStore::open(path, options()).expect("a store")
}

/// Bytes that no other object has.
fn body(seed: u32, len: usize) -> Payload {
    let mut state = seed.wrapping_mul(2_654_435_761).wrapping_add(1);
    let byte = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state as u8
    };
    let bytes: Vec<u8> = std::iter::repeat_with(byte).take(len).collect();
    Payload::from(Bytes::from(bytes))
}

async fn create(store: &DiskStore, key: &str, body: &Payload) {
    assert_eq!(store.create(key, body).await, Ok(CreateOutcome::Created), "{key}");
}

async fn full(store: &DiskStore, key: &str) -> Option<Bytes> {
    store.get(key, ReadRange::Full).await.expect("a read")
}

fn files(path: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(path).expect("a directory");
    let paths = entries.map(|entry| entry.expect("an entry").path());
    let mut files: Vec<_> = paths
        .filter(|path| path.extension().is_some_and(|extension| extension == kind))
        .collect();
    files.sort();
    files
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_disk_keeps_every_promise_of_a_zone() {
    for blocking in [Blocking::Pool, Blocking::Inline] {
        for file_bytes in [FILE_BYTES, 64 << 20] {
            let root = directory();
            let options = DiskOptions {
                file_bytes,
                blocking,
                ..DiskOptions::default()
            };
            let path = root.path().join("a/b");
            let store = DiskStore::open(&path, options.clone()).expect("a store");
            crate::conformance::suite(Arc::new(store.clone())).await;
            let keys = store.list("", None, usize::MAX).await.expect("a listing");
            drop(store);
            let store = DiskStore::open(&path, options).expect("the same store");
            assert_eq!(store.list("", None, usize::MAX).await, Ok(keys));
            // Deletes of the first suite are kept, what it left is in the way of another.
            for key in store.list("", None, usize::MAX).await.expect("a listing") {
                store.delete(&key).await.expect("a delete");
            }
            crate::conformance::suite(Arc::new(store)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_does_one_behind_faults_that_do_not_strike() {
    let root = directory();
    let store = DiskStore::open(root.path(), DiskOptions::default()).expect("a store");
    let faults = crate::fault::Faults::new(1);
    let store = crate::fault::FaultStore::new(Arc::new(store), faults);
    crate::conformance::suite(Arc::new(store)).await;
}

#[tokio::test]
async fn a_directory_in_use_is_refused_and_free_afterwards() {
    let root = directory();
    let store = open(root.path());
    let clone = store.clone();
    drop(store);
    let refused = DiskStore::open(root.path(), options()).expect_err("it is in use");
    assert!(refused.to_string().contains("in use"), "{refused}");
    drop(clone);
    open(root.path());
}

#[tokio::test]
async fn options_out_of_reason_are_refused() {
    let root = directory();
    for file_bytes in [0, 4096, FILE_BYTES + 1] {
        let bad = DiskOptions {
            file_bytes,
            ..options()
        };
        let refused = DiskStore::open(root.path(), bad);
        assert!(matches!(refused, Err(StoreError::Invalid(_))), "{file_bytes}");
    }
}

#[tokio::test]
async fn an_object_that_changed_on_the_disk_is_corrupt() {
    let root = directory();
    let store = open(root.path());
    create(&store, "a", &body(1, 500)).await;
    let log = files(root.path(), "log").pop().expect("a log");
    let mut bytes = std::fs::read(&log).expect("a read");
    bytes[4096 + 64 + 1 + 250] ^= 1;
    std::fs::write(&log, bytes).expect("a write");
    let read = store.get("a", ReadRange::Full).await;
    assert!(matches!(read, Err(StoreError::Corrupt(_))), "{read:?}");
    let part = store.get("a", ReadRange::Range(0..100)).await.expect("a read");
    assert_eq!(part, Some(body(1, 500).to_bytes().slice(..100)));
}

#[tokio::test]
async fn after_a_failed_sync_nothing_is_promised_any_more() {
    let root = directory();
    let store = open(root.path());
    create(&store, "a", &body(1, 10)).await;
    store
        .shared()
        .fail("a sync has failed", &std::io::Error::other("on demand"));
    let corrupt = |result: Result<(), StoreError>| matches!(result, Err(StoreError::Corrupt(_)));
    assert!(corrupt(store.create("b", &body(1, 10)).await.map(drop)));
    assert!(corrupt(store.get("a", ReadRange::Full).await.map(drop)));
    assert!(corrupt(store.delete("a").await));
    drop(store);
    assert_eq!(full(&open(root.path()), "a").await, Some(body(1, 10).to_bytes()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn creates_that_wait_are_bounded_and_all_served() {
    let root = directory();
    let options = DiskOptions {
        file_bytes: FILE_BYTES,
        pending_bytes_max: 8 << 10,
        ..DiskOptions::default()
    };
    let store = DiskStore::open(root.path(), options).expect("a store");
    let creates = (0..100u32).map(|n| {
        let store = store.clone();
        // Some have more bytes than may be pending.
        let body = body(n, 200 * n as usize);
        tokio::spawn(async move { store.create(&format!("k/{n:03}"), &body).await })
    });
    let creates: Vec<_> = creates.collect();
    for create in creates {
        assert_eq!(create.await.expect("no panic"), Ok(CreateOutcome::Created));
    }
    for n in 0..100u32 {
        let read = full(&store, &format!("k/{n:03}")).await;
        assert_eq!(read, Some(body(n, 200 * n as usize).to_bytes()), "{n}");
    }
}

#[tokio::test]
async fn too_long_an_object_is_refused() {
    let root = directory();
    let store = open(root.path());
    let part = Bytes::from(vec![0; 1 << 20]);
    let long = Payload::new(vec![part; 257]);
    let refused = store.create("a", &long).await;
    assert!(matches!(refused, Err(StoreError::Invalid(_))), "{refused:?}");
    assert_eq!(full(&store, "a").await, None);
}
