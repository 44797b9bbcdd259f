//! Carries out deletions that were marked: streams of deleted basins are marked in bounded steps, streams are purged
//! when nobody can answer for them any more, basins when they are empty.
//!
//! Every step is a command that is safe to repeat, and what is left to do stands in metadata: a node that stops in
//! the middle goes on where it was. One stream that cannot be purged yet does not hold up those behind it. Nodes share
//! the work by the ids of basins and streams.

use std::time::Duration;

use futures::stream::{self, StreamExt, TryStreamExt};
use millrace_api::id::{BasinId, ChannelId, NodeId, StreamId};
use millrace_raft::command::{MARK_LIMIT_MAX, MarkBasinStreams, PurgeBasin, PurgeStream};
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_raft::query::StreamRecord;
use tokio_util::sync::CancellationToken;

use super::housekeeping::tolerate_unread;
use super::share::Share;
use super::{rounds, tolerate_refusal};
use crate::chain::Chains;
use crate::channels::Channels;
use crate::env::Env;

/// How often marks are looked for.
const INTERVAL: Duration = Duration::from_millis(500);
/// Steps in which the streams of one basin are marked before others have their turn.
const MARKS: usize = 32;
/// Between those steps, so that they disturb nobody.
const MARK_PAUSE: Duration = Duration::from_millis(5);
/// Streams looked at in one step.
const PAGE: usize = 1000;
/// Streams purged at a time: their commands travel together.
const PURGES: usize = 64;

pub struct Deletion {
    pub node: NodeId,
    pub env: Env,
    pub meta: Meta,
    pub chains: Chains,
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
        let Some(share) = Share::of_node(self.node, &self.meta.state())? else {
            return Ok(());
        };
        let mut basins = self.meta.state().deleting_basins()?;
        basins.retain(|deleting| share.has_basin(deleting.basin.id));
        for deleting in basins.iter().filter(|deleting| !deleting.marked) {
            self.mark_streams(deleting.basin.id).await?;
        }
        self.purge_streams(share).await?;
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

    async fn mark_streams(&self, basin: BasinId) -> Result<(), MetaError> {
        for _ in 0..MARKS {
            let command = MarkBasinStreams {
                basin,
                limit: MARK_LIMIT_MAX,
                now_ms: self.env.now_ms(),
            };
            let step = self.meta.propose(command).await?;
            for (stream, open) in step.marked {
                self.tell_owner(stream, open.map(|(channel, _)| channel)).await;
            }
            if step.done {
                break;
            }
            tokio::time::sleep(MARK_PAUSE).await;
        }
        Ok(())
    }

    async fn purge_streams(&self, share: Share) -> Result<(), MetaError> {
        let mut after = None;
        loop {
            let page = self.meta.state().deleting_streams(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.cursor);
            // They come in the order in which they were marked.
            let is_last = !self.is_due(&last.stream);
            let purges = page
                .into_iter()
                .filter(|deleting| share.has_stream(deleting.stream.id))
                .map(|deleting| self.purge_stream(deleting.stream));
            stream::iter(purges)
                .buffer_unordered(PURGES)
                .try_collect::<()>()
                .await?;
            if is_last {
                return Ok(());
            }
        }
    }

    async fn purge_stream(&self, stream: StreamRecord) -> Result<(), MetaError> {
        if let Some(open) = stream.open {
            self.tell_owner(stream.id, Some(open.channel)).await;
            return Ok(());
        }
        if !self.is_due(&stream) {
            return Ok(());
        }
        // Nobody adds segments to a stream that is closed and marked.
        let has_segments = !self.meta.state().chain(stream.id, 0, 1)?.is_empty();
        if !has_segments || tolerate_unread(stream.id, self.chains.drop_segments(stream.id).await)? {
            tolerate_refusal(self.meta.propose(PurgeStream { stream: stream.id }).await)?;
        }
        Ok(())
    }

    fn is_due(&self, stream: &StreamRecord) -> bool {
        let grace_ms = u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX);
        let marked_at_ms = stream.deletion.map_or(0, |deletion| deletion.at_ms);
        marked_at_ms.saturating_add(grace_ms) <= self.env.now_ms()
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
