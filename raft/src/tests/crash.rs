//! What is on disk when it was promised, seen by copying the files of a running store: no close, no flush.

use std::path::Path;

use millrace_api::id::NodeId;
use openraft::EntryPayload;
use openraft::storage::{IOFlushed, RaftLogReader, RaftLogStorage, RaftLogStorageExt};

use crate::codec::log::log_id_at;
use crate::error::MetaError;
use crate::identity::{ClusterId, DirectoryId};
use crate::state::record::LogPosition;
use crate::store::blocking::Blocking;
use crate::store::dir::{MetaDir, Owner};
use crate::store::log::LogStore;
use crate::types::{Entry, LeaderId, LogId, Vote};

fn at(index: u64) -> LogId {
    log_id_at(LogPosition {
        term: 1,
        node: 1,
        index,
    })
}

fn blank(index: u64) -> Entry {
    Entry {
        log_id: at(index),
        payload: EntryPayload::Blank,
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "LOCK" {
            std::fs::copy(entry.path(), to.join(entry.file_name())).unwrap();
        }
    }
}

#[tokio::test]
async fn a_saved_vote_and_flushed_entries_survive_a_crash() {
    for blocking in [Blocking::Pool, Blocking::Inline] {
        let dir = tempfile::tempdir().unwrap();
        let mut log = LogStore::open(&dir.path().join("live"), blocking).unwrap();
        let vote = Vote {
            leader_id: LeaderId { term: 5, node_id: 1 },
            committed: true,
        };
        log.save_vote(&vote).await.unwrap();
        log.blocking_append((0..10).map(blank)).await.unwrap();
        log.save_committed(Some(at(7))).await.unwrap();
        log.truncate_after(Some(at(8))).await.unwrap();
        log.purge(at(2)).await.unwrap();
        log.blocking_append([blank(9), blank(10)]).await.unwrap();

        copy(&dir.path().join("live"), &dir.path().join("after"));
        let mut after = LogStore::open(&dir.path().join("after"), blocking).unwrap();
        assert_eq!(after.read_vote().await.unwrap(), Some(vote));
        assert_eq!(after.read_committed().await.unwrap(), Some(at(7)));
        let state = after.get_log_state().await.unwrap();
        assert_eq!(
            (state.last_purged_log_id, state.last_log_id),
            (Some(at(2)), Some(at(10)))
        );
        let indexes: Vec<_> = after
            .try_get_log_entries(0..)
            .await
            .unwrap()
            .iter()
            .map(|e| e.log_id.index)
            .collect();
        assert_eq!(indexes, (3..=10).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn a_purged_log_knows_where_it_ended() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), Blocking::Inline).unwrap();
    log.append((1..=3).map(blank), IOFlushed::noop()).await.unwrap();
    log.purge(at(3)).await.unwrap();
    drop(log);
    let mut log = LogStore::open(dir.path(), Blocking::Inline).unwrap();
    let state = log.get_log_state().await.unwrap();
    assert_eq!(
        (state.last_purged_log_id, state.last_log_id),
        (Some(at(3)), Some(at(3)))
    );
}

#[tokio::test]
async fn a_bounded_read_returns_at_least_one_entry() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = LogStore::open(dir.path(), Blocking::Inline).unwrap();
    let large = |index| Entry {
        log_id: at(index),
        payload: EntryPayload::Normal(
            crate::command::RegisterNode {
                address: "x".repeat(600_000),
                ..super::harness::register(1, 1)
            }
            .into(),
        ),
    };
    log.append((1..=4).map(large), IOFlushed::noop()).await.unwrap();
    assert_eq!(log.limited_get_log_entries(1, 5).await.unwrap().len(), 1);
    assert_eq!(log.try_get_log_entries(1..5).await.unwrap().len(), 4);
}

#[test]
fn a_directory_belongs_to_one_process_and_one_node() {
    let dir = tempfile::tempdir().unwrap();
    let held = MetaDir::open(dir.path(), NodeId(1)).unwrap();
    let unusable = |node| match MetaDir::open(dir.path(), NodeId(node)) {
        Err(MetaError::Unusable(why)) => why,
        other => panic!("{other:?}"),
    };
    assert!(unusable(1).contains("another process"));
    drop(held);
    assert!(unusable(2).contains("belongs to node 1"));
    drop(MetaDir::open(dir.path(), NodeId(1)).unwrap());
    std::fs::write(dir.path().join("identity"), "format 2\nnode 1\n").unwrap();
    assert!(unusable(1).contains("format 2"));
    std::fs::write(dir.path().join("identity"), "what is this").unwrap();
    assert!(matches!(
        MetaDir::open(dir.path(), NodeId(1)),
        Err(MetaError::Store(_))
    ));
}

