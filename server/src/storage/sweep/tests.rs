//! What goes, and above all what stays.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use millrace_api::id::{ChannelId, Epoch, FlushSeq};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_wal::{MemoryStore, Payload};
use tokio::sync::mpsc;

use super::run::{SweepEvent, SweepRun, Swept};
use super::*;
use crate::storage::fixture::{CHANNEL, Fixture, STREAM, chunk_key};
use crate::tasks::share::Share;

/// Keys of one kind of everything.
struct Kinds {
    fixture: Fixture,
    orphans: BTreeSet<String>,
    unknown: BTreeSet<String>,
}

/// The channel is in its second epoch, with a checkpoint at slot 5 of it.
async fn every_kind() -> Kinds {
    let fixture = Fixture::new().await;
    let first = fixture.flush(3, 2).await;
    let (mut orphans, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    fixture.next_epoch(4).await;
    fixture.flush(2, 3).await;
    fixture.flush_and_trim(2, 5).await;
    let flushed = fixture.channel().flush_seq.0;

    let of = |id: SegmentObjectId, part: u32| SegmentObjectId { part, ..id };
    let late = SegmentObjectId {
        seq: FlushSeq(flushed + 1),
        ..first
    };
    for orphan in [
        // Of the first epoch: beside what was named, and what was never proposed.
        of(first, 1),
        late,
        SegmentObjectId {
            origin: SegmentOrigin::Merge,
            ..late
        },
        // Of the current one: beside what was named.
        of(fixture.name(SegmentOrigin::Flush, flushed), 7),
    ] {
        orphans.insert(fixture.put(orphan, "orphan").await);
    }
    // Nameable yet.
    fixture
        .put(fixture.name(SegmentOrigin::Flush, flushed + 1), "next")
        .await;
    fixture.put(fixture.name(SegmentOrigin::Merge, 1), "next").await;
    let strays = [
        SegmentObjectId {
            epoch: Epoch(3),
            ..first
        },
        SegmentObjectId {
            channel: ChannelId(5),
            ..first
        },
    ];
    for stray in strays {
        unknown.insert(fixture.put(stray, "stray").await);
    }
    unknown.insert(fixture.put("segments/readme", "stray").await);

    for slot in 0..4 {
        orphans.insert(fixture.chunk(1, slot).await);
    }
    // Beyond the end, and dead all the same.
    orphans.insert(fixture.chunk(1, 6).await);
    fixture.seal(1, 4).await;
    fixture.seal(1, 36).await;
    for slot in 0..5 {
        orphans.insert(fixture.chunk(2, slot).await);
    }
    for slot in [5, 6, 9] {
        fixture.chunk(2, slot).await;
    }
    unknown.insert(fixture.put(chunk_key(CHANNEL, 1, 7), "no chunk").await);
    let other = chunk_key(CHANNEL, 1, 3);
    let moved = fixture.store.get(&other, ReadRange::Full).await.unwrap().unwrap();
    unknown.insert(fixture.put(chunk_key(CHANNEL, 1, 8), moved.clone()).await);
    unknown.insert(fixture.put(chunk_key(CHANNEL, 3, 0), moved.clone()).await);
    unknown.insert(fixture.put(chunk_key(ChannelId(5), 1, 0), moved).await);
    unknown.insert(fixture.put("wal/00000004/readme", "stray").await);
    fixture.put("zone", "of nobody's business").await;
    Kinds {
        fixture,
        orphans,
        unknown,
    }
}

async fn run(fixture: &Fixture, dry_run: bool) -> (Swept, BTreeSet<String>, BTreeSet<String>) {
    let (out, mut events) = mpsc::channel(1 << 16);
    let run = SweepRun {
        cell: fixture.cell.clone(),
        dry_run,
        grace: Duration::ZERO,
    };
    let swept = run.run(out).await.expect("a whole sweep");
    let (mut orphans, mut unknown) = (BTreeSet::new(), BTreeSet::new());
    while let Some(event) = events.recv().await {
        if let SweepEvent::Found(found) = event {
            let among = if found.remark.is_orphan() {
                &mut orphans
            } else {
                &mut unknown
            };
            among.insert(found.place.key);
        }
    }
    (swept, orphans, unknown)
}

#[tokio::test]
async fn every_orphan_is_found_and_nothing_else() {
    let kinds = every_kind().await;
    let before = kinds.fixture.keys().await;
    let (swept, orphans, unknown) = run(&kinds.fixture, true).await;
    assert_eq!(orphans, kinds.orphans);
    assert_eq!(unknown, kinds.unknown);
    assert_eq!((swept.removed, swept.failed), (0, 0));
    assert_eq!(kinds.fixture.keys().await, before, "a dry run removes nothing");
}

#[tokio::test]
async fn exactly_the_orphans_are_removed_and_the_next_sweep_finds_none() {
    let kinds = every_kind().await;
    let mut left = kinds.fixture.keys().await;
    left.retain(|key| !kinds.orphans.contains(key));
    let (swept, ..) = run(&kinds.fixture, false).await;
    assert_eq!(swept.removed, kinds.orphans.len() as u64);
    assert_eq!(kinds.fixture.keys().await, left);
    let (swept, orphans, unknown) = run(&kinds.fixture, false).await;
    assert_eq!((swept.orphans, orphans.len()), (0, 0));
    assert_eq!(unknown, kinds.unknown);
}

#[tokio::test]
async fn a_name_is_no_orphan_until_its_epoch_is_over() {
    let fixture = Fixture::new().await;
    let next = fixture
        .put(fixture.name(SegmentOrigin::Flush, 1), "uploaded")
        .await;
    assert_eq!(run(&fixture, false).await.0.orphans, 0);
    fixture.next_epoch(0).await;
    let (_, orphans, _) = run(&fixture, false).await;
    assert_eq!(orphans, [next].into());
}

#[tokio::test]
async fn a_sweep_of_many_pages_looks_at_each_object_once() {
    let fixture = Fixture::new().await;
    fixture.flush(1, 1).await;
    let id = fixture.name(SegmentOrigin::Flush, 1);
    let parts = 2 * PAGE as u32 + 10;
    for part in 1..=parts {
        fixture.put(SegmentObjectId { part, ..id }, "orphan").await;
    }
    let (swept, ..) = run(&fixture, false).await;
    assert_eq!(
        (swept.objects, swept.removed),
        (u64::from(parts) + 1, u64::from(parts))
    );
    assert_eq!(fixture.keys().await, [id.to_string()]);
}

#[tokio::test]
async fn shares_of_a_sweep_find_everything_once_between_them() {
    let kinds = every_kind().await;
    for of in 1..4 {
        let mut found = Vec::new();
        for index in 0..of {
            let scope = Scope::Share(Share::part(index, of));
            let mut sweep = Sweep::new(kinds.fixture.cell.clone(), scope);
            while let Some(looked) = sweep.step().await.unwrap() {
                found.extend(looked.found.into_iter().map(|it| it.place.key));
            }
        }
        found.sort_unstable();
        let all: BTreeSet<_> = kinds.orphans.union(&kinds.unknown).cloned().collect();
        assert!(found.iter().eq(&all), "of {of}: {found:#?}");
    }
}

#[tokio::test]
async fn a_sweep_that_nobody_listens_to_ends_and_the_next_one_does_the_rest() {
    let kinds = every_kind().await;
    let mut left = kinds.fixture.keys().await;
    left.retain(|key| !kinds.orphans.contains(key));
    let (out, mut events) = mpsc::channel(1);
    let sweep = SweepRun {
        cell: kinds.fixture.cell.clone(),
        dry_run: false,
        grace: Duration::ZERO,
    };
    let listen = async {
        while !matches!(
            events.recv().await.expect("an orphan goes"),
            SweepEvent::Removed(_)
        ) {}
        drop(events);
    };
    let (swept, ()) = tokio::join!(sweep.run(out), listen);
    assert!(matches!(swept, Err(SweepError::Stopped)), "{swept:?}");
    assert!(kinds.fixture.keys().await.len() > left.len());
    run(&kinds.fixture, false).await;
    assert_eq!(kinds.fixture.keys().await, left);
}

#[tokio::test]
async fn an_orphan_of_any_zone_is_removed_from_that_zone() {
    let kinds = every_kind().await;
    let other = Arc::new(MemoryStore::new());
    let (below, above) = (chunk_key(CHANNEL, 2, 1), chunk_key(CHANNEL, 2, 6));
    for key in [&below, &above] {
        let bytes = kinds
            .fixture
            .store
            .get(key, ReadRange::Full)
            .await
            .unwrap()
            .unwrap();
        other.upload(key, &Payload::from(bytes)).await.unwrap();
    }
    let mut fixture = kinds.fixture;
    fixture.spread(std::slice::from_ref(&other), 1);
    let (swept, orphans, _) = run(&fixture, false).await;
    assert_eq!(swept.orphans, kinds.orphans.len() as u64 + 1);
    assert_eq!(orphans, kinds.orphans, "the same key in both zones");
    assert_eq!(other.list("", None, 10).await.unwrap(), [above]);
}

/// Five flushes in the first epoch, of which an index has the middle three, and orphans around them. The epoch is over.
async fn packed() -> (Fixture, SegmentObjectId, BTreeSet<String>) {
    let fixture = Fixture::new().await;
    let mut flushed = Vec::new();
    for slot in 1..=5 {
        flushed.push(fixture.flush(3, slot).await);
    }
    let index = fixture.pack(3, 3).await;
    let mut orphans = BTreeSet::new();
    for id in [flushed[0], flushed[2], flushed[4], index] {
        orphans.insert(fixture.put(SegmentObjectId { part: 1, ..id }, "orphan").await);
    }
    let late = SegmentObjectId {
        seq: FlushSeq(2),
        ..index
    };
    orphans.insert(fixture.put(late, "never proposed").await);
    fixture.next_epoch(5).await;
    (fixture, index, orphans)
}

#[tokio::test]
async fn what_only_an_index_names_is_no_orphan() {
    let (fixture, index, expected) = packed().await;
    let mut left = fixture.keys().await;
    left.retain(|key| !expected.contains(key));
    assert_eq!(left.len(), 6);
    let (_, orphans, unknown) = run(&fixture, false).await;
    assert_eq!((orphans, unknown), (expected, BTreeSet::new()));
    assert_eq!(fixture.keys().await, left);

    // What goes out of the index is named again, until it goes, and then it is dead.
    fixture.flush_a_trim(1, 0).await;
    assert!(fixture.chains().drop_segments(STREAM).await.unwrap());
    assert_eq!(fixture.cell.meta.state().chain_indexes(None, 0).unwrap(), []);
    let (_, orphans, unknown) = run(&fixture, false).await;
    assert_eq!((orphans, unknown), (BTreeSet::new(), BTreeSet::new()));
    let dead = fixture.cell.meta.state().dead_objects(None, 0).unwrap();
    let dead: BTreeSet<_> = dead.into_iter().map(|dead| dead.object).collect();
    assert!(dead.contains(&index) && dead.len() == 7, "{dead:?}");
}

#[tokio::test]
async fn nothing_is_proved_while_an_index_cannot_be_read() {
    let (fixture, index, orphans) = packed().await;
    let key = index.to_string();
    let bytes = fixture.store.get(&key, ReadRange::Full).await.unwrap().unwrap();
    // Between the first and the last that it names.
    let beside = |key: &String| key.contains("f0000000000000003-00000001");
    let mut bad = bytes.to_vec();
    bad[70] ^= 1;
    fixture.store.overwrite(&key, bad.into());
    let (_, found, unknown) = run(&fixture, true).await;
    let proven: BTreeSet<_> = orphans.iter().filter(|key| !beside(key)).cloned().collect();
    assert_eq!(found, proven);
    assert_eq!(unknown.len(), 4, "{unknown:?}");

    fixture.store.delete(&key).await.unwrap();
    let (_, found, unknown) = run(&fixture, true).await;
    assert_eq!((found, unknown.len()), (proven, 0));

    fixture.store.overwrite(&key, bytes);
    assert_eq!(run(&fixture, true).await.1, orphans);
}
