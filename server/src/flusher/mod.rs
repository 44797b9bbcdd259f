//! Carries out flushes: what channels have made durable goes from chunks into segments.
//!
//! A flush writes its objects, then proposes a commit that names them. Until the commit nobody reads them, and if it is
//! refused nobody ever will. The same flush is proposed again until the group has answered: an answer that was lost
//! is no reason for another.

mod build;
mod gather;

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use millrace_api::id::{ChannelId, Epoch, FlushSeq};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use millrace_raft::command::{CommitFlush, FlushedObject};
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_raft::query::Slot;
use millrace_raft::refused::Refused;
use millrace_wal::segment::SegmentObject;
use tokio::sync::Semaphore;

use self::build::Built;
use crate::cache::PageCache;
use crate::channel::flush::FlushPlan;
use crate::channel::log::LogPosition;
use crate::env::Env;
use crate::storage::SegmentTarget;
use crate::wals::Wals;

/// Flushes that one node carries out at a time; each holds what it flushes in memory.
const AT_A_TIME: usize = 2;
/// Objects of one flush that are written at a time.
const UPLOADS: usize = 4;
/// Waits between attempts: the first, and the longest.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// One per node.
#[derive(Clone)]
pub struct Flusher {
    env: Env,
    meta: Meta,
    wals: Wals,
    to: SegmentTarget,
    cache: Arc<PageCache>,
    turns: Arc<Semaphore>,
}

/// A flush that is in metadata.
#[derive(Debug, Clone, Copy)]
pub struct Done {
    /// Its last commit.
    pub seq: FlushSeq,
    pub log_index: u64,
}

/// Why a flush came to nothing, for good. Everything else is waited for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum FlushError {
    #[error("refused: {0}")]
    Refused(#[from] Refused),
    #[error("the metadata group has stopped")]
    Closed,
}

impl Flusher {
    /// Segments go to a store, and at once into the cache.
    pub fn new(env: Env, meta: Meta, wals: Wals, to: SegmentTarget, cache: Arc<PageCache>) -> Self {
        Self {
            env,
            meta,
            wals,
            to,
            cache,
            turns: Arc::new(Semaphore::new(AT_A_TIME)),
        }
    }

    /// Flushes what the plan says, as the owner of the channel in `epoch`. `Ok` means that metadata name it.
    ///
    /// Dropping the future leaves the outcome unknown: a commit may be under way. The epoch's owner must not begin
    /// another flush then.
    pub async fn flush(
        &self,
        channel: ChannelId,
        epoch: Epoch,
        mut plan: FlushPlan,
    ) -> Result<Done, FlushError> {
        let _turn = self.turns.acquire().await.expect("it is never closed");
        let records = gather::records(&self.wals, channel, &mut plan).await;
        let mut done = Done {
            seq: plan.seq,
            log_index: 0,
        };
        let mut shares = records.shares().peekable();
        while let Some(share) = shares.next() {
            let id = |part| SegmentObjectId {
                channel,
                epoch,
                origin: SegmentOrigin::Flush,
                seq: done.seq,
                part,
            };
            let Built { objects, streams } = build::objects(share, self.to.object_bytes, id);
            stream::iter(&objects)
                .for_each_concurrent(UPLOADS, |object| self.upload(object))
                .await;
            let objects = objects.iter().map(|object| FlushedObject {
                part: object.id.part,
                len: object.payload.len(),
            });
            let last = shares.peek().is_none();
            let command = CommitFlush {
                channel,
                epoch,
                flush_seq: done.seq,
                from: slot(plan.from),
                // Until the last one a replay has to see the chunks: it passes over what is in segments.
                through: slot(if last { plan.through } else { plan.from }),
                objects: objects.collect(),
                streams,
                now_ms: self.env.now_ms(),
            };
            done.log_index = self.propose(command).await?;
            if !last {
                done.seq.0 += 1;
            }
        }
        Ok(done)
    }

    /// Returns when the object is stored.
    async fn upload(&self, object: &SegmentObject) {
        let key = object.id.to_string();
        let mut pause = PAUSE_MIN;
        while let Err(error) = self.to.store.upload(&key, &object.payload).await {
            tracing::warn!(key, %error, "a segment object could not be written yet; it is tried again");
            tokio::time::sleep(pause).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
        self.cache.insert_fresh(object.id, &object.payload).await;
    }

    async fn propose(&self, command: CommitFlush) -> Result<u64, FlushError> {
        let mut pause = PAUSE_MIN;
        loop {
            match self.meta.propose(command.clone()).await {
                Ok(flushed) => return Ok(flushed.log_index),
                Err(MetaError::Refused(refused)) => return Err(refused.into()),
                Err(MetaError::Closed(_)) => return Err(FlushError::Closed),
                Err(error) => {
                    tracing::info!(channel = %command.channel, %error, "a flush is not in metadata yet; it is tried again");
                    tokio::time::sleep(pause).await;
                    pause = (2 * pause).min(PAUSE_MAX);
                }
            }
        }
    }
}

fn slot(position: LogPosition) -> Slot {
    Slot {
        epoch: position.epoch,
        slot: position.slot,
    }
}
