use std::io::Write;
use std::sync::{Arc, Mutex};

use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, ChunkSeq, Epoch, FlushSeq, Incarnation, NodeId, ZoneGen};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_raft::command::{
    ActivateChannel, AssignChannel, CommitFlush, CreateChannel, RegisterNode, SealEpoch,
};
use millrace_raft::group::{Meta, MetaOptions};
use millrace_raft::query::Slot;
use millrace_wal::{MemoryStore, Payload, StoreError, WalOptions, ZoneStore};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::subscriber::DefaultGuard;

use super::*;
use crate::env::{Env, Stores};
use crate::wals::Wals;
use crate::zones::source::{Source, UrlSource};

const NODE: NodeId = NodeId(1);
const LIFE: Incarnation = Incarnation(1);
const CHANNEL: ChannelId = ChannelId(4);
/// The zone that is replaced.
const ZONE: u32 = 2;
/// Longer than anything here takes unless it hangs.
const PATIENCE: Duration = Duration::from_secs(60);

/// Three zones of a cell without a store of another kind, and a channel on them.
struct Scene {
    env: Env,
    cell: Cell,
    stores: Memory,
    zones: ExpressZones,
    /// What is said from warnings on.
    said: Said,
    stop: CancellationToken,
    _looking: JoinSet<()>,
    _said: DefaultGuard,
    _dir: tempfile::TempDir,
}

/// Stores by their names, which are numbers from 1.
#[derive(Clone, Default)]
struct Memory([Arc<MemoryStore>; 3]);

impl Stores for Memory {
    fn open(&self, url: &str) -> Result<Arc<dyn ZoneStore>, StoreError> {
        let number: usize = url.parse().expect("the number of a zone");
        Ok(self.0[number - 1].clone())
    }
}

#[derive(Clone, Default)]
struct Said(Arc<Mutex<Vec<u8>>>);

impl Write for Said {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Said {
    fn is_safe(&self) -> bool {
        let said = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        said.contains("it is safe to lose one zone again")
    }
}

fn zones(env: &Env, meta: &Meta, stores: &Memory, wals: &Wals) -> ExpressZones {
    let source = |number: u32| -> Arc<dyn Source> {
        Arc::new(UrlSource::new(number.to_string(), Arc::new(stores.clone())))
    };
    let sources = (1..=3).map(source).collect();
    ExpressZones::new(sources, meta, env, wals.clone(), WalOptions::default())
}

impl Scene {
    /// The channel is in its first epoch, which has begun.
    async fn new() -> Self {
        let said = Said::default();
        let writer = said.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_max_level(tracing::Level::WARN)
            .with_writer(move || writer.clone())
            .finish();
        let dir = tempfile::tempdir().unwrap();
        let meta = Meta::open(MetaOptions::new(dir.path().join("meta"), NODE)).await;
        let meta = meta.expect("fresh metadata");
        let (env, stores) = (Env::system(), Memory::default());
        let wals = Wals::new(meta.clone(), None);
        let zones = zones(&env, &meta, &stores, &wals);
        let (mut looking, stop) = (JoinSet::new(), CancellationToken::new());
        zones.start(&mut looking, &stop);
        let scene = Self {
            cell: Cell {
                meta,
                // Nothing is read of them.
                segments: Arc::new(MemoryStore::new()),
                wals,
            },
            env,
            stores,
            zones,
            said,
            stop,
            _looking: looking,
            _said: tracing::subscriber::set_default(subscriber),
            _dir: dir,
        };
        scene.all_in_use().await;
        let meta = &scene.cell.meta;
        let register = RegisterNode {
            node: NODE,
            incarnation: LIFE,
            zone: String::new(),
            address: String::new(),
            proves_old_dead: true,
            now_ms: 1,
        };
        meta.propose(register).await.unwrap();
        let (channel, class) = (CHANNEL, StorageClass::Express);
        meta.propose(CreateChannel { channel, class }).await.unwrap();
        let epoch = scene.next_epoch().await;
        let activate = ActivateChannel { channel, epoch };
        scene.cell.meta.propose(activate).await.unwrap();
        scene
    }

    /// Waits until Express is written to the registered lives of all zones.
    async fn all_in_use(&self) {
        let in_use = async {
            while self.gens().len() < 3 || self.cell.wals.gens(StorageClass::Express) != self.gens() {
                sleep(Duration::from_millis(5)).await;
            }
        };
        timeout(PATIENCE, in_use).await.expect("all zones in use");
    }

    fn gens(&self) -> Vec<ZoneGen> {
        self.zones
            .views()
            .into_iter()
            .filter_map(|zone| zone.zone_gen)
            .collect()
    }

    async fn next_epoch(&self) -> Epoch {
        let assign = AssignChannel {
            channel: CHANNEL,
            node: NODE,
            incarnation: LIFE,
            gens: self.gens(),
        };
        self.cell.meta.propose(assign).await.unwrap()
    }

