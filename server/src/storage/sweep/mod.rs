//! Finds objects that nothing names and nothing ever will, by proof and never by age.
//!
//! - A segment object is an orphan if no row names it, live or dead, nor an index of a long chain, and its epoch is over
//!   or its number was committed.
//! - A chunk is an orphan below its channel's checkpoint, unless it is a seal: those stay for ever.
//! - Whatever else is there (keys of another shape, of unknown channels, of epochs to come) is reported and left.
//!
//! A page of keys is listed first, then metadata are brought up to date, then the page is judged. [`run`] is a whole
//! sweep as an operator asks for it; the task that does the same in the background is in `tasks`.

mod judge;
mod packed;
pub mod run;
#[cfg(test)]
mod tests;

use std::collections::{BTreeSet, VecDeque};

use futures::stream::{self, Stream, StreamExt, TryStreamExt};
use millrace_api::id::{ChannelId, ChunkSeq, Epoch, FlushSeq};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_raft::error::MetaError;
use millrace_wal::format::{CHUNK_HEADER_LEN, decode_header};
use millrace_wal::{ChunkId, ReadRange, StoreError, ZoneStore};

use self::judge::{ByKey, Judge};
pub use self::judge::{Orphan, Remark, Unknown};
use self::packed::Suspects;
use super::cell::{Area, Cell, Place, insist};
use crate::tasks::share::Share;

/// Keys of one step.
const PAGE: usize = 1000;
/// Headers read, and objects removed, at a time.
const AT_A_TIME: usize = 8;

/// A walk over all stores of a cell, a page at a time. What a step did not finish, because it failed or was dropped,
/// the next one does again.
pub struct Sweep {
    cell: Cell,
    scope: Scope,
    /// What is left, the first begun.
    areas: VecDeque<Area>,
    /// In the first area.
    after: Option<String>,
}

/// What is looked at.
#[derive(Debug, Clone, Copy)]
pub enum Scope {
    All,
    /// Channels of the share, and with the first one what belongs to no channel.
    Share(Share),
}

/// What one step came to.
#[derive(Debug)]
pub struct Looked {
    pub area: Area,
    pub objects: u64,
    /// In the order of keys.
    pub found: Vec<Found>,
    /// Why the rest of the area was not looked at.
    pub passed_over: Option<StoreError>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    pub place: Place,
    pub remark: Remark,
}

/// Why a sweep cannot go on. The same step may be tried again.
#[derive(Debug, thiserror::Error)]
pub enum SweepError {
    #[error("metadata: {0}")]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("nobody wants to know any more")]
    Stopped,
}

impl Sweep {
    pub fn new(cell: Cell, scope: Scope) -> Self {
        let areas = cell.areas().collect();
        Self {
            cell,
            scope,
            areas,
            after: None,
        }
    }

