//! A cell that is whole, and cells in which one thing is not.

use std::sync::Arc;

use millrace_api::id::Epoch;
use millrace_api::name::BasinName;
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_raft::command::{DeleteStream, FlushedStream};
use millrace_raft::query::{ChainLink, SegmentRecord, SegmentRow, StreamRecord};
use millrace_wal::segment::ChainIndex;
use millrace_wal::{MemoryStore, Payload, ReadRange, ZoneStore};

use super::objects::Live;
use super::streams::Tiling;
use super::*;
use crate::storage::fixture::{CHANNEL, Fixture, chunk_key};

async fn verify(fixture: &Fixture) -> (Checked, Vec<Broken>) {
    let (out, mut events) = mpsc::channel(1 << 10);
    let checked = Verify::new(fixture.cell.clone()).run(out).await;
    let mut broken = Vec::new();
    while let Some(event) = events.recv().await {
        if let VerifyEvent::Broken(found) = event {
            broken.push(found);
        }
    }
    let checked = checked.expect("everything was looked at");
    assert_eq!(checked.broken, broken.len() as u64);
    (checked, broken)
}

async fn repaired(fixture: &Fixture) -> Checked {
    let (out, mut events) = mpsc::channel(1 << 10);
    let verify = Verify::new(fixture.cell.clone()).repairing();
    let checked = verify.run(out).await.expect("everything was looked at");
    while events.recv().await.is_some() {}
    checked
}

/// What is broken, and of what.
async fn broken(fixture: &Fixture) -> Vec<(Promise, String)> {
    let (_, broken) = verify(fixture).await;
    broken.into_iter().map(|it| (it.promise, it.subject)).collect()
}

/// Two flushes, one epoch that has ended and is not flushed wholly, and one that goes on.
async fn whole() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.flush(3, 1).await;
    fixture.flush(4, 2).await;
    for slot in 2..5 {
        fixture.chunk(1, slot).await;
    }
    fixture.seal(1, 5).await;
    fixture.next_epoch(5).await;
    for slot in [0, 1, 3] {
        fixture.chunk(2, slot).await;
    }
    fixture
}

async fn flip(fixture: &Fixture, key: &str, at: usize) {
    let bytes = fixture.store.get(key, ReadRange::Full).await.unwrap().unwrap();
    let mut bytes = bytes.to_vec();
    bytes[at] ^= 1;
    fixture.store.overwrite(key, bytes.into());
}

#[tokio::test]
async fn a_whole_cell_keeps_every_promise() {
    let (checked, broken) = verify(&whole().await).await;
    assert_eq!(broken, []);
    assert_eq!((checked.objects, checked.runs, checked.segments), (2, 2, 2));
    assert_eq!((checked.streams, checked.chunks), (1, 6));
    assert!(checked.object_bytes > 0 && checked.chunk_bytes > 0);
}

#[tokio::test]
async fn a_flipped_bit_anywhere_in_a_segment_object_is_found() {
    let fixture = Fixture::new().await;
    let key = fixture.flush(3, 1).await.to_string();
    let len = fixture
        .store
        .get(&key, ReadRange::Full)
        .await
        .unwrap()
        .unwrap()
        .len();
    for at in (0..len).step_by(7).chain([len - 1]) {
        flip(&fixture, &key, at).await;
        let found = broken(&fixture).await;
        assert_eq!(found, [(Promise::Whole, key.clone())], "byte {at}");
        flip(&fixture, &key, at).await;
    }
    assert_eq!(broken(&fixture).await, []);
}

#[tokio::test]
async fn an_object_that_is_missing_cut_or_longer_is_found() {
    let fixture = whole().await;
    let key = SegmentObjectId {
        epoch: Epoch(1),
        ..fixture.name(SegmentOrigin::Flush, 1)
    };
    let key = key.to_string();
    let bytes = fixture.store.get(&key, ReadRange::Full).await.unwrap().unwrap();
    fixture.store.overwrite(&key, bytes.slice(..bytes.len() - 1));
    assert_eq!(broken(&fixture).await, [(Promise::Whole, key.clone())]);
    fixture.store.overwrite(&key, [&bytes[..], b"x"].concat().into());
    assert_eq!(broken(&fixture).await, [(Promise::Whole, key.clone())]);
    fixture.store.delete(&key).await.unwrap();
    assert_eq!(broken(&fixture).await, [(Promise::Present, key)]);
}

