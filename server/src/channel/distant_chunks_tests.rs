//! Where a read is sent when a stream's chunks lie far apart.

use millrace_api::position::SeqNum;

use super::*;

const OTHER: StreamId = StreamId(8);

/// A channel that forgets every frame as soon as it is durable.
fn forgetful() -> Channel {
    let mut channel = Channel::with_limits(ChannelLimits {
        chunk_bytes: 1 << 20,
        linger: Duration::ZERO,
        recent_bytes: 0,
        flush: FlushLimits::default(),
    });
    let start = StreamletStart {
        id: StreamletId(4),
        config: ResolvedStreamConfig::default(),
        tail: StreamPosition::default(),
        flushed: StreamPosition::default(),
        fencing: Fencing::default(),
        trim: 0,
        forgotten: 0,
    };
    channel.state.open(OTHER, start, channel.now);
    channel
}

impl Channel {
    /// One record of `stream` in a chunk of its own.
    fn put(&mut self, stream: StreamId, timestamp: u64) {
        let record = proto::AppendRecord {
            timestamp: Some(timestamp),
            ..record("x")
        };
        self.put_batch(stream, input(vec![record]));
    }

    fn put_batch(&mut self, stream: StreamId, input: proto::AppendInput) {
        let (reply, answer) = oneshot::channel();
        let request = Append {
            stream,
            known_at: 0,
            batch: AppendBatch::from_proto(input).unwrap(),
            source: Source::Unary,
            permit: self.room.clone().try_acquire_owned().unwrap(),
            reply,
        };
        self.state.append(request, self.now, NOW_MS);
        let slot = self.write();
        self.durable(slot);
        ack(answer);
    }

    /// Where a read of [`STREAM`] is sent: the first slot, and the number at which to ask again.
    pub(super) fn sent_to(&mut self, seek: Seek) -> (u64, SeqNum) {
        match self.read(seek, false).try_recv() {
            Ok(Ok(ReadReply::Chunks { start, end, .. })) => (start.slot.0, end),
            Ok(Ok(other)) => panic!("not sent to chunks, at {:?}", other.view()),
            other => panic!("{:?}", other.map(|answer| answer.err())),
        }
    }
}

#[test]
fn a_reader_is_not_sent_through_the_chunks_between_two_distant_ones() {
    let mut channel = forgetful();
    channel.put(STREAM, 10);
    for _ in 0..100 {
        channel.put(OTHER, 15);
    }
    channel.put(STREAM, 20);
    channel.put(STREAM, 20);
    assert_eq!(
        channel.sent_to(Seek::SeqNum(0)),
        (0, 1),
        "it asks again at the distant chunk's first record"
    );
    assert_eq!(
        channel.sent_to(Seek::SeqNum(1)),
        (101, 3),
        "near chunks are walked"
    );
    assert_eq!(channel.sent_to(Seek::SeqNum(2)), (102, 3));
    assert_eq!(
        channel.sent_to(Seek::Timestamp(15)),
        (0, 1),
        "a run of equal timestamps may begin in the chunk before"
    );
    assert_eq!(channel.sent_to(Seek::Timestamp(10)), (0, 1));
}

#[test]
fn near_chunks_are_walked_in_one_turn() {
    let mut channel = forgetful();
    for timestamp in 0..4 {
        channel.put(STREAM, timestamp);
        for _ in 0..5 {
            channel.put(OTHER, 0);
        }
    }
    assert_eq!(channel.sent_to(Seek::SeqNum(0)), (0, 4));
}

#[test]
fn what_is_trimmed_in_front_of_a_distant_chunk_is_not_walked() {
    let mut channel = forgetful();
    channel.put(STREAM, 1);
    for _ in 0..100 {
        channel.put(OTHER, 1);
    }
    channel.put(STREAM, 2);
    channel.put_batch(STREAM, input(vec![command("trim", &1u64.to_be_bytes())]));
    assert_eq!(channel.sent_to(Seek::SeqNum(0)), (101, 3));
    assert_eq!(channel.sent_to(Seek::Timestamp(0)), (101, 3));
}

/// Memory ends a walk also when a distant chunk would do so later.
#[test]
fn a_distant_chunk_that_is_in_memory_is_not_the_end() {
    let mut channel = Channel::with_limits(ChannelLimits {
        chunk_bytes: 1 << 20,
        linger: Duration::ZERO,
        recent_bytes: 900,
        flush: FlushLimits::default(),
    });
    for timestamp in 0..10 {
        channel.put(STREAM, timestamp);
    }
    let (start, end) = channel.sent_to(Seek::SeqNum(0));
    assert!(start == 0 && end > 0 && end < 10, "{start}, {end}");
    assert_eq!(
        frames(channel.read(Seek::SeqNum(end), false)).0.first(),
        Some(&end)
    );
}