    /// Looks at the next page; `None` when there is no other. Changes nothing. An area that the cell can do without is
    /// passed over when it does not answer.
    pub async fn step(&mut self) -> Result<Option<Looked>, SweepError> {
        while let Some(area) = self.areas.front().copied() {
            match self.page(area).await {
                Ok(Some(looked)) => return Ok(Some(looked)),
                Ok(None) => self.next_area(),
                Err(SweepError::Store(error)) if area.is_one_of_several() => {
                    self.next_area();
                    return Ok(Some(Looked {
                        area,
                        objects: 0,
                        found: Vec::new(),
                        passed_over: Some(error),
                    }));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    fn next_area(&mut self) {
        self.areas.pop_front();
        self.after = None;
    }

    /// The next page of the area; `None` behind the last.
    async fn page(&mut self, area: Area) -> Result<Option<Looked>, SweepError> {
        let store = self.cell.store(area)?;
        let after = self.after.as_deref();
        let keys = insist(|| store.list(area.prefix(), after, PAGE)).await?;
        let Some(last) = keys.last() else {
            return Ok(None);
        };
        let next = self.scope.beyond(area, last);
        let in_scope = |key: &String| self.scope.has(area.channel_of(key));
        let keys: Vec<String> = keys.into_iter().filter(in_scope).collect();
        let objects = keys.len() as u64;
        let found = match keys.is_empty() {
            true => Vec::new(),
            false => {
                self.cell.linearize().await?;
                self.judge(area, keys).await?
            }
        };
        self.after = Some(next);
        Ok(Some(Looked {
            area,
            objects,
            found,
            passed_over: None,
        }))
    }

    async fn judge(&self, area: Area, keys: Vec<String>) -> Result<Vec<Found>, SweepError> {
        let state = self.cell.meta.state();
        let (by_key, suspects): (Vec<(String, ByKey)>, Suspects) = state
            .at_once(|view| {
                let mut judge = Judge::new(view);
                let judged = keys.into_iter().map(|key| {
                    let said = match area {
                        Area::Segments { .. } => judge.segment_object(&key)?,
                        Area::Wal { .. } => judge.chunk(&key)?,
                    };
                    Ok((key, said))
                });
                let judged = judged.collect::<Result<Vec<_>, millrace_raft::error::StoreError>>()?;
                let suspect = |(_, by_key): &(String, ByKey)| match by_key {
                    ByKey::UnlessPacked(id, _) => Some(*id),
                    _ => None,
                };
                let suspects = Suspects::find(view, judged.iter().filter_map(suspect).collect())?;
                Ok::<_, millrace_raft::error::StoreError>((judged, suspects))
            })
            .map_err(MetaError::from)?;
        let store = self.cell.store(area)?;
        let store = &store;
        let packed = &suspects.look_up(&*self.cell.segments).await?;
        let said = stream::iter(by_key).map(|(key, by_key)| async move {
            let remark = match by_key {
                ByKey::Said(remark) => remark,
                ByKey::UnlessSeal(id) => unless_seal(&**store, &key, id).await?,
                ByKey::UnlessPacked(id, orphan) => packed.judge(id, orphan),
            };
            Ok(remark.map(|remark| Found {
                place: Place { area, key },
                remark,
            }))
        });
        said.buffered(AT_A_TIME)
            .try_filter_map(|found| std::future::ready(Ok(found)))
            .try_collect()
            .await
    }
}

/// Of keys of segment objects that were listed in the area, those that are not proved to be orphans and whose channel
/// and epoch are known: what stands under them is needed, or may come to be. While an index cannot be read, so are
/// those that it may name.
pub async fn needed(cell: &Cell, area: Area, keys: Vec<String>) -> Result<Vec<String>, SweepError> {
    cell.linearize().await?;
    let sweep = Sweep::new(cell.clone(), Scope::All);
    let found = sweep.judge(area, keys.clone()).await?;
    let may_be_named = |found: &Found| matches!(found.remark, Remark::Unknown(Unknown::Unreadable(_)));
    let others = found.into_iter().filter(|found| !may_be_named(found));
    let others: BTreeSet<String> = others.map(|found| found.place.key).collect();
    Ok(keys.into_iter().filter(|key| !others.contains(key)).collect())
}

/// What the header of an object of an earlier epoch says.
async fn unless_seal(store: &dyn ZoneStore, key: &str, id: ChunkId) -> Result<Option<Remark>, StoreError> {
    let range = ReadRange::Range(0..CHUNK_HEADER_LEN as u64);
    let Some(bytes) = insist(|| store.get(key, range.clone())).await? else {
        return Ok(None);
    };
    Ok(match decode_header(&bytes) {
        Ok(header) if header.meta.id != id => {
            let why = format!("it says that it is chunk {}", header.meta.id);
            Some(Remark::Unknown(Unknown::Unreadable(why)))
        }
        Ok(header) if header.meta.kind.is_seal() => None,
        Ok(_) => Some(Remark::Orphan(Orphan::Flushed)),
        Err(error) => Some(Remark::Unknown(Unknown::Unreadable(error.to_string()))),
    })
}

/// Removes objects that were found to be orphans, several at a time, and says what came of each.
pub fn remove(cell: &Cell, places: Vec<Place>) -> impl Stream<Item = (Place, Result<(), StoreError>)> + '_ {
    stream::iter(places)
        .map(move |place| async move {
            let removed = match cell.store(place.area) {
                Ok(store) => insist(|| store.delete(&place.key)).await,
                Err(error) => Err(error),
            };
            (place, removed)
        })
        .buffer_unordered(AT_A_TIME)
}

impl Scope {
    fn has(self, channel: Option<ChannelId>) -> bool {
        match (self, channel) {
            (Self::All, _) => true,
            (Self::Share(share), Some(channel)) => share.has_channel(channel),
            (Self::Share(share), None) => share.is_first(),
        }
    }

    /// Where to go on after a page that ended with this key: others' channels are passed over.
    fn beyond(self, area: Area, last: &str) -> String {
        let foreign = area.channel_of(last).filter(|channel| !self.has(Some(*channel)));
        let end = foreign.map(|channel| last_key(area, channel));
        end.filter(|end| end.as_str() > last)
            .unwrap_or_else(|| last.to_owned())
    }
}

/// No object of the channel has a key behind this one.
fn last_key(area: Area, channel: ChannelId) -> String {
    match area {
        Area::Segments { .. } => SegmentObjectId {
            channel,
            epoch: Epoch(u64::MAX),
            origin: SegmentOrigin::Merge,
            seq: FlushSeq(u64::MAX),
            part: u32::MAX,
        }
        .to_string(),
        Area::Wal { .. } => ChunkId::new(channel, Epoch(u64::MAX), ChunkSeq(u64::MAX)).key(),
    }
}
