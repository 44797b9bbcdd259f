//! Downloads under way: whoever wants a page that somebody fetches already waits for that.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, Shared};
use millrace_api::segment::SegmentObjectId;
use millrace_wal::StoreError;
use tokio::sync::Semaphore;

use super::{PAGE_BYTES, PageCache, PageError, PageKey, count, page_range};

/// Pages that one request asks for at most.
const PAGES_PER_DOWNLOAD: usize = 4;

/// What is being fetched.
///
/// - A page is in the map from before its download begins until it is kept or has failed: between that and the cache
///   there is no moment at which a page that is on its way is in neither.
pub(super) struct Flights {
    by_page: Mutex<HashMap<PageKey, Flight>>,
    slots: Semaphore,
}

type Arrival = Shared<BoxFuture<'static, Result<Arc<[Bytes]>, PageError>>>;

/// One download of adjacent pages. Goes on by itself, whether or not anybody waits.
#[derive(Clone)]
pub(super) struct Flight {
    first: u32,
    arrival: Arrival,
}

/// How to come by a page.
pub(super) enum Claimed {
    InFlight(Flight),
    /// It has arrived in the cache since it was looked for there.
    Kept,
}

impl Flights {
    pub(super) fn new(downloads_max: usize) -> Self {
        Self {
            by_page: Mutex::default(),
            slots: Semaphore::new(downloads_max),
        }
    }

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PageKey, Flight>> {
        self.by_page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    pub(super) async fn page(self, page: u32) -> Result<Bytes, PageError> {
        let pages = self.arrival.await?;
        Ok(pages[(page - self.first) as usize].clone())
    }
}

/// Finds or begins the downloads of the pages, which are in ascending order: an answer for each.
pub(super) fn claim(
    cache: &Arc<PageCache>,
    object: SegmentObjectId,
    object_len: u64,
    pages: &[u32],
) -> Vec<Claimed> {
    let mut flights = cache.flights.lock();
    let key = |page| PageKey { object, page };
    let is_free = |flights: &HashMap<PageKey, Flight>, page| {
        !flights.contains_key(&key(page)) && !cache.pages.contains_key(&key(page))
    };
    let mut claimed = Vec::with_capacity(pages.len());
    for (position, &page) in pages.iter().enumerate() {
        if is_free(&flights, page) {
            let follow = (page..).zip(&pages[position..]).take(PAGES_PER_DOWNLOAD);
            let adjacent =
                follow.take_while(|(expected, next)| expected == *next && is_free(&flights, **next));
            let end = page + adjacent.count() as u32;
            begin(cache, &mut flights, object, object_len, page..end);
        }
        claimed.push(match flights.get(&key(page)) {
            Some(flight) => Claimed::InFlight(flight.clone()),
            None => Claimed::Kept,
        });
    }
    claimed
}

/// Finds or begins the download of one page, kept or not.
pub(super) fn begin_one(cache: &Arc<PageCache>, key: PageKey, object_len: u64) -> Flight {
    let mut flights = cache.flights.lock();
    match flights.get(&key) {
        Some(flight) => flight.clone(),
        None => begin(
            cache,
            &mut flights,
            key.object,
            object_len,
            key.page..key.page + 1,
        ),
    }
}

fn begin(
    cache: &Arc<PageCache>,
    flights: &mut HashMap<PageKey, Flight>,
    object: SegmentObjectId,
    object_len: u64,
    pages: Range<u32>,
) -> Flight {
    let landing = Landing {
        cache: cache.clone(),
        object,
        pages: pages.clone(),
    };
    let download = tokio::spawn(async move {
        let arrived = landing.download(object_len).await;
        // Before anybody hears of the outcome: who asks again after a failure begins anew.
        drop(landing);
        arrived
    });
    let arrival = async move {
        match download.await {
            Ok(arrived) => arrived,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(StoreError::Retry("shutting down".into()).into()),
            },
        }
    };
    let flight = Flight {
        first: pages.start,
        arrival: arrival.boxed().shared(),
    };
    for page in pages {
        flights.insert(PageKey { object, page }, flight.clone());
    }
    flight
}

/// Takes its pages out of the flights when it is dropped.
struct Landing {
    cache: Arc<PageCache>,
    object: SegmentObjectId,
    pages: Range<u32>,
}

impl Landing {
    async fn download(&self, object_len: u64) -> Result<Arc<[Bytes]>, PageError> {
        let cache = &self.cache;
        let slot = cache.flights.slots.acquire().await;
        let _slot = slot.expect("the semaphore is never closed");
        let start = page_range(self.pages.start, object_len).start;
        let end = page_range(self.pages.end - 1, object_len).end;
        let fetched = cache.store.get(&self.object.to_string(), start..end).await?;
        let bytes = fetched.ok_or(PageError::Gone(self.object))?;
        if bytes.len() as u64 != end - start {
            return Err(PageError::Short {
                object: self.object,
                end: start + bytes.len() as u64,
            });
        }
        count(&cache.stats.downloads, 1);
        count(&cache.stats.downloaded_bytes, end - start);
        let pages = self.cut(bytes);
        for (page, bytes) in self.pages.clone().zip(pages.iter()) {
            let key = PageKey {
                object: self.object,
                page,
            };
            cache.pages.insert(key, bytes.clone()).await;
        }
        Ok(pages)
    }

    /// Pages are copied apart, so that each is free when it leaves the cache.
    fn cut(&self, bytes: Bytes) -> Arc<[Bytes]> {
        if self.pages.len() == 1 {
            return Arc::new([bytes]);
        }
        bytes
            .chunks(PAGE_BYTES as usize)
            .map(Bytes::copy_from_slice)
            .collect()
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = self.cache.flights.lock();
        for page in self.pages.clone() {
            let key = PageKey {
                object: self.object,
                page,
            };
            flights.remove(&key);
        }
    }
}
