use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;

use axum::Router;
use futures::future::join_all;
use millrace_wal::fault::{Fault, Rule};
use millrace_wal::{Payload, ZoneStore};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use tonic::Status;
use tonic::body::Body;
use tower::ServiceExt;

use super::super::test_store::{TestStore, object_id};
use super::super::{PAGE_BYTES, PageCache, PageCacheOptions};
use super::*;

const OBJECT_PAGES: u32 = 43;
/// Eleven blocks, the last page half of one.
const OBJECT_LEN: u64 = 85 * PAGE_BYTES / 2;
const A: NodeId = NodeId(1);
const B: NodeId = NodeId(2);
const C: NodeId = NodeId(3);
const LONG: Duration = Duration::from_secs(3600);

/// How a node is reached.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Open,
    /// It does not answer, and nobody says so.
    Silent,
    Broken,
}

/// Nodes of one zone in one process; what they say to each other goes from one's client into the other's service.
#[derive(Default)]
struct Town {
    living: Mutex<BTreeMap<NodeId, Arc<[NodeId]>>>,
    routers: Mutex<BTreeMap<NodeId, Router>>,
    ways: Mutex<BTreeMap<NodeId, Way>>,
    maker: Mutex<Option<NodeId>>,
    calls: AtomicU64,
}

struct At {
    here: NodeId,
    town: Arc<Town>,
}

#[async_trait]
impl Neighbours for At {
    fn here(&self) -> NodeId {
        self.here
    }

    fn living(&self) -> Arc<[NodeId]> {
        self.town.living.lock().unwrap()[&self.here].clone()
    }

    fn maker(&self, _object: SegmentObjectId) -> Option<NodeId> {
        self.town
            .maker
            .lock()
            .unwrap()
            .filter(|maker| *maker != self.here)
    }

    async fn call(&self, node: NodeId, request: http::Request<Body>) -> Result<http::Response<Body>, Status> {
        self.town.calls.fetch_add(1, Relaxed);
        let way = self.town.ways.lock().unwrap().get(&node).copied();
        match way.unwrap_or(Way::Open) {
            Way::Open => {}
            Way::Silent => std::future::pending().await,
            Way::Broken => return Err(Status::unavailable("connection refused")),
        }
        let router = self.town.routers.lock().unwrap()[&node].clone();
        let answer = router.oneshot(request.map(axum::body::Body::new)).await;
        Ok(answer.unwrap().map(Body::new))
    }
}

struct Cell {
    store: Arc<TestStore>,
    town: Arc<Town>,
    caches: BTreeMap<NodeId, Arc<PageCache>>,
    stops: BTreeMap<NodeId, CancellationToken>,
    content: Bytes,
}

impl Cell {
    /// Nodes over a store that holds one object.
    async fn new(nodes: &[NodeId]) -> Self {
        let store = TestStore::new();
        let blocks = (0..OBJECT_LEN as u32 >> 16).map(|block| block.to_le_bytes().repeat(1 << 14));
        let content = Bytes::from(blocks.collect::<Vec<_>>().concat());
        let payload = Payload::from(content.clone());
        store.create(&object_id(1).to_string(), &payload).await.unwrap();
        let town = Arc::new(Town::default());
        let (mut caches, mut stops) = (BTreeMap::new(), BTreeMap::new());
        for &here in nodes {
            let neighbours = At {
                here,
                town: town.clone(),
            };
            let options = PageCacheOptions::default();
            let cache = PageCache::in_zone(store.clone(), &options, Arc::new(neighbours));
            let stop = CancellationToken::new();
            let router = cache.service(stop.clone()).unwrap();
            town.routers.lock().unwrap().insert(here, router);
            town.living.lock().unwrap().insert(here, nodes.into());
            caches.insert(here, cache);
            stops.insert(here, stop);
        }
        Self {
            store,
            town,
            caches,
            stops,
            content,
        }
    }

    fn cache(&self, node: NodeId) -> &Arc<PageCache> {
        &self.caches[&node]
    }

    fn zone(&self, node: NodeId) -> &Arc<Zone> {
        self.cache(node).zone.as_ref().unwrap()
    }

    async fn read(&self, node: NodeId, pages: Range<u32>) -> Result<Vec<Bytes>, PageError> {
        let read = self.cache(node).pages(object_id(1), OBJECT_LEN, pages);
        timeout(LONG, read).await.expect("the read is stuck")
    }

