use std::sync::atomic::Ordering;

use futures::future::join_all;
use millrace_wal::fault::{Cut, Fault, Rule};
use tokio::time::timeout;

use super::test_store::{TestStore, object_id};
use super::*;

const OBJECT_PAGES: u32 = 11;
/// Ten pages and a half.
const OBJECT_LEN: u64 = 21 * PAGE_BYTES / 2;
/// More than anything takes that does not hang, on the paused clock.
const LONG: Duration = Duration::from_secs(3600);

/// Blocks of 64 KiB that tell their place.
fn content() -> Bytes {
    let blocks = (0..OBJECT_LEN as u32 >> 16).map(|block| block.to_le_bytes().repeat(1 << 14));
    blocks.collect::<Vec<_>>().concat().into()
}

/// A cache over a store with one object.
async fn cache(capacity_pages: u64) -> (Arc<TestStore>, Arc<PageCache>, Bytes) {
    let store = TestStore::new();
    let bytes = content();
    let payload = Payload::from(bytes.clone());
    let key = object_id(1).to_string();
    store.create(&key, &payload).await.unwrap();
    let options = PageCacheOptions {
        capacity_bytes: capacity_pages * (PAGE_BYTES + 1024),
        ..PageCacheOptions::default()
    };
    (store.clone(), PageCache::new(store, &options), bytes)
}

async fn read(cache: &Arc<PageCache>, pages: Range<u32>) -> Result<Vec<Bytes>, PageError> {
    let read = cache.pages(object_id(1), OBJECT_LEN, pages);
    timeout(LONG, read).await.expect("the read is stuck")
}

