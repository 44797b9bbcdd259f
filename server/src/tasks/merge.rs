//! Puts small segments together and takes what is alive out of mostly dead objects, so that what metadata hold of a
//! stream does not grow with its age, and storage does not hold what nobody may read.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use millrace_api::id::{ChannelId, Epoch, FlushSeq};
use millrace_api::segment::SegmentObjectId;
use millrace_raft::error::StoreError;
use millrace_raft::query::SegmentObjectRecord;
use tokio_util::sync::CancellationToken;

use crate::channels::Channels;
use crate::merger::crowded::{self, Crowded, Span};
use crate::merger::{MergeError, MergeName, Merger, choose};

/// Objects looked at in one step.
const PAGE: usize = 1000;
/// So much of large objects is written again a second, so that it disturbs nobody.
const BYTES_PER_SECOND: u64 = 64 << 20;

/// What this node does for the channels that it owns.
pub struct Merges {
    channels: Channels,
    merger: Merger,
    /// Between looks at all channels.
    interval: Duration,
    /// The last number under which each channel's merges were begun, and how often: no name of an attempt that came
    /// to nothing is used again.
    begun: HashMap<(ChannelId, Epoch), (FlushSeq, u32)>,
    /// What is known of objects that hold a little of many streams.
    crowded: HashMap<ChannelId, HashMap<SegmentObjectId, Known>>,
}

#[derive(Debug, Clone, Copy)]
enum Known {
    /// Which streams it is between.
    Between(Span),
    /// It was sorted, as far as that was worth it.
    Sorted,
}

impl Merges {
    pub fn new(channels: Channels, merger: Merger, interval: Duration) -> Self {
        Self {
            channels,
            merger,
            interval,
            begun: HashMap::new(),
            crowded: HashMap::new(),
        }
    }

    /// Runs until cancelled; a failed round is logged and the next one tries again.
    pub async fn run(mut self, stop: CancellationToken) {
        while stop
            .run_until_cancelled(tokio::time::sleep(self.interval))
            .await
            .is_some()
        {
            let owned = self.channels.owned_epochs();
            self.crowded
                .retain(|channel, _| owned.iter().any(|(id, _)| id == channel));
            for (channel, epoch) in owned {
                if let Some(Err(error)) = stop.run_until_cancelled(self.merge(channel, epoch)).await {
                    tracing::warn!(%channel, %error, "segments are not merged at the moment");
                }
            }
        }
    }

    /// Until there is nothing worth it, or nothing came of it: what is chosen then would be chosen again.
    async fn merge(&mut self, channel: ChannelId, epoch: Epoch) -> Result<(), MergeError> {
        loop {
            let objects = self.objects(channel).map_err(metadata)?;
            if let Some(chosen) = choose::objects(&objects, self.merger.small_bytes) {
                let Some(name) = self.next_name(channel, epoch)? else {
                    return Ok(());
                };
                if self.merger.merge(name, &chosen).await? == 0 {
                    return Ok(());
                }
                continue;
            }
            let crowded = self.crowded(channel, &objects).await?;
            match crowded::choose(&crowded) {
                Some(chosen) => self.sort(channel, epoch, &chosen).await?,
                None => return Ok(()),
            }
        }
    }

    /// The next number of the channel's merges, if this is its epoch.
    fn next_name(&mut self, channel: ChannelId, epoch: Epoch) -> Result<Option<MergeName>, MergeError> {
        let record = self.merger.meta.state().channel(channel).map_err(metadata)?;
        let Some(record) = record.filter(|record| record.epoch == epoch) else {
            return Ok(None);
        };
        let seq = FlushSeq(record.merge_seq.0 + 1);
        let begun = self.begun.entry((channel, epoch)).or_insert((seq, 0));
        let attempt = if begun.0 == seq { begun.1 + 1 } else { 0 };
        *begun = (seq, attempt);
        Ok(Some(MergeName {
            channel,
            epoch,
            seq,
            attempt,
        }))
    }

    /// Objects that hold a little of many streams and were not sorted yet.
    async fn crowded(
        &mut self,
        channel: ChannelId,
        objects: &[SegmentObjectRecord],
    ) -> Result<Vec<Crowded>, MergeError> {
        let small_bytes = self.merger.small_bytes;
        let is_crowded = |object: &&SegmentObjectRecord| crowded::is_crowded(object, small_bytes);
        let crowded: Vec<_> = objects.iter().filter(is_crowded).collect();
        let there: HashSet<_> = crowded.iter().map(|it| it.object).collect();
        let known = self.crowded.entry(channel).or_default();
        known.retain(|id, _| there.contains(id));
        let mut found = Vec::new();
        for it in crowded {
            let object = it.object;
            let known = match known.get(&object) {
                Some(known) => *known,
                None => {
                    let span = self.merger.span(object).await?;
                    let of_object = span.map_or(Known::Sorted, Known::Between);
                    known.insert(object, of_object);
                    of_object
                }
            };
            if let Known::Between(span) = known {
                found.push(Crowded {
                    object,
                    committed_at_ms: it.committed_at_ms,
                    live_runs: it.live_runs,
                    live_bytes: it.live_bytes,
                    span,
                });
            }
        }
        Ok(found)
    }

    async fn sort(
        &mut self,
        channel: ChannelId,
        epoch: Epoch,
        chosen: &[SegmentObjectId],
    ) -> Result<(), MergeError> {
        let mut walk = self.merger.walk(chosen).await?;
        let (mut bytes, mut replaced) = (0, 0);
        while let Some(name) = self.next_name(channel, epoch)?
            && let Some(sorted) = self.merger.sort(name, &mut walk).await?
        {
            bytes += sorted.bytes;
            replaced += u64::from(sorted.replaced);
            let pause = Duration::from_secs(1).mul_f64(sorted.bytes as f64 / BYTES_PER_SECOND as f64);
            tokio::time::sleep(pause).await;
        }
        tracing::debug!(%channel, objects = chosen.len(), bytes, replaced, "sorted objects by stream");
        let known = self.crowded.entry(channel).or_default();
        known.extend(chosen.iter().map(|object| (*object, Known::Sorted)));
        Ok(())
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
