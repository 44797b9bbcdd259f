//! Puts small segments together and takes what is alive out of mostly dead objects, so that what metadata hold of a
//! stream does not grow with its age, and storage does not hold what nobody may read.

use std::collections::HashMap;
use std::time::Duration;

use millrace_api::id::{ChannelId, Epoch, FlushSeq};
use millrace_raft::error::StoreError;
use millrace_raft::query::SegmentObjectRecord;
use tokio_util::sync::CancellationToken;

use crate::channels::Channels;
use crate::merger::{MergeError, Merger, choose};

/// Objects looked at in one step.
const PAGE: usize = 1000;

/// What this node does for the channels that it owns.
pub struct Merges {
    channels: Channels,
    merger: Merger,
    /// Between looks at all channels.
    interval: Duration,
    /// The last number under which each channel's merges were begun, and how often: no name of an attempt that came
    /// to nothing is used again.
    begun: HashMap<(ChannelId, Epoch), (FlushSeq, u32)>,
}

impl Merges {
    pub fn new(channels: Channels, merger: Merger, interval: Duration) -> Self {
        Self {
            channels,
            merger,
            interval,
            begun: HashMap::new(),
        }
    }

    /// Runs until cancelled; a failed round is logged and the next one tries again.
    pub async fn run(mut self, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(self.interval))
            .await
            .is_some()
        {
            for (channel, epoch) in self.channels.owned_epochs() {
                if let Some(Err(error)) = stop.run_until_cancelled(self.merge(channel, epoch)).await {
                    tracing::warn!(%channel, %error, "segments are not merged at the moment");
                }
            }
        }
    }

    /// Until there is nothing worth it, or nothing came of it: what is chosen then would be chosen again.
    async fn merge(&mut self, channel: ChannelId, epoch: Epoch) -> Result<(), MergeError> {
        loop {
            let record = self.merger.meta.state().channel(channel).map_err(metadata)?;
            let Some(record) = record.filter(|record| record.epoch == epoch) else {
                return Ok(());
            };
            let Some(chosen) = choose::objects(&self.objects(channel).map_err(metadata)?) else {
                return Ok(());
            };
            let seq = FlushSeq(record.merge_seq.0 + 1);
            let begun = self.begun.entry((channel, epoch)).or_insert((seq, 0));
            let attempt = if begun.0 == seq { begun.1 + 1 } else { 0 };
            *begun = (seq, attempt);
            let replaced = self.merger.merge((channel, epoch, seq), attempt, &chosen).await?;
            if replaced == 0 {
                return Ok(());
            }
        }
    }

    fn objects(&self, channel: ChannelId) -> Result<Vec<SegmentObjectRecord>, StoreError> {
        let mut objects: Vec<SegmentObjectRecord> = Vec::new();
        loop {
            let after = objects.last().map(|it| it.object);
            let page = self
                .merger
                .meta
                .state()
                .segment_objects(Some(channel), after, PAGE)?;
            let is_last = page.len() < PAGE;
            objects.extend(page);
            if is_last {
                return Ok(objects);
            }
        }
    }
}

fn metadata(error: StoreError) -> MergeError {
    MergeError::Meta(error.into())
}
