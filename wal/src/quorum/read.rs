//! Reading chunks back, from whichever zone has a good copy.

use std::future::Future;
use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use futures::stream::{self, FuturesUnordered, StreamExt, TryStreamExt};
use tokio::time::{Instant, sleep, timeout};

use super::metrics::count;
use super::{Wal, WalInner, WalOptions, ZoneState};
use crate::format::{
    ChunkId, DecodedChunk, Footer, FooterEntry, FooterSuffix, FormatError, Frame, decode_chunk,
};
use crate::zone::{ReadRange, StoreError, ZoneStore};

/// Why a read gave nothing, by remedy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// Too few zones answered to know; ask again.
    #[error("too few zones answered: {0}")]
    Retry(String),
    /// The chunk is no longer there: flushed and removed, most likely. Find out anew where the records are.
    #[error("chunk {0} is gone")]
    Gone(ChunkId),
    /// There are copies, and none is good.
    #[error("no good copy: {0}")]
    Corrupt(String),
}

impl ReadError {
    pub fn retryable(&self) -> bool {
        matches!(self, Self::Retry(_))
    }
}

/// How much of an object to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Depth {
    Footer,
    Whole,
}

/// What a zone says about a slot.
#[derive(Debug)]
pub(crate) enum Answer {
    Chunk(FoundChunk),
    Seal,
    Absent,
}

/// A valid chunk, as deep as it was looked at.
#[derive(Debug)]
pub(crate) struct FoundChunk {
    pub(crate) index: Arc<Footer>,
    pub(crate) whole: Option<DecodedChunk>,
}

/// A zone says nothing that counts.
#[derive(Debug, Clone, thiserror::Error)]
pub(crate) enum NoAnswer {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Bad(#[from] FormatError),
}

impl Wal {
    /// The index of a chunk, from the end of the object: one read, or two for a footer above `footer_suffix`. `None`
    /// if so many zones have no chunk there that it is not durable. The rest of the object is not checked.
    pub async fn footer(&self, id: ChunkId) -> Result<Option<Arc<Footer>>, ReadError> {
        self.inner
            .first_good(id, |zone| async move {
                Ok(match self.inner.look(zone, id, Depth::Footer).await? {
                    Answer::Chunk(found) => Some(found.index),
                    Answer::Seal | Answer::Absent => None,
                })
            })
            .await
    }

    /// A whole chunk, with every check passed. `None` as for [`footer`](Self::footer).
    pub async fn chunk(&self, id: ChunkId) -> Result<Option<DecodedChunk>, ReadError> {
        self.inner
            .first_good(id, |zone| async move {
                Ok(match self.inner.look(zone, id, Depth::Whole).await? {
                    Answer::Chunk(found) => found.whole,
                    Answer::Seal | Answer::Absent => None,
                })
            })
            .await
    }

    /// The frames that `entries` name: a contiguous run of the chunk's footer. One range read; header and body of
    /// each frame are checked. The frames share the memory of the read.
    pub async fn frames(&self, id: ChunkId, entries: &[FooterEntry]) -> Result<Vec<Frame>, ReadError> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return Ok(Vec::new());
        };
        let (start, end) = (first.offset, last.end());
        debug_assert!(
            entries.windows(2).all(|pair| pair[0].end() == pair[1].offset),
            "a contiguous run"
        );
        let key = &id.key();
        let frames = self
            .inner
            .first_good(id, |zone| async move {
                let len = end.saturating_sub(start);
                match self
                    .inner
                    .read(zone, key, ReadRange::Range(start..end), len)
                    .await?
                {
                    None => Ok(None),
                    Some(bytes) => match cut_frames(&bytes, start, entries) {
                        Ok(frames) => Ok(Some(frames)),
                        Err(error) => {
                            self.inner.bad_copy(zone, id, &error);
                            Err(error.into())
                        }
                    },
                }
            })
            .await?;
        frames.ok_or(ReadError::Gone(id))
    }

    /// Removes objects from all zones; idempotent. The caller knows that nothing names them any more, and that none is
    /// the seal that ended an epoch. On `Err` they are gone from every zone that answers, and perhaps from others: one
    /// of several is asked for no more after its first error for a while, nor while creates fail there, so that it
    /// holds up nobody for longer than one `create_timeout`.
    pub async fn delete(&self, ids: &[ChunkId]) -> Result<(), StoreError> {
        let zones = self.inner.zones.iter();
        let deleted = join_all(zones.map(|zone| self.delete_in(zone, ids))).await;
        deleted.into_iter().collect()
    }

    async fn delete_in(&self, zone: &ZoneState, ids: &[ChunkId]) -> Result<(), StoreError> {
        let (options, zones) = (&self.inner.options, self.inner.zones.len());
        if zones > 1 && !zone.health.may_delete() {
            return Err(StoreError::Retry(format!("zone {} fails", zone.index)));
        }
        let limit = options.create_timeout;
        let delete = |key: String, store: Arc<dyn ZoneStore>| async move {
            let unanswered = |_| StoreError::Retry(format!("no answer within {limit:?}"));
            timeout(limit, store.delete(&key)).await.map_err(unanswered)?
        };
        let deletes: Vec<_> = ids
            .iter()
            .map(|id| Ok(delete(id.key(), Arc::clone(&zone.store))))
            .collect();
        let deleted = stream::iter(deletes)
            .try_buffer_unordered(options.recovery_parallel.div_ceil(zones))
            .try_collect()
            .await;
        if deleted.is_err() {
            zone.health.delete_failed();
        }
        deleted
    }
}

