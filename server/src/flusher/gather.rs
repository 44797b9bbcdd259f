//! The records of a flush, by stream: from memory, and from chunks where memory has not kept them.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use millrace_api::id::ChannelId;
use millrace_api::position::SeqNum;
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

/// Everything of a flush, by stream. In two lists: of very many streams a list each would take more memory than their
/// frames.
pub struct Records {
    cuts: Vec<StreamCut>,
    /// Of each stream in order.
    frames: Vec<Frame>,
}

impl Records {
    /// In portions that one commit each can name; at least one.
    pub fn shares(self) -> impl Iterator<Item = Vec<StreamRecords>> {
        let mut cuts = self.cuts.into_iter();
        let mut frames = self.frames.into_iter();
        let mut first = true;
        std::iter::from_fn(move || {
            let share = cuts.by_ref().take(SHARE_STREAMS_MAX);
            let share: Vec<_> = share.map(|cut| of_stream(cut, &mut frames)).collect();
            let wanted = !share.is_empty() || first;
            first = false;
            wanted.then_some(share)
        })
    }
}

/// Takes the frames of the stream off the front.
fn of_stream(cut: StreamCut, frames: &mut std::vec::IntoIter<Frame>) -> StreamRecords {
    let own = |frame: &&Frame| frame.header.stream == cut.stream;
    let count = frames.as_slice().iter().take_while(own).count();
    StreamRecords {
        frames: frames.take(count).collect(),
        cut,
    }
}

/// Waits for a store that does not answer, however long: what is durable is never left out of a flush.
pub async fn records(wals: &Wals, channel: ChannelId, plan: &mut FlushPlan) -> Records {
    let mut wanted = Wanted::new(std::mem::take(&mut plan.streams));
    let mut frames = Vec::new();
    let chunks = plan.log.chunks(plan.from, plan.buffered_from);
    let mut read = stream::iter(chunks)
        .map(|chunk| frames_of(wals, chunk))
        .buffered(READS);
    while let Some(chunk) = read.next().await {
        frames.extend(chunk.into_iter().filter(|frame| wanted.take(frame)));
    }
    let mut buffered = std::mem::take(&mut plan.frames);
    buffered.retain(|frame| wanted.take(frame));
    match frames.is_empty() {
        true => frames = buffered,
        false => frames.append(&mut buffered),
    }
    wanted.records(channel, frames)
}

/// Which frames a flush is of.
struct Wanted {
    /// By stream.
    cuts: Vec<StreamCut>,
    /// For each of them the first record that is not taken yet.
    next: Vec<SeqNum>,
}

impl Wanted {
    fn new(mut cuts: Vec<StreamCut>) -> Self {
        cuts.sort_unstable_by_key(|cut| cut.stream);
        let next = cuts.iter().map(|cut| cut.first_seq).collect();
        Self { cuts, next }
    }

    /// Whether the frame, which is asked about in its order, is to be flushed: not if it is of another streamlet, or in
    /// segments already.
    fn take(&mut self, frame: &Frame) -> bool {
        let header = &frame.header;
        let Ok(at) = self.cuts.binary_search_by_key(&header.stream, |cut| cut.stream) else {
            return false;
        };
        let wanted = header.kind == FrameKind::Records
            && header.streamlet == self.cuts[at].streamlet
            && header.first_seq >= self.next[at];
        if wanted {
            self.next[at] = header.end_seq();
        }
        wanted
    }

