//! Carries out deletions that were marked: streams of deleted basins are marked in bounded steps, streams are purged
//! when nobody can answer for them any more, basins when they are empty.
//!
//! Every step is a command that is safe to repeat, and what is left to do stands in metadata: a node that stops in
//! the middle goes on where it was. One stream that cannot be purged yet does not hold up those behind it.

use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use millrace_api::id::{ChannelId, StreamId};
use millrace_raft::command::{MARK_LIMIT_MAX, MarkBasinStreams, PurgeBasin, PurgeStream};
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_raft::query::StreamRecord;
use tokio_util::sync::CancellationToken;

use super::housekeeping::drop_segments;
use super::{rounds, tolerate_refusal};
use crate::channels::Channels;
use crate::env::Env;

/// How often marks are looked for.
const INTERVAL: Duration = Duration::from_millis(500);
/// Streams looked at in one step.
const PAGE: usize = 1000;
/// Streams purged at a time: their commands travel together.
const PURGES: usize = 64;

pub struct Deletion {
    pub env: Env,
    pub meta: Meta,
    pub channels: Channels,
    /// How long the name of a deleted stream stays taken.
    pub grace: Duration,
}

impl Deletion {
    /// Runs until cancelled; a failed round is logged and the next one tries again.
    pub async fn run(self, stop: CancellationToken) {
        let rounds = rounds(INTERVAL, "deletions are held up", || self.round());
        stop.run_until_cancelled(rounds).await;
    }

    async fn round(&self) -> Result<(), MetaError> {
        let basins = self.meta.state().deleting_basins()?;
        for deleting in basins.iter().filter(|deleting| !deleting.marked) {
            let basin = deleting.basin.id;
            let marked = self.meta.propose(MarkBasinStreams {
                basin,
                limit: MARK_LIMIT_MAX,
                now_ms: self.env.now_ms(),
            });
            for (stream, open) in marked.await?.marked {
                self.tell_owner(stream, open.map(|(channel, _)| channel)).await;
            }
        }
        self.purge_streams().await?;
        for deleting in basins.iter().filter(|deleting| deleting.marked) {
            tolerate_refusal(
                self.meta
                    .propose(PurgeBasin {
                        basin: deleting.basin.id,
                    })
                    .await,
            )?;
        }
        Ok(())
    }

    async fn purge_streams(&self) -> Result<(), MetaError> {
        let grace_ms = u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX);
        let mut after = None;
        loop {
            let page = self.meta.state().deleting_streams(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.cursor);
            let purges = page
                .into_iter()
                .map(|deleting| self.purge_stream(deleting.stream, grace_ms));
            stream::iter(purges)
                .buffer_unordered(PURGES)
                .try_collect::<()>()
                .await?;
        }
    }

    async fn purge_stream(&self, stream: StreamRecord, grace_ms: u64) -> Result<(), MetaError> {
        if let Some(open) = stream.open {
            self.tell_owner(stream.id, Some(open.channel)).await;
            return Ok(());
        }
        let marked_at_ms = stream.deletion.map_or(0, |deletion| deletion.at_ms);
        let is_due = marked_at_ms.saturating_add(grace_ms) <= self.env.now_ms();
        if is_due && drop_segments(&self.meta, &self.env, stream.id).await? {
            tolerate_refusal(self.meta.propose(PurgeStream { stream: stream.id }).await)?;
        }
        Ok(())
    }

    /// The owner stops answering for a stream that is marked, and closes its streamlet.
    async fn tell_owner(&self, stream: StreamId, channel: Option<ChannelId>) {
        let owner = channel.map(|channel| self.channels.get(channel));
        // One that cannot be asked is asked again in the next round.
        if let Some(Ok(Some(channel))) = owner {
            // Whoever takes the channel over knows the mark; the next round finds out.
            let _ = channel.refresh(stream, self.meta.applied_index()).await;
        }
    }
}
