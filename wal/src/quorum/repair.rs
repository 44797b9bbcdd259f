//! Giving a zone what it missed, from the copies of the others.

use millrace_api::id::ChunkSeq;
use tokio::time::timeout;

use super::read::{Answer, Depth, NoAnswer, ReadError};
use super::{Wal, WalOptions, ZoneState};
use crate::format::{CHUNK_HEADER_LEN, ChunkHeader, ChunkId, decode_chunk, decode_header};
use crate::zone::{CreateOutcome, Payload, ReadRange, StoreError};

/// What came of repairing one chunk in one zone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repaired {
    /// The zone has it now, and had not before.
    Created { bytes: u64 },
    /// The zone had it already.
    Present,
    /// Something else stands there, a seal perhaps: it is left alone.
    Conflict,
    /// No other zone that answers has it.
    NoSource,
}

/// What a listing says that a zone lacks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unlisted {
    /// In the order of their slots. A hint: some of them may be there.
    pub chunks: Vec<ChunkId>,
    /// The slot from which on nothing was looked for; `None` if all was.
    pub next: Option<ChunkSeq>,
}

impl Wal {
    /// Slots of an epoch below `end` that the zone at this place does not list, from `id` on: at most `limit`, which is
    /// not 0.
    pub async fn unlisted(
        &self,
        id: ChunkId,
        end: u64,
        zone: usize,
        limit: usize,
    ) -> Result<Unlisted, StoreError> {
        const PAGE: usize = 1024;
        let store = &self.inner.zones[zone].store;
        let prefix = ChunkId::epoch_prefix(id.channel, id.epoch);
        let mut after = match id.slot.0 {
            0 => None,
            slot => Some(ChunkId::new(id.channel, id.epoch, ChunkSeq(slot - 1)).key()),
        };
        let (mut next, mut missing) = (id.slot.0, Vec::new());
        while next < end && missing.len() < limit {
            let listed = timeout(
                self.inner.options.read_timeout,
                store.list(&prefix, after.as_deref(), PAGE),
            );
            let listed = listed
                .await
                .map_err(|_| StoreError::Retry("no answer to a listing".into()))??;
            let stop = match listed.last() {
                Some(_) if listed.len() < PAGE => end,
                Some(last) => ChunkId::parse(last).map_or(end, |last| end.min(last.slot.0 + 1)),
                None => end,
            };
            let there = listed.iter().filter_map(|key| ChunkId::parse(key));
            let there: std::collections::BTreeSet<u64> = there.map(|id| id.slot.0).collect();
            let unlisted = (next..stop).filter(|slot| !there.contains(slot));
            missing.extend(unlisted.map(|slot| ChunkId::new(id.channel, id.epoch, ChunkSeq(slot))));
            next = stop;
            after = listed.last().cloned();
        }
        let next = match missing.get(limit) {
            Some(beyond) => Some(beyond.slot),
            None => (next < end).then_some(ChunkSeq(next)),
        };
        missing.truncate(limit);
        Ok(Unlisted {
            chunks: missing,
            next,
        })
    }

    /// Makes the zone at this place have the chunk, byte for byte as another zone has it. The caller knows that the slot
    /// is part of the channel's history for good: durable, or below the recorded end of its epoch. The zone's copy counts
    /// for the epoch only if the epoch is written under this life of the zone, which is for whoever counts to see.
    pub async fn repair(&self, id: ChunkId, zone: usize) -> Result<Repaired, ReadError> {
        let key = id.key();
        let Some((payload, header)) = self.source(id, zone).await? else {
            return Ok(Repaired::NoSource);
        };
        let target = &self.inner.zones[zone];
        let bytes = payload.len();
        let limit = WalOptions::timeout(self.inner.options.create_timeout, bytes);
        let unanswered = |error: &dyn std::fmt::Display| ReadError::Retry(format!("{id}: {error}"));
        match timeout(limit, target.store.create(&key, &payload)).await {
            Ok(Ok(CreateOutcome::Created)) => return Ok(Repaired::Created { bytes }),
            Ok(Ok(CreateOutcome::Exists)) => {}
            Ok(Err(error)) => return Err(unanswered(&error)),
            Err(_) => return Err(unanswered(&"no answer to a create")),
        }
        let len = CHUNK_HEADER_LEN as u64;
        match self.inner.read(target, &key, ReadRange::Range(0..len), len).await {
            Ok(Some(found)) => Ok(match decode_header(&found) {
                Ok(found) if found == header => Repaired::Present,
                _ => Repaired::Conflict,
            }),
            Ok(None) => Err(unanswered(&"a conflict with another create")),
            Err(error) => Err(unanswered(&error)),
        }
    }

    /// The chunk as a zone other than this one has it, with every check passed.
    pub(super) async fn source(
        &self,
        id: ChunkId,
        zone: usize,
    ) -> Result<Option<(Payload, ChunkHeader)>, ReadError> {
        let mut unreachable = None;
        for other in self.inner.zones.iter().filter(|other| other.index != zone) {
            match self.whole(other, id).await {
                Ok(Some(found)) => return Ok(Some(found)),
                Ok(None) => {}
                Err(error) => unreachable = Some(error),
            }
        }
        match unreachable {
            Some(error) => Err(ReadError::Retry(format!("{id}: {error}"))),
            None => Ok(None),
        }
    }

