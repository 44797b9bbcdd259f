use std::time::Duration;

use millrace_api::batch::AppendBatch;
use millrace_api::config::{ResolvedStreamConfig, TimestampingMode};
use millrace_api::id::{ChannelId, WriterId};
use millrace_api::name::FencingToken;
use millrace_api::proto;
use millrace_raft::query::Fencing;
use tokio::sync::{Semaphore, oneshot};

use super::*;
use crate::channel::message::{ReadView, SessionGate, Source};
use crate::channel::writers::WriterInput;

const STREAM: StreamId = StreamId(7);
const NOW_MS: u64 = 1_000_000;

type AppendReply = oneshot::Receiver<Result<AppendAck, Refusal>>;
type ReadAnswer = oneshot::Receiver<Result<ReadReply, Refusal>>;

struct Channel {
    state: ChannelState,
    now: Instant,
    room: Arc<Semaphore>,
}

impl Channel {
    fn new() -> Self {
        Self::with_limits(ChannelLimits {
            chunk_bytes: 1 << 20,
            linger: Duration::from_millis(5),
            recent_bytes: 1 << 20,
            flush: FlushLimits::default(),
        })
    }

    fn with_limits(limits: ChannelLimits) -> Self {
        let log = ChunkLog::new(ChannelId(1), [], Epoch(1));
        let flush = FlushStart {
            at_once: false,
            checkpoint: LogPosition {
                epoch: Epoch(1),
                slot: ChunkSeq(0),
            },
            seq: FlushSeq(0),
            log_index: 0,
            bytes: 0,
        };
        let state = ChannelState::new(Epoch(1), ChunkSeq(0), log, Streamlets::new(), flush, limits);
        let mut channel = Self {
            state,
            now: Instant::now(),
            room: Arc::new(Semaphore::new(1000)),
        };
        channel.open(ResolvedStreamConfig::default());
        channel
    }

    fn open(&mut self, config: ResolvedStreamConfig) {
        let start = StreamletStart {
            id: StreamletId(3),
            config,
            tail: StreamPosition::default(),
            flushed: StreamPosition::default(),
            fencing: Fencing::default(),
            trim: 0,
            forgotten: 0,
        };
        self.state.open(STREAM, start, self.now);
    }

    fn append(&mut self, input: proto::AppendInput) -> AppendReply {
        self.append_in(input, Source::Unary)
    }

    fn append_in(&mut self, input: proto::AppendInput, source: Source) -> AppendReply {
        let (reply, answer) = oneshot::channel();
        let permit = self.room.clone().try_acquire_owned().unwrap();
        let batch = AppendBatch::from_proto(input).unwrap();
        let request = Append {
            stream: STREAM,
            known_at: 0,
            batch,
            source,
            permit,
            reply,
        };
        self.state.append(request, self.now, NOW_MS);
        self.carry_out();
        answer
    }

    fn read(&mut self, seek: Seek, wait: bool) -> ReadAnswer {
        let (reply, answer) = oneshot::channel();
        let read = Read {
            stream: STREAM,
            known_at: 0,
            seek,
            records_max: 1000,
            metered_bytes_max: 1 << 20,
            wait,
            reply,
        };
        self.state.read(read, self.now);
        self.carry_out();
        answer
    }

    /// Closes the open chunk whatever its age.
    fn write(&mut self) -> ChunkSeq {
        let slot = self.state.pipeline.next_slot;
        assert!(
            self.state.next_chunk(self.now + Duration::from_secs(1)).is_some(),
            "there is a chunk to write"
        );
        slot
    }

    fn durable(&mut self, slot: ChunkSeq) {
        self.state.durable(slot);
        self.carry_out();
    }

    fn carry_out(&mut self) {
        for effect in self.state.take_effects() {
            match effect {
                Effect::Append(reply, answer) => drop(reply.send(answer)),
                Effect::Read(reply, answer) => drop(reply.send(answer)),
                Effect::Closed { .. } => {}
            }
        }
    }
}

fn record(body: &str) -> proto::AppendRecord {
    proto::AppendRecord {
        timestamp: None,
        headers: vec![],
        body: body.to_owned().into(),
    }
}

