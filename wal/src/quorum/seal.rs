//! Seals: making sure that a slot never becomes durable.

use std::sync::Mutex;
use std::sync::PoisonError;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use millrace_api::bug::{Bug, planted};
use millrace_api::id::{Epoch, Nonce, ZoneGen};
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::read::{Answer, Depth, FoundChunk, NoAnswer};
use super::{Wal, WalInner, ZoneState};
use crate::format::{Chunk, ChunkId, ChunkKind, ChunkMeta, FormatError};
use crate::zone::{CreateOutcome, StoreError};

/// What stands at a slot after an attempt to seal it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealOutcome {
    /// Seals stand at `Z - q + 1` zones of the epoch: no chunk can become durable at this slot any more.
    Sealed,
    /// A zone has a chunk there.
    Chunk,
}

/// The zones that count for one epoch: those whose generation is still the one it was written under.
pub(crate) struct EpochZones<'a> {
    pub(crate) inner: &'a WalInner,
    pub(crate) zones: Vec<&'a ZoneState>,
    /// Seals that stop a slot for good, and answers without which nothing is decided.
    pub(crate) seal_quorum: usize,
    rng: Mutex<SmallRng>,
}

/// Too many of an epoch's zones were replaced: what it holds cannot be known any more.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{left} of the {of} zones that the epoch was written under are left, {needed} are needed")]
pub struct TooFewZones {
    pub left: usize,
    pub of: usize,
    pub needed: usize,
}

/// What came of sealing one slot.
pub(crate) enum SlotSeal {
    Sealed,
    Chunk { found: FoundChunk, copies: usize },
}

impl Wal {
    /// Puts seals at a slot of an epoch that ends there, with as many tries as it takes. `gens` are the zones' generations
    /// that the epoch is written under. Cancel safe: seals that were placed stand.
    pub async fn seal(
        &self,
        id: ChunkId,
        by: Epoch,
        nonce: Nonce,
        gens: &[ZoneGen],
    ) -> Result<SealOutcome, SealError> {
        let zones = self.epoch_zones(id, gens)?;
        Ok(match zones.seal(id, by, nonce).await? {
            SlotSeal::Sealed => SealOutcome::Sealed,
            SlotSeal::Chunk { .. } => SealOutcome::Chunk,
        })
    }

    pub(crate) fn epoch_zones(&self, id: ChunkId, gens: &[ZoneGen]) -> Result<EpochZones<'_>, TooFewZones> {
        let inner = &*self.inner;
        let zones: Vec<_> = inner
            .zones
            .iter()
            .filter(|zone| gens.contains(&zone.zone_gen) || planted(Bug::BlankZoneCounts))
            .collect();
        let seal_quorum = match planted(Bug::SealInOneZone) {
            true => 1,
            false => (gens.len() + 1).saturating_sub(inner.quorum).max(1),
        };
        if zones.len() < seal_quorum {
            return Err(TooFewZones {
                left: zones.len(),
                of: gens.len(),
                needed: seal_quorum,
            });
        }
        Ok(EpochZones {
            inner,
            zones,
            seal_quorum,
            rng: Mutex::new(self.rng(id.channel, id.epoch)),
        })
    }
}

/// Why sealing cannot work however often it is tried.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    #[error(transparent)]
    TooFewZones(#[from] TooFewZones),
    /// A later release wrote what stands there; this one must not judge it.
    #[error("written by a later release: {0}")]
    LaterRelease(FormatError),
}

impl EpochZones<'_> {
    /// Creates seals in all zones until enough stand, or a chunk is found.
    pub(crate) async fn seal(&self, id: ChunkId, by: Epoch, nonce: Nonce) -> Result<SlotSeal, SealError> {
        let seal = Chunk::seal(ChunkMeta {
            id,
            kind: ChunkKind::Seal { by },
            nonce,
        });
        let mut running: FuturesUnordered<_> = self
            .zones
            .iter()
            .map(|zone| self.seal_in_zone(zone, &seal))
            .collect();
        let (mut seals, mut copies) = (0, 0);
        let mut found = None;
        let patience_ends = Instant::now() + self.inner.options.zone_patience;
        loop {
            tokio::select! {
                biased;
                answer = running.next() => match answer {
                    Some(answer) => match answer? {
                        Answer::Chunk(chunk) => {
                            copies += 1;
                            found = found.or(Some(chunk));
                        }
                        _ => seals += 1,
                    },
                    None => break,
                },
                () = sleep_until(patience_ends), if found.is_some() => break,
            }
            if seals >= self.seal_quorum {
                return Ok(SlotSeal::Sealed);
            }
        }
        // All zones answered, so that without a chunk there would be seals enough.
        let found = found.expect("fewer seals than zones means a chunk");
        Ok(SlotSeal::Chunk { found, copies })
    }

    /// `Seal` or `Chunk`, never `Absent`.
    async fn seal_in_zone(&self, zone: &ZoneState, seal: &Chunk) -> Result<Answer, SealError> {
        let id = seal.meta().id;
        let key = id.key();
        let mut attempt = 0;
        loop {
            let create = timeout(
                self.inner.options.create_timeout,
                zone.store.create(&key, &seal.payload),
            );
            match create.await {
                Ok(Ok(CreateOutcome::Created)) => return Ok(Answer::Seal),
                Ok(Ok(CreateOutcome::Exists)) => match self.ask(zone, id, Depth::Whole).await? {
                    // A conflict, not a fact: create again.
                    Answer::Absent => {}
                    answer => return Ok(answer),
                },
                Ok(Err(error)) => self.log(zone, id, &error),
                Err(_) => self.log(zone, id, &StoreError::Retry("no answer to a create".into())),
            }
            attempt += 1;
            sleep(self.backoff(attempt)).await;
        }
    }

    /// Asks one zone about a slot until it answers.
    pub(crate) async fn ask(&self, zone: &ZoneState, id: ChunkId, depth: Depth) -> Result<Answer, SealError> {
        let mut attempt = 0;
        loop {
            match self.inner.look(zone, id, depth).await {
                Ok(answer) => return Ok(answer),
                Err(NoAnswer::Bad(error)) if error.is_from_later_release() => {
                    return Err(SealError::LaterRelease(error));
                }
                Err(error) => self.log(zone, id, &error),
            }
            attempt += 1;
            sleep(self.backoff(attempt)).await;
        }
    }

    pub(crate) fn backoff(&self, attempt: u32) -> std::time::Duration {
        let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
        self.inner.options.backoff(attempt, &mut *rng)
    }

    fn log(&self, zone: &ZoneState, id: ChunkId, error: &dyn std::error::Error) {
        tracing::debug!(chunk = %id, zone = zone.index, %error, "zone gave no answer; asking again");
    }
}
