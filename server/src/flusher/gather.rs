//! The records of a flush, by stream: from memory, and from chunks where memory has not kept them.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::stream::{self, StreamExt};
use millrace_api::id::{ChannelId, StreamId};
use millrace_wal::{ChunkId, Frame, FrameKind};

use crate::channel::flush::{FlushPlan, StreamCut};
use crate::wals::Wals;

/// Chunks that are read at a time.
const READS: usize = 8;
const READ_PAUSE: Duration = Duration::from_secs(1);
/// Streams that one commit names. More take several.
const SHARE_STREAMS_MAX: usize = 16_384;

/// What of one stream is to be flushed.
pub struct StreamRecords {
    pub cut: StreamCut,
    /// All records from the cut's first up to its tail, in order and without gap.
    pub frames: Vec<Frame>,
}

impl StreamRecords {
    pub fn bytes(&self) -> u64 {
        self.frames.iter().map(|frame| frame.bytes.len() as u64).sum()
    }
}

/// Everything of a flush.
pub struct Records(BTreeMap<StreamId, StreamRecords>);

impl Records {
    /// In portions that one commit each can name, by stream; at least one.
    pub fn shares(self) -> impl Iterator<Item = Vec<StreamRecords>> {
        let mut rest = self.0.into_values();
        let mut first = true;
        std::iter::from_fn(move || {
            let share: Vec<_> = rest.by_ref().take(SHARE_STREAMS_MAX).collect();
            let wanted = !share.is_empty() || first;
            first = false;
            wanted.then_some(share)
        })
    }
}

/// Waits for a store that does not answer, however long: what is durable is never left out of a flush.
pub async fn records(wals: &Wals, channel: ChannelId, plan: &mut FlushPlan) -> Records {
    let cuts = std::mem::take(&mut plan.streams);
    let mut by_stream: HashMap<StreamId, StreamRecords> = cuts
        .into_iter()
        .map(|cut| {
            let frames = Vec::new();
            (cut.stream, StreamRecords { cut, frames })
        })
        .collect();
    let chunks = plan.log.chunks(plan.from, plan.buffered_from);
    let mut read = stream::iter(chunks)
        .map(|chunk| frames_of(wals, chunk))
        .buffered(READS);
    while let Some(frames) = read.next().await {
        for frame in frames {
            take(&mut by_stream, frame);
        }
    }
    for frame in std::mem::take(&mut plan.frames) {
        take(&mut by_stream, frame);
    }
    for StreamRecords { cut, frames } in by_stream.values() {
        let end = frames
            .last()
            .map_or(cut.first_seq, |frame| frame.header.end_seq());
        assert_eq!(
            end, cut.tail.seq_num,
            "channel {channel}: the chunks of a flush hold every record of stream {} that is durable",
            cut.stream
        );
    }
    Records(by_stream.into_iter().collect())
}

/// Leaves out what is of another streamlet, or in segments already.
fn take(by_stream: &mut HashMap<StreamId, StreamRecords>, frame: Frame) {
    let header = &frame.header;
    let Some(StreamRecords { cut, frames }) = by_stream.get_mut(&header.stream) else {
        return;
    };
    let next = frames
        .last()
        .map_or(cut.first_seq, |frame| frame.header.end_seq());
    if header.kind == FrameKind::Records && header.streamlet == cut.streamlet && header.first_seq >= next {
        frames.push(frame);
    }
}

async fn frames_of(wals: &Wals, chunk: ChunkId) -> Vec<Frame> {
    loop {
        let read = match wals.of_channel(chunk.channel) {
            Ok(wal) => wal.chunk(chunk).await,
            Err(error) => Err(error.into()),
        };
        match read {
            Ok(Some(decoded)) => return decoded.frames,
            Ok(None) => {
                tracing::error!(chunk = %chunk.key(), "a chunk is missing that was acknowledged; it cannot be flushed")
            }
            Err(error) => {
                tracing::warn!(chunk = %chunk.key(), %error, "a chunk cannot be read to flush it; it is tried again")
            }
        }
        tokio::time::sleep(READ_PAUSE).await;
    }
}
