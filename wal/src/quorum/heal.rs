//! Copies that failed their checks: remembered, and replaced by those of other zones.

use std::collections::BTreeSet;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::time::timeout;

use super::metrics::count;
use super::read::{Answer, Depth, NoAnswer, ReadError};
use super::repair::Repaired;
use super::{Wal, WalInner, ZoneState};
use crate::format::ChunkId;
use crate::zone::StoreError;

/// Bad copies that are remembered; more are found again.
const BAD_MAX: usize = 1024;

/// Where bad copies were seen.
#[derive(Debug, Default)]
pub(super) struct BadCopies(Mutex<BTreeSet<(ChunkId, usize)>>);

impl BadCopies {
    fn locked(&self) -> MutexGuard<'_, BTreeSet<(ChunkId, usize)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl WalInner {
    /// Counts, tells of and remembers a copy that is not what was written.
    pub(super) fn bad_copy(&self, zone: &ZoneState, id: ChunkId, error: &dyn std::error::Error) {
        count(&self.metrics.zones[zone.index].bad_copies_total, 1);
        tracing::warn!(chunk = %id, zone = zone.index, %error, "bad copy of a chunk");
        let mut bad = self.bad.locked();
        if bad.len() < BAD_MAX {
            bad.insert((id, zone.index));
        }
    }
}

impl Wal {
    /// Chunks of which reads have found a bad copy, with the place of the zone that has it.
    pub fn bad_copies(&self) -> Vec<(ChunkId, usize)> {
        self.inner.bad.locked().iter().copied().collect()
    }

    /// Nobody needs the chunk any more, or its copy is good.
    pub fn forget_bad_copy(&self, id: ChunkId, zone: usize) {
        self.inner.bad.locked().remove(&(id, zone));
    }

