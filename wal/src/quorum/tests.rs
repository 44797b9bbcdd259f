use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use millrace_api::id::{ChannelId, ChunkSeq, Epoch, Nonce, StreamId, StreamletId, WriterId, ZoneGen};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::time::{Instant, sleep, timeout};

use super::*;
use crate::fault::{Cut, Fault, FaultStore, Faults, Op, Rule};
use crate::format::{
    Chunk, ChunkBuilder, ChunkId, ChunkKind, ChunkMeta, Frame, FrameFlags, FrameHeader, FrameKind,
    FrameWriter,
};
use crate::zone::{MemoryStore, Payload, ReadRange};

const CHANNEL: ChannelId = ChannelId(1);
const EPOCH: Epoch = Epoch(3);
const NONCE: Nonce = Nonce(77);

/// Memory zones, each behind faults of its own.
pub(crate) struct Cell {
    pub(crate) memory: Vec<Arc<MemoryStore>>,
    pub(crate) faults: Vec<Faults>,
    pub(crate) wal: Wal,
}

impl Cell {
    pub(crate) fn new(zones: usize, quorum: usize) -> Self {
        Self::with(
            zones,
            quorum,
            WalOptions {
                inflight_chunks: 4,
                ..WalOptions::default()
            },
        )
    }

    pub(crate) fn with(zones: usize, quorum: usize, options: WalOptions) -> Self {
        let memory: Vec<_> = (0..zones).map(|_| Arc::new(MemoryStore::new())).collect();
        let faults: Vec<_> = (0..zones as u64).map(Faults::new).collect();
        let stores = memory
            .iter()
            .zip(&faults)
            .enumerate()
            .map(|(i, (memory, faults))| {
                Zone::new(
                    Arc::new(FaultStore::new(Arc::clone(memory), faults.clone())),
                    ZoneGen(100 + i as u128),
                )
            });
        let wal = Wal::new(stores.collect(), quorum, options).expect("a possible quorum");
        Self { memory, faults, wal }
    }

    pub(crate) async fn holds(&self, id: ChunkId) -> usize {
        let mut copies = 0;
        for memory in &self.memory {
            copies += usize::from(
                memory
                    .get(&id.key(), ReadRange::Full)
                    .await
                    .expect("a read")
                    .is_some(),
            );
        }
        copies
    }
}

pub(crate) fn frame(first_seq: u64, body: &[u8]) -> Frame {
    let mut buffer = BytesMut::new();
    let mut writer = FrameWriter::begin(&mut buffer, body.len());
    writer.body().put_slice(body);
    writer.finish(FrameHeader {
        kind: FrameKind::Records,
        flags: FrameFlags::NONE,
        stream: StreamId(9),
        streamlet: StreamletId(1),
        first_seq,
        record_count: 1,
        metered_bytes: body.len() as u64,
        first_timestamp: 0,
        last_timestamp: 0,
        writer: WriterId(0),
        number: 0,
        body_len: 0,
        body_crc: 0,
    })
}

pub(crate) fn batch(first_seq: u64) -> ChunkBuilder {
    let mut builder = ChunkBuilder::new();
    builder.push(frame(first_seq, format!("body {first_seq}").as_bytes()));
    builder
}

fn id(slot: u64) -> ChunkId {
    ChunkId::new(CHANNEL, EPOCH, ChunkSeq(slot))
}

fn writer(cell: &Cell) -> (EpochWriter, UnboundedReceiver<WriteEvent>) {
    cell.wal.writer(CHANNEL, EPOCH, NONCE, ChunkSeq(0))
}

/// Receives until `slots` slots are durable; retries may happen in between.
async fn durable(events: &mut UnboundedReceiver<WriteEvent>, slots: usize) -> Vec<u64> {
    let mut seen = Vec::new();
    while seen.len() < slots {
        match events.recv().await.expect("the writer lives") {
            WriteEvent::Durable { slot, .. } => seen.push(slot.0),
            WriteEvent::Retrying { .. } => {}
            fenced => panic!("{fenced:?}"),
        }
    }
    seen
}