fn command(name: &'static str, body: &[u8]) -> proto::AppendRecord {
    let header = proto::Header {
        name: "".into(),
        value: name.into(),
    };
    proto::AppendRecord {
        timestamp: None,
        headers: vec![header],
        body: body.to_vec().into(),
    }
}

fn input(records: Vec<proto::AppendRecord>) -> proto::AppendInput {
    proto::AppendInput {
        records,
        match_seq_num: None,
        fencing_token: None,
    }
}

fn one(body: &str) -> proto::AppendInput {
    input(vec![record(body)])
}

fn waits<T>(answer: &mut oneshot::Receiver<T>) -> bool {
    matches!(answer.try_recv(), Err(oneshot::error::TryRecvError::Empty))
}

fn ack(mut answer: AppendReply) -> AppendAck {
    answer.try_recv().expect("answered").expect("acknowledged")
}

fn refusal(mut answer: AppendReply) -> Refusal {
    answer.try_recv().expect("answered").expect_err("refused")
}

fn frames(mut answer: ReadAnswer) -> (Vec<u64>, ReadView) {
    match answer.try_recv().expect("answered").expect("not refused") {
        ReadReply::Frames { frames, view } => (frames.iter().map(|f| f.header.first_seq).collect(), view),
        _ => panic!("not answered from memory"),
    }
}

#[test]
fn ack_leaves_only_when_the_chunk_and_all_before_it_are_durable() {
    let mut channel = Channel::new();
    let mut first = channel.append(one("a"));
    let slot_0 = channel.write();
    let mut second = channel.append(one("b"));
    let slot_1 = channel.write();
    channel.durable(slot_1);
    assert!(
        waits(&mut first) && waits(&mut second),
        "api_088: slot 0 is not durable"
    );
    channel.durable(slot_0);
    assert_eq!(ack(first).start.seq_num, 0);
    let second = ack(second);
    assert_eq!(
        (second.start.seq_num, second.end.seq_num, second.tail.seq_num),
        (1, 2, 2)
    );
}

#[test]
fn chunk_is_written_at_once_when_idle_and_at_linger_otherwise() {
    let mut channel = Channel::new();
    let _a = channel.append(one("a"));
    assert!(
        channel.state.next_chunk(channel.now).is_some(),
        "nothing is in flight"
    );
    let _b = channel.append(one("b"));
    assert!(
        channel.state.next_chunk(channel.now).is_none(),
        "it may wait for others"
    );
    let due = channel.state.linger_deadline().expect("a chunk is open");
    assert_eq!(due, channel.now + Duration::from_millis(5));
    assert!(channel.state.next_chunk(due).is_some());
    assert!(channel.state.next_chunk(due).is_none(), "no empty chunks");
}

#[test]
fn full_chunks_wait_for_slots_in_order() {
    let limits = ChannelLimits {
        chunk_bytes: 1,
        linger: Duration::from_secs(1),
        recent_bytes: 1 << 20,
        flush: FlushLimits::default(),
    };
    let mut channel = Channel::with_limits(limits);
    let answers: Vec<_> = ["a", "b", "c"].map(|body| channel.append(one(body))).into();
    let slots: Vec<_> = answers.iter().map(|_| channel.write()).collect();
    assert_eq!(slots, [ChunkSeq(0), ChunkSeq(1), ChunkSeq(2)]);
    for slot in slots {
        channel.durable(slot);
    }
    let starts: Vec<_> = answers
        .into_iter()
        .map(|answer| ack(answer).start.seq_num)
        .collect();
    assert_eq!(starts, [0, 1, 2]);
    assert!(channel.state.is_settled());
}

#[test]
fn api_066_match_seq_num_is_judged_against_what_is_in_flight() {
    let mut channel = Channel::new();
    let _first = channel.append(one("a"));
    let slot = channel.write();
    let mut wrong = channel.append(proto::AppendInput {
        match_seq_num: Some(0),
        ..one("b")
    });
    let mut right = channel.append(proto::AppendInput {
        match_seq_num: Some(1),
        ..one("c")
    });
    assert!(
        waits(&mut wrong),
        "api_099: the state it was judged against is not durable"
    );
    assert!(waits(&mut right));
    channel.durable(slot);
    assert_eq!(refusal(wrong), Refusal::SeqNumMismatch { next: 1 });
}

