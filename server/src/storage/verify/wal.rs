//! Chunks from each channel's checkpoint on: what a replay would read.

use std::collections::BTreeSet;
use std::ops::Range;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use millrace_api::id::{ChannelId, ChunkSeq, Epoch};
use millrace_raft::query::ChannelRecord;
use millrace_wal::format::{CHUNK_LEN_MAX, decode_chunk};
use millrace_wal::{ChunkId, ReadRange, StoreError};

use super::heal::{Healed, Wanting, heal};
use super::{Broken, Phase, Progress, Promise, Report, Verify, VerifyError, blocking};
use crate::storage::cell::{Area, Cell, Place, insist};
use crate::wals::NoWal;

/// Chunks read at a time.
const READS: usize = 4;
/// Keys of one step of a listing.
const PAGE: usize = 1000;

/// What came of one slot.
#[derive(Default)]
struct Seen {
    bytes: u64,
    broken: Vec<Broken>,
    healed: Healed,
}

/// What one zone has at a slot.
enum Copy {
    Chunk(Bytes),
    Seal,
    Absent,
    Bad(String),
    /// The zone does not answer, and the cell can do without.
    Silent(StoreError),
}

impl Verify {
    pub(super) async fn chunks(&self, report: &mut Report) -> Result<(), VerifyError> {
        self.cell.linearize().await?;
        let channels = self.cell.meta.state().channels()?;
        let total = channels
            .iter()
            .flat_map(proven)
            .map(|(_, slots)| slots.end - slots.start);
        let total: u64 = total.sum();
        report
            .progress(Progress {
                phase: Phase::Chunks,
                done: 0,
                total: Some(total),
            })
            .await?;
        for channel in &channels {
            for (epoch, slots) in proven(channel) {
                self.history(report, channel.channel, epoch, slots, total).await?;
            }
            let unsealed = channel.epochs.iter().filter(|(_, state)| state.seal.is_none());
            for (epoch, state) in unsealed {
                let from = start(channel, *epoch).max(state.adopted);
                let from = ChunkId::new(channel.channel, *epoch, ChunkSeq(from));
                self.listed(report, from).await?;
            }
        }
        Ok(())
    }

    /// Slots that the channel's history has: each holds a chunk, in enough zones.
    async fn history(
        &self,
        report: &mut Report,
        channel: ChannelId,
        epoch: Epoch,
        slots: Range<u64>,
        total: u64,
    ) -> Result<(), VerifyError> {
        let ids = slots.map(|slot| ChunkId::new(channel, epoch, ChunkSeq(slot)));
        let seen = stream::iter(ids)
            .map(|id| in_history(&self.cell, id, self.repair))
            .buffer_unordered(READS);
        self.collect(report, seen, Some(total)).await
    }

    /// Slots of an epoch that nobody has ended, from this one on: whatever is there is whole.
    async fn listed(&self, report: &mut Report, from: ChunkId) -> Result<(), VerifyError> {
        let before = from.slot.0.checked_sub(1).map(ChunkSeq);
        let before = before.map(|slot| ChunkId { slot, ..from }.key());
        for area in self.cell.copies(from.channel).map_err(unknown_zones)?.0 {
            let mut after = before.clone();
            loop {
                let prefix = ChunkId::epoch_prefix(from.channel, from.epoch);
                let store = self.cell.store(area)?;
                let page = match insist(|| store.list(&prefix, after.as_deref(), PAGE)).await {
                    Err(error) if area.is_one_of_several() => {
                        let place = Place { area, key: prefix };
                        report
                            .broken([Broken::new(Promise::Copied, place, error)])
                            .await?;
                        break;
                    }
                    page => page?,
                };
                let Some(last) = page.last() else { break };
                after = Some(last.clone());
                // Keys of another shape are for the sweeper to tell of.
                let ids: BTreeSet<ChunkId> = page.iter().filter_map(|key| ChunkId::parse(key)).collect();
                let seen = stream::iter(ids)
                    .map(|id| was_listed(&self.cell, area, id))
                    .buffer_unordered(READS);
                self.collect(report, seen, None).await?;
            }
        }
        Ok(())
    }

    async fn collect(
        &self,
        report: &mut Report,
        seen: impl stream::Stream<Item = Result<Seen, VerifyError>>,
        total: Option<u64>,
    ) -> Result<(), VerifyError> {
        futures::pin_mut!(seen);
        while let Some(seen) = seen.try_next().await? {
            report.checked.chunks += 1;
            report.checked.chunk_bytes += seen.bytes;
            report.broken(seen.broken).await?;
            report.healed(seen.healed).await?;
            let progress = Progress {
                phase: Phase::Chunks,
                done: report.checked.chunks,
                total: total.filter(|total| report.checked.chunks <= *total),
            };
            report.progress(progress).await?;
        }
        Ok(())
    }
}

/// The first slot of an epoch that a replay reads.
fn start(channel: &ChannelRecord, epoch: Epoch) -> u64 {
    match epoch == channel.checkpoint.epoch {
        true => channel.checkpoint.slot.0,
        false => 0,
    }
}

/// Slots that hold a chunk by what metadata say: sealed epochs up to their ends, and what others took over from them.
fn proven(channel: &ChannelRecord) -> impl Iterator<Item = (Epoch, Range<u64>)> + '_ {
    channel.epochs.iter().filter_map(|(epoch, state)| {
        let end = state.seal.map_or(state.adopted, |seal| seal.end.0);
        let start = start(channel, *epoch);
        (start < end).then_some((*epoch, start..end))
    })
}

