//! Keeps what metadata hold of a stream small however long it lives: when its segments have many rows, the oldest go
//! into an index in the store.
//!
//! Nodes share the work by streams, and write indexes under names of a channel that they own.

use std::collections::HashMap;
use std::time::Duration;

use millrace_api::id::{ChannelId, Epoch, FlushSeq, NodeId, StreamId};
use millrace_api::position::SeqNum;
use millrace_api::segment::SegmentObjectId;
use millrace_raft::error::{MetaError, StoreError};
use millrace_raft::query::{ChainLink, PackedSegment, StreamRecord};
use tokio_util::sync::CancellationToken;

use super::share::Share;
use crate::chain::{ChainError, Chains};
use crate::channels::Channels;

/// Streams looked at in one step.
const PAGE: usize = 512;
/// Between steps, so that a walk over many streams disturbs nobody.
const STEP_PAUSE: Duration = Duration::from_millis(5);
/// Links read in one step.
const LINKS: usize = 1000;
/// Segments are packed when they take up at least this part of the objects that they are in: less of an object is what
/// the merger rewrites, which it cannot do with what is packed.
const OWN_PART_MIN: u64 = 4;
/// Places in one chain at which segments are looked at that might be packed.
const PLACES: usize = 4;
/// Streams that had nothing to pack, and are remembered.
const PASSED_MAX: usize = 100_000;

/// What this node does for the streams of its share.
pub struct Packing {
    node: NodeId,
    channels: Channels,
    chains: Chains,
    /// Segments of one index.
    rows: usize,
    /// Between walks over all streams.
    interval: Duration,
    /// The last number under which each channel's indexes were begun, and how often: no name of an attempt that came
    /// to nothing is used again.
    begun: HashMap<(ChannelId, Epoch), (FlushSeq, u32)>,
    /// Rows that streams had when there was nothing to pack among them.
    passed: HashMap<StreamId, u64>,
}

impl Packing {
    pub fn new(node: NodeId, channels: Channels, chains: Chains, rows: usize, interval: Duration) -> Self {
        Self {
            node,
            channels,
            chains,
            rows,
            interval,
            begun: HashMap::new(),
            passed: HashMap::new(),
        }
    }

    /// Runs until cancelled; a failed round is logged and the next one tries again.
    pub async fn run(mut self, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                tokio::time::sleep(self.interval).await;
                if let Err(error) = self.round().await {
                    tracing::warn!(%error, "segments are not packed at the moment");
                }
            }
        })
        .await;
    }

    async fn round(&mut self) -> Result<(), MetaError> {
        let state = self.chains.meta.state();
        let Some(share) = Share::of_node(self.node, &state)? else {
            return Ok(());
        };
        let (first, end) = share.streams();
        let mut after = first.0.checked_sub(1).map(StreamId);
        loop {
            let page = self.chains.meta.state().streams_after(after, PAGE)?;
            let Some(last) = page.last() else { return Ok(()) };
            after = Some(last.id);
            for stream in page {
                if end.is_some_and(|end| stream.id >= end) {
                    return Ok(());
                }
                match self.look_at(&stream).await {
                    Ok(()) => {}
                    Err(ChainError::Meta(error)) => return Err(error),
                    Err(error) => tracing::warn!(stream = %stream.name, %error, "segments are not packed"),
                }
            }
            tokio::time::sleep(STEP_PAUSE).await;
        }
    }

    /// Rows that stay: the newest, which may yet be merged.
    fn kept(&self) -> usize {
        self.rows / 4
    }

    async fn look_at(&mut self, stream: &StreamRecord) -> Result<(), ChainError> {
        let enough = (self.rows + self.kept()) as u64;
        let rows = stream.segments.unwrap_or(u64::MAX);
        let again = self
            .passed
            .get(&stream.id)
            .map_or(0, |before| before + self.kept() as u64);
        if stream.deletion.is_some() || rows < enough.max(again) {
            return Ok(());
        }
        while self.pack(stream).await? {}
        if self.passed.len() >= PASSED_MAX {
            self.passed.clear();
        }
        let state = self.chains.meta.state();
        if let Some(StreamRecord {
            segments: Some(rows), ..
        }) = state.stream_by_id(stream.id)?
        {
            self.passed.insert(stream.id, rows);
        }
        Ok(())
    }

    /// Packs once; whether that came to something.
    async fn pack(&mut self, stream: &StreamRecord) -> Result<bool, ChainError> {
        let Some(segments) = self.chosen(stream)? else {
            return Ok(false);
        };
        for (channel, epoch) in self.channels.owned_epochs() {
            let record = self.chains.meta.state().channel(channel)?;
            let Some(record) = record.filter(|it| it.epoch == epoch && it.activated) else {
                continue;
            };
            let seq = FlushSeq(record.pack_seq.0 + 1);
            let begun = self.begun.entry((channel, epoch)).or_insert((seq, 0));
            let attempt = if begun.0 == seq { begun.1 + 1 } else { 0 };
            *begun = (seq, attempt);
            let name = (channel, epoch, seq);
            let packed = self.chains.pack(name, attempt, stream.id, &segments).await?;
            return Ok(packed > 0);
        }
        Ok(false)
    }

    /// The oldest segments that are worth an index.
    fn chosen(&self, stream: &StreamRecord) -> Result<Option<Vec<PackedSegment>>, StoreError> {
        let state = self.chains.meta.state();
        let mut first_seq = match self.first_segment(stream)? {
            Some(first_seq) => first_seq,
            None => return Ok(None),
        };
        for _ in 0..PLACES {
            let enough = self.rows + self.kept();
            let mut segments = state.packable(stream.id, first_seq, enough)?;
            if segments.len() < enough {
                return Ok(None);
            }
            segments.truncate(self.rows);
            if are_worth_it(&segments) {
                return Ok(Some(segments));
            }
            first_seq = segments.last().map_or(first_seq, |last| last.end_seq);
        }
        Ok(None)
    }

    /// Where those segments begin that follow the last index.
    fn first_segment(&self, stream: &StreamRecord) -> Result<Option<SeqNum>, StoreError> {
        let state = self.chains.meta.state();
        let mut from_seq = stream.unpacked_through;
        let mut first = None;
        loop {
            let links = state.chain(stream.id, from_seq, LINKS)?;
            for link in &links {
                match link {
                    ChainLink::Segment(segment) => first = first.or(Some(segment.row.first_seq)),
                    ChainLink::Index(_) => first = None,
                }
            }
            match links.last() {
                Some(last) if links.len() == LINKS => from_seq = last.end_seq(),
                _ => return Ok(first),
            }
        }
    }
}

/// Whether they fill enough of their objects.
fn are_worth_it(segments: &[PackedSegment]) -> bool {
    let own: u64 = segments.iter().map(|packed| packed.row.bytes()).sum();
    let objects: HashMap<SegmentObjectId, u64> = segments
        .iter()
        .map(|packed| (packed.row.object, packed.object_len))
        .collect();
    objects.values().sum::<u64>() <= own.saturating_mul(OWN_PART_MIN)
}
