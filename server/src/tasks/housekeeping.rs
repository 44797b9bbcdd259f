//! What time does to streams: segments below the trim point go, records older than their retention go, and streams go
//! that are to be deleted when they are empty.

use std::time::Duration;

use millrace_api::config::RetentionPolicy;
use millrace_api::id::{NodeId, StreamId};
use millrace_raft::command::DeleteEmptyStream;
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_raft::query::StreamRecord;
use tokio_util::sync::CancellationToken;

use super::share::Share;
use super::{rounds, tolerate_refusal};
use crate::chain::{ChainError, Chains};
use crate::env::Env;

/// How often streams are looked for whose trim point has moved.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// Streams looked at in one step.
const PAGE: usize = 512;
/// Between steps, so that a walk over many streams disturbs nobody.
const STEP_PAUSE: Duration = Duration::from_millis(5);

pub struct Housekeeping {
    pub node: NodeId,
    pub env: Env,
    pub meta: Meta,
    pub chains: Chains,
    /// Between walks over all streams.
    pub interval: Duration,
}

impl Housekeeping {
    /// Runs until cancelled; a failed round is logged and the next one tries again.
    pub async fn run(self, stop: CancellationToken) {
        let trims = rounds(
            TRIM_INTERVAL,
            "trimmed segments are not dropped at the moment",
            || self.drop_trimmed(),
        );
        let walks = rounds(self.interval, "retention is held up", || self.walk());
        stop.run_until_cancelled(async { tokio::join!(trims, walks) })
            .await;
    }

    async fn drop_trimmed(&self) -> Result<(), MetaError> {
        let Some(share) = Share::of_node(self.node, &self.meta.state())? else {
            return Ok(());
        };
        let mut after = None;
        loop {
            let page = self.meta.state().trimmed_streams(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(*last);
            for stream in page.into_iter().filter(|stream| share.has_stream(*stream)) {
                tolerate_unread(stream, self.chains.drop_segments(stream).await)?;
            }
        }
    }

    async fn walk(&self) -> Result<(), MetaError> {
        let Some(share) = Share::of_node(self.node, &self.meta.state())? else {
            return Ok(());
        };
        let (first, end) = share.streams();
        let mut after = first.0.checked_sub(1).map(StreamId);
        loop {
            let page = self.meta.state().streams_after(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            for stream in page {
                if end.is_some_and(|end| stream.id >= end) {
                    return Ok(());
                }
                if stream.deletion.is_none() {
                    self.look_at(&stream).await?;
                }
            }
            tokio::time::sleep(STEP_PAUSE).await;
        }
    }

    async fn look_at(&self, stream: &StreamRecord) -> Result<(), MetaError> {
        let now_ms = self.env.now_ms();
        if let RetentionPolicy::Age(age_secs) = stream.config.retention {
            let age_ms = age_secs.saturating_mul(1000);
            if let Some(horizon_ms) = now_ms.checked_sub(age_ms) {
                self.expire(stream.id, horizon_ms).await?;
            }
        }
        let min_age_ms = stream.config.delete_on_empty_min_age_secs.saturating_mul(1000);
        let empty_for_ms = stream.empty_since_ms.map(|since| now_ms.saturating_sub(since));
        let is_due = empty_for_ms.is_some_and(|for_ms| for_ms >= min_age_ms);
        if min_age_ms > 0 && is_due && stream.open.is_none() {
            let command = DeleteEmptyStream {
                stream: stream.id,
                now_ms,
            };
            if tolerate_refusal(self.meta.propose(command).await)?.is_some() {
                tracing::info!(stream = %stream.name, "an empty stream is deleted, as it is configured to be");
            }
        }
        Ok(())
    }

    /// Lets go of what was appended before the horizon.
    async fn expire(&self, stream: StreamId, horizon_ms: u64) -> Result<(), MetaError> {
        let oldest = self.meta.state().chain(stream, 0, 1)?.into_iter().next();
        if oldest.is_some_and(|link| link.first_appended_before_ms() <= horizon_ms) {
            tolerate_unread(stream, self.chains.expire(stream, horizon_ms).await)?;
        }
        Ok(())
    }
}

/// A chain whose index cannot be read holds up itself, and no other; whether it went.
pub fn tolerate_unread(stream: StreamId, done: Result<bool, ChainError>) -> Result<bool, MetaError> {
    match done {
        Ok(done) => Ok(done),
        Err(ChainError::Meta(error)) => Err(error),
        Err(error) => {
            tracing::warn!(%stream, %error, "segments that nobody may read are not dropped at the moment");
            Ok(false)
        }
    }
}