    async fn whole(&self, zone: &ZoneState, id: ChunkId) -> Result<Option<(Payload, ChunkHeader)>, NoAnswer> {
        // Bad copies are counted and told of there.
        let Answer::Chunk(_) = self.inner.look(zone, id, Depth::Footer).await? else {
            return Ok(None);
        };
        let bytes = self
            .inner
            .read(zone, &id.key(), ReadRange::Full, 64 << 20)
            .await?;
        let Some(bytes) = bytes else { return Ok(None) };
        let chunk = decode_chunk(bytes.clone())?;
        Ok(Some((Payload::from(bytes), chunk.header)))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use millrace_api::id::{ChannelId, Epoch, Nonce};

    use super::super::tests::{Cell, batch};
    use super::*;
    use crate::fault::Cut;
    use crate::format::{Chunk, ChunkKind, ChunkMeta};
    use crate::zone::ZoneStore;

    const NONCE: Nonce = Nonce(77);

    fn id(slot: u64) -> ChunkId {
        ChunkId::new(ChannelId(1), Epoch(3), ChunkSeq(slot))
    }

    /// Slots 0 to 7 are in zones 0 and 1; zone 2 was dark from slot 2 on, and answers again.
    async fn cell() -> Cell {
        let cell = Cell::new(3, 2);
        let first = id(0);
        let (mut writer, mut events) = cell.wal.writer(first.channel, first.epoch, NONCE, ChunkSeq(0));
        for slot in 0..8 {
            if slot == 2 {
                tokio::time::sleep(Duration::from_secs(60)).await;
                cell.faults[2].cut(Cut::Refusing);
            }
            writer.submit(batch(slot));
            while writer.durable_end().0 <= slot {
                events.recv().await.expect("the writer lives");
            }
        }
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(writer.progress().durable_end(), ChunkSeq(8));
        cell.faults[2].heal();
        cell
    }

    #[tokio::test(start_paused = true)]
    async fn a_zone_that_returns_is_given_the_same_bytes() {
        let cell = cell().await;
        let unlisted = async |from: u64, end, limit| {
            let found = cell.wal.unlisted(id(from), end, 2, limit).await.unwrap();
            let slots: Vec<u64> = found.chunks.iter().map(|chunk| chunk.slot.0).collect();
            assert!(found.chunks.iter().all(|chunk| *chunk == id(chunk.slot.0)));
            (slots, found.next.map(|next| next.0))
        };
        assert_eq!(unlisted(0, 8, 100).await, ((2..8).collect(), None));
        assert_eq!(unlisted(4, 6, 100).await, (vec![4, 5], None));
        assert_eq!(unlisted(4, 6, 2).await, (vec![4, 5], None));
        assert_eq!(unlisted(0, 8, 1).await, (vec![2], Some(3)), "where to go on");
        for slot in (2..8).map(id) {
            let repaired = cell.wal.repair(slot, 2).await.unwrap();
            assert!(matches!(repaired, Repaired::Created { .. }), "{repaired:?}");
            assert_eq!(cell.wal.repair(slot, 2).await, Ok(Repaired::Present));
            let key = slot.key();
            let copies = [0, 2].map(|zone: usize| cell.memory[zone].get(&key, ReadRange::Full));
            let [one, two] = futures::future::join_all(copies).await.try_into().unwrap();
            assert_eq!(one, two);
        }
        assert_eq!(unlisted(0, 8, 100).await, (vec![], None));
        assert_eq!(cell.wal.repair(id(9), 2).await, Ok(Repaired::NoSource));
    }

    #[tokio::test(start_paused = true)]
    async fn what_stands_in_the_way_is_left_and_a_bad_copy_is_no_source() {
        let cell = cell().await;
        let seal = Chunk::seal(ChunkMeta {
            id: id(2),
            kind: ChunkKind::Seal { by: Epoch(4) },
            nonce: NONCE,
        });
        cell.memory[2].create(&id(2).key(), &seal.payload).await.unwrap();
        assert_eq!(cell.wal.repair(id(2), 2).await, Ok(Repaired::Conflict));
        let bytes = cell.memory[0]
            .get(&id(3).key(), ReadRange::Full)
            .await
            .unwrap()
            .unwrap();
        let mut bad = bytes.to_vec();
        bad[100] ^= 1;
        cell.memory[0].overwrite(&id(3).key(), Bytes::from(bad));
        let repaired = cell.wal.repair(id(3), 2).await;
        assert!(matches!(repaired, Ok(Repaired::Created { .. })), "{repaired:?}");
        let copied = cell.memory[2].get(&id(3).key(), ReadRange::Full).await.unwrap();
        assert_eq!(copied, Some(bytes), "from the zone that has a good one");
        cell.faults[0].cut(Cut::Refusing);
        cell.faults[1].cut(Cut::Refusing);
        assert!(cell.wal.repair(id(4), 2).await.unwrap_err().retryable());
    }
}
