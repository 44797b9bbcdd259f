//! What can be set about a WAL.

use std::sync::Arc;
use std::time::Duration;

use rand::Rng;

use super::{EpochGens, WalError};

/// Bounds and times. The defaults suit an object store a few milliseconds away.
#[derive(Debug, Clone)]
pub struct WalOptions {
    /// Chunks of one epoch that may be on their way, not yet durable, at once.
    pub inflight_chunks: usize,
    /// How far the slots of an epoch may run ahead of the first that is not durable, as a multiple of
    /// `inflight_chunks`: one slot that hangs must not leave an ever longer tail for a recovery to adopt.
    pub window_factor: usize,
    /// Bytes of durable chunks that may still be waiting for one slow zone, over all channels.
    pub laggard_bytes_max: u64,
    /// How long after it became durable a chunk is still sent to a slow zone.
    pub laggard_age_max: Duration,
    /// After this long a create without an answer is tried again; plus a second for every 4 MiB.
    pub create_timeout: Duration,
    /// After this long a read without an answer is tried again; plus a second for every 4 MiB that it may return.
    pub read_timeout: Duration,
    /// First and longest wait between two tries, before jitter.
    pub retry_min: Duration,
    pub retry_max: Duration,
    /// How often one request is let through to a zone that fails all the time.
    pub probe_interval: Duration,
    /// How long a read waits for one zone before it asks the next one too.
    pub hedge_after: Duration,
    /// The zone that reads ask first, by its place: one's own. `None`: in the order of the zones.
    pub near: Option<usize>,
    /// How long a recovery waits for the zones that it could do without: about the stores' p99.
    pub zone_patience: Duration,
    /// Bytes read from an object's end in the hope that its footer is within.
    pub footer_suffix: u64,
    /// Slots that a recovery reads at once.
    pub recovery_parallel: usize,
    /// Bytes of whole chunks that a recovery keeps to spare itself a second read.
    pub recovery_bytes_max: u64,
    /// Which lives of the zones an epoch is written under, so that only what these say of it counts. `None`: all epochs
    /// are written under those that the WAL is made of.
    pub epoch_gens: Option<Arc<dyn EpochGens>>,
    /// Seed of the jitter.
    pub seed: u64,
}

impl Default for WalOptions {
    fn default() -> Self {
        Self {
            inflight_chunks: 16,
            window_factor: 4,
            laggard_bytes_max: 64 << 20,
            laggard_age_max: Duration::from_secs(10),
            create_timeout: Duration::from_secs(5),
            read_timeout: Duration::from_secs(5),
            retry_min: Duration::from_millis(20),
            retry_max: Duration::from_secs(2),
            probe_interval: Duration::from_millis(500),
            hedge_after: Duration::from_millis(250),
            near: None,
            zone_patience: Duration::from_millis(300),
            footer_suffix: 16 << 10,
            recovery_parallel: 32,
            recovery_bytes_max: 64 << 20,
            epoch_gens: None,
            seed: 0,
        }
    }
}

impl WalOptions {
    pub(super) fn check(&self) -> Result<(), WalError> {
        let zero = [
            ("inflight_chunks", self.inflight_chunks == 0),
            ("window_factor", self.window_factor == 0),
            ("create_timeout", self.create_timeout.is_zero()),
            ("read_timeout", self.read_timeout.is_zero()),
            ("retry_min", self.retry_min.is_zero()),
            ("retry_max", self.retry_max.is_zero()),
            ("probe_interval", self.probe_interval.is_zero()),
            ("footer_suffix", self.footer_suffix == 0),
            ("recovery_parallel", self.recovery_parallel == 0),
        ];
        match zero.into_iter().find(|(_, is_zero)| *is_zero) {
            Some((name, _)) => Err(WalError::ZeroOption(name)),
            None => Ok(()),
        }
    }

    /// `base`, and time for `bytes` to cross a slow link.
    pub(crate) fn timeout(base: Duration, bytes: u64) -> Duration {
        base + Duration::from_millis(bytes.min(1 << 30) / (4 << 10))
    }

    /// The wait before another try, after `attempt` of them: doubling, capped, the upper half drawn at random.
    pub(crate) fn backoff(&self, attempt: u32, rng: &mut impl Rng) -> Duration {
        let full = self
            .retry_min
            .saturating_mul(1 << attempt.min(16))
            .min(self.retry_max);
        full.mul_f64(rng.random_range(0.5..=1.0))
    }
}
