//! Batches until a limit, across breaks.

use std::fmt;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures::stream::{self, BoxStream};
use futures::{Stream as FuturesStream, StreamExt};
use millrace_api::grpc::{ReadRequest as ReadMessage, ReadResponse};
use millrace_api::limits::HEARTBEAT_MAX;
use millrace_api::position::{SeqNum, StreamPosition};
use millrace_api::read::{ReadRequest, ReadStart};
use tokio::time::{Instant, sleep, timeout};
use tonic::Streaming;

use super::{ReadBatch, ReadOptions};
use crate::call::owner;
use crate::endpoints::Node;
use crate::error::Error;
use crate::pace::Pace;
use crate::rpc;
use crate::stream::Stream;
use crate::transport::{Lane, Place};

/// A session is never silent for longer than the interval of heartbeats; one that misses two of them is broken.
const SILENCE_MAX: Duration = Duration::from_secs(3 * HEARTBEAT_MAX.as_secs());

/// A stream of [`ReadBatch`]es.
///
/// # Across breaks
///
/// When the connection breaks, or the server dies, the session connects again, to any endpoint, and goes on behind the
/// last record that it gave: none is missing and none comes twice. A session that starts at the tail, or relative to
/// it, asks for the tail once and stays with that start. Sequence numbers ascend; they leave a gap only where records
/// went, by trim or by age, before they were read.
///
/// # Caught up
///
/// A batch says by [`is_caught_up`](ReadBatch::is_caught_up) that nothing was behind it. If the session gets there
/// without a record to say it with, it gives one empty batch that does. [`caught_up`](Self::caught_up) answers at any
/// time.
///
/// # How it ends
///
/// With `None` at a limit, or after the wait; with an error if the read was refused, or when nothing came for as long
/// as the policy's [`patience`](crate::RetryPolicy::patience), and then with `None`. Whether it may have happened
/// is no question here: reading changes nothing.
///
/// # Bounds
///
/// Nothing is read ahead but what flow control lets the server send: the stream window, and the batch in hand. A
/// reader that stops taking stops the server. Cancel safe: a `next` that is dropped loses nothing.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc.rs"));
/// # #[tokio::main] async fn main() { with_node(|client, basin| async move {
/// # use millrace_client::*;
/// use futures::StreamExt;
/// # let stream = basin.stream("s")?;
///
/// stream.append(Batch::new(["a", "b"])?).await?;
/// let mut session = stream.read_session(ReadOptions::from_seq_num(0));
/// let mut records = Vec::new();
/// while !session.caught_up() {
///     let Some(batch) = session.next().await else { break };
///     records.extend(batch?);
/// }
/// assert_eq!(records.len(), 2);
/// # drop((client, basin)); Ok(()) }).await }
/// ```
pub struct ReadSession {
    batches: BoxStream<'static, Result<ReadBatch, Error>>,
    place: Arc<Mutex<Reached>>,
}

/// Where a session is.
#[derive(Debug, Default, Clone, Copy)]
struct Reached {
    /// The next record to give; `None` while it is not known.
    next: Option<SeqNum>,
    tail: Option<StreamPosition>,
    caught_up: bool,
}

impl ReadSession {
    pub(crate) fn new(stream: Stream, options: ReadOptions) -> Self {
        let place = Arc::new(Mutex::new(Reached::default()));
        let reader = Reader {
            pace: Pace::new(stream.shared()),
            rest: Rest::new(options.request()),
            call: None,
            avoid: None,
            place: place.clone(),
            stream,
        };
        let batches = stream::try_unfold(reader, |mut reader| async move {
            let batch = reader.next().await?;
            Ok(batch.map(|batch| (batch, reader)))
        });
        Self {
            batches: batches.boxed(),
            place,
        }
    }

    /// Whether everything that was there, as far as the server said, has been given.
    pub fn caught_up(&self) -> bool {
        reached(&self.place).caught_up
    }

    /// The tail, as the server last said it.
    pub fn tail(&self) -> Option<StreamPosition> {
        reached(&self.place).tail
    }

    /// The sequence number behind the last record that was given, or that the session starts at; `None` while a start
    /// by timestamp has not found its record.
    pub fn next_seq_num(&self) -> Option<SeqNum> {
        reached(&self.place).next
    }
}

impl FuturesStream for ReadSession {
    type Item = Result<ReadBatch, Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.batches.poll_next_unpin(cx)
    }
}

impl fmt::Debug for ReadSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let reached = *reached(&self.place);
        f.debug_struct("ReadSession")
            .field("reached", &reached)
            .finish_non_exhaustive()
    }
}

fn reached(place: &Mutex<Reached>) -> MutexGuard<'_, Reached> {
    place.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What of a read is still to come. Decides; does nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Rest {
    request: ReadRequest,
    /// Behind the last record that was given.
    next: Option<SeqNum>,
    /// Some record was given.
    begun: bool,
}

