//! Deletes segment objects that no segment names any more.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, StreamExt};
use millrace_api::id::NodeId;
use millrace_api::segment::SegmentObjectId;
use millrace_raft::command::ForgetObjects;
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_wal::ZoneStore;
use tokio_util::sync::CancellationToken;

use super::share::Share;
use super::{rounds, tolerate_refusal};
use crate::env::Env;

const INTERVAL: Duration = Duration::from_secs(2);
/// Objects looked at in one step.
const PAGE: usize = 256;
/// Objects deleted at a time.
const DELETES: usize = 8;

pub struct DeadObjects {
    pub node: NodeId,
    pub env: Env,
    pub meta: Meta,
    pub store: Arc<dyn ZoneStore>,
    /// How long readers that have begun with an object may go on.
    pub grace: Duration,
}

impl DeadObjects {
    /// Runs until cancelled; a failed round is logged and the next one tries again.
    pub async fn run(self, stop: CancellationToken) {
        let held_up = "dead segment objects are not deleted at the moment";
        stop.run_until_cancelled(rounds(INTERVAL, held_up, || self.round()))
            .await;
    }

    async fn round(&self) -> Result<(), MetaError> {
        let state = self.meta.state();
        let Some(share) = Share::of_node(self.node, &state)? else {
            return Ok(());
        };
        let grace_ms = u64::try_from(self.grace.as_millis()).unwrap_or(u64::MAX);
        let mut after = None;
        loop {
            let page = state.dead_objects(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.cursor);
            let now_ms = self.env.now_ms();
            let mut due = Vec::new();
            for dead in page {
                if dead.dead_at_ms.saturating_add(grace_ms) <= now_ms && share.has_object(dead.object) {
                    due.push(dead.object);
                }
            }
            let deleted: Vec<_> = stream::iter(due)
                .map(|object| self.delete(object))
                .buffer_unordered(DELETES)
                .filter_map(std::future::ready)
                .collect()
                .await;
            if !deleted.is_empty() {
                tolerate_refusal(self.meta.propose(ForgetObjects { objects: deleted }).await)?;
            }
        }
    }

    /// The object, if it is gone now.
    async fn delete(&self, object: SegmentObjectId) -> Option<SegmentObjectId> {
        match self.store.delete(&object.to_string()).await {
            Ok(()) => Some(object),
            Err(error) => {
                tracing::info!(%object, %error, "a dead segment object could not be deleted yet");
                None
            }
        }
    }
}
