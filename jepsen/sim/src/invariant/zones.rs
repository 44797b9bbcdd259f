//! What a recorded end counts is at a write quorum of the Express zones, as long as it is not in segments (P1).

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::bail;
use millrace_api::config::StorageClass;
use millrace_api::id::ChunkSeq;
use millrace_raft::query::ChannelRecord;
use millrace_server::zones::EXPRESS_QUORUM;
use millrace_wal::ChunkId;
use millrace_wal::format::{CHUNK_HEADER_LEN, decode_header};

use crate::zones::Lives;

/// The nodes that serve may not have heard yet that a chunk is in segments, and its deletion be quicker.
const LATE_BY: Duration = Duration::from_secs(10);

#[derive(Default)]
pub struct Zones {
    /// Slots that too few zones hold, and since when.
    missing: BTreeMap<ChunkId, Duration>,
    /// Whether anything was ever found to be written.
    pub any_written: bool,
}

impl Zones {
    pub fn check(
        &mut self,
        now: Duration,
        channels: &[ChannelRecord],
        zones: &[Lives],
    ) -> anyhow::Result<()> {
        let mut missing = BTreeMap::new();
        for channel in channels
            .iter()
            .filter(|channel| channel.class == StorageClass::Express)
        {
            self.any_written |= channel.flush_seq.0 > 0;
            for id in counted_slots(channel) {
                self.any_written = true;
                // One that was replaced counts for what was written under it.
                let holds = |zone: &&Lives| {
                    let headers = zone
                        .iter()
                        .filter_map(|store| store.peek(&id.key(), CHUNK_HEADER_LEN));
                    headers.into_iter().any(|header| is_chunk(&header))
                };
                if zones.iter().filter(holds).count() < EXPRESS_QUORUM {
                    missing.insert(id, self.missing.get(&id).copied().unwrap_or(now));
                }
            }
        }
        self.missing = missing;
        let lost = self.missing.iter().find(|(_, since)| now >= **since + LATE_BY);
        if let Some((id, since)) = lost.map(|(id, since)| (*id, *since)) {
            // Said once.
            self.missing.insert(id, Duration::MAX - LATE_BY);
            bail!(
                "P1: {id} is part of its channel's history, and fewer than {EXPRESS_QUORUM} zones hold it since {since:?}"
            );
        }
        Ok(())
    }
}

/// Slots before recorded ends, from the checkpoint on.
fn counted_slots(channel: &ChannelRecord) -> impl Iterator<Item = ChunkId> {
    let checkpoint = channel.checkpoint;
    let sealed = channel
        .sealed()
        .filter(move |(epoch, ..)| *epoch >= checkpoint.epoch);
    sealed.flat_map(move |(epoch, _, seal)| {
        let first = if epoch == checkpoint.epoch {
            checkpoint.slot.0
        } else {
            0
        };
        (first..seal.end.0).map(move |slot| ChunkId::new(channel.channel, epoch, ChunkSeq(slot)))
    })
}

fn is_chunk(header: &[u8]) -> bool {
    decode_header(header).is_ok_and(|header| !header.meta.kind.is_seal())
}

#[cfg(test)]
mod tests {
    use millrace_api::id::{ChannelId, Epoch, FlushSeq, Incarnation, NodeId, Nonce};
    use millrace_raft::state::record::{EpochState, Owner, Seal, Slot};
    use millrace_wal::{Chunk, ChunkBuilder, ChunkKind, ChunkMeta};

    use super::*;
    use crate::store::Store;
    use crate::trace::Trace;

    /// Epoch 1 has ended behind two slots, of which the first is in segments.
    fn channel() -> ChannelRecord {
        let ended = EpochState {
            owner: Owner {
                node: NodeId(1),
                incarnation: Incarnation(1),
            },
            gens: Vec::new(),
            activated: true,
            adopted: 0,
            seal: Some(Seal {
                end: ChunkSeq(2),
                by: Epoch(2),
                adopted: 0,
                log_index: 9,
            }),
        };
        ChannelRecord {
            channel: ChannelId(1),
            class: StorageClass::Express,
            owner: None,
            epoch: Epoch(2),
            activated: false,
            sealed_through: Epoch(1),
            checkpoint: Slot {
                epoch: Epoch(1),
                slot: ChunkSeq(1),
            },
            flush_seq: FlushSeq(1),
            merge_seq: FlushSeq(0),
            pack_seq: FlushSeq(0),
            gens: Vec::new(),
            epochs: vec![(Epoch(1), ended)],
        }
    }

    fn meta(kind: ChunkKind) -> ChunkMeta {
        ChunkMeta {
            id: ChunkId::new(ChannelId(1), Epoch(1), ChunkSeq(1)),
            kind,
            nonce: Nonce(1),
        }
    }

    /// What is wrong when so many zones hold the chunk, and one a seal in its place.
    fn wrong(copies: usize) -> Option<String> {
        let zones: Vec<Lives> = (0..3)
            .map(|seed| vec![Store::new(seed, Trace::new(false))])
            .collect();
        let chunk = ChunkBuilder::new().finish(meta(ChunkKind::Chunk));
        let seal = Chunk::seal(meta(ChunkKind::Seal { by: Epoch(2) }));
        for (at, zone) in zones.iter().enumerate() {
            let object = if at < copies { &chunk } else { &seal };
            zone[0].put(object.meta().id.key(), object.payload.to_bytes());
        }
        let mut invariant = Zones::default();
        let mut check = |now| invariant.check(now, &[channel()], &zones);
        check(Duration::ZERO).expect("it may be late");
        check(LATE_BY).err().map(|wrong| wrong.to_string())
    }

    #[test]
    fn a_slot_that_is_counted_and_in_one_zone_alone_is_found() {
        assert_eq!(wrong(2), None);
        assert!(wrong(1).is_some_and(|wrong| wrong.starts_with("P1")));
    }
}