impl Rest {
    fn new(request: ReadRequest) -> Self {
        let next = match request.start {
            ReadStart::SeqNum(seq_num) => Some(seq_num),
            ReadStart::Timestamp(_) | ReadStart::TailOffset(_) => None,
        };
        Self {
            request,
            next,
            begun: false,
        }
    }

    /// How far before the tail the read starts, if the tail has to be asked for.
    fn tail_offset(&self) -> Option<u64> {
        match self.request.start {
            ReadStart::TailOffset(offset) => Some(offset),
            ReadStart::SeqNum(_) | ReadStart::Timestamp(_) => None,
        }
    }

    fn start_at(&mut self, seq_num: SeqNum) {
        self.request.start = ReadStart::SeqNum(seq_num);
        self.next = Some(seq_num);
    }

    /// The batch is given out.
    ///
    /// # Errors
    /// [`Error::Corrupt`] if it repeats a record.
    fn given(&mut self, batch: &ReadBatch) -> Result<(), Error> {
        let (Some(first), Some(end)) = (batch.records().first(), batch.end_seq_num()) else {
            return Ok(());
        };
        let is_late = match self.request.start {
            // A start beyond the tail is moved to the tail if the request says so.
            ReadStart::SeqNum(_) if !self.begun && self.request.clamp => false,
            _ => self.next.is_some_and(|next| first.seq_num < next),
        };
        if is_late {
            return Err(Error::corrupt(format!("record {} comes again", first.seq_num)));
        }
        self.begun = true;
        self.start_at(end);
        self.request.clamp = false;
        let limits = &mut self.request.limits;
        limits.count = limits.count.map(|count| count.saturating_sub(batch.len()));
        limits.bytes = limits
            .bytes
            .map(|bytes| bytes.saturating_sub(batch.metered_bytes()));
        Ok(())
    }

    /// Whether a limit leaves nothing to ask for.
    fn is_done(&self) -> bool {
        let limits = &self.request.limits;
        self.begun && (limits.count == Some(0) || limits.bytes == Some(0))
    }

    /// Whether the read is over, and not wrong, if it starts again at this tail.
    fn ends_at(&self, tail: StreamPosition) -> bool {
        self.begun && self.next == Some(tail.seq_num)
    }
}

struct Reader {
    stream: Stream,
    rest: Rest,
    call: Option<Call>,
    pace: Pace,
    avoid: Option<Arc<Node>>,
    place: Arc<Mutex<Reached>>,
}

struct Call {
    replies: Streaming<ReadResponse>,
    node: Arc<Node>,
    _place: Place,
}

impl Reader {
    /// The next batch that says something new; `None` at the end.
    async fn next(&mut self) -> Result<Option<ReadBatch>, Error> {
        loop {
            let error = match self.receive().await {
                Ok(None) => return Ok(None),
                Ok(Some(batch)) => {
                    self.pace.progressed();
                    self.rest.given(&batch)?;
                    if self.note(&batch) {
                        return Ok(Some(batch));
                    }
                    continue;
                }
                Err(error) => error,
            };
            match error {
                Error::PastTail { tail } if self.rest.ends_at(tail) => return Ok(None),
                error if error.retryable() => {
                    let pause = self.pace.pause(&error)?;
                    tracing::debug!(%error, ?pause, stream = self.stream.name(), "a read session connects again");
                    sleep(pause).await;
                }
                error => return Err(error),
            }
        }
    }

    /// Keeps what the batch says of the place. True if the caller should see it.
    fn note(&mut self, batch: &ReadBatch) -> bool {
        let mut reached = reached(&self.place);
        let was_caught_up = reached.caught_up;
        reached.next = self.rest.next;
        if let Some(tail) = batch.tail() {
            reached.tail = Some(tail);
        }
        if !batch.is_empty() || batch.tail().is_some() {
            reached.caught_up = batch.is_caught_up();
        }
        !batch.is_empty() || (reached.caught_up && !was_caught_up)
    }

    /// One message of the call, which is opened first if there is none. After an error there is none.
    async fn receive(&mut self) -> Result<Option<ReadBatch>, Error> {
        let mut call = match self.call.take() {
            Some(call) => call,
            None if self.rest.is_done() => return Ok(None),
            None => {
                self.resolve_start().await?;
                self.open().await?
            }
        };
        // Put back before waiting, so that whoever gives up waiting does not lose it.
        let received = {
            let replies = &mut self.call.insert(call).replies;
            timeout(SILENCE_MAX, replies.message()).await
        };
        let error = match received {
            Ok(Ok(Some(response))) => return ReadBatch::decode(response.into_batch_bytes()).map(Some),
            Ok(Ok(None)) => return Ok(None),
            Ok(Err(status)) => Error::from(status),
            Err(_) => Error::Timeout(SILENCE_MAX),
        };
        call = match self.call.take() {
            Some(call) => call,
            None => return Err(error),
        };
        self.blame(&call.node, &error);
        Err(error)
    }