    fn written(&self, page: u32) -> &[u8] {
        let start = page as usize * PAGE_BYTES as usize;
        &self.content[start..self.content.len().min(start + PAGE_BYTES as usize)]
    }

    /// A page that another of the nodes looks after than this one, and that one.
    fn page_of_another(&self, node: NodeId) -> (u32, NodeId) {
        let nodes = self.town.living.lock().unwrap()[&node].clone();
        let first = |page| rendezvous::order(&nodes, Block::of(object_id(1), page))[0];
        let page = (0..OBJECT_PAGES).find(|page| first(*page) != node).unwrap();
        (page, first(page))
    }

    fn sum(&self, counter: impl Fn(&CacheStats) -> &AtomicU64) -> u64 {
        let caches = self.caches.values();
        caches.map(|cache| counter(cache.stats()).load(Relaxed)).sum()
    }
}

fn stat(counter: &AtomicU64) -> u64 {
    counter.load(Relaxed)
}

/// Time stands still while anybody has something to do: nobody is passed over because this machine is slow.
#[tokio::test(start_paused = true)]
async fn two_hundred_readers_on_three_nodes_download_each_page_once() {
    let cell = Arc::new(Cell::new(&[A, B, C]).await);
    let readers = (0..200u32).map(|reader| {
        let cell = cell.clone();
        tokio::spawn(async move {
            let (node, step) = ([A, B, C][reader as usize % 3], 1 + reader % 7);
            for start in (0..OBJECT_PAGES).step_by(step as usize) {
                let pages = start..(start + step).min(OBJECT_PAGES);
                let came = cell.read(node, pages.clone()).await.unwrap();
                for (page, came) in pages.zip(came) {
                    assert!(came == cell.written(page), "reader {reader}, page {page}");
                }
            }
        })
    });
    for reader in join_all(readers).await {
        reader.unwrap();
    }
    let pages = cell.store.page_requests(object_id(1));
    assert_eq!(pages.len(), OBJECT_PAGES as usize);
    assert!(pages.values().all(|times| *times == 1), "{pages:?}");
    assert_eq!(cell.sum(|stats| &stats.downloaded_bytes), OBJECT_LEN);
    assert_eq!(cell.sum(|stats| &stats.zone_hits), 2 * u64::from(OBJECT_PAGES));
    assert_eq!(cell.sum(|stats| &stats.zone_hit_bytes), 2 * OBJECT_LEN);
    assert_eq!(cell.sum(|stats| &stats.zone_served_bytes), 2 * OBJECT_LEN);
    assert_eq!(cell.sum(|stats| &stats.zone_misses), 0);
    assert!(
        cell.caches
            .values()
            .all(|cache| stat(&cache.stats().downloads) > 0),
        "each has its share"
    );
}

