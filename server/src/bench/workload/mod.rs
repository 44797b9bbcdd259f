//! The parts that loads are made of: writers, followers, and readers that catch up. Each works on one stream and
//! ends with an error as soon as the endpoint breaks a promise.

mod catch_up;
mod follower;
mod writer;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Result, bail};
use tokio::sync::watch;

pub use catch_up::{CatchUp, catch_up};
pub use follower::follow;
pub use writer::{WriteUntil, write};

use super::batch::{BatchShape, BatchTemplate};
use super::chain::Chain;
use super::clock::{Clock, Nanos, Window};
use super::driver::{Driver, StreamRef};
use super::meter::Meter;
use super::schedule::{Pacer, Schedule};
use super::verify::Content;

/// What all parts of a load share.
pub struct Load {
    pub driver: Arc<dyn Driver>,
    pub clock: Clock,
    pub window: Window,
    pub streams: Arc<[StreamState]>,
    pub template: BatchTemplate,
    pub shape: BatchShape,
    /// Batches per writer.
    pub in_flight: usize,
    /// Open loop; without it, writers saturate.
    pub open_loop: Option<(Schedule, Pacer)>,
    pub patience: Duration,
    pub content: Content,
    pub meters: Meters,
    pub checks: Checks,
}

/// What is counted.
pub struct Meters {
    /// Acknowledgements; latency from when a batch was meant to be sent.
    pub acked: Meter,
    /// Records at followers; latency from when they were meant to be sent.
    pub followed: Meter,
    /// Records at readers that catch up; latency is the time to a session's first batch, one count per session.
    pub caught_up: Meter,
    /// How late the bench itself was to send batches that nothing held back, one count per batch.
    pub lateness: Meter,
    /// Batches that were due in the window and could not be sent before its end.
    pub unsent_batches: AtomicU64,
}

impl Meters {
    pub fn new(window: Window) -> Self {
        Self {
            acked: Meter::new(window),
            followed: Meter::new(window),
            caught_up: Meter::new(window),
            lateness: Meter::new(window),
            unsent_batches: AtomicU64::new(0),
        }
    }
}

/// How much was verified.
#[derive(Debug, Default)]
pub struct Checks {
    /// Records whose place and content were checked, at every reader.
    pub records: AtomicU64,
    /// Readings of a stream whose chain was held against the writer's.
    pub chains: AtomicU64,
}

impl Checks {
    pub fn add(&self, records: u64, chains: u64) {
        self.records.fetch_add(records, Ordering::Relaxed);
        self.chains.fetch_add(chains, Ordering::Relaxed);
    }
}

/// A stream, and how far its writer is.
pub struct StreamState {
    pub name: StreamRef,
    acked: Mutex<Chain>,
    finished: watch::Sender<Option<Chain>>,
}

impl StreamState {
    pub fn new(name: StreamRef) -> Self {
        Self {
            name,
            acked: Mutex::default(),
            finished: watch::Sender::new(None),
        }
    }

    /// The chain over all records that were acknowledged so far.
    pub fn acked(&self) -> Chain {
        *self.acked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn advance(&self, chain: Chain) {
        *self.acked.lock().unwrap_or_else(PoisonError::into_inner) = chain;
    }

    /// Says that the writer has all its acknowledgements and writes no more.
    fn finish(&self) {
        self.finished.send_replace(Some(self.acked()));
    }

    /// Becomes the chain over the whole stream when its writer has finished.
    fn finished(&self) -> watch::Receiver<Option<Chain>> {
        self.finished.subscribe()
    }
}

impl Load {
    /// Fails where `work` takes longer than the endpoint's patience allows.
    async fn in_time<T>(&self, what: &str, work: impl Future<Output = T>) -> Result<T> {
        match tokio::time::timeout(self.patience, work).await {
            Ok(done) => Ok(done),
            Err(_) => bail!("{what}: nothing came for {:?}", self.patience),
        }
    }

    async fn sleep_until(&self, at: Nanos) {
        tokio::time::sleep_until(self.clock.instant(at)).await;
    }
}
