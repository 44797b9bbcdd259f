//! Room that is given back, and what must not be lost with it or come back.

use std::collections::BTreeMap;

use proptest::prelude::*;
use tokio::sync::oneshot;

use super::super::format::Kind;
use super::super::queue::{Copied, Request};
use super::*;

fn with_bytes_max(path: &Path, bytes_max: u64) -> DiskStore {
    let options = DiskOptions {
        bytes_max,
        ..options()
    };
    DiskStore::open(path, options).expect("a store")
}

fn key(n: u32) -> String {
    format!("k/{n:04}")
}

#[tokio::test]
async fn files_of_which_nothing_is_needed_are_used_again() {
    let root = directory();
    let store = open(root.path());
    create(&store, "stays", &body(0, 100)).await;
    for n in 0..200 {
        create(&store, &key(n), &body(n, 10_000)).await;
        store.delete(&key(n)).await.expect("a delete");
    }
    assert!(
        store.disk_bytes() <= 6 * FILE_BYTES,
        "{} bytes",
        store.disk_bytes()
    );
    assert_eq!(full(&store, "stays").await, Some(body(0, 100).to_bytes()));
    assert!(!files(root.path(), "spare").is_empty());
    drop(store);
    let store = open(root.path());
    assert_eq!(store.list("", None, 10).await, Ok(vec!["stays".to_owned()]));
}

#[tokio::test]
async fn files_of_which_little_is_needed_are_emptied() {
    let root = directory();
    let store = open(root.path());
    let stays = |n: &u32| n.is_multiple_of(10);
    for n in 0..300 {
        create(&store, &key(n), &body(n, 5_000)).await;
    }
    for n in (0..300).filter(|n| !stays(n)) {
        store.delete(&key(n)).await.expect("a delete");
    }
    let bound = 2 * 30 * 5_200 + 5 * FILE_BYTES;
    assert!(store.disk_bytes() <= bound, "{} bytes", store.disk_bytes());
    for _ in 0..2 {
        for n in 0..300 {
            let expected = stays(&n).then(|| body(n, 5_000).to_bytes());
            assert_eq!(full(&store, &key(n)).await, expected, "{n}");
        }
    }
    drop(store);
    let store = open(root.path());
    for n in 0..300 {
        let expected = stays(&n).then(|| body(n, 5_000).to_bytes());
        assert_eq!(full(&store, &key(n)).await, expected, "{n}");
    }
}