#[tokio::test]
async fn an_object_under_anothers_key_is_found() {
    let fixture = Fixture::new().await;
    let first = fixture.flush(3, 1).await.to_string();
    let second = fixture.flush(3, 2).await.to_string();
    let bytes = fixture.store.get(&first, ReadRange::Full).await.unwrap().unwrap();
    fixture.store.overwrite(&second, bytes);
    assert_eq!(broken(&fixture).await, [(Promise::Whole, second)]);
}

#[tokio::test]
async fn a_dead_object_need_not_be_there() {
    let fixture = Fixture::new().await;
    let dead = fixture.flush_and_trim(3, 1).await;
    fixture.store.delete(&dead.to_string()).await.unwrap();
    let (checked, broken) = verify(&fixture).await;
    assert_eq!((checked.objects, broken), (0, vec![]));
}

#[tokio::test]
async fn a_run_that_is_not_as_metadata_say_is_found() {
    type Change = fn(&mut FlushedStream);
    let changes: [Change; 3] = [
        |flushed| flushed.run.as_mut().unwrap().metered_bytes += 1,
        |flushed| flushed.tail.seq_num += 1,
        |flushed| flushed.run.as_mut().unwrap().first_timestamp -= 1,
    ];
    for change in changes {
        let fixture = Fixture::new().await;
        let id = fixture.flush_changed(3, 1, |flushed, _| change(flushed)).await;
        assert_eq!(broken(&fixture).await, [(Promise::Agreed, id.to_string())]);
    }
}

#[tokio::test]
async fn a_run_that_the_object_does_not_have_is_found() {
    let fixture = Fixture::new().await;
    let id = fixture
        .flush_changed(3, 1, |flushed, _| flushed.run.as_mut().unwrap().offset -= 1)
        .await;
    assert_eq!(broken(&fixture).await, [(Promise::Counted, id.to_string())]);
}

#[tokio::test]
async fn counters_that_are_not_what_segments_say_are_found() {
    let fixture = Fixture::new().await;
    let id = fixture.flush(3, 1).await;
    let record = fixture.cell.meta.state().segment_object(id).unwrap().unwrap();
    let live = Live {
        runs: record.live_runs,
        bytes: record.live_bytes,
    };
    assert_eq!(live.miscounted(&record), None);
    for (runs, bytes) in [(live.runs + 1, live.bytes), (live.runs, live.bytes - 1)] {
        let found = Live { runs, bytes }.miscounted(&record).expect("miscounted");
        assert_eq!((found.promise, found.subject), (Promise::Counted, id.to_string()));
    }
}

#[tokio::test]
async fn a_chunk_that_a_replay_would_miss_is_found() {
    let fixture = whole().await;
    // In the history, missing and damaged; listed, and damaged.
    let (missing, damaged, listed) = (
        chunk_key(CHANNEL, 1, 3),
        chunk_key(CHANNEL, 1, 4),
        chunk_key(CHANNEL, 2, 3),
    );
    fixture.store.delete(&missing).await.unwrap();
    flip(&fixture, &damaged, 100).await;
    flip(&fixture, &listed, 30).await;
    let mut found = broken(&fixture).await;
    found.sort_by(|a, b| a.1.cmp(&b.1));
    let expected = [
        (Promise::Present, missing),
        (Promise::Whole, damaged),
        (Promise::Whole, listed),
    ];
    assert_eq!(found, expected);
}

#[tokio::test]
async fn a_seal_within_the_history_is_found() {
    let fixture = whole().await;
    let key = chunk_key(CHANNEL, 1, 4);
    fixture.store.delete(&key).await.unwrap();
    fixture.seal(1, 4).await;
    assert_eq!(broken(&fixture).await, [(Promise::Agreed, key)]);
}