#[test]
fn failed_condition_on_durable_state_is_answered_at_once() {
    let mut channel = Channel::new();
    let wrong = channel.append(proto::AppendInput {
        match_seq_num: Some(5),
        ..one("a")
    });
    assert_eq!(refusal(wrong), Refusal::SeqNumMismatch { next: 0 });
}

#[test]
fn failed_condition_waits_for_an_unwritten_chunk_too() {
    let mut channel = Channel::new();
    let _first = channel.append(one("a"));
    let mut wrong = channel.append(proto::AppendInput {
        match_seq_num: Some(9),
        ..one("b")
    });
    assert!(waits(&mut wrong));
    let slot = channel.write();
    assert!(waits(&mut wrong));
    channel.durable(slot);
    assert_eq!(refusal(wrong), Refusal::SeqNumMismatch { next: 1 });
}

#[test]
fn fence_takes_effect_when_sequenced_and_the_token_is_checked_first() {
    let mut channel = Channel::new();
    let _fence = channel.append(input(vec![command("fence", b"mine")]));
    let fenced = |token: &str| proto::AppendInput {
        fencing_token: Some(token.into()),
        match_seq_num: Some(9),
        ..one("x")
    };
    let both_wrong = channel.append(fenced("other"));
    let seq_wrong = channel.append(fenced("mine"));
    let slot = channel.write();
    channel.durable(slot);
    let actual = FencingToken::new("mine").unwrap();
    assert_eq!(
        refusal(both_wrong),
        Refusal::FencingTokenMismatch { actual },
        "api_068"
    );
    assert_eq!(refusal(seq_wrong), Refusal::SeqNumMismatch { next: 1 });
    let rotate = proto::AppendInput {
        fencing_token: Some("mine".into()),
        ..input(vec![command("fence", b""), record("x")])
    };
    let rotated = channel.append(rotate);
    let without = channel.append(one("y"));
    let slot = channel.write();
    channel.durable(slot);
    assert_eq!(
        ack(rotated).end.seq_num,
        3,
        "api_071: judged against the token before the batch"
    );
    assert_eq!(ack(without).end.seq_num, 4, "api_069");
}

#[test]
fn api_075_trim_never_passes_the_command_itself_and_never_goes_back() {
    let mut channel = Channel::new();
    let _records = channel.append(input(vec![
        record("a"),
        record("b"),
        command("trim", &u64::MAX.to_be_bytes()),
    ]));
    let mut read = channel.read(Seek::SeqNum(0), true);
    assert!(waits(&mut read), "a trim shows when it is durable");
    let slot = channel.write();
    channel.durable(slot);
    assert!(waits(&mut read), "everything is trimmed away");
    let back = channel.append(input(vec![record("c"), command("trim", &1u64.to_be_bytes())]));
    let slot = channel.write();
    channel.durable(slot);
    assert_eq!(ack(back).end.seq_num, 5);
    let (firsts, view) = frames(read);
    assert_eq!((firsts, view.trim), (vec![3], 3));
}

#[test]
fn timestamps_are_capped_raised_and_required_as_configured() {
    let stamped = |timestamp: u64| proto::AppendRecord {
        timestamp: Some(timestamp),
        ..record("x")
    };
    let mut channel = Channel::new();
    let capped = channel.append(input(vec![stamped(5), stamped(3), stamped(NOW_MS + 9)]));
    let slot = channel.write();
    channel.durable(slot);
    let capped = ack(capped);
    assert_eq!(
        (capped.start.timestamp, capped.end.timestamp),
        (5, NOW_MS),
        "api_077, api_078"
    );

    let uncapped = ResolvedStreamConfig {
        timestamping_uncapped: true,
        ..Default::default()
    };
    channel.state.reconfigure(STREAM, uncapped);
    let late = channel.append(input(vec![stamped(NOW_MS + 9), stamped(1)]));
    let slot = channel.write();
    channel.durable(slot);
    assert_eq!(ack(late).end.timestamp, NOW_MS + 9);

    let required = ResolvedStreamConfig {
        timestamping_mode: TimestampingMode::ClientRequire,
        ..Default::default()
    };
    channel.state.reconfigure(STREAM, required);
    let missing = channel.append(input(vec![stamped(1), record("none")]));
    assert!(matches!(refusal(missing), Refusal::Invalid(_)), "api_076");

    let arrival = ResolvedStreamConfig {
        timestamping_mode: TimestampingMode::Arrival,
        ..Default::default()
    };
    channel.state.reconfigure(STREAM, arrival);
    let ignored = channel.append(input(vec![stamped(1)]));
    let slot = channel.write();
    channel.durable(slot);
    assert_eq!(
        ack(ignored).end,
        StreamPosition::new(6, NOW_MS + 9),
        "api_079, and never backwards"
    );
}