async fn fenced(events: &mut UnboundedReceiver<WriteEvent>) -> (u64, FencedBy) {
    loop {
        match events.recv().await.expect("the writer lives") {
            WriteEvent::Fenced { slot, by } => return (slot.0, by),
            WriteEvent::Durable { slot, .. } => panic!("{slot} became durable"),
            WriteEvent::Retrying { .. } => {}
        }
    }
}

/// Long enough for everything that happens at all on a paused clock.
async fn settle() {
    tokio::time::sleep(Duration::from_secs(60)).await;
}

#[tokio::test(start_paused = true)]
async fn a_chunk_is_durable_at_the_quorum_and_reads_back() {
    for (zones, quorum) in [(1, 1), (3, 2), (5, 3)] {
        let cell = Cell::new(zones, quorum);
        let (mut writer, mut events) = writer(&cell);
        let chunk = writer.submit(batch(0));
        assert_eq!(durable(&mut events, 1).await, [0]);
        settle().await;
        assert_eq!(cell.holds(id(0)).await, zones, "the others follow");
        let footer = cell.wal.footer(id(0)).await.expect("a read").expect("a chunk");
        assert_eq!(footer, chunk.index);
        let frames = cell.wal.frames(id(0), &footer.entries).await.expect("a read");
        assert_eq!(frames, chunk.frames().collect::<Vec<_>>());
        assert_eq!(cell.wal.footer(id(1)).await, Ok(None));
        assert_eq!(
            cell.wal.frames(id(1), &footer.entries).await,
            Err(ReadError::Gone(id(1)))
        );
    }
}