#[test]
fn a_directory_keeps_its_cluster_and_its_id() {
    let dir = tempfile::tempdir().unwrap();
    // As a release wrote it that knew neither.
    std::fs::create_dir_all(dir.path()).unwrap();
    std::fs::write(dir.path().join("identity"), "format 1\nnode 1\n").unwrap();
    let open = |cluster: Option<u128>, directory: Option<u128>| {
        let owner = Owner {
            node: NodeId(1),
            cluster: cluster.map(ClusterId),
            directory: directory.map(DirectoryId),
        };
        MetaDir::open(dir.path(), owner).map(|dir| dir.identity())
    };
    let identity = open(None, None).unwrap();
    assert_eq!((identity.cluster, identity.directory), (None, None));
    let first = open(Some(5), Some(6)).unwrap();
    assert_eq!(
        (first.cluster, first.directory),
        (Some(ClusterId(5)), Some(DirectoryId(6)))
    );
    assert_eq!(open(Some(5), Some(7)).unwrap(), first);
    assert_eq!(open(None, None).unwrap(), first);
    match open(Some(8), None) {
        Err(MetaError::Unusable(why)) => assert!(why.contains("belongs to cluster"), "{why}"),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_lost_identity_is_not_made_up() {
    let dir = tempfile::tempdir().unwrap();
    let meta = MetaDir::open(dir.path(), NodeId(1)).unwrap();
    drop(LogStore::open(&meta.log(), Blocking::Inline).unwrap());
    drop(meta);
    std::fs::remove_file(dir.path().join("identity")).unwrap();
    assert!(matches!(
        MetaDir::open(dir.path(), NodeId(1)),
        Err(MetaError::Unusable(_))
    ));
}

/// The write-ahead log of a store with ten entries, alone in a directory.
async fn write_ahead_log(dir: &Path) -> Vec<u8> {
    let mut log = LogStore::open(&dir.join("live"), Blocking::Inline).unwrap();
    for index in 0..10 {
        log.blocking_append([blank(index)]).await.unwrap();
    }
    copy(&dir.join("live"), &dir.join("kept"));
    std::fs::read(write_ahead_file(&dir.join("kept"))).unwrap()
}

fn write_ahead_file(dir: &Path) -> std::path::PathBuf {
    let files = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let mut logs: Vec<_> = files
        .filter(|path| path.extension().is_some_and(|e| e == "log"))
        .collect();
    assert_eq!(logs.len(), 1, "{logs:?}");
    logs.pop().unwrap()
}

/// What a store says that starts with these bytes as its write-ahead log: the number of entries.
async fn reopened(dir: &Path, bytes: &[u8]) -> Result<usize, String> {
    let _ = std::fs::remove_dir_all(dir.join("after"));
    copy(&dir.join("kept"), &dir.join("after"));
    std::fs::write(write_ahead_file(&dir.join("after")), bytes).unwrap();
    let mut log = LogStore::open(&dir.join("after"), Blocking::Inline).map_err(|error| error.to_string())?;
    log.try_get_log_entries(0..)
        .await
        .map(|entries| entries.len())
        .map_err(|error| error.to_string())
}

#[tokio::test]
async fn a_torn_tail_loses_only_what_was_torn() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = write_ahead_log(dir.path()).await;
    assert_eq!(reopened(dir.path(), &bytes).await, Ok(10));
    let mut before = 10;
    for length in (0..bytes.len()).rev().step_by(7) {
        let entries = reopened(dir.path(), &bytes[..length])
            .await
            .expect("a torn tail is no corruption");
        assert!(
            entries <= before && before <= entries + 1,
            "{entries} of {before} at {length}"
        );
        before = entries;
    }
}

#[tokio::test]
async fn damage_before_the_tail_stops_the_member() {
    let dir = tempfile::tempdir().unwrap();
    let bytes = write_ahead_log(dir.path()).await;
    for at in [20, bytes.len() / 3, bytes.len() / 2] {
        let mut damaged = bytes.clone();
        damaged[at] ^= 0x10;
        let outcome = reopened(dir.path(), &damaged).await;
        assert!(outcome.is_err(), "byte {at}: {outcome:?}");
    }
}