#[test]
fn api_097_after_the_first_refused_input_of_a_session_nothing_is_applied() {
    let mut channel = Channel::new();
    let gate = SessionGate::default();
    let good = channel.append_in(one("a"), Source::Session(gate.clone()));
    let bad = channel.append_in(
        proto::AppendInput {
            match_seq_num: Some(9),
            ..one("b")
        },
        Source::Session(gate.clone()),
    );
    let late = channel.append_in(one("c"), Source::Session(gate));
    let other = channel.append(one("d"));
    let slot = channel.write();
    channel.durable(slot);
    assert_eq!(ack(good).end.seq_num, 1);
    assert_eq!(refusal(bad), Refusal::SeqNumMismatch { next: 1 });
    assert_eq!(refusal(late), Refusal::SessionEnded);
    assert_eq!(ack(other).start.seq_num, 1, "other clients go on");
}

fn numbered(number: u64) -> Source {
    let input = WriterInput {
        writer: WriterId(9),
        opened_at: 0,
        number,
        acked_through: 0,
    };
    Source::Writer(SessionGate::default(), input)
}

#[test]
fn an_input_that_is_sent_again_is_applied_once_and_answered_when_durable() {
    let mut channel = Channel::new();
    let first = channel.append_in(one("a"), numbered(1));
    let slot = channel.write();
    let second = channel.append_in(one("b"), numbered(2));
    let mut first_again = channel.append_in(one("a"), numbered(1));
    let mut second_again = channel.append_in(one("b"), numbered(2));
    assert!(
        first_again.try_recv().is_err(),
        "its first sending is not durable yet"
    );
    channel.durable(slot);
    assert_eq!(ack(first), first_again.try_recv().unwrap().unwrap());
    assert!(second_again.try_recv().is_err());
    let slot = channel.write();
    channel.durable(slot);
    assert_eq!(ack(second).end, ack(second_again).end);
    let long_after = ack(channel.append_in(one("a"), numbered(1)));
    assert_eq!(
        (
            long_after.start.seq_num,
            long_after.end.seq_num,
            long_after.tail.seq_num
        ),
        (0, 1, 2)
    );
    let next = channel.append_in(one("c"), numbered(3));
    let slot = channel.write();
    channel.durable(slot);
    assert_eq!(ack(next).start.seq_num, 2);
}

#[test]
fn the_condition_of_an_input_is_judged_once() {
    let mut channel = Channel::new();
    let guarded = || proto::AppendInput {
        match_seq_num: Some(0),
        ..one("a")
    };
    let first = channel.append_in(guarded(), numbered(1));
    let again = channel.append_in(guarded(), numbered(1));
    let slot = channel.write();
    channel.durable(slot);
    assert_eq!(ack(first), ack(again));
}

#[test]
fn a_refused_input_does_not_use_up_its_number() {
    let mut channel = Channel::new();
    let wrong = proto::AppendInput {
        match_seq_num: Some(9),
        ..one("a")
    };
    let refused = channel.append_in(wrong, numbered(1));
    assert_eq!(refusal(refused), Refusal::SeqNumMismatch { next: 0 });
    let gap = channel.append_in(one("b"), numbered(2));
    assert!(matches!(refusal(gap), Refusal::Invalid(_)));
    let first = channel.append_in(one("a"), numbered(1));
    let slot = channel.write();
    channel.durable(slot);
    assert_eq!(ack(first).start.seq_num, 0);
}

