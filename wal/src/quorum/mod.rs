//! The write-ahead log over several zones: written once, whatever their number.
//!
//! With `Z` zones and a write quorum of `q`, a chunk at `q` zones is durable, and `s = Z - q + 1` seals at a slot make
//! sure that none ever is: any `s` zones and any `q` zones have one in common, and no zone holds both under one key.
//! Standard storage is one of one, Express two of three; nothing outside this module knows the numbers.

mod ack;
mod epochs;
mod heal;
mod health;
mod list;
mod metrics;
mod options;
mod read;
mod repair;
mod seal;
mod slot;
mod writer;

#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use millrace_api::id::ZoneGen;

pub use ack::AckPrefix;
pub use epochs::EpochGens;
pub use metrics::{LatencyHistogram, LatencySnapshot, WalMetrics, ZoneMetrics};
pub use options::WalOptions;
pub use read::ReadError;
pub(crate) use read::{Answer, Depth, FoundChunk};
pub use repair::{Repaired, Unlisted};
pub(crate) use seal::{EpochZones, SlotSeal};
pub use seal::{SealError, SealOutcome, TooFewZones};
pub use writer::{EpochProgress, EpochWriter, FencedBy, WriteEvent};

use crate::zone::ZoneStore;
use health::ZoneHealth;

/// A zone store and the life of it that is meant.
#[derive(Debug, Clone)]
pub struct Zone {
    pub store: Arc<dyn ZoneStore>,
    /// As in the store's marker; see [`marker`](crate::marker). The caller has compared the two.
    pub zone_gen: ZoneGen,
}

impl Zone {
    pub fn new(store: Arc<dyn ZoneStore>, zone_gen: ZoneGen) -> Self {
        Self { store, zone_gen }
    }
}

/// A set of zones that cannot be a WAL.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WalError {
    #[error("a quorum of {quorum} of {zones} zones is impossible")]
    BadQuorum { zones: usize, quorum: usize },
    #[error("two zones have the same generation {0}: they are one store")]
    SameZone(ZoneGen),
    #[error("option {0} must not be zero")]
    ZeroOption(&'static str),
}

/// The zones of one storage class and the rules over them. Cloning shares everything.
#[derive(Debug, Clone)]
pub struct Wal {
    pub(crate) inner: Arc<WalInner>,
}

#[derive(Debug)]
pub(crate) struct WalInner {
    pub(crate) zones: Vec<ZoneState>,
    pub(crate) quorum: usize,
    pub(crate) options: WalOptions,
    pub(crate) metrics: Arc<WalMetrics>,
    bad: heal::BadCopies,
}

/// A zone with what this process learned about it.
#[derive(Debug)]
pub(crate) struct ZoneState {
    pub(crate) index: usize,
    pub(crate) store: Arc<dyn ZoneStore>,
    pub(crate) zone_gen: ZoneGen,
    pub(crate) health: ZoneHealth,
}

impl Wal {
    /// Refuses a quorum that is zero or larger than the number of zones, and one store given twice.
    pub fn new(zones: Vec<Zone>, quorum: usize, options: WalOptions) -> Result<Self, WalError> {
        if quorum == 0 || quorum > zones.len() {
            return Err(WalError::BadQuorum {
                zones: zones.len(),
                quorum,
            });
        }
        for (i, zone) in zones.iter().enumerate() {
            if zones[..i].iter().any(|other| other.zone_gen == zone.zone_gen) {
                return Err(WalError::SameZone(zone.zone_gen));
            }
        }
        options.check()?;
        let metrics = Arc::new(WalMetrics::new(zones.len()));
        let zones = zones
            .into_iter()
            .enumerate()
            .map(|(index, zone)| ZoneState {
                index,
                store: zone.store,
                zone_gen: zone.zone_gen,
                health: ZoneHealth::new(options.probe_interval),
            })
            .collect();
        Ok(Self {
            inner: Arc::new(WalInner {
                zones,
                quorum,
                options,
                metrics,
                bad: heal::BadCopies::default(),
            }),
        })
    }

    /// Zones that must hold a chunk before it is durable.
    pub fn quorum(&self) -> usize {
        self.inner.quorum
    }

    /// Generations of the zones, in the order given to [`new`](Self::new).
    pub fn gens(&self) -> Vec<ZoneGen> {
        self.inner.zones.iter().map(|zone| zone.zone_gen).collect()
    }

    /// The zones' stores, in the order given to [`new`](Self::new).
    pub fn stores(&self) -> Vec<Arc<dyn ZoneStore>> {
        self.inner
            .zones
            .iter()
            .map(|zone| Arc::clone(&zone.store))
            .collect()
    }

    /// Bytes of durable chunks that are kept in memory for the sake of a slow zone, by zone; each at most
    /// `laggard_bytes_max`.
    pub fn lagging_bytes(&self) -> Vec<u64> {
        self.inner
            .zones
            .iter()
            .map(|zone| zone.health.lagging_bytes())
            .collect()
    }

    pub fn options(&self) -> &WalOptions {
        &self.inner.options
    }

    pub fn metrics(&self) -> &Arc<WalMetrics> {
        &self.inner.metrics
    }
}
