//! What a machine leaves that lost its power within a commit.

use std::ops::Range;

use tokio::sync::oneshot;

use super::super::queue::Request;
use super::*;

const LENS: [usize; 5] = [30, 0, 7, 150, 9];

/// Commits objects together, as they are when their creates wait at the same time.
async fn create_together(store: &DiskStore, keys: &[String], bodies: &[Payload]) {
    let mut answers = Vec::new();
    let mut requests = std::collections::VecDeque::new();
    for (key, body) in keys.iter().zip(bodies) {
        let (reply, answer) = oneshot::channel();
        answers.push(answer);
        requests.push_back(Request::Create {
            key: key.as_str().into(),
            payload: body.clone(),
            body_crc: store.body_crc(body).await.expect("a checksum"),
            reply,
            permit: store.shared().permit(body.len()).await.expect("room"),
        });
    }
    store.shared().serve(requests);
    for answer in answers {
        assert_eq!(answer.await, Ok(Ok(CreateOutcome::Created)));
    }
}

/// With files that take little time to copy.
fn small() -> DiskOptions {
    DiskOptions {
        file_bytes: 32 << 10,
        ..options()
    }
}

fn open_small(path: &Path) -> DiskStore {
    DiskStore::open(path, small()).expect("a store")
}

struct Torn {
    /// Where the last commit was written.
    range: Range<usize>,
    log: PathBuf,
    whole: Vec<u8>,
    earlier: Vec<(String, Payload)>,
    keys: Vec<String>,
    bodies: Vec<Payload>,
}

/// Some commits, and a last one of several objects.
async fn last_commit(path: &Path) -> Torn {
    let store = open_small(path);
    let mut earlier = Vec::new();
    for n in 0..4u32 {
        let (key, body) = (format!("early/{n}"), body(n, 10 + 20 * n as usize));
        create(&store, &key, &body).await;
        earlier.push((key, body));
    }
    store.delete("early/1").await.expect("a delete");
    earlier.remove(1);
    create(&store, "early/last", &body(9, 40)).await;
    earlier.push(("early/last".into(), body(9, 40)));
    let log = files(path, "log").pop().expect("a log");
    let before = std::fs::read(&log).expect("a read");
    let keys: Vec<String> = (0..LENS.len()).map(|n| format!("torn/{n}")).collect();
    let bodies: Vec<Payload> = LENS.iter().zip(50..).map(|(len, n)| body(n, *len)).collect();
    create_together(&store, &keys, &bodies).await;
    let whole = std::fs::read(&log).expect("a read");
    let differs = |at: &usize| before[*at] != whole[*at];
    let begin = (0..whole.len()).find(differs).expect("something was written");
    let end = (0..whole.len()).rfind(differs).expect("something was written") + 1;
    Torn {
        range: begin..end,
        log,
        whole,
        earlier,
        keys,
        bodies,
    }
}

impl Torn {
    /// Opens what is left, twice, with creates between: what is there is whole, and stays; what is not, never is.
    async fn check(&self, path: &Path, what: &str) {
        let store = open_small(path);
        self.check_earlier(&store, what).await;
        let mut there = Vec::new();
        for (key, body) in self.keys.iter().zip(&self.bodies) {
            let read = full(&store, key).await;
            assert!(read.is_none() || read == Some(body.to_bytes()), "{what}: {key}");
            there.push(read.is_some());
        }
        assert!(there.is_sorted_by(|a, b| a >= b), "{what}: {there:?}");
        // The same bytes under the key of the first one that is lost: what was behind it must not follow it again.
        let lost = there.iter().position(|there| !there);
        if let Some(lost) = lost {
            create(&store, &self.keys[lost], &self.bodies[lost]).await;
            there[lost] = true;
        }
        create(&store, "late", &body(99, 333)).await;
        drop(store);
        for _ in 0..2 {
            let store = open_small(path);
            self.check_earlier(&store, what).await;
            for ((key, body), there) in self.keys.iter().zip(&self.bodies).zip(&there) {
                let read = full(&store, key).await;
                assert_eq!(read, there.then(|| body.to_bytes()), "{what}: {key} later");
            }
            assert_eq!(
                full(&store, "late").await,
                Some(body(99, 333).to_bytes()),
                "{what}"
            );
        }
    }

    async fn check_earlier(&self, store: &DiskStore, what: &str) {
        for (key, body) in &self.earlier {
            assert_eq!(full(store, key).await, Some(body.to_bytes()), "{what}: {key}");
        }
        assert_eq!(full(store, "early/1").await, None, "{what}");
    }

    /// A directory as it was, with another log.
    fn copy(&self, bytes: &[u8]) -> tempfile::TempDir {
        let copy = directory();
        std::fs::write(copy.path().join(self.log.file_name().expect("a name")), bytes).expect("a write");
        copy
    }
}

#[tokio::test]
async fn a_commit_that_was_cut_anywhere_is_whole_in_parts_and_never_comes_back() {
    let root = directory();
    let torn = last_commit(root.path()).await;
    assert!(torn.range.len() > LENS.iter().sum());
    for at in torn.range.clone() {
        let copy = torn.copy(&torn.whole[..at]);
        torn.check(copy.path(), &format!("cut at {at}")).await;
    }
}

#[tokio::test]
async fn so_is_one_of_which_the_rest_was_not_written() {
    let root = directory();
    let torn = last_commit(root.path()).await;
    for at in torn.range.clone() {
        let mut bytes = torn.whole.clone();
        bytes[at..].fill(0);
        let copy = torn.copy(&bytes);
        torn.check(copy.path(), &format!("zeros from {at}")).await;
    }
}

#[tokio::test]
async fn so_is_one_with_a_byte_that_is_another() {
    let root = directory();
    let torn = last_commit(root.path()).await;
    for at in torn.range.clone() {
        let mut bytes = torn.whole.clone();
        bytes[at] ^= 0x55;
        let copy = torn.copy(&bytes);
        torn.check(copy.path(), &format!("garbled at {at}")).await;
    }
}

#[tokio::test]
async fn a_damaged_commit_with_others_behind_it_is_not_taken_for_torn() {
    let root = directory();
    let torn = last_commit(root.path()).await;
    // Everything before the last commit had been synced.
    for at in (4096..torn.range.start).filter(|at| torn.whole[*at] != 0) {
        let mut bytes = torn.whole.clone();
        bytes[at] ^= 0x55;
        let copy = torn.copy(&bytes);
        let opened = DiskStore::open(copy.path(), small());
        assert!(matches!(opened, Err(StoreError::Corrupt(_))), "garbled at {at}");
    }
}

#[tokio::test]
async fn a_file_that_breaks_off_before_another_is_not_taken_for_torn() {
    let root = directory();
    let store = open(root.path());
    for n in 0..40u32 {
        create(&store, &format!("k/{n:02}"), &body(n, 3000)).await;
    }
    drop(store);
    let logs = files(root.path(), "log");
    assert!(logs.len() > 1);
    std::fs::remove_file(&files(root.path(), "index")[0]).expect("it is there");
    let file = std::fs::OpenOptions::new().write(true).open(&logs[0]);
    file.expect("it opens").set_len(FILE_BYTES / 2).expect("a cut");
    let opened = DiskStore::open(root.path(), options());
    assert!(matches!(opened, Err(StoreError::Corrupt(_))), "{opened:?}");
}