#[test]
fn readers_see_durable_records_only() {
    let mut channel = Channel::new();
    let _first = channel.append(one("a"));
    let mut at_tail = channel.read(Seek::SeqNum(0), false);
    assert!(
        matches!(at_tail.try_recv(), Ok(Ok(ReadReply::AtTail { .. }))),
        "api_125"
    );
    let mut waiting = channel.read(Seek::SeqNum(0), true);
    assert!(waits(&mut waiting));
    assert_eq!(
        channel.state.check_tail(STREAM, channel.now),
        Ok(StreamPosition::default())
    );
    let slot = channel.write();
    channel.durable(slot);
    assert_eq!(frames(waiting).0, [0]);
    assert_eq!(channel.state.check_tail(STREAM, channel.now).unwrap().seq_num, 1);
}

#[test]
fn evicted_frames_are_found_in_chunks_and_memory_takes_over_without_gap() {
    let limits = ChannelLimits {
        chunk_bytes: 1 << 20,
        linger: Duration::ZERO,
        recent_bytes: 1500,
        flush: FlushLimits::default(),
    };
    let mut channel = Channel::with_limits(limits);
    for _ in 0..10 {
        let _ack = channel.append(one(&"x".repeat(100)));
        let slot = channel.write();
        channel.durable(slot);
    }
    let mut old = channel.read(Seek::SeqNum(0), false);
    let Ok(Ok(ReadReply::Chunks { start, end, log, .. })) = old.try_recv() else {
        panic!("not pointed to chunks")
    };
    assert_eq!(
        start,
        LogPosition {
            epoch: Epoch(1),
            slot: ChunkSeq(0)
        }
    );
    assert!(end > 0 && end < 10, "some are in memory: {end}");
    assert_eq!(
        log.after(start),
        Some(LogPosition {
            epoch: Epoch(1),
            slot: ChunkSeq(1)
        })
    );
    assert_eq!(
        frames(channel.read(Seek::SeqNum(end), false)).0.first(),
        Some(&end)
    );
}

#[test]
fn closing_refuses_everything_at_once_and_ends_when_durable() {
    let mut channel = Channel::new();
    let acked = channel.append(one("a"));
    let slot = channel.write();
    let mut waiting = channel.read(Seek::SeqNum(0), true);
    channel.state.close(STREAM);
    channel.carry_out();
    assert!(matches!(waiting.try_recv(), Ok(Err(Refusal::Deleting))));
    let mut late = channel.append(one("b"));
    assert!(waits(&mut late), "judged against state in flight");
    assert!(channel.state.contains(STREAM));
    channel.state.durable(slot);
    let closed = channel
        .state
        .take_effects()
        .any(|e| matches!(e, Effect::Closed { stream: STREAM, .. }));
    assert!(closed && !channel.state.contains(STREAM));
    drop(acked);
}

#[test]
fn stop_tells_apart_what_may_have_happened() {
    let mut channel = Channel::new();
    let sent = channel.append(one("a"));
    channel.write();
    let unsent = channel.append(one("b"));
    let judged = channel.append(proto::AppendInput {
        match_seq_num: Some(9),
        ..one("c")
    });
    channel.state.stop();
    channel.carry_out();
    assert_eq!(refusal(sent), Refusal::Unknown);
    assert_eq!(refusal(unsent), Refusal::Stopped);
    assert_eq!(refusal(judged), Refusal::Unknown);
}

#[test]
fn only_unused_streams_without_unflushed_records_rest() {
    let mut channel = Channel::new();
    assert!(
        channel
            .state
            .rest(STREAM, channel.now - Duration::from_secs(1))
            .is_none(),
        "just used"
    );
    let reader = channel.read(Seek::SeqNum(0), true);
    assert!(
        channel.state.rest(STREAM, channel.now).is_none(),
        "somebody waits"
    );
    drop(reader);
    assert_eq!(
        channel.state.rest(STREAM, channel.now).unwrap().tail,
        StreamPosition::default()
    );
    assert!(!channel.state.contains(STREAM));

    channel.open(ResolvedStreamConfig::default());
    let _ack = channel.append(one("a"));
    let slot = channel.write();
    channel.durable(slot);
    assert!(
        channel.state.rest_candidates().is_empty(),
        "its record is only in the WAL"
    );
}

#[path = "distant_chunks_tests.rs"]
mod distant_chunks;

#[path = "flush_tests.rs"]
mod flush;