    /// A start that depends on the tail is fixed once, so that a break before the first record does not move it.
    async fn resolve_start(&mut self) -> Result<(), Error> {
        if let Some(offset) = self.rest.tail_offset() {
            let tail = self.stream.check_tail().await?;
            self.rest.start_at(tail.seq_num.saturating_sub(offset));
        }
        reached(&self.place).next = self.rest.next;
        Ok(())
    }

    /// Opens a call: at the stream's owner as far as it is known, and if the answer names one, there.
    async fn open(&mut self) -> Result<Call, Error> {
        let shared = self.stream.shared().clone();
        let route = self.stream.route().clone();
        let node = shared
            .endpoints
            .pick(Some(&route), self.avoid.as_ref(), Instant::now());
        let mut call = self.try_open(node).await?;
        if let Some(owner) = shared.endpoints.better(&route, &call.node, Instant::now()) {
            // This call stays as good as it is if the owner cannot be reached from here.
            if let Ok(direct) = self.try_open(owner).await {
                call = direct;
            }
        }
        self.avoid = None;
        Ok(call)
    }

    async fn try_open(&mut self, node: Arc<Node>) -> Result<Call, Error> {
        let shared = self.stream.shared();
        let route = self.stream.route();
        let message = ReadMessage::new(&route.basin, &route.stream, &self.rest.request);
        let place = shared.endpoints.place(&node, Lane::Read);
        let limit = shared.request_timeout;
        let mut stub = rpc::stream(place.channel.clone());
        let opening = stub.read_session(shared.request(message));
        let error = match timeout(limit, opening).await {
            Ok(Ok(response)) => {
                let owner = owner(response.metadata());
                shared.endpoints.succeeded(&node, Some(route), owner);
                return Ok(Call {
                    replies: response.into_inner(),
                    node,
                    _place: place,
                });
            }
            Ok(Err(status)) => Error::from(status),
            Err(_) => Error::Timeout(limit),
        };
        self.blame(&node, &error);
        Err(error)
    }

    fn blame(&mut self, node: &Arc<Node>, error: &Error) {
        let route = self.stream.route();
        let endpoints = &self.stream.shared().endpoints;
        endpoints.failed(node, Some(route), error, Instant::now());
        self.avoid = error.blames_node().then(|| node.clone());
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use millrace_api::proto;
    use millrace_api::record::SequencedRecord;
    use prost::Message;

    use super::*;

    fn batch(seq_nums: std::ops::Range<u64>) -> ReadBatch {
        let records = seq_nums.map(|seq_num| SequencedRecord {
            seq_num,
            body: Bytes::from_static(b"12345"),
            ..Default::default()
        });
        let batch = proto::ReadBatch {
            records: records.collect(),
            tail: None,
        };
        ReadBatch::decode(batch.encode_to_vec().into()).unwrap()
    }

    #[test]
    fn the_rest_of_a_read_starts_behind_its_last_record_with_what_is_left_of_its_limits() {
        let options = ReadOptions::from_timestamp(9).count(10).bytes(1000);
        let mut rest = Rest::new(options.request());
        assert_eq!(rest.next, None);
        rest.given(&batch(5..8)).unwrap();
        let left = ReadOptions::from_seq_num(8).count(7).bytes(1000 - 3 * 13);
        assert_eq!(rest.request, left.request());
        assert!(!rest.is_done());
        rest.given(&batch(8..15)).unwrap();
        assert!(rest.is_done());
    }

    #[test]
    fn a_record_that_comes_again_is_refused() {
        let mut rest = Rest::new(ReadOptions::from_seq_num(5).request());
        assert!(rest.clone().given(&batch(4..5)).is_err(), "before the start");
        rest.given(&batch(5..7)).unwrap();
        assert!(rest.clone().given(&batch(6..8)).is_err());
        rest.given(&batch(9..10)).unwrap();
    }

    #[test]
    fn a_start_beyond_the_tail_may_be_moved_back_once() {
        let mut rest = Rest::new(ReadOptions::from_seq_num(50).clamp().request());
        rest.given(&batch(5..7)).unwrap();
        assert!(rest.given(&batch(6..7)).is_err());
    }

    #[test]
    fn a_limited_read_that_starts_again_at_the_tail_is_over() {
        let tail = |seq_num| StreamPosition::new(seq_num, 0);
        let mut rest = Rest::new(ReadOptions::from_seq_num(5).count(10).request());
        assert!(!rest.ends_at(tail(5)), "an error when the caller asked for it");
        rest.given(&batch(5..7)).unwrap();
        assert!(rest.ends_at(tail(7)) && !rest.ends_at(tail(6)));
    }
}
