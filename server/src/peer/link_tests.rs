use std::sync::Arc;

use millrace_api::batch::AppendBatch;
use millrace_api::id::StreamId;
use millrace_api::position::StreamPosition;
use prost::Message as _;
use tokio::sync::Semaphore;
use tokio::time::advance;

use super::*;
use crate::channel::message::Source;

const MOVED: ChannelId = ChannelId(1);
const STAYS: ChannelId = ChannelId(2);

type Acked = oneshot::Receiver<Result<AppendAck, Refusal>>;
type Tail = oneshot::Receiver<Result<StreamPosition, Refusal>>;

/// An append that is under way for the channel.
fn append(pending: &mut Pending, channel: ChannelId) -> Acked {
    let record = millrace_api::proto::AppendRecord {
        body: b"x".as_slice().into(),
        ..Default::default()
    };
    let input = millrace_api::proto::AppendInput {
        records: vec![record],
        ..Default::default()
    };
    let batch = AppendBatch::decode(input.encode_to_vec().into()).unwrap();
    let room = Arc::new(Semaphore::new(1));
    let (reply, acked) = oneshot::channel();
    let append = Append {
        stream: StreamId(1),
        known_at: 0,
        batch,
        source: Source::Unary,
        permit: room.try_acquire_owned().unwrap(),
        reply,
    };
    let request = Request::Append(append);
    assert!(pending.add(Outgoing { channel, request }).is_some());
    acked
}

fn check_tail(pending: &mut Pending, channel: ChannelId) -> (Tail, u64) {
    let (reply, tail) = oneshot::channel();
    let request = Request::CheckTail {
        stream: StreamId(1),
        known_at: 0,
        reply,
    };
    let (_, id) = pending.add(Outgoing { channel, request }).unwrap();
    (tail, id)
}

#[tokio::test(start_paused = true)]
async fn what_waits_too_long_for_a_channel_that_moved_is_given_up() {
    let mut pending = Pending::default();
    let mut acked = append(&mut pending, MOVED);
    let (mut tail, _) = check_tail(&mut pending, MOVED);
    advance(LAST_ANSWERS).await;
    assert!(!pending.abandon(|channel| channel != MOVED));
    let (acked, tail) = (acked.try_recv().unwrap(), tail.try_recv().unwrap());
    assert_eq!(acked.unwrap_err(), Refusal::Unknown, "it may have been applied");
    assert_eq!(tail.unwrap_err(), Refusal::Unreachable);
    assert!(pending.is_empty());
}

#[tokio::test(start_paused = true)]
async fn the_last_answers_of_a_channel_that_moved_are_waited_for() {
    let mut pending = Pending::default();
    let mut early = append(&mut pending, MOVED);
    advance(LAST_ANSWERS / 2).await;
    let (mut late, id) = check_tail(&mut pending, MOVED);
    advance(LAST_ANSWERS / 2).await;
    assert!(
        pending.abandon(|channel| channel != MOVED),
        "one more is to be looked at"
    );
    assert_eq!(early.try_recv().unwrap().unwrap_err(), Refusal::Unknown);
    let at = StreamPosition::new(7, 8);
    pending.answer(pb::LinkReply {
        id,
        reply: Some(Reply::Tail(codec::position(at))),
    });
    assert_eq!(late.try_recv().unwrap().unwrap(), at);
    assert!(!pending.abandon(|channel| channel != MOVED));
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_channels_that_did_not_move_goes_on_waiting() {
    let mut pending = Pending::default();
    let mut acked = append(&mut pending, STAYS);
    advance(LAST_ANSWERS * 10).await;
    assert!(!pending.abandon(|channel| channel != MOVED));
    assert!(acked.try_recv().is_err());
    assert!(!pending.is_empty());
}