#[tokio::test(start_paused = true)]
async fn the_window_bounds_what_is_in_flight_and_what_runs_ahead() {
    let cell = Cell::new(1, 1);
    let gate = cell.faults[0].stall(
        Rule::default().op(Op::Create).key(|key| key == id(0).key()),
        false,
    );
    let (mut writer, mut events) = writer(&cell);
    let (mut submitted, mut done) = (0, 0);
    while done < 15 {
        while writer.free_slots() > 0 {
            writer.submit(batch(submitted));
            submitted += 1;
        }
        done += durable(&mut events, 1).await.len() as u64;
    }
    assert_eq!(writer.free_slots(), 0);
    assert_eq!(
        submitted, 16,
        "four times the chunks in flight, behind the slot that hangs"
    );
    assert_eq!(writer.durable_end(), ChunkSeq(0));
    gate.open();
    durable(&mut events, 1).await;
    assert_eq!(writer.durable_end(), ChunkSeq(16));
    assert_eq!(writer.free_slots(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_dark_zone_is_done_without_and_leaves_memory_flat() {
    for cut in [Cut::Refusing, Cut::Silent] {
        let options = WalOptions {
            inflight_chunks: 4,
            laggard_bytes_max: 4096,
            ..WalOptions::default()
        };
        let cell = Cell::with(3, 2, options);
        cell.faults[1].cut(cut);
        let (mut writer, mut events) = writer(&cell);
        for slot in 0..500 {
            writer.submit(batch(slot));
            assert_eq!(durable(&mut events, 1).await, [slot]);
            assert!(cell.wal.lagging_bytes()[1] <= 4096);
        }
        settle().await;
        assert_eq!(cell.wal.lagging_bytes(), [0, 0, 0]);
        let calls = cell.faults[1].calls();
        for slot in 500..600 {
            writer.submit(batch(slot));
            durable(&mut events, 1).await;
        }
        assert!(
            cell.faults[1].calls() - calls <= 2,
            "a failing zone gets probes only"
        );
        cell.faults[1].heal();
        settle().await;
        for slot in 600..610 {
            writer.submit(batch(slot));
            durable(&mut events, 1).await;
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        settle().await;
        assert_eq!(cell.holds(id(609)).await, 3, "a zone that is back is used again");
    }
}

#[tokio::test(start_paused = true)]
async fn a_quorum_that_is_dark_is_waited_for() {
    let cell = Cell::new(3, 2);
    cell.faults[0].cut(Cut::Refusing);
    cell.faults[2].cut(Cut::Silent);
    let (mut writer, mut events) = writer(&cell);
    for slot in 0..4 {
        writer.submit(batch(slot));
    }
    assert_eq!(writer.free_slots(), 0);
    tokio::time::sleep(Duration::from_secs(300)).await;
    let mut retries = 0;
    while let Ok(event) = events.try_recv() {
        assert!(matches!(event, WriteEvent::Retrying { .. }), "{event:?}");
        retries += 1;
    }
    assert!((4..2000).contains(&retries), "{retries}");
    cell.faults[0].heal();
    let mut slots = durable(&mut events, 4).await;
    slots.sort();
    assert_eq!(slots, [0, 1, 2, 3]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_answer_is_recognised_as_our_own_success() {
    for fault in [Fault::FailAfter, Fault::Duplicate] {
        let cell = Cell::new(1, 1);
        cell.faults[0].add(Rule::new(fault).op(Op::Create).times(3));
        let (mut writer, mut events) = writer(&cell);
        for slot in 0..4 {
            writer.submit(batch(slot));
        }
        assert_eq!(durable(&mut events, 4).await.len(), 4);
        assert_eq!(cell.memory[0].object_count(), 4);
    }
}

#[tokio::test(start_paused = true)]
async fn a_conflict_with_nothing_there_is_created_again() {
    /// Answers the first creates with a conflict that never becomes an object.
    #[derive(Debug)]
    struct Conflicting(MemoryStore, std::sync::atomic::AtomicU32);

    #[async_trait::async_trait]
    impl ZoneStore for Conflicting {
        async fn create(
            &self,
            key: &str,
            payload: &Payload,
        ) -> Result<crate::CreateOutcome, crate::StoreError> {
            if self.1.fetch_add(1, std::sync::atomic::Ordering::Relaxed) < 5 {
                return Ok(crate::CreateOutcome::Exists);
            }
            self.0.create(key, payload).await
        }
        async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, crate::StoreError> {
            self.0.get(key, range).await
        }
        async fn list(
            &self,
            prefix: &str,
            after: Option<&str>,
            limit: usize,
        ) -> Result<Vec<String>, crate::StoreError> {
            self.0.list(prefix, after, limit).await
        }
        async fn delete(&self, key: &str) -> Result<(), crate::StoreError> {
            self.0.delete(key).await
        }
    }

    let store = Conflicting(MemoryStore::new(), 0.into());
    let zone = Zone::new(Arc::new(store), ZoneGen(1));
    let wal = Wal::new(vec![zone], 1, WalOptions::default()).expect("one of one");
    let (mut writer, mut events) = wal.writer(CHANNEL, EPOCH, NONCE, ChunkSeq(0));
    writer.submit(batch(0));
    assert_eq!(durable(&mut events, 1).await, [0]);
    assert!(wal.footer(id(0)).await.expect("a read").is_some());
}

#[tokio::test(start_paused = true)]
async fn anything_else_in_the_slot_fences_the_writer() {
    let other = |kind, nonce| ChunkMeta {
        id: id(1),
        kind,
        nonce,
    };
    let seal = Chunk::seal(other(ChunkKind::Seal { by: Epoch(4) }, Nonce(5)));
    let foreign = batch(1).finish(other(ChunkKind::Chunk, Nonce(5)));
    let same_nonce_other_bytes = batch(2).finish(other(ChunkKind::Chunk, NONCE));
    let garbage = Payload::from(Bytes::from_static(b"garbage"));
    for (payload, by) in [
        (seal.payload.clone(), Some(FencedBy::Object(seal.header))),
        (foreign.payload.clone(), Some(FencedBy::Object(foreign.header))),
        (
            same_nonce_other_bytes.payload.clone(),
            Some(FencedBy::Object(same_nonce_other_bytes.header)),
        ),
        (garbage, None),
    ] {
        let cell = Cell::new(1, 1);
        cell.memory[0]
            .create(&id(1).key(), &payload)
            .await
            .expect("a create");
        let (mut writer, mut events) = writer(&cell);
        writer.submit(batch(0));
        durable(&mut events, 1).await;
        writer.submit(batch(1));
        let (slot, found) = fenced(&mut events).await;
        assert_eq!(slot, 1);
        match by {
            Some(by) => assert_eq!(found, by),
            None => assert!(matches!(found, FencedBy::Unreadable(_))),
        }
        assert_eq!(writer.free_slots(), 0);
        writer.submit(batch(2));
        settle().await;
        assert!(events.try_recv().is_err(), "nothing follows");
        assert_eq!(cell.holds(id(2)).await, 0);
    }
    assert_eq!(FencedBy::Object(seal.header).sealed_by(), Some(Epoch(4)));
    assert_eq!(FencedBy::Object(foreign.header).sealed_by(), None);
}

#[tokio::test(start_paused = true)]
async fn a_seal_at_one_zone_fences_before_the_chunk_is_durable() {
    let cell = Cell::new(3, 2);
    let seal = Chunk::seal(ChunkMeta {
        id: id(0),
        kind: ChunkKind::Seal { by: Epoch(4) },
        nonce: Nonce(5),
    });
    cell.memory[0]
        .create(&id(0).key(), &seal.payload)
        .await
        .expect("a create");
    cell.memory[1]
        .create(&id(0).key(), &seal.payload)
        .await
        .expect("a create");
    let (mut writer, mut events) = writer(&cell);
    writer.submit(batch(0));
    assert_eq!(fenced(&mut events).await.0, 0);
}

#[tokio::test(start_paused = true)]
async fn closing_stops_every_retry() {
    for dropped in [false, true] {
        let cell = Cell::new(3, 2);
        cell.faults.iter().for_each(|faults| faults.cut(Cut::Refusing));
        let (mut writer, mut events) = writer(&cell);
        writer.submit(batch(0));
        tokio::time::sleep(Duration::from_secs(5)).await;
        if dropped {
            drop(writer);
        } else {
            writer.close();
            assert_eq!(writer.free_slots(), 0);
        }
        cell.faults.iter().for_each(Faults::heal);
        settle().await;
        assert_eq!(cell.holds(id(0)).await, 0);
        while let Ok(event) = events.try_recv() {
            assert!(matches!(event, WriteEvent::Retrying { .. }));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_zone_gets_the_chunk_within_its_bounds_and_not_beyond() {
    let options = WalOptions {
        laggard_age_max: Duration::from_secs(2),
        ..WalOptions::default()
    };
    let cell = Cell::with(3, 2, options);
    let slow = |seconds| Fault::Delay {
        least: Duration::from_secs(seconds),
        most: Duration::from_secs(seconds),
    };
    let (mut writer, mut events) = writer(&cell);
    let rule = cell.faults[2].add(Rule::new(slow(1)).op(Op::Create));
    writer.submit(batch(0));
    durable(&mut events, 1).await;
    assert_eq!(cell.holds(id(0)).await, 2);
    settle().await;
    assert_eq!(cell.holds(id(0)).await, 3);
    cell.faults[2].remove(rule);
    cell.faults[2].add(Rule::new(slow(4)).op(Op::Create));
    writer.submit(batch(1));
    durable(&mut events, 1).await;
    settle().await;
    let dropped = &cell.wal.metrics().zones[2].laggards_dropped_total;
    assert_eq!(dropped.load(std::sync::atomic::Ordering::Relaxed), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_copy_is_passed_over_and_only_bad_copies_are_corrupt() {
    let cell = Cell::new(3, 2);
    let (mut writer, mut events) = writer(&cell);
    let chunk = writer.submit(batch(0));
    durable(&mut events, 1).await;
    settle().await;
    let good = chunk.payload.to_bytes();
    let mut bad = BytesMut::from(&good[..]);
    bad[100] ^= 1;
    cell.memory[0].overwrite(&id(0).key(), bad.clone().freeze());
    cell.memory[1].overwrite(&id(0).key(), good.slice(..good.len() - 30));
    let entries = &chunk.index.entries;
    assert!(cell.wal.chunk(id(0)).await.expect("a read").is_some());
    assert_eq!(
        cell.wal.frames(id(0), entries).await,
        Ok(chunk.frames().collect::<Vec<_>>())
    );
    cell.memory[2].overwrite(&id(0).key(), bad.freeze());
    assert!(matches!(cell.wal.chunk(id(0)).await, Err(ReadError::Corrupt(_))));
    assert!(matches!(
        cell.wal.frames(id(0), entries).await,
        Err(ReadError::Corrupt(_)) | Ok(_)
    ));
    cell.faults[0].cut(Cut::Refusing);
    assert!(
        matches!(cell.wal.chunk(id(0)).await, Err(ReadError::Retry(_))),
        "the dark zone may have a good one"
    );
}

#[tokio::test(start_paused = true)]
async fn a_slow_zone_delays_a_read_only_until_the_next_is_asked() {
    let cell = Cell::new(3, 2);
    let (mut writer, mut events) = writer(&cell);
    let chunk = writer.submit(batch(0));
    durable(&mut events, 1).await;
    settle().await;
    cell.faults[0].cut(Cut::Silent);
    let hedged = cell.wal.options().hedge_after + Duration::from_millis(10);
    let footer = timeout(hedged, cell.wal.footer(id(0)))
        .await
        .expect("in time")
        .expect("a read");
    assert_eq!(footer.as_ref(), Some(&chunk.index));
}

#[tokio::test(start_paused = true)]
async fn a_footer_longer_than_the_first_suffix_takes_one_more_read() {
    let options = WalOptions {
        footer_suffix: 300,
        ..WalOptions::default()
    };
    let cell = Cell::with(1, 1, options);
    let (mut writer, mut events) = writer(&cell);
    let mut builder = ChunkBuilder::new();
    for seq in 0..50 {
        builder.push(frame(seq, b"body"));
    }
    let chunk = writer.submit(builder);
    durable(&mut events, 1).await;
    let before = cell.faults[0].calls();
    assert_eq!(cell.wal.footer(id(0)).await, Ok(Some(Arc::clone(&chunk.index))));
    assert_eq!(cell.faults[0].calls() - before, 2);
    let some = cell
        .wal
        .frames(id(0), &chunk.index.entries[10..13])
        .await
        .expect("a read");
    assert_eq!(some, chunk.frames().skip(10).take(3).collect::<Vec<_>>());
}

#[tokio::test(start_paused = true)]
async fn chunks_absent_at_a_seal_quorum_are_gone_and_at_fewer_unknown() {
    let cell = Cell::new(3, 2);
    cell.faults[2].cut(Cut::Refusing);
    assert_eq!(cell.wal.footer(id(0)).await, Ok(None));
    cell.faults[1].cut(Cut::Refusing);
    assert!(matches!(cell.wal.footer(id(0)).await, Err(ReadError::Retry(_))));
}

#[tokio::test(start_paused = true)]
async fn a_slot_is_sealed_at_a_seal_quorum_or_holds_a_chunk() {
    let cell = Cell::new(3, 2);
    let gens = cell.wal.gens();
    cell.faults[0].cut(Cut::Silent);
    assert_eq!(
        cell.wal.seal(id(0), Epoch(4), Nonce(5), &gens).await,
        Ok(SealOutcome::Sealed)
    );
    assert_eq!(
        cell.wal.seal(id(0), Epoch(5), Nonce(6), &gens).await,
        Ok(SealOutcome::Sealed)
    );
    cell.faults[0].heal();
    let (mut writer, mut events) = writer(&cell);
    writer.submit(batch(0));
    assert_eq!(fenced(&mut events).await.1.sealed_by(), Some(Epoch(4)));

    let cell = Cell::new(3, 2);
    let (mut writer, mut events) = cell.wal.writer(CHANNEL, EPOCH, NONCE, ChunkSeq(0));
    writer.submit(batch(0));
    durable(&mut events, 1).await;
    assert_eq!(
        cell.wal.seal(id(0), Epoch(4), Nonce(5), &gens).await,
        Ok(SealOutcome::Chunk)
    );
    let few = cell
        .wal
        .seal(
            id(9),
            Epoch(4),
            Nonce(5),
            &[ZoneGen(100), ZoneGen(998), ZoneGen(999)],
        )
        .await;
    assert!(matches!(few, Err(SealError::TooFewZones(_))));
}

#[test]
fn impossible_sets_of_zones_are_refused() {
    let zone = |zone_gen| Zone::new(Arc::new(MemoryStore::new()), ZoneGen(zone_gen));
    let new = |zones, quorum| Wal::new(zones, quorum, WalOptions::default()).map(drop);
    assert_eq!(
        new(vec![zone(1)], 0),
        Err(WalError::BadQuorum { zones: 1, quorum: 0 })
    );
    assert_eq!(
        new(vec![zone(1)], 2),
        Err(WalError::BadQuorum { zones: 1, quorum: 2 })
    );
    assert_eq!(
        new(vec![zone(1), zone(1)], 2),
        Err(WalError::SameZone(ZoneGen(1)))
    );
    let options = WalOptions {
        inflight_chunks: 0,
        ..WalOptions::default()
    };
    assert_eq!(
        Wal::new(vec![zone(1)], 1, options).map(drop),
        Err(WalError::ZeroOption("inflight_chunks"))
    );
}

#[tokio::test(start_paused = true)]
async fn a_silent_zone_holds_up_a_delete_from_the_others_once_and_then_not_at_all() {
    let cell = Cell::new(3, 2);
    let (mut writer, mut events) = cell.wal.writer(CHANNEL, EPOCH, NONCE, ChunkSeq(0));
    let mut write = async |slots: std::ops::Range<u64>| {
        for slot in slots {
            writer.submit(batch(slot));
            while writer.durable_end().0 <= slot {
                events.recv().await.expect("the writer lives");
            }
        }
    };
    let ids: Vec<ChunkId> = (0..40).map(id).collect();
    write(0..40).await;
    sleep(Duration::from_secs(1)).await;
    cell.faults[2].cut(Cut::Silent);
    let begun = Instant::now();
    assert!(cell.wal.delete(&ids).await.is_err());
    assert!(begun.elapsed() <= WalOptions::default().create_timeout);
    for id in ids {
        assert_eq!(cell.holds(id).await, 1, "{id} is in the silent zone alone");
    }
    let delete_at_once = async |slot| {
        let begun = Instant::now();
        assert!(cell.wal.delete(&[id(slot)]).await.is_err());
        assert_eq!((begun.elapsed(), cell.holds(id(slot)).await), (Duration::ZERO, 0));
    };
    write(40..60).await;
    delete_at_once(40).await;
    // By now creates have found out.
    sleep(Duration::from_secs(60)).await;
    delete_at_once(41).await;
    cell.faults[2].heal();
    write(60..61).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(cell.wal.delete(&[id(60)]).await, Ok(()));
}

#[tokio::test(start_paused = true)]
async fn reads_and_seals_can_run_in_tasks_of_their_own() {
    fn send<T: Send>(future: T) -> T {
        future
    }
    let cell = Cell::new(1, 1);
    let gens = cell.wal.gens();
    assert_eq!(send(cell.wal.footer(id(0))).await, Ok(None));
    assert!(matches!(send(cell.wal.chunk(id(0))).await, Ok(None)));
    assert_eq!(send(cell.wal.frames(id(0), &[])).await, Ok(Vec::new()));
    assert_eq!(
        send(cell.wal.seal(id(0), Epoch(4), Nonce(5), &gens)).await,
        Ok(SealOutcome::Sealed)
    );
    assert_eq!(send(cell.wal.delete(&[id(0), id(1)])).await, Ok(()));
    assert_eq!(cell.holds(id(0)).await, 0);
    send(crate::preflight(&*cell.memory[0], 1))
        .await
        .expect("preflight passes");
}