fn stat(counter: &std::sync::atomic::AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_hundred_readers_at_once_download_each_page_once() {
    let (store, cache, bytes) = cache(64).await;
    let readers = (0..200u32).map(|reader| {
        let (cache, bytes) = (cache.clone(), bytes.clone());
        tokio::spawn(async move {
            let step = 1 + reader % 5;
            for start in (0..OBJECT_PAGES).step_by(step as usize) {
                let pages = start..(start + step).min(OBJECT_PAGES);
                let came = read(&cache, pages).await.unwrap().concat();
                let from = (u64::from(start) * PAGE_BYTES) as usize;
                assert!(
                    came == bytes[from..from + came.len()],
                    "reader {reader}, page {start}"
                );
            }
        })
    });
    for reader in join_all(readers).await {
        reader.unwrap();
    }
    let pages = store.page_requests(object_id(1));
    assert_eq!(pages.len(), OBJECT_PAGES as usize);
    assert!(pages.values().all(|times| *times == 1), "{pages:?}");
    assert_eq!(stat(&cache.stats().downloaded_bytes), OBJECT_LEN);
    assert_eq!(stat(&cache.stats().hedges), 0);
}

#[tokio::test]
async fn adjacent_missing_pages_come_with_one_request_of_four_at_most() {
    let (store, cache, _) = cache(64).await;
    read(&cache, 0..6).await.unwrap();
    assert_eq!(store.requests(), 2);
    read(&cache, 7..8).await.unwrap();
    read(&cache, 6..9).await.unwrap();
    assert_eq!(store.requests(), 5, "6 and 8 are not adjacent");
    let last = read(&cache, 9..11).await.unwrap();
    assert_eq!(last[1].len() as u64, PAGE_BYTES / 2);
    assert!(
        store
            .page_requests(object_id(1))
            .values()
            .all(|times| *times == 1)
    );
}

/// Between a reader's look into the cache and its claim the page may arrive.
#[tokio::test]
async fn a_page_that_has_arrived_meanwhile_is_not_fetched_again() {
    let (store, cache, _) = cache(64).await;
    read(&cache, 0..1).await.unwrap();
    let claimed = cache.flights.claim(object_id(1), OBJECT_LEN, &[0, 1]);
    assert!(matches!(
        claimed[..],
        [flight::Claimed::Kept, flight::Claimed::InFlight(_)]
    ));
    read(&cache, 0..2).await.unwrap();
    assert_eq!(store.requests(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_failed_download_is_not_kept() {
    let (store, cache, bytes) = cache(64).await;
    store.faults.add(Rule::new(Fault::FailBefore).times(2));
    let page = read(&cache, 3..4).await.unwrap();
    assert_eq!(page[0], bytes.slice(3 << 20..4 << 20));
    assert_eq!(store.requests(), 3);
    assert_eq!(stat(&cache.stats().failures), 2);
    assert!(cache.flights.is_empty());
}

#[tokio::test(start_paused = true)]
async fn an_object_that_is_gone_is_gone_at_once_and_may_come_again() {
    let (store, cache, _) = cache(64).await;
    let key = object_id(2).to_string();
    for _ in 0..2 {
        let gone = cache.pages(object_id(2), 100, 0..1).await;
        assert_eq!(gone, Err(PageError::Gone(object_id(2))));
    }
    assert_eq!(store.requests(), 2);
    store
        .create(&key, &Payload::from(Bytes::from(vec![1; 99])))
        .await
        .unwrap();
    let short = cache.pages(object_id(2), 100, 0..1).await;
    let (object, end) = (object_id(2), 99);
    assert_eq!(short, Err(PageError::Short { object, end }));
    assert!(cache.pages(object_id(2), 99, 0..1).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_store_that_stays_away_is_an_error_in_bounded_time_and_is_spared() {
    let (store, cache, _) = cache(64).await;
    for (cut, most) in [(Cut::Refusing, 25), (Cut::Silent, 20)] {
        store.faults.cut(cut);
        let (began, requests) = (Instant::now(), store.requests());
        let readers = (0..11).map(|page| read(&cache, page..page + 1));
        for outcome in join_all(readers).await {
            assert!(outcome.unwrap_err().retryable());
        }
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        let made = store.requests() - requests;
        assert!(made <= most, "{made} requests to a store that is {cut:?}");
        // Long enough for the breaker to forget.
        sleep(Duration::from_secs(60)).await;
    }
    assert_eq!(stat(&cache.stats().breaker_opens), 2);
    store.faults.heal();
    assert!(read(&cache, 0..11).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn readers_outlast_a_short_outage_behind_an_open_breaker() {
    let (store, cache, bytes) = cache(64).await;
    store.faults.cut(Cut::Refusing);
    let healing = async {
        sleep(Duration::from_secs(6)).await;
        assert_eq!(stat(&cache.stats().breaker_opens), 1);
        store.faults.heal();
    };
    let readers = (0..11).map(|page| read(&cache, page..page + 1));
    let (pages, ()) = tokio::join!(join_all(readers), healing);
    let pages: Vec<Bytes> = pages.into_iter().flat_map(|page| page.unwrap()).collect();
    assert_eq!(pages.concat(), bytes);
}

#[tokio::test(start_paused = true)]
async fn a_slow_request_is_sent_a_second_time() {
    let (store, cache, _) = cache(64).await;
    let (least, most) = (Duration::from_millis(20), Duration::from_millis(40));
    let slow = store.faults.add(Rule::new(Fault::Delay { least, most }));
    for n in 0..400 {
        if n == 300 {
            // A few fast requests earn a second one, and do not change what counts as slow.
            store.faults.remove(slow);
        }
        let page = n % OBJECT_PAGES;
        let seen = read(&cache, page..page + 1).await.unwrap();
        cache.forget(object_id(1), page, &seen[0]).await;
    }
    let (before, _gate) = (
        store.requests(),
        store.faults.stall(Rule::default().times(1), false),
    );
    let hedges = stat(&cache.stats().hedges);
    let began = Instant::now();
    read(&cache, 7..9).await.unwrap();
    assert_eq!(stat(&cache.stats().hedges), hedges + 1);
    assert_eq!(store.requests() - before, 2);
    assert!(began.elapsed() < Duration::from_millis(100), "it took the second");
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_goes_away_leaves_the_download_to_the_others() {
    let (store, cache, _) = cache(64).await;
    let gate = store.faults.stall(Rule::default(), false);
    let spawn = || {
        let cache = cache.clone();
        tokio::spawn(async move { read(&cache, 0..2).await })
    };
    let (first, second) = (spawn(), spawn());
    gate.reached(1).await;
    first.abort();
    assert!(first.await.is_err());
    gate.open();
    second.await.unwrap().unwrap();
    assert_eq!(store.requests(), 1);
}

#[tokio::test(start_paused = true)]
async fn downloads_at_a_time_are_bounded() {
    let store = TestStore::new();
    let options = PageCacheOptions {
        downloads_max: 3,
        ..PageCacheOptions::default()
    };
    let cache = PageCache::new(store.clone(), &options);
    let body = Payload::from(Bytes::from_static(b"body"));
    for n in 0..20 {
        store.create(&object_id(n).to_string(), &body).await.unwrap();
    }
    let (least, most) = (Duration::from_millis(50), Duration::from_millis(50));
    store.faults.add(Rule::new(Fault::Delay { least, most }));
    let readers = (0..20).map(|n| cache.pages(object_id(n), 4, 0..1));
    for outcome in join_all(readers).await {
        assert_eq!(outcome.unwrap()[0], "body");
    }
    assert_eq!(store.most_at_once(), 3);
}

#[tokio::test]
async fn kept_pages_are_bounded_and_the_latest_stay() {
    let (store, cache, _) = cache(3).await;
    for page in 0..11 {
        read(&cache, page..page + 1).await.unwrap();
    }
    cache.kept.settle().await;
    assert!(cache.kept_bytes() <= 3 * (PAGE_BYTES + 1024));
    let before = store.requests();
    read(&cache, 8..11).await.unwrap();
    assert_eq!(store.requests(), before);
    read(&cache, 0..1).await.unwrap();
    assert_eq!(store.requests(), before + 1);
}

#[tokio::test]
async fn a_fresh_object_is_read_without_a_request_and_holds_no_other_memory() {
    let store = TestStore::new();
    let cache = PageCache::new(store.clone(), &PageCacheOptions::default());
    let bytes = content();
    let parts = [
        bytes.slice(..5),
        bytes.slice(5..2_000_000),
        bytes.slice(2_000_000..),
    ];
    cache.insert_fresh(object_id(1), &Payload::new(parts)).await;
    let pages = read(&cache, 0..11).await.unwrap();
    assert_eq!(pages.concat(), bytes);
    assert_eq!(store.requests(), 0);
    let inside = bytes.as_ptr_range();
    assert!(pages.iter().all(|page| !inside.contains(&page.as_ptr())));
}

#[tokio::test]
async fn only_the_copy_that_was_seen_is_forgotten() {
    let (store, cache, _) = cache(64).await;
    let seen = read(&cache, 0..1).await.unwrap().remove(0);
    cache.forget(object_id(1), 0, &seen).await;
    let new = read(&cache, 0..1).await.unwrap().remove(0);
    assert_eq!(store.requests(), 2);
    // The store hands out its own memory for one page: another copy.
    let other = Bytes::copy_from_slice(&new);
    cache.forget(object_id(1), 0, &other).await;
    read(&cache, 0..1).await.unwrap();
    assert_eq!(store.requests(), 2);
    assert_eq!(stat(&cache.stats().forgotten), 1);
}
