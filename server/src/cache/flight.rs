//! Fetches under way: whoever wants a page that somebody fetches already waits for that.

use std::collections::HashMap;
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt, Shared};
use millrace_api::segment::SegmentObjectId;
use millrace_wal::StoreError;
use tokio::sync::Semaphore;

use super::kept::Kept;
use super::source::Source;
use super::{PageError, PageKey};

/// Pages that one request asks for at most.
pub(super) const PAGES_PER_FETCH: usize = 4;

/// What is being fetched from one source into memory.
///
/// - A page is in the map from before its fetch begins until it is kept or has failed: between that and the memory
///   there is no moment at which a page that is on its way is in neither.
pub(super) struct Flights {
    kept: Kept,
    source: Arc<dyn Source>,
    by_page: Mutex<HashMap<PageKey, Flight>>,
    slots: Semaphore,
}

type Arrival = Shared<BoxFuture<'static, Result<Arc<[Bytes]>, PageError>>>;

/// One fetch of adjacent pages. Goes on by itself, whether or not anybody waits.
#[derive(Clone)]
pub(super) struct Flight {
    first: u32,
    arrival: Arrival,
}

/// How to come by a page.
pub(super) enum Claimed {
    InFlight(Flight),
    /// It has arrived in memory since it was looked for there.
    Kept,
}

impl Flights {
    /// `fetches_max`: how many may be under way at a time.
    pub(super) fn new(kept: Kept, source: Arc<dyn Source>, fetches_max: usize) -> Arc<Self> {
        Arc::new(Self {
            kept,
            source,
            by_page: Mutex::default(),
            slots: Semaphore::new(fetches_max),
        })
    }

    /// The pages, which are in ascending order and were not in memory a moment ago. All fetches are under way before
    /// the first is waited for.
    pub(super) async fn pages(
        self: &Arc<Self>,
        object: SegmentObjectId,
        object_len: u64,
        pages: &[u32],
    ) -> Result<Vec<Bytes>, PageError> {
        let claimed = self.claim(object, object_len, pages);
        let mut arrived = Vec::with_capacity(pages.len());
        for (&page, claimed) in pages.iter().zip(claimed) {
            arrived.push(match claimed {
                Claimed::InFlight(flight) => flight.page(page).await?,
                Claimed::Kept => match self.kept.get(object, object_len, page).await {
                    Some(kept) => kept,
                    // It came and went since it was looked for.
                    None => self.begin_one(object, object_len, page).page(page).await?,
                },
            });
        }
        Ok(arrived)
    }

    /// Finds or begins the fetches of the pages, which are in ascending order: an answer for each.
    pub(super) fn claim(
        self: &Arc<Self>,
        object: SegmentObjectId,
        object_len: u64,
        pages: &[u32],
    ) -> Vec<Claimed> {
        let mut flights = self.lock();
        let key = |page| PageKey { object, page };
        let is_free = |flights: &HashMap<PageKey, Flight>, page| {
            !flights.contains_key(&key(page)) && !self.kept.contains(key(page))
        };
        let mut claimed = Vec::with_capacity(pages.len());
        for (position, &page) in pages.iter().enumerate() {
            if is_free(&flights, page) {
                let border = self.source.border_behind(object, page);
                let follow = (page..border).zip(&pages[position..]).take(PAGES_PER_FETCH);
                let adjacent =
                    follow.take_while(|(expected, next)| expected == *next && is_free(&flights, **next));
                let end = page + adjacent.count() as u32;
                self.begin(&mut flights, object, object_len, page..end);
            }
            claimed.push(match flights.get(&key(page)) {
                Some(flight) => Claimed::InFlight(flight.clone()),
                None => Claimed::Kept,
            });
        }
        claimed
    }

    /// Finds or begins the fetch of one page, kept or not.
    fn begin_one(self: &Arc<Self>, object: SegmentObjectId, object_len: u64, page: u32) -> Flight {
        let mut flights = self.lock();
        match flights.get(&PageKey { object, page }) {
            Some(flight) => flight.clone(),
            None => self.begin(&mut flights, object, object_len, page..page + 1),
        }
    }

    fn begin(
        self: &Arc<Self>,
        flights: &mut HashMap<PageKey, Flight>,
        object: SegmentObjectId,
        object_len: u64,
        pages: Range<u32>,
    ) -> Flight {
        let landing = Landing {
            flights: self.clone(),
            object,
            pages: pages.clone(),
        };
        let fetch = tokio::spawn(async move {
            let arrived = landing.fetch(object_len).await;
            // Before anybody hears of the outcome: who asks again after a failure begins anew.
            drop(landing);
            arrived
        });
        let arrival = async move {
            match fetch.await {
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

    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<PageKey, Flight>> {
        self.by_page.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    async fn page(self, page: u32) -> Result<Bytes, PageError> {
        let pages = self.arrival.await?;
        Ok(pages[(page - self.first) as usize].clone())
    }
}

/// Takes its pages out of the flights when it is dropped.
struct Landing {
    flights: Arc<Flights>,
    object: SegmentObjectId,
    pages: Range<u32>,
}

impl Landing {
    async fn fetch(&self, object_len: u64) -> Result<Arc<[Bytes]>, PageError> {
        let Flights {
            kept, source, slots, ..
        } = &*self.flights;
        let _slot = slots.acquire().await.expect("the semaphore is never closed");
        let arrived = source.fetch(self.object, object_len, self.pages.clone()).await?;
        for (page, bytes) in self.pages.clone().zip(arrived.iter()) {
            let key = PageKey {
                object: self.object,
                page,
            };
            kept.put(key, bytes.clone()).await;
        }
        Ok(arrived)
    }
}

impl Drop for Landing {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        for page in self.pages.clone() {
            let key = PageKey {
                object: self.object,
                page,
            };
            flights.remove(&key);
        }
    }
}
