//! Gives Express zones what they missed while they were dark, slow, or not there yet.
//!
//! Each node looks after the channels that it owns. What a zone lacks is found by listing it, when there is reason to:
//! the channel was taken over, the zone was given up on for some chunk, or it was long ago. Only slots that are part of
//! the channel's history for good are copied: below the end of a sealed epoch, or durable in the owner's own.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, ChunkSeq, Epoch};
use millrace_raft::error::StoreError;
use millrace_raft::group::Meta;
use millrace_wal::{ChunkId, Repaired, Wal};
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use super::express::ExpressZones;
use crate::channels::Channels;
use crate::wals::Wals;

/// Between two looks. A chunk is looked for in the look after the one that saw it durable: until then it may be on its
/// way.
const INTERVAL: Duration = Duration::from_secs(5);
/// Missing slots that are held in memory at a time.
const SLOTS_MAX: usize = 4096;
/// So much is copied a second.
const BYTES_PER_SECOND: u64 = 64 << 20;
/// Timers are coarse: what is to be waited for is saved up until it is this long.
const WAIT_MIN: Duration = Duration::from_millis(20);

/// What this node repairs.
pub struct Repair {
    pub meta: Meta,
    pub wals: Wals,
    pub channels: Channels,
    pub zones: ExpressZones,
    /// Everything is looked for this often, even without a reason.
    pub full_interval: Duration,
}

/// What is known of one channel's copies in one zone.
#[derive(Debug, Clone, Copy, Default)]
struct Known {
    /// Up to which epoch and slot, exclusive, nothing was missing.
    clean_to: (Epoch, u64),
    /// Chunks that the WAL had given up on in the zone by then.
    dropped: u64,
}

type Of = (ChannelId, usize);

/// What was learned so far.
#[derive(Default)]
struct Progress {
    known: BTreeMap<Of, Known>,
    /// The durable ends of the last look.
    ends: BTreeMap<ChannelId, (Epoch, u64)>,
    /// Chunks that the WAL had given up on by then in each zone, counted before the ends were seen: they are below.
    dropped: Vec<u64>,
}

/// Slots of one epoch that are part of the history.
struct Proven {
    epoch: Epoch,
    start: u64,
    end: u64,
}

