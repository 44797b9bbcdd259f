//! Finding the end of an epoch that nobody closed.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::{self, FuturesUnordered};
use millrace_api::bug::{Bug, planted};
use millrace_api::id::{ChunkSeq, Epoch};
use tokio::time::{Instant, sleep_until, timeout};

use super::run::Recovery;
use super::{RecoveryError, UnsealedEpoch};
use crate::format::{ChunkId, DecodedChunk, Footer};
use crate::quorum::{Answer, Depth, EpochZones, FoundChunk, SealError, SlotSeal, ZoneState};

/// Keys asked for in one listing.
const LIST_PAGE: usize = 16 << 10;
/// Slots read whole at once, and slots beyond the listed ones read at once.
const WHOLE_PARALLEL: usize = 4;
const BEYOND_PARALLEL: usize = 2;

/// A slot that belongs to the epoch.
pub(super) struct Slot {
    pub(super) index: Arc<Footer>,
    /// Known to be at a write quorum of the epoch's zones.
    pub(super) at_quorum: bool,
    /// Kept while memory for it lasted.
    pub(super) whole: Option<DecodedChunk>,
}

/// The slots of an epoch from `start` to its end.
pub(super) struct Walked {
    pub(super) start: u64,
    pub(super) slots: Vec<Slot>,
}

/// What the zones said about a slot before anything was sealed there.
#[derive(Default)]
struct Gathered {
    found: Option<FoundChunk>,
    copies: usize,
    seals: usize,
    absent: usize,
}

struct Walk<'a> {
    zones: EpochZones<'a>,
    channel: millrace_api::id::ChannelId,
    epoch: Epoch,
    by: Epoch,
    nonce: millrace_api::id::Nonce,
    start: u64,
    /// Slots below this one are proven durable: never sealed.
    proven: u64,
}

impl<V: FnMut(ChunkId, &Arc<Footer>) + Send> Recovery<'_, V> {
    /// Walks an epoch that was active, and seals it where it ends. When it returns `Ok`, no slot from the end on can
    /// become durable, and every slot before it holds a chunk.
    pub(super) async fn walk(&self, unsealed: &UnsealedEpoch) -> Result<Walked, RecoveryError> {
        let start = self.history.start(unsealed.epoch);
        let walk = Walk {
            zones: self
                .wal
                .epoch_zones(self.id(unsealed.epoch, start), &unsealed.gens)?,
            channel: self.history.channel,
            epoch: unsealed.epoch,
            by: self.history.current,
            nonce: self.nonce,
            start,
            proven: unsealed.adopted.unwrap_or(0),
        };
        let listed = walk.highest_listed().await;
        let barrier = walk.barrier(listed).await?;
        let slots = self.slots(&walk, listed, barrier).await?;
        Ok(Walked { start, slots })
    }

    async fn slots(
        &self,
        walk: &Walk<'_>,
        listed: Option<u64>,
        barrier: u64,
    ) -> Result<Vec<Slot>, RecoveryError> {
        let options = self.wal.options();
        // Up to `near` footers will do; from there on whole chunks are read and checked, for here it is decided.
        let beyond = listed
            .map_or(walk.start, |slot| slot.saturating_add(1))
            .clamp(walk.start, barrier);
        let near = beyond
            .saturating_sub(2 * options.inflight_chunks as u64)
            .max(walk.start);
        let gather = |depth| move |slot| async move { (slot, walk.gather(slot, depth).await) };
        let far_slots = stream::iter(walk.start..near)
            .map(gather(Depth::Footer))
            .buffered(options.recovery_parallel);
        let near_slots = stream::iter(near..beyond)
            .map(gather(Depth::Whole))
            .buffered(WHOLE_PARALLEL);
        let beyond_slots = stream::iter(beyond..barrier)
            .map(gather(Depth::Whole))
            .buffered(BEYOND_PARALLEL);
        let gathered = far_slots.chain(near_slots).chain(beyond_slots);
        futures::pin_mut!(gathered);

        let mut slots = Vec::new();
        let mut kept_bytes = 0;
        while let Some((slot, answers)) = gathered.next().await {
            let Some((found, copies)) = self.decide_slot(walk, slot, answers?).await? else {
                break;
            };
            let at_quorum = copies >= self.wal.quorum() || slot < walk.proven || planted(Bug::AdoptInPlace);
            let whole = found
                .whole
                .filter(|_| !at_quorum && kept_bytes + found.index.len <= options.recovery_bytes_max);
            kept_bytes += whole.as_ref().map_or(0, |chunk| chunk.header.len);
            slots.push(Slot {
                index: found.index,
                at_quorum,
                whole,
            });
        }
        Ok(slots)
    }

    /// The slot's chunk and its number of known copies, or `None` if the epoch ends before it.
    async fn decide_slot(
        &self,
        walk: &Walk<'_>,
        slot: u64,
        answers: Gathered,
    ) -> Result<Option<(FoundChunk, usize)>, RecoveryError> {
        if answers.seals >= walk.zones.seal_quorum && slot >= walk.proven {
            return Ok(None);
        }
        if let Some(found) = answers.found {
            return Ok(Some((found, answers.copies)));
        }
        if slot < walk.proven {
            let index = self.wait_for_footer(walk.id(slot)).await;
            return Ok(Some((FoundChunk { index, whole: None }, 0)));
        }
        match walk.seal(slot).await? {
            SlotSeal::Sealed => Ok(None),
            SlotSeal::Chunk { found, copies } => Ok(Some((found, copies))),
        }
    }
}