fn cut_frames(bytes: &Bytes, start: u64, entries: &[FooterEntry]) -> Result<Vec<Frame>, FormatError> {
    let mut frames = Vec::with_capacity(entries.len());
    for entry in entries {
        let from = usize::try_from(entry.offset.saturating_sub(start)).unwrap_or(usize::MAX);
        if from > bytes.len() {
            return Err(FormatError::Truncated {
                need: entry.end() - start,
                have: bytes.len() as u64,
            });
        }
        let frame = Frame::decode(&bytes.slice(from..))?;
        if frame.header != entry.header {
            return Err(FormatError::Mismatch { what: "frame header" });
        }
        frames.push(frame);
    }
    Ok(frames)
}

impl WalInner {
    /// One read of one zone, within the time for `len` bytes.
    pub(crate) async fn read(
        &self,
        zone: &ZoneState,
        key: &str,
        range: ReadRange,
        len: u64,
    ) -> Result<Option<Bytes>, StoreError> {
        let limit = WalOptions::timeout(self.options.read_timeout, len);
        let started = Instant::now();
        let result = match timeout(limit, zone.store.get(key, range)).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Retry(format!("no answer within {limit:?}"))),
        };
        let metrics = &self.metrics.zones[zone.index];
        match &result {
            Ok(bytes) => {
                metrics.read.observe(started.elapsed());
                count(
                    &metrics.read_bytes,
                    bytes.as_ref().map_or(0, |bytes| bytes.len() as u64),
                );
            }
            Err(_) => count(&metrics.read_failed_total, 1),
        }
        result
    }

    /// What one zone has at a slot.
    pub(crate) async fn look(&self, zone: &ZoneState, id: ChunkId, depth: Depth) -> Result<Answer, NoAnswer> {
        let answer = match depth {
            Depth::Footer => self.look_at_footer(zone, id).await,
            Depth::Whole => self.look_at_whole(zone, id).await,
        };
        if let Err(NoAnswer::Bad(error)) = &answer {
            self.bad_copy(zone, id, error);
        }
        answer
    }

    async fn look_at_whole(&self, zone: &ZoneState, id: ChunkId) -> Result<Answer, NoAnswer> {
        let key = id.key();
        let Some(bytes) = self.read(zone, &key, ReadRange::Full, 64 << 20).await? else {
            return Ok(Answer::Absent);
        };
        let chunk = decode_chunk(bytes)?;
        let index = Arc::clone(&chunk.index);
        classify(
            id,
            FoundChunk {
                index,
                whole: Some(chunk),
            },
        )
    }

    async fn look_at_footer(&self, zone: &ZoneState, id: ChunkId) -> Result<Answer, NoAnswer> {
        let key = id.key();
        let mut suffix_len = self.options.footer_suffix;
        // The second answer names no other length than the first, or the object is bad.
        for _ in 0..2 {
            let Some(suffix) = self
                .read(zone, &key, ReadRange::Suffix(suffix_len), suffix_len)
                .await?
            else {
                return Ok(Answer::Absent);
            };
            match Footer::decode(&suffix)? {
                FooterSuffix::Whole(footer) => {
                    return classify(
                        id,
                        FoundChunk {
                            index: Arc::new(footer),
                            whole: None,
                        },
                    );
                }
                FooterSuffix::Longer { suffix_len: longer } => suffix_len = longer,
            }
        }
        Err(FormatError::BadField {
            what: "footer length",
        }
        .into())
    }

    /// Asks the zones one after the other, the near one first and failing ones last, and the next one early when one is
    /// slow, until one has a good copy.
    async fn first_good<'a, T, F>(
        &'a self,
        id: ChunkId,
        ask: impl Fn(&'a ZoneState) -> F,
    ) -> Result<Option<T>, ReadError>
    where
        F: Future<Output = Result<Option<T>, NoAnswer>>,
    {
        let mut order: Vec<&ZoneState> = self.zones.iter().collect();
        let far = |zone: &ZoneState| self.options.near.is_some_and(|near| near != zone.index);
        order.sort_by_key(|zone| (zone.health.failing(), far(zone), zone.index));
        let mut order = order.into_iter();
        let ask = |zone: &'a ZoneState| {
            let asked = ask(zone);
            async move { (zone, asked.await) }
        };
        let mut running = FuturesUnordered::new();
        let (mut absent, mut unreachable, mut bad) = (Vec::new(), None, None);
        loop {
            if running.is_empty() {
                match order.next() {
                    Some(zone) => running.push(ask(zone)),
                    None => break,
                }
            }
            tokio::select! {
                biased;
                Some((zone, answer)) = running.next() => match answer {
                    Ok(Some(good)) => return Ok(Some(good)),
                    Ok(None) => absent.push(zone.zone_gen),
                    Err(NoAnswer::Store(error)) => unreachable = Some(error),
                    Err(NoAnswer::Bad(error)) => bad = Some(error),
                },
                () = sleep(self.options.hedge_after), if order.len() > 0 => running.extend(order.next().map(&ask)),
            }
        }
        if self.proves_absence(id, &absent) {
            return Ok(None);
        }
        match (unreachable, bad) {
            (Some(error), _) => Err(ReadError::Retry(format!("{id}: {error}"))),
            (None, Some(error)) => Err(ReadError::Corrupt(format!("{id}: {error}"))),
            (None, None) => Ok(None),
        }
    }
}

/// An object under another's key was put there by nobody who follows the rules: it counts as a bad copy.
fn classify(id: ChunkId, found: FoundChunk) -> Result<Answer, NoAnswer> {
    if found.index.meta.id != id {
        return Err(FormatError::Mismatch { what: "key" }.into());
    }
    if found.index.meta.kind.is_seal() {
        Ok(Answer::Seal)
    } else {
        Ok(Answer::Chunk(found))
    }
}
