//! What a flush takes, and where readers are sent afterwards.

use super::*;

/// A channel that flushes when it is told to, and keeps nothing in memory.
fn forgetful(unflushed_bytes_max: u64) -> Channel {
    Channel::with_limits(ChannelLimits {
        chunk_bytes: 1 << 20,
        linger: Duration::ZERO,
        recent_bytes: 0,
        flush: FlushLimits {
            bytes: 1000,
            unflushed_bytes_max,
            ..FlushLimits::default()
        },
    })
}

fn at(slot: u64) -> LogPosition {
    LogPosition {
        epoch: Epoch(1),
        slot: ChunkSeq(slot),
    }
}

impl Channel {
    fn begin_flush(&mut self) -> FlushPlan {
        self.state.begin_flush(self.now)
    }

    fn acknowledged(&mut self, input: proto::AppendInput) -> AppendAck {
        let answer = self.append(input);
        let slot = self.write();
        self.durable(slot);
        ack(answer)
    }

    /// Where a read from this record on is sent; the segments' end, if it is there.
    fn segments_end(&mut self, seek: Seek) -> Option<u64> {
        match self
            .read(seek, false)
            .try_recv()
            .expect("answered")
            .expect("not refused")
        {
            ReadReply::Segments { end, known_at, .. } => {
                assert_eq!(known_at, 77, "the reader waits for the flush");
                Some(end)
            }
            _ => None,
        }
    }
}

#[test]
fn a_flush_takes_what_is_durable_and_nothing_that_is_on_its_way() {
    let mut channel = forgetful(u64::MAX);
    channel.acknowledged(input(vec![record("a"), command("fence", b"first")]));
    channel.acknowledged(input(vec![record("b"), command("trim", &1u64.to_be_bytes())]));
    let _fence = channel.append(input(vec![command("fence", b"second")]));
    let _trim = channel.append(input(vec![command("trim", &3u64.to_be_bytes())]));
    let on_its_way = channel.write();

    let plan = channel.begin_flush();
    assert_eq!((plan.from, plan.through), (at(0), at(2)));
    let [cut] = &plan.streams[..] else {
        panic!("one stream")
    };
    assert_eq!((cut.first_seq, cut.tail.seq_num), (0, 4));
    assert_eq!(cut.fencing.token, FencingToken::new("first").unwrap());
    assert_eq!(cut.fencing.seq_num, Some(1));
    assert_eq!(cut.trim, 1);
    let flushed: Vec<_> = plan.frames.iter().map(|frame| frame.header.first_seq).collect();
    assert_eq!((flushed, plan.buffered_from), (vec![0, 2], at(0)));

    assert_eq!(channel.state.flush_deadline(channel.now), None, "one at a time");
    channel.durable(on_its_way);
    assert_eq!(channel.state.flushed(FlushSeq(1), 77).len(), 2);
    let plan = channel.begin_flush();
    assert_eq!((plan.seq, plan.from, plan.through), (FlushSeq(2), at(2), at(3)));
    let [cut] = &plan.streams[..] else {
        panic!("one stream")
    };
    assert_eq!((cut.first_seq, cut.tail.seq_num, cut.trim), (4, 6, 3));
    assert_eq!(cut.fencing.token, FencingToken::new("second").unwrap());
}

#[test]
fn readers_are_sent_to_segments_for_what_is_flushed_and_to_chunks_for_the_rest() {
    let mut channel = forgetful(u64::MAX);
    for body in ["a", "b", "c"] {
        channel.acknowledged(one(body));
    }
    let first = channel.begin_flush();
    assert_eq!(
        channel.segments_end(Seek::SeqNum(0)),
        None,
        "not before the commit"
    );
    for body in ["d", "e"] {
        channel.acknowledged(one(body));
    }
    let released = channel.state.flushed(first.seq, 77);
    assert_eq!(
        released.iter().map(|chunk| chunk.slot.0).collect::<Vec<_>>(),
        [0, 1, 2]
    );
    assert_eq!(channel.segments_end(Seek::SeqNum(0)), Some(3));
    assert_eq!(channel.segments_end(Seek::SeqNum(2)), Some(3));
    assert_eq!(channel.sent_to(Seek::SeqNum(3)), (3, 5));
    assert_eq!(channel.sent_to(Seek::SeqNum(4)), (4, 5));

    let second = channel.begin_flush();
    channel.state.flushed(second.seq, 77);
    assert_eq!(channel.segments_end(Seek::SeqNum(4)), Some(5));
    assert_eq!(channel.segments_end(Seek::Timestamp(0)), Some(5));
    assert_eq!(channel.segments_end(Seek::SeqNum(5)), None, "the tail");
    let now = channel.now;
    assert!(
        channel.state.rest(STREAM, now).is_some(),
        "nothing of it is in the WAL only"
    );
}

#[test]
fn a_flush_is_due_by_bytes_or_by_time() {
    let mut channel = forgetful(u64::MAX);
    assert_eq!(channel.state.flush_deadline(channel.now), None, "nothing to do");
    channel.acknowledged(one("a"));
    let later = channel.now + FlushLimits::default().interval;
    assert_eq!(channel.state.flush_deadline(channel.now), Some(later));
    channel.acknowledged(one(&"x".repeat(1000)));
    assert_eq!(channel.state.flush_deadline(later), Some(channel.now), "at once");
}

#[test]
fn frames_that_nobody_has_flushed_for_long_are_left_to_be_read_back() {
    let mut channel = forgetful(u64::MAX);
    let first = channel.begin_flush();
    for _ in 0..3 {
        channel.acknowledged(one(&"x".repeat(1000)));
    }
    channel.acknowledged(one("last"));
    channel.state.flushed(first.seq, 0);
    let plan = channel.begin_flush();
    assert_eq!((plan.from, plan.through), (at(0), at(4)));
    assert!(plan.buffered_from > at(0), "memory is bounded");
    let first = plan.frames.first().map(|frame| frame.header.first_seq);
    assert_eq!(first, Some(plan.buffered_from.slot.0), "and without gap behind");
}

#[test]
fn a_channel_that_cannot_flush_takes_nothing_new_and_still_answers_what_it_took() {
    let mut channel = forgetful(1500);
    let writer = |number| {
        let input = WriterInput {
            writer: WriterId(9),
            opened_at: 0,
            number,
            acked_through: 0,
        };
        Source::Writer(SessionGate::default(), input)
    };
    let taken = channel.append_in(one(&"x".repeat(1500)), writer(1));
    let slot = channel.write();
    channel.durable(slot);
    assert_eq!(ack(taken).start.seq_num, 0);
    assert_eq!(refusal(channel.append(one("a"))), Refusal::Full);
    assert_eq!(refusal(channel.append_in(one("b"), writer(2))), Refusal::Full);
    let again = channel.append_in(one(&"x".repeat(1500)), writer(1));
    assert_eq!(
        ack(again).start.seq_num,
        0,
        "it was applied: no refusal may say otherwise"
    );

    let plan = channel.begin_flush();
    assert_eq!(
        refusal(channel.append(one("a"))),
        Refusal::Full,
        "until the commit"
    );
    channel.state.flushed(plan.seq, 1);
    channel.acknowledged(one("a"));
}