    /// With the frames that were taken, which are all that were wanted.
    fn records(self, channel: ChannelId, mut frames: Vec<Frame>) -> Records {
        for (cut, end) in self.cuts.iter().zip(self.next) {
            assert_eq!(
                end, cut.tail.seq_num,
                "channel {channel}: the chunks of a flush hold every record of stream {} that is durable",
                cut.stream
            );
        }
        frames.sort_unstable_by_key(|frame| (frame.header.stream, frame.header.first_seq));
        Records {
            cuts: self.cuts,
            frames,
        }
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

#[cfg(test)]
mod tests {
    use bytes::{BufMut, BytesMut};
    use millrace_api::id::{StreamId, StreamletId, WriterId};
    use millrace_api::position::StreamPosition;
    use millrace_raft::query::Fencing;
    use millrace_wal::{FrameFlags, FrameHeader, FrameWriter};

    use super::*;

    const STREAMLET: StreamletId = StreamletId(7);

    fn cut(stream: u128, first_seq: SeqNum, tail: SeqNum) -> StreamCut {
        StreamCut {
            stream: StreamId(stream),
            streamlet: STREAMLET,
            first_seq,
            tail: StreamPosition::new(tail, 1),
            fencing: Fencing::default(),
            trim: 0,
            forgotten: 0,
        }
    }

    /// A frame of two records.
    fn frame(stream: u128, streamlet: StreamletId, first_seq: SeqNum) -> Frame {
        let mut buffer = BytesMut::new();
        let mut writer = FrameWriter::begin(&mut buffer, 10);
        writer.body().put_bytes(b'x', 10);
        writer.finish(FrameHeader {
            kind: FrameKind::Records,
            flags: FrameFlags::NONE,
            stream: StreamId(stream),
            streamlet,
            first_seq,
            record_count: 2,
            metered_bytes: 10,
            first_timestamp: 1,
            last_timestamp: 1,
            writer: WriterId(0),
            number: 0,
            body_len: 0,
            body_crc: 0,
        })
    }

    fn records(cuts: Vec<StreamCut>, mut frames: Vec<Frame>) -> Records {
        let mut wanted = Wanted::new(cuts);
        frames.retain(|frame| wanted.take(frame));
        wanted.records(ChannelId(1), frames)
    }

    #[test]
    fn a_flush_takes_what_is_wanted_of_each_stream_in_its_order() {
        let cuts = vec![cut(9, 4, 8), cut(3, 0, 4), cut(5, 2, 2)];
        let frames = vec![
            frame(9, StreamletId(6), 4),
            frame(9, STREAMLET, 2),
            frame(9, STREAMLET, 4),
            frame(3, STREAMLET, 0),
            frame(4, STREAMLET, 0),
            frame(3, STREAMLET, 2),
            frame(3, STREAMLET, 2),
            frame(9, STREAMLET, 6),
        ];
        let shares: Vec<_> = records(cuts, frames).shares().collect();
        let taken: Vec<_> = shares
            .iter()
            .flatten()
            .map(|records| {
                let numbers = records.frames.iter().map(|frame| frame.header.first_seq);
                assert!(
                    records
                        .frames
                        .iter()
                        .all(|it| it.header.stream == records.cut.stream)
                );
                (records.cut.stream.0, numbers.collect::<Vec<_>>())
            })
            .collect();
        assert_eq!(taken, [(3, vec![0, 2]), (5, vec![]), (9, vec![4, 6])]);
    }

    #[test]
    fn a_flush_of_very_many_streams_has_several_shares_and_one_of_nothing_has_one() {
        let streams = 0..2 * SHARE_STREAMS_MAX as u128 + 1;
        let cuts: Vec<_> = streams.clone().map(|stream| cut(stream, 0, 0)).collect();
        let shares = records(cuts, Vec::new()).shares();
        let lens: Vec<_> = shares.map(|share| share.len()).collect();
        assert_eq!(lens, [SHARE_STREAMS_MAX, SHARE_STREAMS_MAX, 1]);
        let nothing: Vec<_> = records(Vec::new(), Vec::new())
            .shares()
            .map(|it| it.len())
            .collect();
        assert_eq!(nothing, [0]);
    }

    #[test]
    #[should_panic(expected = "hold every record")]
    fn a_flush_that_lacks_a_record_is_not_carried_out() {
        records(vec![cut(3, 0, 4)], vec![frame(3, STREAMLET, 0)]);
    }
}
