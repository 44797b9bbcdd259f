use millrace_api::id::ZoneGen;
use millrace_wal::fault::{Cut, FaultStore, Faults};
use millrace_wal::{MemoryStore, WalOptions, Zone as WalZone};

use super::*;

const KEY: &str = "segments/a";

struct Cell {
    memory: Vec<Arc<MemoryStore>>,
    faults: Vec<Faults>,
    mirror: Arc<MirroredStore>,
}

impl Cell {
    /// Three zones, the second of them near.
    fn new() -> Self {
        let memory: Vec<_> = (0..3).map(|_| Arc::new(MemoryStore::new())).collect();
        let faults: Vec<_> = (0..3).map(Faults::new).collect();
        let zones = memory.iter().zip(&faults).zip(1..);
        let zones = zones.map(|((memory, faults), zone_gen)| {
            let store = FaultStore::new(memory.clone(), faults.clone());
            WalZone::new(Arc::new(store), ZoneGen(zone_gen))
        });
        let options = WalOptions {
            near: Some(1),
            ..WalOptions::default()
        };
        let wal = Wal::new(zones.collect(), 2, options).unwrap();
        let wals = Wals::only(wal.clone());
        wals.set_express(wal);
        Self {
            memory,
            faults,
            mirror: MirroredStore::new(wals),
        }
    }

    async fn upload(&self, text: &'static str) -> Result<(), StoreError> {
        self.mirror.upload(KEY, &bytes(text).into()).await
    }

    async fn get(&self) -> Result<Option<Bytes>, StoreError> {
        self.mirror.get(KEY, ReadRange::Full).await
    }

    /// Zones that have it.
    async fn holders(&self) -> Vec<usize> {
        let mut holders = Vec::new();
        for (at, memory) in self.memory.iter().enumerate() {
            if memory.get(KEY, ReadRange::Full).await.unwrap().is_some() {
                holders.push(at);
            }
        }
        holders
    }
}

fn bytes(text: &'static str) -> Bytes {
    Bytes::from_static(text.as_bytes())
}

#[tokio::test(start_paused = true)]
async fn an_object_is_stored_when_two_zones_have_it() {
    for dark in 0..3 {
        for cut in [Cut::Refusing, Cut::Silent] {
            let cell = Cell::new();
            cell.faults[dark].cut(cut);
            cell.upload("x").await.unwrap();
            assert_eq!(cell.holders().await.len(), 2);
            assert_eq!(cell.mirror.missed(dark), [KEY]);
            assert_eq!(cell.get().await, Ok(Some(bytes("x"))));
            cell.mirror.forget_missed(dark, KEY);
            assert!(cell.mirror.missed(dark).is_empty());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn one_zone_is_not_enough_and_the_others_are_tried_again() {
    let cell = Cell::new();
    cell.faults[0].cut(Cut::Refusing);
    cell.faults[2].cut(Cut::Silent);
    assert!(cell.upload("x").await.unwrap_err().retryable());
    cell.faults[2].heal();
    cell.upload("x").await.expect("although it failed a moment ago");
    assert_eq!(cell.holders().await, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_failed_lately_is_not_waited_for() {
    let cell = Cell::new();
    cell.faults[0].cut(Cut::Silent);
    cell.upload("x").await.unwrap();
    let began = Instant::now();
    cell.upload("x").await.unwrap();
    cell.mirror.delete(KEY).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    tokio::time::sleep(PASSED_OVER).await;
    cell.mirror.delete(KEY).await.expect("two are enough");
    let began = Instant::now();
    cell.mirror.delete(KEY).await.unwrap();
    assert_eq!(began.elapsed(), Duration::ZERO);
    tokio::time::sleep(PASSED_OVER).await;
    cell.faults[0].heal();
    cell.upload("x").await.unwrap();
    assert_eq!(cell.holders().await, [0, 1, 2]);
}

#[tokio::test(start_paused = true)]
async fn only_all_zones_together_know_that_there_is_nothing() {
    let cell = Cell::new();
    assert_eq!(cell.get().await, Ok(None));
    cell.faults[2].cut(Cut::Refusing);
    assert!(
        cell.get().await.unwrap_err().retryable(),
        "it may have the only copy"
    );
    cell.memory[0].upload(KEY, &bytes("x").into()).await.unwrap();
    assert_eq!(cell.get().await, Ok(Some(bytes("x"))));
    let pieces = cell.mirror.get_pieces(KEY, 0..1, 1).await;
    assert_eq!(pieces, Ok(Some(vec![bytes("x")])));
}

#[tokio::test(start_paused = true)]
async fn a_slow_zone_is_not_waited_for_where_another_has_it() {
    let cell = Cell::new();
    cell.upload("x").await.unwrap();
    cell.faults[1].cut(Cut::Silent);
    let began = Instant::now();
    assert_eq!(cell.get().await, Ok(Some(bytes("x"))));
    assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_copy_that_is_doubted_is_not_read_again() {
    let cell = Cell::new();
    cell.upload("x").await.unwrap();
    cell.memory[1].overwrite(KEY, bytes("!"));
    assert_eq!(cell.get().await, Ok(Some(bytes("!"))), "the near one");
    cell.mirror.doubt(KEY);
    assert_eq!(cell.get().await, Ok(Some(bytes("x"))));
    assert_eq!(cell.mirror.doubtful(), [KEY]);
    cell.mirror.settled(KEY);
    assert_eq!(cell.get().await, Ok(Some(bytes("!"))));
}

#[tokio::test(start_paused = true)]
async fn deletions_and_listings_do_without_one_zone_and_not_without_two() {
    let cell = Cell::new();
    cell.upload("x").await.unwrap();
    cell.memory[0]
        .upload("segments/b", &bytes("y").into())
        .await
        .unwrap();
    cell.faults[2].cut(Cut::Refusing);
    let list = async |limit| cell.mirror.list("segments/", None, limit).await;
    assert_eq!(list(9).await.unwrap(), [KEY, "segments/b"]);
    assert_eq!(list(1).await.unwrap(), [KEY]);
    assert_eq!(cell.mirror.delete(KEY).await, Ok(()));
    assert_eq!(cell.holders().await, [2], "what a sweep finds later");
    cell.faults[1].cut(Cut::Refusing);
    assert!(list(9).await.unwrap_err().retryable());
    assert!(cell.mirror.delete(KEY).await.unwrap_err().retryable());
}

#[tokio::test(start_paused = true)]
async fn a_zone_that_failed_is_asked_again_however_many_uploads_pass_it_over() {
    let cell = Cell::new();
    cell.faults[0].cut(Cut::Refusing);
    cell.upload("x").await.unwrap();
    cell.faults[0].heal();
    for _ in 0..=PASSED_OVER.as_secs() {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cell.upload("x").await.unwrap();
    }
    assert_eq!(cell.holders().await, [0, 1, 2]);
}