#[tokio::test]
async fn readers_go_on_from_the_store_when_the_node_that_looks_after_a_page_is_gone() {
    let cell = Cell::new(&[A, B, C]).await;
    for way in [Way::Broken, Way::Silent] {
        cell.town.ways.lock().unwrap().extend([(B, way), (C, way)]);
        tokio::time::pause();
        let began = Instant::now();
        for page in 0..OBJECT_PAGES {
            let came = cell.read(A, page..page + 1).await.unwrap();
            assert!(came[0] == cell.written(page));
            cell.cache(A)
                .kept
                .forget(
                    PageKey {
                        object: object_id(1),
                        page,
                    },
                    |_| true,
                )
                .await;
        }
        let most = match way {
            // Five times each until they are spared.
            Way::Silent => Duration::from_secs(5),
            _ => Duration::from_secs(1),
        };
        assert!(began.elapsed() < most, "{:?}", began.elapsed());
        tokio::time::resume();
    }
    assert!(stat(&cell.cache(A).stats().zone_misses) > 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_stops_says_so() {
    let cell = Cell::new(&[A, B]).await;
    let (page, owner) = cell.page_of_another(A);
    cell.stops[&owner].cancel();
    tokio::task::yield_now().await;
    cell.read(A, page..page + 1).await.unwrap();
    assert_eq!(stat(&cell.cache(A).stats().zone_misses), 1);
    assert_eq!(stat(&cell.cache(A).stats().downloads), 1);
}

#[tokio::test(start_paused = true)]
async fn a_bad_copy_is_dropped_by_the_node_that_gave_it() {
    let cell = Cell::new(&[A, B, C]).await;
    let (page, owner) = cell.page_of_another(A);
    let key = PageKey {
        object: object_id(1),
        page,
    };
    let mut flipped = cell.written(page).to_vec();
    flipped[77] ^= 4;
    cell.cache(owner).kept.put(key, flipped.clone().into()).await;
    let seen = cell.read(A, page..page + 1).await.unwrap().remove(0);
    assert!(seen == flipped, "it is not judged on the way");
    cell.cache(A).forget(object_id(1), page, &seen).await;
    let again = cell.read(A, page..page + 1).await.unwrap().remove(0);
    assert!(again == cell.written(page));
    assert_eq!(stat(&cell.cache(A).stats().downloads), 0);
    assert_eq!(stat(&cell.cache(owner).stats().downloads), 1);
    assert_eq!(stat(&cell.cache(owner).stats().forgotten), 1);
    // The good copy stays, whoever still complains about the other.
    cell.zone(owner).drop_copy(key, hash_of(&flipped)).await;
    assert!(cell.zone(owner).kept.contains(key));
}

#[tokio::test(start_paused = true)]
async fn after_two_bad_copies_the_store_is_read_without_a_detour() {
    let cell = Cell::new(&[A, B, C]).await;
    let (page, _) = cell.page_of_another(A);
    cell.store
        .flip(object_id(1), page as usize * PAGE_BYTES as usize)
        .await;
    for _ in 0..2 {
        let seen = cell.read(A, page..page + 1).await.unwrap().remove(0);
        assert!(seen != cell.written(page));
        cell.cache(A).forget(object_id(1), page, &seen).await;
    }
    let (calls, downloads) = (
        cell.town.calls.load(Relaxed),
        stat(&cell.cache(A).stats().downloads),
    );
    assert_eq!((calls, downloads), (2, 0));
    cell.read(A, page..page + 1).await.unwrap();
    assert_eq!(cell.town.calls.load(Relaxed), calls);
    assert_eq!(stat(&cell.cache(A).stats().downloads), 1);
}

#[tokio::test(start_paused = true)]
async fn what_is_not_in_the_store_is_not_looked_for_twice() {
    let cell = Cell::new(&[A, B]).await;
    let lost = |seq| {
        let nodes = [A, B];
        rendezvous::order(&nodes, Block::of(object_id(seq), 0))[0] == B
    };
    let gone = object_id((2..).find(|seq| lost(*seq)).unwrap());
    assert_eq!(
        cell.cache(A).pages(gone, 100, 0..1).await,
        Err(PageError::Gone(gone))
    );
    assert_eq!(cell.store.requests(), 1);
    let body = Payload::from(Bytes::from(vec![1; 99]));
    cell.store.create(&gone.to_string(), &body).await.unwrap();
    let short = cell.cache(A).pages(gone, 100, 0..1).await;
    assert_eq!(
        short,
        Err(PageError::Short {
            object: gone,
            end: 99
        })
    );
    assert_eq!(cell.store.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn where_another_node_cannot_read_the_store_this_one_tries() {
    let cell = Cell::new(&[A, B]).await;
    let (page, owner) = cell.page_of_another(A);
    cell.store.faults.add(Rule::new(Fault::FailBefore).times(1));
    cell.read(A, page..page + 1).await.unwrap();
    assert_eq!(stat(&cell.cache(owner).stats().failures), 1);
    assert_eq!(stat(&cell.cache(A).stats().downloads), 1);
}

#[tokio::test(start_paused = true)]
async fn what_a_node_has_just_written_the_others_have_from_its_memory() {
    let cell = Cell::new(&[A, B, C]).await;
    *cell.town.maker.lock().unwrap() = Some(B);
    let payload = Payload::from(cell.content.clone());
    cell.cache(B).insert_fresh(object_id(1), &payload).await;
    for node in [C, A] {
        let came = cell.read(node, 0..OBJECT_PAGES).await.unwrap();
        assert!(came.concat() == cell.content);
    }
    assert_eq!(cell.store.requests(), 0);
    // It may keep nothing of it any more.
    *cell.town.maker.lock().unwrap() = Some(C);
    let other = object_id(9);
    let payload = Payload::from(Bytes::from_static(b"other"));
    cell.store.create(&other.to_string(), &payload).await.unwrap();
    assert_eq!(cell.cache(A).pages(other, 5, 0..1).await.unwrap()[0], "other");
    assert_eq!(cell.store.requests(), 1);
}

/// Nodes learn of each other at different times.
#[tokio::test(start_paused = true)]
async fn nodes_that_take_each_other_to_look_after_a_page_do_not_wait_for_each_other() {
    let cell = Cell::new(&[A, B]).await;
    let only = |node: NodeId| -> Arc<[NodeId]> { [node].into() };
    cell.town
        .living
        .lock()
        .unwrap()
        .extend([(A, only(B)), (B, only(A))]);
    *cell.town.maker.lock().unwrap() = Some(A);
    let began = Instant::now();
    let (a, b) = tokio::join!(cell.read(A, 0..OBJECT_PAGES), cell.read(B, 0..OBJECT_PAGES));
    assert!(a.unwrap().concat() == cell.content && b.unwrap().concat() == cell.content);
    assert_eq!(began.elapsed(), Duration::ZERO);
    assert!(cell.sum(|stats| &stats.downloaded_bytes) <= 2 * OBJECT_LEN);
}

#[tokio::test(start_paused = true)]
async fn a_node_with_too_much_to_do_is_passed_over() {
    let cell = Cell::new(&[A, B, C]).await;
    let nodes = [A, B, C];
    let order = |page| rendezvous::order(&nodes, Block::of(object_id(1), page));
    let page = (0..OBJECT_PAGES).find(|page| order(*page)[2] == A).unwrap();
    let [first, second, _] = order(page)[..] else {
        unreachable!()
    };
    cell.zone(A).asking.members.of(first).report(1000);
    cell.read(A, page..page + 1).await.unwrap();
    assert_eq!(stat(&cell.cache(second).stats().downloads), 1);
    assert_eq!(stat(&cell.cache(A).stats().zone_passed_over), 1);
    assert_eq!(stat(&cell.cache(A).stats().zone_misses), 0);
}

#[tokio::test(start_paused = true)]
async fn a_node_turns_away_what_is_more_than_it_answers_at_a_time() {
    let cell = Arc::new(Cell::new(&[A, B]).await);
    let ours = |seq: &u64| rendezvous::order(&[A, B], Block::of(object_id(*seq), 0))[0] == B;
    let objects: Vec<_> = (2..).filter(ours).take(60).map(object_id).collect();
    let body = Payload::from(Bytes::from_static(b"body"));
    for object in &objects {
        cell.store.create(&object.to_string(), &body).await.unwrap();
    }
    let gate = cell.store.faults.stall(Rule::default(), false);
    // Asked past the bound that askers keep to.
    let at = At {
        here: A,
        town: cell.town.clone(),
    };
    let asking = objects.iter().map(|object| {
        let asked = Asked {
            object: *object,
            object_len: 4,
            pages: 0..1,
            kept_only: false,
            bad: Vec::new(),
        };
        let at = &at;
        async move {
            let member = Member::default();
            let answer = client::ask(at, (B, &member), &asked).await.unwrap();
            (matches!(answer, Answer::Busy), member.under_way())
        }
    });
    let opening = async {
        gate.reached(32).await;
        tokio::time::sleep(Duration::from_millis(10)).await;
        gate.open();
    };
    let (answers, ()) = tokio::join!(join_all(asking), opening);
    let busy = answers.iter().filter(|(busy, _)| *busy).count();
    assert_eq!(busy, 60 - 32);
    assert!(
        answers.iter().all(|(busy, load)| !busy || *load >= 32),
        "{answers:?}"
    );
    assert_eq!(stat(&cell.cache(B).stats().zone_refused), busy as u64);
}

#[tokio::test(start_paused = true)]
async fn a_node_alone_in_its_zone_reads_the_store() {
    let cell = Cell::new(&[A]).await;
    cell.read(A, 0..OBJECT_PAGES).await.unwrap();
    assert_eq!(cell.town.calls.load(Relaxed), 0);
    assert_eq!(stat(&cell.cache(A).stats().zone_misses), 0);
    assert_eq!(
        cell.store.requests(),
        OBJECT_PAGES.div_ceil(rendezvous::BLOCK_PAGES) as usize
    );
}