impl Walk<'_> {
    fn id(&self, slot: u64) -> ChunkId {
        ChunkId::new(self.channel, self.epoch, ChunkSeq(slot))
    }

    async fn seal(&self, slot: u64) -> Result<SlotSeal, SealError> {
        if planted(Bug::SealSkipped) {
            return Ok(SlotSeal::Sealed);
        }
        self.zones.seal(self.id(slot), self.by, self.nonce).await
    }

    /// Seals a slot beyond all that is in sight, and farther out each time that the owner was there first.
    async fn barrier(&self, listed: Option<u64>) -> Result<u64, SealError> {
        let mut step = 2 * self.zones.inner.options.inflight_chunks as u64;
        let mut slot = listed
            .unwrap_or(self.start)
            .max(self.start)
            .max(self.proven)
            .saturating_add(step);
        while let SlotSeal::Chunk { .. } = self.seal(slot).await? {
            step = step.saturating_mul(2);
            slot = slot.saturating_add(step);
        }
        Ok(slot)
    }

    /// The highest slot that any zone lists, among those that answer in time. A hint: nothing rests on it.
    async fn highest_listed(&self) -> Option<u64> {
        let mut lists: FuturesUnordered<_> = self.zones.zones.iter().map(|zone| self.list(zone)).collect();
        let patience_ends = Instant::now() + self.zones.inner.options.zone_patience;
        let mut highest = None;
        loop {
            tokio::select! {
                biased;
                answer = lists.next() => match answer {
                    Some(answer) => highest = highest.max(answer.flatten()),
                    None => return highest,
                },
                () = sleep_until(patience_ends), if highest.is_some() => return highest,
            }
        }
    }

    /// The outer `None` if the zone did not answer.
    async fn list(&self, zone: &ZoneState) -> Option<Option<u64>> {
        let prefix = ChunkId::epoch_prefix(self.channel, self.epoch);
        let mut after = self.start.checked_sub(1).map(|slot| self.id(slot).key());
        let mut highest = None;
        loop {
            let page = zone.store.list(&prefix, after.as_deref(), LIST_PAGE);
            let page = timeout(self.zones.inner.options.read_timeout, page)
                .await
                .ok()?
                .ok()?;
            let full = page.len() >= LIST_PAGE;
            let last = page.into_iter().next_back();
            // Some other object there is nobody's business.
            highest = highest.max(last.as_deref().and_then(ChunkId::parse).map(|id| id.slot.0));
            if !full {
                return Some(highest);
            }
            after = last;
        }
    }

    /// Asks all zones about a slot. Ends when the answers decide something, when all have come, or when those that
    /// came are enough and the others have had their time.
    async fn gather(&self, slot: u64, depth: Depth) -> Result<Gathered, SealError> {
        let id = self.id(slot);
        let mut asked: FuturesUnordered<_> = self
            .zones
            .zones
            .iter()
            .map(|zone| self.zones.ask(zone, id, depth))
            .collect();
        let patience_ends = Instant::now() + self.zones.inner.options.zone_patience;
        let mut gathered = Gathered::default();
        loop {
            let answers = gathered.copies + gathered.seals + gathered.absent;
            let decided =
                gathered.copies >= self.zones.inner.quorum || gathered.seals >= self.zones.seal_quorum;
            if decided {
                return Ok(gathered);
            }
            tokio::select! {
                biased;
                answer = asked.next() => match answer.transpose()? {
                    Some(Answer::Chunk(found)) => {
                        gathered.copies += 1;
                        gathered.found = gathered.found.take().or(Some(found));
                    }
                    Some(Answer::Seal) => gathered.seals += 1,
                    Some(Answer::Absent) => gathered.absent += 1,
                    None => return Ok(gathered),
                },
                () = sleep_until(patience_ends), if answers >= self.zones.seal_quorum => return Ok(gathered),
            }
        }
    }
}
