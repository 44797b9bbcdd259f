//! The whole of a recovery.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use millrace_api::bug::{Bug, planted};
use millrace_api::id::{ChunkSeq, Epoch, Nonce};
use rand::rngs::SmallRng;

use super::judge::{Judge, JudgeError};
use super::walk::Walked;
use super::{ChannelHistory, SealedEpoch, UnsealedEpoch};
use crate::format::{ChunkId, Footer};
use crate::quorum::{FencedBy, SealError, TooFewZones, Wal};

/// What a recovery found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recovered {
    /// The first free slot of the current epoch: behind what was adopted into it.
    pub next_slot: ChunkSeq,
    /// Bytes of the chunks that were visited, and their number.
    pub bytes: u64,
    pub chunks: u64,
}

/// Why a recovery cannot go on, however long it waits. The epoch must be given up: its first slots may be in use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecoveryError {
    /// The channel has a later epoch.
    #[error("fenced: {0}")]
    Fenced(String),
    /// The history breaks the rules, or too many zones were replaced.
    #[error("invalid: {0}")]
    Invalid(String),
    /// What is stored was not written by the rules, or by a later release.
    #[error("corrupt: {0}")]
    Corrupt(String),
}

impl From<TooFewZones> for RecoveryError {
    fn from(error: TooFewZones) -> Self {
        Self::Invalid(error.to_string())
    }
}

impl From<SealError> for RecoveryError {
    fn from(error: SealError) -> Self {
        match error {
            SealError::TooFewZones(error) => error.into(),
            SealError::LaterRelease(_) => Self::Corrupt(error.to_string()),
        }
    }
}

impl From<FencedBy> for RecoveryError {
    fn from(by: FencedBy) -> Self {
        match by {
            FencedBy::Object(header) => {
                Self::Fenced(format!("{} holds {:?}", header.meta.id, header.meta.kind))
            }
            FencedBy::Unreadable(why) => Self::Corrupt(why),
        }
    }
}

/// Ends all earlier epochs of a channel and shows its chunks from the checkpoint to `visit`, each exactly once and in
/// order, adopted ones under their new id.
///
/// When it returns `Ok`, every epoch before `history.current` has a recorded end, all that was ever acknowledged above
/// the checkpoint has been visited, and it is durable. What unavailable zones or an unavailable judge hold up is waited
/// for without limit: drop the future to give up. `nonce` is that of the current epoch's writer.
///
/// Call it once per epoch: after an error or a drop some of the epoch's slots may hold copies of ours, and the channel
/// needs a new epoch. Seals and copies left behind do no harm.
pub async fn recover(
    wal: &Wal,
    history: &ChannelHistory,
    judge: &dyn Judge,
    nonce: Nonce,
    visit: impl FnMut(ChunkId, &Arc<Footer>) + Send,
) -> Result<Recovered, RecoveryError> {
    history.check()?;
    let mut gens = history.gens.clone();
    let mut own = wal.gens();
    gens.sort();
    own.sort();
    if gens != own {
        return Err(RecoveryError::Invalid(
            "the current epoch is written under other zones".into(),
        ));
    }
    let recovered = Recovered {
        next_slot: ChunkSeq(history.adopted_by_current()),
        bytes: 0,
        chunks: 0,
    };
    let rng = Mutex::new(wal.rng(history.channel, history.current));
    Recovery {
        wal,
        history,
        judge,
        nonce,
        visit: Mutex::new(visit),
        recovered,
        rng,
    }
    .run()
    .await
}

pub(super) struct Recovery<'a, V> {
    pub(super) wal: &'a Wal,
    pub(super) history: &'a ChannelHistory,
    judge: &'a dyn Judge,
    pub(super) nonce: Nonce,
    /// Never locked: it makes sharing `self` among reads sound for a `visit` that is not `Sync`.
    visit: Mutex<V>,
    recovered: Recovered,
    rng: Mutex<SmallRng>,
}

