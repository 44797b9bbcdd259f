//! Reads that wait at the tail of a stream, one for all who follow it.
//!
//! However many sessions of a node wait behind the same record, the stream's owner is asked once, and what it answers
//! goes to all of them. A session that comes late asks by itself, is answered from memory, and waits with the others
//! again when it has caught up: nobody is sent what it cannot take yet, and nothing is left out.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};

use futures::future::{BoxFuture, FutureExt, Shared, WeakShared};
use millrace_api::id::StreamId;
use millrace_api::limits::{BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX};
use millrace_api::position::SeqNum;

use crate::channel::handle::{ChannelHandle, Pending, ReadBounds};
use crate::channel::message::{ReadReply, Refusal, Seek};

type Answer = Result<ReadReply, Refusal>;
type Waiting = BoxFuture<'static, Answer>;

/// A stream, and the first record that is waited for.
type Place = (StreamId, SeqNum);

/// The reads of this node that wait. Clones share them.
#[derive(Clone, Default)]
pub struct Followed {
    reads: Arc<Mutex<Reads>>,
}

#[derive(Default)]
struct Reads {
    /// An entry is removed before its answer is given out, or when nobody waits for it any more.
    by_place: HashMap<Place, (u64, WeakShared<Waiting>)>,
    next: u64,
}

/// An answer that is waited for. Cancel safe.
pub enum Asked {
    Alone(Pending<ReadReply>),
    WithOthers(Shared<Waiting>),
}

impl Future for Asked {
    type Output = Answer;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Answer> {
        match self.get_mut() {
            Self::Alone(pending) => {
                Poll::Ready(ready!(pending.poll_unpin(cx)).unwrap_or(Err(Refusal::Stopped)))
            }
            Self::WithOthers(shared) => shared.poll_unpin(cx),
        }
    }
}

impl Followed {
    /// Waits for the record at `seq_num`, the stream's tail when the caller saw it last. What is answered is as of then
    /// or later.
    pub fn wait(&self, channel: &ChannelHandle, stream: StreamId, seq_num: SeqNum) -> Asked {
        let place = (stream, seq_num);
        let mut reads = self.lock();
        if let Some(shared) = reads.by_place.get(&place).and_then(|(_, read)| read.upgrade()) {
            return Asked::WithOthers(shared);
        }
        reads.next += 1;
        let number = reads.next;
        let entry = Entry {
            followed: self.clone(),
            place,
            number,
        };
        let channel = channel.clone();
        let waiting = async move {
            let _entry = entry;
            let bounds = ReadBounds {
                records_max: BATCH_RECORDS_MAX,
                metered_bytes_max: BATCH_METERED_BYTES_MAX,
                wait: true,
            };
            let pending = channel.read(stream, Seek::SeqNum(seq_num), bounds).await;
            pending.await.unwrap_or(Err(Refusal::Stopped))
        };
        let shared = waiting.boxed().shared();
        if let Some(weak) = shared.downgrade() {
            reads.by_place.insert(place, (number, weak));
        }
        Asked::WithOthers(shared)
    }

    fn lock(&self) -> MutexGuard<'_, Reads> {
        self.reads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes its read out of the map when it is answered or given up.
struct Entry {
    followed: Followed,
    place: Place,
    number: u64,
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut reads = self.followed.lock();
        // Where the last session went and another came, the place is taken by a read that goes on.
        if reads
            .by_place
            .get(&self.place)
            .is_some_and(|(number, _)| *number == self.number)
        {
            reads.by_place.remove(&self.place);
        }
    }
}

#[cfg(test)]
mod tests {

    use futures::poll;
    use millrace_api::id::ChannelId;
    use millrace_api::position::StreamPosition;

    use super::*;
    use crate::channel::message::{Read, ReadView, Request};

    fn at_tail() -> Answer {
        let view = ReadView {
            tail: StreamPosition::new(7, 1),
            trim: 0,
        };
        Ok(ReadReply::AtTail { view })
    }

    fn read(request: Request) -> Read {
        match request {
            Request::Read(read) => read,
            _ => panic!("a read"),
        }
    }

    #[tokio::test]
    async fn those_who_wait_for_the_same_record_ask_once() {
        let (channel, mut requests) = ChannelHandle::new(ChannelId(1));
        let followed = Followed::default();
        let mut asked: Vec<_> = (0..100)
            .map(|_| followed.wait(&channel, StreamId(1), 7))
            .collect();
        for asked in &mut asked {
            assert!(poll!(asked).is_pending());
        }
        let asked_once = read(requests.try_recv().expect("a request"));
        assert!(asked_once.wait && asked_once.seek == Seek::SeqNum(7));
        assert!(requests.try_recv().is_err(), "one is enough");
        // Whoever goes does not take the answer with him.
        drop(asked.remove(0));
        assert!(asked_once.reply.send(at_tail()).is_ok());
        for asked in asked {
            assert!(matches!(asked.await, Ok(ReadReply::AtTail { .. })));
        }
        assert!(followed.lock().by_place.is_empty());
    }

    #[tokio::test]
    async fn nobody_gets_an_answer_that_was_given_before() {
        let (channel, mut requests) = ChannelHandle::new(ChannelId(1));
        let followed = Followed::default();
        for _ in 0..2 {
            let asked = followed.wait(&channel, StreamId(1), 7);
            let answer = async {
                read(requests.recv().await.expect("a request"))
                    .reply
                    .send(at_tail())
            };
            let (answered, sent) = tokio::join!(asked, answer);
            assert!(answered.is_ok() && sent.is_ok());
        }
    }

    #[tokio::test]
    async fn a_read_that_nobody_waits_for_is_given_up() {
        let (channel, mut requests) = ChannelHandle::new(ChannelId(1));
        let followed = Followed::default();
        let mut asked = followed.wait(&channel, StreamId(1), 7);
        assert!(poll!(&mut asked).is_pending());
        let given_up = read(requests.try_recv().expect("a request"));
        drop(asked);
        assert!(given_up.reply.is_closed());
        assert!(followed.lock().by_place.is_empty());
        let mut asked = followed.wait(&channel, StreamId(1), 7);
        assert!(poll!(&mut asked).is_pending());
        assert!(requests.try_recv().is_ok(), "asked anew");
    }

    #[tokio::test]
    async fn a_channel_that_has_stopped_is_a_refusal() {
        let (channel, requests) = ChannelHandle::new(ChannelId(1));
        drop(requests);
        let followed = Followed::default();
        let refused = followed.wait(&channel, StreamId(1), 7).await;
        assert!(matches!(refused, Err(Refusal::Stopped)));
    }
}