    /// Puts the copy of another zone in the place of a bad one, if it is one. The caller knows that the slot lies below the
    /// recorded end of its epoch: a recovery waits for what is missing there and never seals it, so that it does no harm
    /// when this ends between removing the one and creating the other.
    pub async fn replace_bad_copy(&self, id: ChunkId, zone: usize) -> Result<Repaired, ReadError> {
        let target = &self.inner.zones[zone];
        match self.inner.look(target, id, Depth::Whole).await {
            Ok(Answer::Chunk(_)) => return Ok(Repaired::Present),
            Ok(Answer::Seal) => return Ok(Repaired::Conflict),
            Ok(Answer::Absent) => return self.repair(id, zone).await,
            Err(NoAnswer::Bad(error)) if error.is_from_later_release() => return Ok(Repaired::Conflict),
            // A store that checks what it reads.
            Err(NoAnswer::Bad(_) | NoAnswer::Store(StoreError::Corrupt(_))) => {}
            Err(error) => return Err(ReadError::Retry(format!("{id}: {error}"))),
        }
        if self.source(id, zone).await?.is_none() {
            return Ok(Repaired::NoSource);
        }
        let limit = self.inner.options.create_timeout;
        match timeout(limit, target.store.delete(&id.key())).await {
            Ok(Ok(())) => self.repair(id, zone).await,
            Ok(Err(error)) => Err(ReadError::Retry(format!("{id}: {error}"))),
            Err(_) => Err(ReadError::Retry(format!("{id}: no answer to a delete"))),
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millrace_api::id::{ChannelId, ChunkSeq, Epoch, Nonce, ZoneGen};

    use super::super::tests::{Cell, batch};
    use super::super::{EpochGens, WalOptions, Zone};
    use super::*;
    use crate::fault::Cut;
    use crate::zone::{ReadRange, ZoneStore};

    fn id(slot: u64) -> ChunkId {
        ChunkId::new(ChannelId(1), Epoch(3), ChunkSeq(slot))
    }

    /// Two chunks in three zones.
    async fn cell() -> Cell {
        let cell = Cell::new(3, 2);
        let (mut writer, mut events) = cell.wal.writer(ChannelId(1), Epoch(3), Nonce(7), ChunkSeq(0));
        for slot in 0..2 {
            writer.submit(batch(slot));
            while writer.durable_end().0 <= slot {
                events.recv().await.expect("the writer lives");
            }
        }
        tokio::time::sleep(std::time::Duration::from_secs(60)).await;
        cell
    }

    async fn bytes(cell: &Cell, zone: usize, slot: u64) -> Option<Bytes> {
        let found = cell.memory[zone].get(&id(slot).key(), ReadRange::Full).await;
        found.unwrap()
    }

    async fn damage(cell: &Cell, zone: usize, slot: u64) {
        let mut bad = bytes(cell, zone, slot).await.unwrap().to_vec();
        let at = bad.len() / 2;
        bad[at] ^= 1;
        cell.memory[zone].overwrite(&id(slot).key(), bad.into());
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_copy_is_never_served_is_remembered_and_is_replaced() {
        let cell = cell().await;
        let good = bytes(&cell, 1, 0).await;
        damage(&cell, 0, 0).await;
        let footer = cell
            .wal
            .footer(id(0))
            .await
            .unwrap()
            .expect("the other zones have it");
        let frames = cell.wal.frames(id(0), &footer.entries).await.unwrap();
        let read = cell
            .wal
            .chunk(id(0))
            .await
            .unwrap()
            .expect("the other zones have it");
        assert_eq!(frames, read.frames);
        assert_eq!(cell.wal.bad_copies(), [(id(0), 0)]);
        assert!(
            cell.wal.metrics().zones[0]
                .bad_copies_total
                .load(std::sync::atomic::Ordering::Relaxed)
                > 0
        );
        let replaced = cell.wal.replace_bad_copy(id(0), 0).await;
        assert!(matches!(replaced, Ok(Repaired::Created { .. })), "{replaced:?}");
        assert_eq!(bytes(&cell, 0, 0).await, good);
        assert_eq!(cell.wal.replace_bad_copy(id(0), 0).await, Ok(Repaired::Present));
        cell.wal.forget_bad_copy(id(0), 0);
        assert_eq!(cell.wal.bad_copies(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn a_bad_copy_that_is_the_only_one_stays() {
        let cell = cell().await;
        for zone in 0..3 {
            damage(&cell, zone, 1).await;
        }
        let bad = bytes(&cell, 0, 1).await;
        let replaced = cell.wal.replace_bad_copy(id(1), 0).await;
        assert!(replaced.is_err(), "{replaced:?}");
        assert_eq!(bytes(&cell, 0, 1).await, bad);
        assert!(matches!(cell.wal.chunk(id(1)).await, Err(ReadError::Corrupt(_))));
    }

    #[derive(Debug)]
    struct Under(Vec<ZoneGen>);

    impl EpochGens for Under {
        fn gens(&self, _: ChannelId, epoch: Epoch) -> Option<Vec<ZoneGen>> {
            (epoch == Epoch(3)).then(|| self.0.clone())
        }
    }

    /// The chunk was in zones 0 and 1; then zone 1 was replaced.
    #[tokio::test(start_paused = true)]
    async fn a_zone_that_was_replaced_says_nothing_about_epochs_before() {
        let cell = cell().await;
        cell.memory[1].clear();
        cell.memory[2].delete(&id(0).key()).await.unwrap();
        let gens = cell.wal.gens();
        let mut now = gens.clone();
        now[1] = ZoneGen(1000);
        let zones = cell.wal.stores().into_iter().zip(&now);
        let zones = zones.map(|(store, zone_gen)| Zone::new(store, *zone_gen));
        let options = WalOptions {
            epoch_gens: Some(std::sync::Arc::new(Under(gens))),
            ..cell.wal.options().clone()
        };
        let wal = Wal::new(zones.collect(), 2, options).unwrap();
        assert!(wal.footer(id(0)).await.unwrap().is_some());
        cell.faults[0].cut(Cut::Refusing);
        let read = wal.footer(id(0)).await;
        assert!(
            matches!(&read, Err(error) if error.retryable()),
            "not gone: {read:?}"
        );
        let unknown = ChunkId::new(ChannelId(1), Epoch(2), ChunkSeq(0));
        assert!(
            wal.footer(unknown).await.unwrap().is_none(),
            "nobody needs what is not known"
        );
    }
}