    /// The zone's store is lost, and this start is told to use the empty one that is there.
    async fn replaced(&self) -> Replacement {
        self.stores.0[ZONE as usize - 1].clear();
        let before = self.gens();
        let replacement = Replacement::begin(self.zones.clone(), ZONE).await.unwrap();
        assert_ne!(self.gens(), before, "another life");
        self.all_in_use().await;
        replacement
    }

    /// This epoch begins, and the one before it has ended here.
    async fn seal_former(&self, by: Epoch, end: ChunkSeq) {
        let (channel, former) = (CHANNEL, Epoch(by.0 - 1));
        let seal = SealEpoch {
            channel,
            epoch: former,
            end,
            by,
            adopted: 0,
        };
        self.cell.meta.propose(seal).await.unwrap();
        let activate = ActivateChannel { channel, epoch: by };
        self.cell.meta.propose(activate).await.unwrap();
    }

    /// Everything between the two is in segments.
    async fn flush(&self, from: Slot, through: Slot) {
        let flush = CommitFlush {
            channel: CHANNEL,
            epoch: through.epoch,
            flush_seq: FlushSeq(1),
            from,
            through,
            objects: Vec::new(),
            streams: Vec::new(),
            now_ms: 1,
        };
        self.cell.meta.propose(flush).await.unwrap();
    }

    /// A segment object that metadata may come to name is in the zone with this number.
    async fn put_segment(&self, zone: usize, epoch: Epoch) {
        let id = SegmentObjectId {
            channel: CHANNEL,
            epoch,
            origin: SegmentOrigin::Flush,
            seq: FlushSeq(2),
            part: 0,
        };
        let payload = Payload::from(bytes::Bytes::from_static(b"x"));
        let put = self.stores.0[zone - 1].upload(&id.to_string(), &payload).await;
        put.unwrap();
    }
}

/// On one thread, so that what is said is said here.
#[tokio::test]
async fn the_end_of_a_replacement_is_told_when_nothing_needs_the_former_store_and_not_before() {
    let scene = Scene::new().await;
    let replacement = scene.replaced().await;
    // While a zone is looked at there is no answer.
    let is_settled = async || {
        let answered = async {
            loop {
                match replacement.is_settled(&scene.cell).await {
                    Ok(settled) => return settled,
                    Err(_) => sleep(LOOK_INTERVAL / 10).await,
                }
            }
        };
        timeout(PATIENCE, answered).await.expect("there is an answer")
    };
    assert!(!is_settled().await, "an epoch goes on under the former life");
    let begun = scene.next_epoch().await;
    assert!(!is_settled().await, "nobody has said where it ends");
    scene.seal_former(begun, ChunkSeq(3)).await;
    assert!(
        !is_settled().await,
        "chunks are in two zones alone, one of which may be lost next"
    );
    let at = |epoch, slot| Slot {
        epoch,
        slot: ChunkSeq(slot),
    };
    // Segments are in the zones, too.
    for zone in [1, 3] {
        scene.put_segment(zone, begun).await;
    }
    scene.flush(at(Epoch(begun.0 - 1), 0), at(begun, 0)).await;
    assert!(!is_settled().await, "the new store lacks a segment");
    assert!(!scene.said.is_safe());

    let told = Replacement {
        zones: scene.zones.clone(),
        number: ZONE,
    };
    let told = tokio::spawn(told.tell_of_end(scene.cell.clone(), scene.stop.clone()));
    // It looks, and says nothing.
    sleep(LOOK_INTERVAL / 2).await;
    assert!(!told.is_finished() && !scene.said.is_safe());
    scene.put_segment(ZONE as usize, begun).await;
    assert!(is_settled().await);
    timeout(PATIENCE, told).await.expect("it is told").unwrap();
    assert!(scene.said.is_safe());

    let unseen = Replacement {
        zones: zones(&scene.env, &scene.cell.meta, &scene.stores, &scene.cell.wals),
        number: ZONE,
    };
    let settled = unseen.is_settled(&scene.cell).await;
    assert!(
        matches!(settled, Ok(false)),
        "the zone is not in use: {settled:?}"
    );
}

#[tokio::test]
async fn a_node_that_stops_before_the_end_of_a_replacement_does_not_tell_of_it() {
    let scene = Scene::new().await;
    let replacement = scene.replaced().await;
    let told = tokio::spawn(replacement.tell_of_end(scene.cell.clone(), scene.stop.clone()));
    sleep(Duration::from_millis(10)).await;
    assert!(!told.is_finished());
    scene.stop.cancel();
    timeout(PATIENCE, told).await.expect("it stops").unwrap();
    assert!(!scene.said.is_safe());
}

#[tokio::test]
async fn a_store_that_was_not_lost_is_not_replaced_and_the_zone_is_safe_at_once() {
    let scene = Scene::new().await;
    let before = scene.gens();
    let replacement = Replacement::begin(scene.zones.clone(), ZONE).await.unwrap();
    assert_eq!(scene.gens(), before, "there was nothing to replace");
    let told = replacement.tell_of_end(scene.cell.clone(), scene.stop.clone());
    timeout(PATIENCE, told).await.expect("it is told");
    assert!(scene.said.is_safe());
}