#[tokio::test]
async fn what_is_flushed_need_not_be_in_the_wal_nor_be_whole() {
    let fixture = whole().await;
    fixture.flush(1, 2).await;
    flip(&fixture, &chunk_key(CHANNEL, 1, 3), 30).await;
    flip(&fixture, &chunk_key(CHANNEL, 2, 1), 30).await;
    fixture.store.delete(&chunk_key(CHANNEL, 2, 0)).await.unwrap();
    assert_eq!(broken(&fixture).await, []);
}

#[tokio::test]
async fn a_chunk_is_at_a_quorum_of_zones_and_each_copy_is_whole() {
    let mut fixture = whole().await;
    let others = [Arc::new(MemoryStore::new()), Arc::new(MemoryStore::new())];
    for key in fixture.keys().await {
        let bytes = fixture.store.get(&key, ReadRange::Full).await.unwrap().unwrap();
        for other in &others {
            other.overwrite(&key, bytes.clone());
        }
    }
    fixture.spread(&others, 2);
    let key = chunk_key(CHANNEL, 1, 3);
    others[0].delete(&key).await.unwrap();
    let lacks = (Promise::Copied, format!("{key} (zone 1)"));
    assert_eq!(broken(&fixture).await, [lacks], "two of three have it");
    let bytes = others[1].get(&key, ReadRange::Full).await.unwrap().unwrap();
    others[1].overwrite(&key, bytes.slice(1..));
    assert_eq!(
        broken(&fixture).await,
        [(Promise::Whole, format!("{key} (zone 2)"))],
        "one has it"
    );
    let checked = repaired(&fixture).await;
    assert_eq!(
        (checked.broken, checked.repaired),
        (1, 1),
        "the bad one, and the one that is missing"
    );
    assert_eq!(broken(&fixture).await, []);
    for other in &others {
        other.delete(&key).await.unwrap();
    }
    assert_eq!(broken(&fixture).await, [(Promise::Present, key)]);
    let checked = repaired(&fixture).await;
    assert_eq!((checked.broken, checked.repaired), (1, 1));
    assert_eq!(broken(&fixture).await, []);
}

/// The stream of a fixture with one flush of ten records, and the segment of that flush.
async fn one_segment() -> (Fixture, StreamRecord, SegmentRecord) {
    let fixture = Fixture::new().await;
    fixture.flush(10, 1).await;
    let state = fixture.cell.meta.state();
    let stream = state.streams_after(None, 1).unwrap().remove(0);
    let link = state.chain(stream.id, 0, 1).unwrap().remove(0);
    let segment = *link.segment().unwrap();
    (fixture, stream, segment)
}

/// Segments that end at these numbers, each beginning where it is said.
fn segments(like: &SegmentRecord, ranges: &[(u64, u64)]) -> Vec<SegmentRecord> {
    let segment = |(first_seq, end_seq): &(u64, u64)| SegmentRecord {
        end_seq: *end_seq,
        row: SegmentRow {
            first_seq: *first_seq,
            first_timestamp: 1000 + first_seq,
            last_timestamp: 999 + end_seq,
            ..like.row
        },
        ..*like
    };
    ranges.iter().map(segment).collect()
}

#[tokio::test]
async fn segments_that_do_not_tile_are_found() {
    let (_fixture, stream, like) = one_segment().await;
    let fits = |stream: &StreamRecord, ranges: &[(u64, u64)]| {
        let mut tiling = Tiling::new(stream.clone());
        for segment in segments(&like, ranges) {
            tiling.push(&ChainLink::Segment(segment));
        }
        tiling.finish().is_empty()
    };
    for tiles in [&[(0, 10)][..], &[(0, 3), (3, 4), (4, 10)]] {
        assert!(fits(&stream, tiles), "{tiles:?}");
    }
    for gaps in [
        &[(0, 3), (4, 10)][..],
        &[(0, 5), (4, 10)],
        &[(0, 9)],
        &[(0, 11)],
        &[(1, 10)],
        &[(0, 5), (5, 5), (5, 10)],
        &[],
    ] {
        assert!(!fits(&stream, gaps), "{gaps:?}");
    }
    let trimmed = |trim| StreamRecord {
        trim,
        ..stream.clone()
    };
    assert!(fits(&trimmed(4), &[(3, 10)]) && fits(&trimmed(10), &[]));
    assert!(!fits(&trimmed(4), &[(5, 10)]) && !fits(&trimmed(9), &[]));
}

