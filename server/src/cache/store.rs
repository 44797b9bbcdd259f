//! A store behind its breaker, asked a second time when it is slow.

use std::ops::Range;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::{Either, select};
use millrace_wal::{StoreError, ZoneStore};
use tokio::time::{Instant, timeout};

use super::PAGE_BYTES;
use super::breaker::Breaker;
use super::latency::Latencies;
use super::stats::{CacheStats, count};

/// After this long a request without an answer has failed; plus a second for every 4 MiB.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);

/// One store and what is known of its health.
pub(super) struct GuardedStore {
    store: Arc<dyn ZoneStore>,
    breaker: Breaker,
    latencies: Latencies,
    stats: Arc<CacheStats>,
}

impl GuardedStore {
    pub(super) fn new(store: Arc<dyn ZoneStore>, stats: Arc<CacheStats>) -> Self {
        Self {
            store,
            breaker: Breaker::new(),
            latencies: Latencies::default(),
            stats,
        }
    }

    /// A part of an object, by page; `None` if there is no such object. Fails at once while the store is known to fail.
    pub(super) async fn get(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<Bytes>>, StoreError> {
        let Some(pass) = self.breaker.admit() else {
            return Err(StoreError::Retry("it has failed several times in a row".into()));
        };
        let result = self.hedged(key, range).await;
        match &result {
            Err(error) if error.retryable() => {
                count(&self.stats.failures, 1);
                if pass.failed() {
                    count(&self.stats.breaker_opens, 1);
                    tracing::warn!(store = ?self.store, %error, "reads of the store fail; it is only probed for now");
                }
            }
            _ => pass.answered(),
        }
        result
    }

    async fn hedged(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<Bytes>>, StoreError> {
        let began = Instant::now();
        let slow_after = self.latencies.begin();
        let mut first = pin!(self.request(key, range.clone()));
        let in_time = match slow_after {
            Some(slow_after) => timeout(slow_after, first.as_mut()).await.ok(),
            None => Some(first.as_mut().await),
        };
        let result = match in_time {
            Some(result) => result,
            None if self.latencies.may_hedge() => {
                count(&self.stats.hedges, 1);
                let second = pin!(self.request(key, range));
                match select(first, second).await {
                    Either::Left((Err(_), second)) => second.await,
                    Either::Right((Err(_), first)) => first.await,
                    Either::Left((answer, _)) | Either::Right((answer, _)) => answer,
                }
            }
            None => first.await,
        };
        if result.is_ok() {
            self.latencies.observe(began.elapsed());
        }
        result
    }

    async fn request(&self, key: &str, range: Range<u64>) -> Result<Option<Vec<Bytes>>, StoreError> {
        let limit = REQUEST_TIMEOUT + Duration::from_millis((range.end - range.start) >> 12);
        let pages = self.store.get_pieces(key, range, PAGE_BYTES as usize);
        match timeout(limit, pages).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Retry(format!("no answer within {limit:?}"))),
        }
    }
}