#[tokio::test]
async fn many_restarts_leave_few_files() {
    let root = directory();
    for n in 0..50 {
        let store = open(root.path());
        create(&store, &key(n), &body(n, 200)).await;
    }
    assert!(files(root.path(), "log").len() < 5);
    let store = open(root.path());
    for n in 0..50 {
        assert_eq!(full(&store, &key(n)).await, Some(body(n, 200).to_bytes()));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_of_a_file_that_is_removed_get_what_they_asked_for() {
    let root = directory();
    let options = DiskOptions {
        blocking: Blocking::Pool,
        ..options()
    };
    let store = DiskStore::open(root.path(), options).expect("a store");
    create(&store, "old", &body(7, 20_000)).await;
    let (place, log) = store.shared().find("old").expect("it stands");
    store.delete("old").await.expect("a delete");
    for n in 0..100 {
        create(&store, &key(n), &body(n, 20_000)).await;
        store.delete(&key(n)).await.expect("a delete");
    }
    assert!(
        !store.shared().index().files.contains_key(&log.number),
        "it was removed"
    );
    let read = read_whole(&log, "old", place).expect("a read");
    assert_eq!(read, Some(body(7, 20_000).to_bytes()));
}

/// Copies the records of some objects as emptying their file does, and stops there.
async fn copy_in_part(store: &DiskStore, keys: &[String]) {
    let mut records = Vec::new();
    for key in keys {
        let (place, log) = store.shared().find(key).expect("it stands");
        let body = read_whole(&log, key, place).expect("a read").expect("whole");
        records.push(Copied {
            kind: Kind::Object,
            key: key.as_str().into(),
            seq: place.seq,
            target: 0,
            file: place.file,
            offset: place.offset,
            body_crc: crc32c::crc32c(&body),
            body,
        });
    }
    let (reply, answer) = oneshot::channel();
    let asked = store.shared().submit(Request::Copy { records, reply });
    asked.expect("it is open");
    assert_eq!(answer.await, Ok(Ok(())));
}

#[tokio::test]
async fn what_was_copied_when_the_process_died_and_deleted_later_stays_deleted() {
    let root = directory();
    let mut store = open(root.path());
    // A file that is not sparse, so that it is not emptied of itself.
    for n in 0..30 {
        create(&store, &key(n), &body(n, 5_000)).await;
    }
    let copied: Vec<String> = (0..4).map(key).collect();
    copy_in_part(&store, &copied).await;
    for key in &copied {
        assert!(full(&store, key).await.is_some());
    }
    drop(store);
    store = open(root.path());
    assert_eq!(store.shared().index().moving.len(), 1, "it goes on");
    for key in &copied {
        store.delete(key).await.expect("a delete");
    }
    for round in 0..40 {
        let n = 100 + round;
        create(&store, &key(n), &body(n, 30_000)).await;
        store.delete(&key(n)).await.expect("a delete");
        drop(store);
        store = open(root.path());
        for key in &copied {
            assert_eq!(full(&store, key).await, None, "round {round}: {key} is back");
        }
        for n in 4..30 {
            assert_eq!(
                full(&store, &key(n)).await,
                Some(body(n, 5_000).to_bytes()),
                "{n}"
            );
        }
    }
}

#[tokio::test]
async fn a_full_disk_refuses_objects_and_harms_none_and_goes_on_when_there_is_room() {
    let root = directory();
    let store = with_bytes_max(root.path(), 4 * FILE_BYTES);
    let mut stand = Vec::new();
    let refused = loop {
        let n = stand.len() as u32;
        match store.create(&key(n), &body(n, 5_000)).await {
            Ok(CreateOutcome::Created) => stand.push(n),
            other => break other,
        }
        assert!(stand.len() < 100, "it is never full");
    };
    assert!(matches!(refused, Err(StoreError::Retry(_))), "{refused:?}");
    assert!(stand.len() > 15, "{} objects", stand.len());
    assert!(store.disk_bytes() <= 4 * FILE_BYTES);
    // Nor is it different after a restart.
    drop(store);
    let store = with_bytes_max(root.path(), 4 * FILE_BYTES);
    let big = body(99, 50_000);
    let refused = store.create("big", &big).await;
    assert!(matches!(refused, Err(StoreError::Retry(_))), "{refused:?}");
    for n in &stand {
        assert_eq!(full(&store, &key(*n)).await, Some(body(*n, 5_000).to_bytes()));
    }
    for n in stand.drain(1..) {
        store.delete(&key(n)).await.expect("a delete on a full disk");
    }
    assert_eq!(store.create("big", &big).await, Ok(CreateOutcome::Created));
    for n in 0..20 {
        let n = 1000 + n;
        create(&store, &key(n), &body(n, 20_000)).await;
        store.delete(&key(n)).await.expect("a delete");
    }
    assert!(store.disk_bytes() <= 4 * FILE_BYTES);
    assert_eq!(full(&store, &key(0)).await, Some(body(0, 5_000).to_bytes()));
    assert_eq!(full(&store, "big").await, Some(big.to_bytes()));
}

#[tokio::test]
async fn a_file_with_a_damaged_record_is_kept() {
    let root = directory();
    let store = open(root.path());
    for n in 0..40 {
        create(&store, &key(n), &body(n, 5_000)).await;
    }
    let (place, log) = store.shared().find(&key(1)).expect("it stands");
    let at = place.offset + record_len(&key(1), 0);
    log.write(&mut [std::io::IoSlice::new(b"damage")], at)
        .expect("a write");
    for n in 3..40 {
        store.delete(&key(n)).await.expect("a delete");
    }
    assert!(store.shared().index().damaged.contains(&place.file));
    for n in [0, 2] {
        assert_eq!(full(&store, &key(n)).await, Some(body(n, 5_000).to_bytes()));
    }
    let damaged = store.get(&key(1), ReadRange::Full).await;
    assert!(matches!(damaged, Err(StoreError::Corrupt(_))), "{damaged:?}");
}

#[derive(Debug, Clone)]
enum Step {
    Create(u8, u16),
    Delete(u8),
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        8 => (any::<u8>(), 0..20_000u16).prop_map(|(key, len)| Step::Create(key % 40, len)),
        7 => any::<u8>().prop_map(|key| Step::Delete(key % 40)),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..150)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(60))]

    #[test]
    fn whatever_is_created_deleted_and_reopened_stands_as_it_should(steps in steps()) {
        let root = directory();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut store = open(root.path());
            let mut model: BTreeMap<String, Bytes> = BTreeMap::new();
            for (at, step) in steps.into_iter().enumerate() {
                match step {
                    Step::Create(n, len) => {
                        let (key, body) = (key(n.into()), body(at as u32, len.into()));
                        let expected = match model.contains_key(&key) {
                            true => CreateOutcome::Exists,
                            false => CreateOutcome::Created,
                        };
                        assert_eq!(store.create(&key, &body).await, Ok(expected));
                        model.entry(key).or_insert(body.to_bytes());
                    }
                    Step::Delete(n) => {
                        store.delete(&key(n.into())).await.expect("a delete");
                        model.remove(&key(n.into()));
                    }
                    Step::Reopen => {
                        drop(store);
                        store = open(root.path());
                    }
                }
                let keys: Vec<String> = model.keys().cloned().collect();
                assert_eq!(store.list("", None, usize::MAX).await, Ok(keys));
            }
            for (key, bytes) in &model {
                assert_eq!(full(&store, key).await.as_ref(), Some(bytes));
            }
            let needed: u64 = model.iter().map(|(key, bytes)| record_len(key, bytes.len() as u64)).sum();
            let bound = 2 * needed + 8 * FILE_BYTES;
            assert!(store.disk_bytes() <= bound, "{} bytes for {needed}", store.disk_bytes());
        });
    }
}