#[tokio::test]
async fn segments_that_go_back_in_time_are_found() {
    let (_fixture, stream, like) = one_segment().await;
    let mut back = segments(&like, &[(0, 5), (5, 10)]);
    back[0].row.last_timestamp = back[1].row.first_timestamp + 1;
    let mut tiling = Tiling::new(stream);
    for segment in back {
        tiling.push(&ChainLink::Segment(segment));
    }
    assert_eq!(tiling.finish().len(), 1);
}

#[tokio::test]
async fn a_stream_that_is_being_deleted_may_have_lost_its_first_segments() {
    let (fixture, stream, like) = one_segment().await;
    let delete = DeleteStream {
        basin: BasinName::new("basin-one").unwrap(),
        name: stream.name,
        now_ms: 3,
    };
    fixture.cell.meta.propose(delete).await.unwrap();
    let deleting = fixture
        .cell
        .meta
        .state()
        .stream_by_id(stream.id)
        .unwrap()
        .unwrap();
    for left in [&[(6, 10)][..], &[]] {
        let mut tiling = Tiling::new(deleting.clone());
        for segment in segments(&like, left) {
            tiling.push(&ChainLink::Segment(segment));
        }
        assert_eq!(tiling.finish(), [], "{left:?}");
    }
}

/// Five segments, of which an index has the middle three; and the objects of these.
async fn packed() -> (Fixture, String, Vec<String>) {
    let fixture = Fixture::new().await;
    let mut objects = Vec::new();
    for slot in 1..=5 {
        objects.push(fixture.flush(3, slot).await.to_string());
    }
    let index = fixture.pack(3, 3).await.to_string();
    objects.truncate(4);
    objects.remove(0);
    (fixture, index, objects)
}

#[tokio::test]
async fn what_an_index_names_is_looked_at_too() {
    let (fixture, ..) = packed().await;
    let (checked, broken) = verify(&fixture).await;
    assert_eq!(broken, []);
    assert_eq!((checked.objects, checked.segments, checked.streams), (6, 5, 1));
}

#[tokio::test]
async fn an_index_that_is_damaged_another_one_or_missing_is_found() {
    let (fixture, index, _) = packed().await;
    let bytes = fixture.store.get(&index, ReadRange::Full).await.unwrap().unwrap();
    for at in (0..bytes.len()).step_by(11) {
        flip(&fixture, &index, at).await;
        let found = broken(&fixture).await;
        assert_eq!(found, [(Promise::Whole, index.clone())], "byte {at}");
        flip(&fixture, &index, at).await;
    }
    fixture.store.overwrite(&index, bytes.slice(..bytes.len() - 1));
    assert_eq!(broken(&fixture).await, [(Promise::Whole, index.clone())]);
    let mut other = ChainIndex::decode(&bytes).unwrap();
    other.entries[1].committed_at_ms += 1;
    fixture.store.overwrite(&index, other.encode());
    assert_eq!(broken(&fixture).await, [(Promise::Agreed, index.clone())]);
    other.id.part += 1;
    fixture.store.overwrite(&index, other.encode());
    assert_eq!(broken(&fixture).await, [(Promise::Whole, index.clone())]);
    fixture.store.delete(&index).await.unwrap();
    assert_eq!(broken(&fixture).await, [(Promise::Present, index)]);
}

#[tokio::test]
async fn an_object_that_only_an_index_names_is_found_damaged_or_missing() {
    let (fixture, _, objects) = packed().await;
    for object in objects {
        let bytes = fixture
            .store
            .get(&object, ReadRange::Full)
            .await
            .unwrap()
            .unwrap();
        flip(&fixture, &object, 60).await;
        assert_eq!(broken(&fixture).await, [(Promise::Whole, object.clone())]);
        fixture.store.overwrite(&object, bytes.clone());
        fixture.store.delete(&object).await.unwrap();
        assert_eq!(broken(&fixture).await, [(Promise::Present, object.clone())]);
        fixture
            .store
            .upload(&object, &Payload::from(bytes))
            .await
            .unwrap();
        assert_eq!(broken(&fixture).await, []);
    }
}
