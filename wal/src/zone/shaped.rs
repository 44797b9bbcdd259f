//! A near store that takes as long as a far one: to see on one machine what a service will feel like.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use rand_distr::{Distribution, LogNormal};
use tokio::time::sleep;

use super::{CreateOutcome, Payload, ReadRange, StoreError, ZoneStore};

/// The standard normal distribution has 99 % of its mass below this.
const NORMAL_P99: f64 = 2.326_347_9;

/// How long requests of one kind take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Latency {
    pub p50: Duration,
    /// Not below `p50`; the same for a latency that does not vary.
    pub p99: Duration,
}

/// How a store is slow. Latencies are drawn from log-normal distributions, which published measurements of object
/// stores look like: most answers near the median, and a long tail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shape {
    /// Of creates and uploads.
    pub put: Latency,
    /// Of everything else.
    pub get: Latency,
    /// Bytes that one request carries a second, after its latency.
    pub bytes_per_second: Option<u64>,
}

impl Shape {
    /// About what one region of a large cloud gives: S3 Standard.
    pub const STANDARD: Self = Self {
        put: Latency::millis(45, 250),
        get: Latency::millis(25, 150),
        bytes_per_second: Some(85 << 20),
    };
    /// About what directory buckets in one's own zone give: S3 Express One Zone.
    pub const EXPRESS: Self = Self {
        put: Latency::millis(6, 20),
        get: Latency::millis(5, 15),
        bytes_per_second: Some(85 << 20),
    };

    /// Reads what a URL says: the names of [`STANDARD`](Self::STANDARD) and [`EXPRESS`](Self::EXPRESS) in lower case,
    /// or `PUT/PUT99,GET/GET99` in milliseconds, as in `45/250,25/150`; what follows a slash may be left out.
    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "standard" => return Some(Self::STANDARD),
            "express" => return Some(Self::EXPRESS),
            _ => {}
        }
        let (put, get) = text.split_once(',')?;
        Some(Self {
            put: Latency::parse(put)?,
            get: Latency::parse(get)?,
            bytes_per_second: None,
        })
    }
}

impl Latency {
    const fn millis(p50: u64, p99: u64) -> Self {
        Self {
            p50: Duration::from_millis(p50),
            p99: Duration::from_millis(p99),
        }
    }

    fn parse(text: &str) -> Option<Self> {
        let (p50, p99) = text.split_once('/').unwrap_or((text, text));
        let (p50, p99) = (p50.parse().ok()?, p99.parse().ok()?);
        (p50 <= p99).then_some(Self::millis(p50, p99))
    }

    fn draw(&self, rng: &mut SmallRng) -> Duration {
        let median = self.p50.as_secs_f64();
        if median == 0.0 {
            return Duration::ZERO;
        }
        let spread = (self.p99.as_secs_f64() / median).ln() / NORMAL_P99;
        let drawn = LogNormal::new(median.ln(), spread).map_or(median, |law| law.sample(rng));
        // One in a million is more than four times as far out as one in a hundred; nobody wants to wait for that.
        Duration::from_secs_f64(drawn.min(self.p99.as_secs_f64() * 10.0))
    }
}

/// See [`Shape`]. A create, upload or delete takes effect after its wait: one that is dropped before has none.
#[derive(Debug)]
pub struct ShapedStore {
    inner: Arc<dyn ZoneStore>,
    shape: Shape,
    rng: Mutex<SmallRng>,
}

impl ShapedStore {
    /// The same seed draws the same latencies in the same order.
    pub fn new(inner: Arc<dyn ZoneStore>, shape: Shape, seed: u64) -> Self {
        Self {
            inner,
            shape,
            rng: Mutex::new(SmallRng::seed_from_u64(seed)),
        }
    }

    async fn answer_after(&self, latency: Latency, bytes: u64) {
        let drawn = latency.draw(&mut self.rng.lock().unwrap_or_else(PoisonError::into_inner));
        sleep(drawn + self.carried_in(bytes)).await;
    }

    fn carried_in(&self, bytes: u64) -> Duration {
        let per_second = self.shape.bytes_per_second;
        per_second.map_or(Duration::ZERO, |per_second| {
            Duration::from_secs_f64(bytes as f64 / per_second.max(1) as f64)
        })
    }
}

#[async_trait]
impl ZoneStore for ShapedStore {
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        self.answer_after(self.shape.put, payload.len()).await;
        self.inner.create(key, payload).await
    }

    async fn upload(&self, key: &str, payload: &Payload) -> Result<(), StoreError> {
        self.answer_after(self.shape.put, payload.len()).await;
        self.inner.upload(key, payload).await
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        let found = self.inner.get(key, range).await?;
        let bytes = found.as_ref().map_or(0, |bytes| bytes.len() as u64);
        self.answer_after(self.shape.get, bytes).await;
        Ok(found)
    }

    async fn get_pieces(
        &self,
        key: &str,
        range: Range<u64>,
        piece_len: usize,
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        let found = self.inner.get_pieces(key, range, piece_len).await?;
        let bytes = found.iter().flatten().map(|piece| piece.len() as u64).sum();
        self.answer_after(self.shape.get, bytes).await;
        Ok(found)
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        self.answer_after(self.shape.get, 0).await;
        self.inner.list(prefix, after, limit).await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.answer_after(self.shape.get, 0).await;
        self.inner.delete(key).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::MemoryStore;

    #[test]
    fn latencies_have_the_percentiles_that_were_asked_for() {
        let mut rng = SmallRng::seed_from_u64(7);
        let latency = Latency::millis(40, 200);
        let mut drawn: Vec<_> = (0..20_000).map(|_| latency.draw(&mut rng)).collect();
        drawn.sort();
        let p50 = drawn[10_000].as_secs_f64();
        let p99 = drawn[19_800].as_secs_f64();
        assert!((0.038..0.042).contains(&p50), "{p50}");
        assert!((0.18..0.22).contains(&p99), "{p99}");
    }

    #[test]
    fn shapes_are_read_and_nonsense_is_not() {
        assert_eq!(Shape::parse("express"), Some(Shape::EXPRESS));
        let shape = Shape::parse("45/250,50").expect("a shape");
        assert_eq!(shape.put, Latency::millis(45, 250));
        assert_eq!(shape.get, Latency::millis(50, 50));
        for bad in ["", "fast", "1", "5/3,1", "a,b", "1/2/3,4"] {
            assert_eq!(Shape::parse(bad), None, "{bad}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_shaped_store_keeps_every_promise_of_a_zone() {
        let shaped = ShapedStore::new(Arc::new(MemoryStore::new()), Shape::STANDARD, 1);
        crate::conformance::suite(Arc::new(shaped)).await;
    }
}