impl Repair {
    /// Until `stop`.
    pub async fn run(self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            let mut progress = Progress::default();
            let mut full_at = Instant::now() + self.full_interval;
            loop {
                sleep(INTERVAL).await;
                if Instant::now() >= full_at {
                    progress.known.clear();
                    full_at = Instant::now() + self.full_interval;
                }
                if let Some(wal) = self.wals.of_class(StorageClass::Express)
                    && let Err(error) = self.look(&wal, &mut progress).await
                {
                    tracing::warn!(%error, "what Express zones lack is not looked for at the moment");
                }
                if let Err(error) = self.heal().await {
                    tracing::warn!(%error, "bad copies in Express zones are not replaced at the moment");
                }
            }
        })
        .await;
    }

    async fn look(&self, wal: &Wal, progress: &mut Progress) -> Result<(), StoreError> {
        let mut backlog = vec![0; wal.gens().len()];
        let zones = wal.metrics().zones.iter();
        let dropped = zones
            .map(|zone| zone.laggards_dropped_total.load(Relaxed))
            .collect();
        let mut ends = BTreeMap::new();
        for (channel, owned) in self.channels.owned().iter() {
            if self.wals.class(*channel) != Ok(StorageClass::Express) {
                continue;
            }
            let durable = (owned.epoch, owned.progress.durable_end().0);
            ends.insert(*channel, durable);
            let Some((_, end)) = progress
                .ends
                .get(channel)
                .filter(|(epoch, _)| *epoch == owned.epoch)
            else {
                continue;
            };
            let proven = self.proven(*channel, owned.epoch, *end)?;
            for (zone, backlog) in backlog.iter_mut().enumerate() {
                *backlog += self.zone(wal, progress, *channel, zone, &proven).await;
            }
        }
        (progress.ends, progress.dropped) = (ends, dropped);
        progress
            .known
            .retain(|(channel, _), _| progress.ends.contains_key(channel));
        self.zones.set_backlog(&backlog);
        Ok(())
    }

    /// Replaces copies of chunks that readers have found to be bad. One in an epoch that goes on is left until its records
    /// are in segments: a recovery must not find nothing there.
    async fn heal(&self) -> Result<(), StoreError> {
        let Some(wal) = self.wals.of_class(StorageClass::Express) else {
            return Ok(());
        };
        for (chunk, zone) in wal.bad_copies() {
            let settled = match self.meta.state().channel(chunk.channel)? {
                Some(channel)
                    if (channel.checkpoint.epoch, channel.checkpoint.slot) <= (chunk.epoch, chunk.slot) =>
                {
                    let epoch = channel.epochs.iter().find(|(epoch, _)| *epoch == chunk.epoch);
                    let end = epoch.and_then(|(_, state)| state.seal).map(|seal| seal.end);
                    end.is_some_and(|end| chunk.slot < end)
                }
                // Nobody needs it any more.
                _ => {
                    wal.forget_bad_copy(chunk, zone);
                    false
                }
            };
            if !settled || !self.zones.is_ok(zone) {
                continue;
            }
            match wal.replace_bad_copy(chunk, zone).await {
                Ok(Repaired::Created { .. }) => {
                    tracing::warn!(%chunk, zone = zone + 1, "replaced a bad copy of a chunk");
                    self.zones.repaired(zone, 1);
                    wal.forget_bad_copy(chunk, zone);
                }
                Ok(Repaired::Present | Repaired::Conflict) => wal.forget_bad_copy(chunk, zone),
                Ok(Repaired::NoSource) => {}
                Err(error) => {
                    tracing::info!(%chunk, zone = zone + 1, %error, "a bad copy of a chunk is not replaced yet");
                }
            }
        }
        Ok(())
    }

    /// The channel's history from its checkpoint on, as far as it is settled.
    fn proven(&self, channel: ChannelId, current: Epoch, end: u64) -> Result<Vec<Proven>, StoreError> {
        let Some(record) = self.meta.state().channel(channel)? else {
            return Ok(Vec::new());
        };
        let checkpoint = record.checkpoint;
        let epochs = record.epochs.iter().filter_map(|(epoch, state)| {
            let start = match (*epoch).cmp(&checkpoint.epoch) {
                std::cmp::Ordering::Less => return None,
                std::cmp::Ordering::Equal => checkpoint.slot.0,
                std::cmp::Ordering::Greater => 0,
            };
            let end = match state.seal {
                Some(seal) => seal.end.0,
                None if *epoch == current => end,
                None => state.adopted,
            };
            (start < end).then_some(Proven {
                epoch: *epoch,
                start,
                end,
            })
        });
        Ok(epochs.collect())
    }

    /// Copies what one zone lacks of a channel; how much it still lacks then.
    async fn zone(
        &self,
        wal: &Wal,
        progress: &mut Progress,
        channel: ChannelId,
        zone: usize,
        proven: &[Proven],
    ) -> u64 {
        let Some(last) = proven.last() else { return 0 };
        // What was given up on since may be behind the ends: it is a reason for the next look.
        let dropped = progress.dropped.get(zone).copied().unwrap_or(0);
        let known = progress.known.get(&(channel, zone)).copied();
        let now = Known {
            clean_to: (last.epoch, last.end),
            dropped,
        };
        if let Some(known) = known
            && known.dropped == dropped
            && known.clean_to.0 == last.epoch
        {
            progress.known.insert((channel, zone), now);
            return 0;
        }
        if !self.zones.is_ok(zone) {
            // Nobody can say what it has. It lacks at least what was given up.
            return known.map_or(0, |known| dropped.saturating_sub(known.dropped));
        }
        let mut left = 0;
        for Proven { epoch, start, end } in proven {
            let mut next = Some(ChunkSeq(*start));
            while let Some(slot) = next {
                let first = ChunkId::new(channel, *epoch, slot);
                next = match wal.unlisted(first, *end, zone, SLOTS_MAX).await {
                    Ok(missing) => {
                        let failed = self.copy(wal, zone, missing.chunks).await;
                        left += failed;
                        missing.next.filter(|_| failed == 0)
                    }
                    Err(error) => {
                        tracing::debug!(%channel, zone = zone + 1, %error, "the zone is not listed at the moment");
                        left += 1;
                        None
                    }
                };
            }
        }
        if left == 0 {
            progress.known.insert((channel, zone), now);
        }
        left
    }

    /// How many could not be copied.
    async fn copy(&self, wal: &Wal, zone: usize, missing: Vec<ChunkId>) -> u64 {
        let all = missing.len() as u64;
        let (mut created, mut conflicts) = (0, 0);
        let mut wait = Duration::ZERO;
        for (done, chunk) in (0..).zip(missing) {
            match wal.repair(chunk, zone).await {
                Ok(Repaired::Created { bytes }) => {
                    created += 1;
                    wait += Duration::from_secs(1).mul_f64(bytes as f64 / BYTES_PER_SECOND as f64);
                    if wait >= WAIT_MIN {
                        sleep(std::mem::take(&mut wait)).await;
                    }
                }
                Ok(Repaired::Conflict) => conflicts += 1,
                // Flushed and deleted meanwhile, most likely.
                Ok(Repaired::Present | Repaired::NoSource) => {}
                Err(error) => {
                    tracing::info!(%chunk, zone = zone + 1, %error, "the zone does not get what it lacks at the moment");
                    return all - done;
                }
            }
        }
        if created > 0 || conflicts > 0 {
            tracing::info!(
                zone = zone + 1,
                created,
                conflicts,
                "gave the zone chunks that it lacked"
            );
        }
        self.zones.repaired(zone, created);
        0
    }
}