impl<V: FnMut(ChunkId, &Arc<Footer>) + Send> Recovery<'_, V> {
    async fn run(mut self) -> Result<Recovered, RecoveryError> {
        let history = self.history;
        for sealed in &history.sealed {
            if sealed.epoch >= history.checkpoint.0 && !planted(Bug::SealedNotReplayed) {
                self.replay(sealed.epoch, history.start(sealed.epoch), sealed.end.0)
                    .await?;
            }
        }
        let adopted_before = self.recovered.next_slot.0;
        for unsealed in &history.unsealed {
            self.end_epoch(unsealed).await?;
        }
        // Adopted by a verdict that was recorded before this call.
        self.replay(history.current, 0, adopted_before).await?;
        Ok(self.recovered)
    }

    async fn end_epoch(&mut self, unsealed: &UnsealedEpoch) -> Result<(), RecoveryError> {
        let epoch = unsealed.epoch;
        if unsealed.activated {
            return self.decide(unsealed).await;
        }
        // Never active: exactly the slots that a verdict proved, and unread if there is none.
        let end = unsealed.adopted.unwrap_or(0);
        self.commit(epoch, end, 0).await?;
        self.replay(epoch, self.history.start(epoch), end).await
    }

    async fn decide(&mut self, unsealed: &UnsealedEpoch) -> Result<(), RecoveryError> {
        let epoch = unsealed.epoch;
        let Walked { start, mut slots } = self.walk(unsealed).await?;
        let kept = slots
            .iter()
            .position(|slot| !slot.at_quorum)
            .unwrap_or(slots.len());
        if kept > 0 && kept == slots.len() && planted(Bug::EndOneEarly) {
            slots.pop();
        }
        let kept = kept.min(slots.len());
        let mut rest = slots.split_off(kept);
        if planted(Bug::AdoptNothing) {
            rest.clear();
        }
        if planted(Bug::AdoptOnlyFirst) {
            rest.truncate(1);
        }
        if planted(Bug::AdoptOnlyLast) {
            rest.drain(..rest.len().saturating_sub(1));
        }
        let adopted = self.adopt(epoch, start + kept as u64, rest).await?;
        self.commit(epoch, start + kept as u64, adopted.len() as u64)
            .await?;
        for (slot, found) in (start..).zip(&slots) {
            self.visit(self.id(epoch, slot), &found.index);
        }
        for (slot, index) in (0..).zip(&adopted) {
            self.visit(self.id(self.history.current, slot), index);
        }
        Ok(())
    }

    /// Has the judge record an end, and knows that it did when this returns.
    async fn commit(&self, epoch: Epoch, end: u64, adopted: u64) -> Result<(), RecoveryError> {
        let (channel, by) = (self.history.channel, self.history.current);
        let ours = SealedEpoch {
            epoch,
            end: ChunkSeq(end),
            by,
            adopted,
        };
        let mut attempt = 0;
        loop {
            match self.judge.seal_epoch(channel, epoch, ours.end, by, adopted).await {
                Ok(recorded) if recorded == ours.end => break,
                Ok(recorded) => {
                    return Err(RecoveryError::Corrupt(format!(
                        "proposed end {end}, recorded {recorded}"
                    )));
                }
                Err(error) => {
                    tracing::debug!(%channel, %epoch, %error, "no verdict yet");
                    match self.recorded(epoch, &error).await? {
                        Some(recorded) if recorded == ours => break,
                        Some(recorded) => {
                            return Err(RecoveryError::Fenced(format!(
                                "epoch {epoch} was sealed by {}",
                                recorded.by
                            )));
                        }
                        None => {}
                    }
                }
            }
            attempt += 1;
            self.pause(attempt).await;
        }
        tracing::info!(%channel, %epoch, end, by = %by, adopted, "epoch sealed");
        Ok(())
    }

    /// Asks what became of a proposal that failed with `error`. `None`: not recorded, propose the same again.
    async fn recorded(&self, epoch: Epoch, error: &JudgeError) -> Result<Option<SealedEpoch>, RecoveryError> {
        let mut attempt = 0;
        loop {
            match self.judge.verdict(self.history.channel, epoch).await {
                Ok(None) => match error {
                    JudgeError::Refused(why) => return Err(RecoveryError::Fenced(why.clone())),
                    JudgeError::Retry(_) => return Ok(None),
                },
                Ok(recorded) => return Ok(recorded),
                Err(JudgeError::Refused(why)) => return Err(RecoveryError::Fenced(why)),
                Err(JudgeError::Retry(_)) => {}
            }
            attempt += 1;
            self.pause(attempt).await;
        }
    }

    pub(super) fn visit(&mut self, id: ChunkId, index: &Arc<Footer>) {
        self.recovered.chunks += 1;
        self.recovered.bytes += index.len;
        let visit = self.visit.get_mut().unwrap_or_else(PoisonError::into_inner);
        visit(id, index);
    }

    pub(super) fn adopted_into(&mut self, next_slot: u64) {
        self.recovered.next_slot = ChunkSeq(next_slot);
    }

    pub(super) fn next_slot(&self) -> ChunkSeq {
        self.recovered.next_slot
    }
}

impl<V> Recovery<'_, V> {
    pub(super) fn id(&self, epoch: Epoch, slot: u64) -> ChunkId {
        ChunkId::new(self.history.channel, epoch, ChunkSeq(slot))
    }

    pub(super) async fn pause(&self, attempt: u32) {
        let wait: Duration = {
            let mut rng = self.rng.lock().unwrap_or_else(PoisonError::into_inner);
            self.wal.options().backoff(attempt, &mut *rng)
        };
        tokio::time::sleep(wait).await;
    }
}