fn unknown_zones(error: NoWal) -> VerifyError {
    VerifyError::Store(StoreError::Retry(error.to_string()))
}

async fn in_history(cell: &Cell, id: ChunkId, repair: bool) -> Result<Seen, VerifyError> {
    let mut seen = Seen::default();
    let (areas, quorum) = cell.copies(id.channel).map_err(unknown_zones)?;
    let (mut copies, mut seals, mut lacking, mut bad) = (0, Vec::new(), Vec::new(), Vec::new());
    let (mut good, mut beyond_repair) = (None, 0);
    for area in areas {
        let place = Place { area, key: id.key() };
        match copy(cell, &place, id).await? {
            Copy::Chunk(bytes) => {
                copies += 1;
                seen.bytes += bytes.len() as u64;
                good.get_or_insert(bytes);
            }
            Copy::Seal => seals.push(place),
            Copy::Absent => lacking.push(place),
            Copy::Bad(why) => {
                seen.broken.push(Broken::new(Promise::Whole, &place, why));
                bad.push(place);
            }
            Copy::Silent(error) => {
                beyond_repair += 1;
                seen.broken.push(Broken::new(Promise::Copied, place, error));
            }
        }
    }
    let of = |places: &[Place], bad| {
        let wanting = places.iter().map(move |place| Wanting {
            place: place.clone(),
            bad,
        });
        wanting.collect::<Vec<_>>()
    };
    let wanting = [of(&bad, true), of(&lacking, false)].concat();
    if copies < quorum {
        beyond_repair += seals.len();
    }
    match copies < quorum {
        // Where there are several zones a recovery may have put a seal beside chunks that it then found.
        true => seen.broken.extend(seals.into_iter().map(|place| {
            let why = "it is a seal, and metadata have a chunk there";
            Broken::new(Promise::Agreed, place, why)
        })),
        false => seen.broken.extend(lacking.into_iter().map(|place| {
            let why = "other zones have it: it is copied from there by itself";
            Broken::new(Promise::Copied, place, why)
        })),
    }
    if copies < quorum && seen.broken.is_empty() {
        let why = match quorum {
            1 => "it is not in the store".to_owned(),
            quorum => format!("it is in {copies} zones, not in {quorum}"),
        };
        seen.broken.push(Broken::new(Promise::Present, id.key(), why));
    }
    if !seen.broken.is_empty() && released(cell, id).await? {
        seen.broken.clear();
        return Ok(seen);
    }
    // The end of the epoch is recorded, or the slot was adopted by a record: no recovery seals what is missing there.
    if let Some(good) = good.filter(|_| repair) {
        let promises = seen.broken.len() - beyond_repair;
        seen.healed = heal(cell, wanting, promises, &good).await;
    }
    Ok(seen)
}

async fn was_listed(cell: &Cell, area: Area, id: ChunkId) -> Result<Seen, VerifyError> {
    let place = Place { area, key: id.key() };
    let broken = match copy(cell, &place, id).await? {
        Copy::Chunk(bytes) => {
            return Ok(Seen {
                bytes: bytes.len() as u64,
                ..Seen::default()
            });
        }
        Copy::Seal => return Ok(Seen::default()),
        Copy::Silent(error) => Broken::new(Promise::Copied, place, error),
        Copy::Absent => Broken::new(Promise::Present, place, "it was listed, and it is not there"),
        Copy::Bad(why) => Broken::new(Promise::Whole, place, why),
    };
    let broken = match released(cell, id).await? {
        true => Vec::new(),
        false => vec![broken],
    };
    Ok(Seen {
        broken,
        ..Seen::default()
    })
}

async fn copy(cell: &Cell, place: &Place, id: ChunkId) -> Result<Copy, VerifyError> {
    let store = cell.store(place.area)?;
    let bytes = insist(|| store.get(&place.key, ReadRange::Range(0..CHUNK_LEN_MAX + 1))).await;
    let bytes = match bytes {
        Err(StoreError::Corrupt(why)) if place.area.is_one_of_several() => return Ok(Copy::Bad(why)),
        Err(error) if place.area.is_one_of_several() => return Ok(Copy::Silent(error)),
        bytes => bytes?,
    };
    let Some(bytes) = bytes else {
        return Ok(Copy::Absent);
    };
    blocking(move || match decode_chunk(bytes.clone()) {
        Ok(chunk) if chunk.meta().id != id => {
            Copy::Bad(format!("it says that it is chunk {}", chunk.meta().id))
        }
        Ok(chunk) if chunk.meta().kind.is_seal() => Copy::Seal,
        Ok(_) => Copy::Chunk(bytes),
        Err(error) => Copy::Bad(error.to_string()),
    })
    .await
}

/// Whether no replay reads the slot, by metadata that are newer than the look at the store.
async fn released(cell: &Cell, id: ChunkId) -> Result<bool, VerifyError> {
    cell.linearize().await?;
    let channel = cell.meta.state().channel(id.channel)?;
    Ok(channel.is_none_or(|channel| {
        let checkpoint = channel.checkpoint;
        (id.epoch, id.slot) < (checkpoint.epoch, checkpoint.slot)
    }))
}
