//! Record after record, in batches that make themselves.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use futures::FutureExt;
use millrace_api::limits::{BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX};
use millrace_api::name::FencingToken;
use millrace_api::position::SeqNum;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::{Instant, timeout_at};

use super::AppendAck;
use super::session::{AppendSession, AppendSessionOptions, Held};
use super::ticket::{Waiter, runtime_gone};
use crate::error::Error;
use crate::record::{Batch, Record};
use crate::stream::Stream;

/// What a record costs besides its bytes.
const OVERHEAD_BYTES: usize = 256;

/// How a [`Producer`] makes batches, and its bounds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProducerOptions {
    /// How long the first record of a batch waits for others. 0 takes what is there.
    pub linger: Duration,
    /// Records that make a batch full: 1 to 1000.
    pub batch_records_max: usize,
    /// Metered bytes that make a batch full, at most 1 MiB. A record that is larger by itself is a batch of its own.
    pub batch_bytes_max: usize,
    /// Bytes of records that may be produced and not acknowledged; each counts 256 more than its body and headers. A
    /// record that is larger by itself waits until it is alone.
    pub bytes_inflight_max: usize,
    /// Sent with each batch: see [`Batch::fencing_token`].
    pub fencing_token: Option<FencingToken>,
}

impl Default for ProducerOptions {
    fn default() -> Self {
        Self {
            linger: Duration::from_millis(5),
            batch_records_max: BATCH_RECORDS_MAX,
            batch_bytes_max: BATCH_METERED_BYTES_MAX,
            bytes_inflight_max: 16 << 20,
            fencing_token: None,
        }
    }
}

/// Where a record is in its stream. It is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct RecordAck {
    /// The record's sequence number.
    pub seq_num: SeqNum,
    /// The batch that it was appended in.
    pub batch: AppendAck,
}

/// Resolves to the place of one record; `Ok` means that it is durable.
///
/// Cancel safe, and need not be awaited at all: dropping it gives up the answer and not the record.
#[derive(Debug)]
#[must_use = "the record is durable when its ticket resolves, and not before"]
pub struct RecordTicket(oneshot::Receiver<Result<RecordAck, Error>>);

impl Future for RecordTicket {
    type Output = Result<RecordAck, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(ready!(self.0.poll_unpin(cx)).unwrap_or_else(|_| Err(runtime_gone())))
    }
}

/// Appends records in the order in which they are produced, over an [`AppendSession`] with all that it promises.
///
/// A record waits at most `linger` for others to share its batch. Memory is bounded by `bytes_inflight_max`, whatever
/// the server does: [`produce`](Self::produce) waits for a permit, which is given back with the ack.
///
/// Dropping the producer does not undo: what was produced is still sent, and its tickets resolve.
///
/// ```
/// # include!(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/support/doc.rs"));
/// # #[tokio::main] async fn main() { with_node(|client, basin| async move {
/// # use millrace_client::*;
/// # let stream = basin.stream("s")?;
/// let producer = stream.producer(ProducerOptions::default())?;
/// let ticket = producer.produce("a record").await?;
/// producer.flush().await?;
/// assert_eq!(ticket.await?.seq_num, 0);
/// # drop((client, basin)); Ok(()) }).await }
/// ```
#[derive(Debug)]
pub struct Producer {
    /// Bounded by the permits that every record holds, and by one flush of each caller.
    inbox: mpsc::UnboundedSender<Message>,
    session: Arc<AppendSession>,
    bytes: Arc<Semaphore>,
    bytes_max: u32,
}

#[derive(Debug)]
enum Message {
    Record(Produced),
    /// Answered when everything before is in the session.
    Flush(oneshot::Sender<()>),
}

#[derive(Debug)]
struct Produced {
    record: Record,
    metered_bytes: usize,
    ticket: oneshot::Sender<Result<RecordAck, Error>>,
    permit: OwnedSemaphorePermit,
}

impl Producer {
    pub(crate) fn new(stream: Stream, options: ProducerOptions) -> Result<Self, Error> {
        let runtime = Handle::try_current()
            .map_err(|_| Error::invalid("a producer needs a Tokio runtime to live on"))?;
        let session = Arc::new(AppendSession::new(stream, AppendSessionOptions::default())?);
        let bytes_max = options.bytes_inflight_max.clamp(1, Semaphore::MAX_PERMITS);
        let bytes_max = u32::try_from(bytes_max).unwrap_or(u32::MAX);
        let (inbox, receiver) = mpsc::unbounded_channel();
        let batcher = Batcher {
            options,
            session: session.clone(),
        };
        runtime.spawn(batcher.run(receiver));
        Ok(Self {
            inbox,
            session,
            bytes: Arc::new(Semaphore::new(bytes_max as usize)),
            bytes_max,
        })
    }

    /// Waits for a place in the producer, and takes the record; the ticket resolves to its place in the stream.
    ///
    /// Records are appended in the order in which calls to this return. Cancel safe: until this returns, nothing was
    /// produced.
    ///
    /// # Errors
    /// [`Error::Invalid`] if the record is larger than 1 MiB; [`Error::NotApplied`] with the reason, if the session
    /// below has ended.
    pub async fn produce(&self, record: impl Into<Record>) -> Result<RecordTicket, Error> {
        let record = record.into();
        let metered_bytes = record.metered_bytes();
        if metered_bytes > BATCH_METERED_BYTES_MAX {
            return Err(Error::invalid(format!(
                "a record has at most {BATCH_METERED_BYTES_MAX} metered bytes, this one {metered_bytes}"
            )));
        }
        let weight = u32::try_from(metered_bytes + OVERHEAD_BYTES).unwrap_or(u32::MAX);
        let permit = tokio::select! {
            biased;
            error = self.session.ended() => return Err(error),
            permit = self.bytes.clone().acquire_many_owned(weight.min(self.bytes_max)) => {
                permit.map_err(|_| Error::Closed)?
            }
        };
        let (ticket, receiver) = oneshot::channel();
        let produced = Produced {
            record,
            metered_bytes,
            ticket,
            permit,
        };
        let sent = self.inbox.send(Message::Record(produced));
        sent.map_err(|_| Error::Closed)?;
        Ok(RecordTicket(receiver))
    }

    /// Sends what lingers, and waits until every record that was produced before this call is acknowledged. Cancel
    /// safe.
    ///
    /// # Errors
    /// The reason why the session below ended, if it did before that.
    pub async fn flush(&self) -> Result<(), Error> {
        let (done, handed_over) = oneshot::channel();
        let sent = self.inbox.send(Message::Flush(done));
        sent.map_err(|_| runtime_gone())?;
        handed_over.await.map_err(|_| runtime_gone())?;
        self.session.flush().await
    }

    /// Waits until every record is acknowledged, and ends the producer.
    ///
    /// Cancel safety: like dropping the producer, which sends what was produced all the same.
    ///
    /// # Errors
    /// The reason why the session below ended before; the tickets say what that means for each record.
    pub async fn close(self) -> Result<(), Error> {
        self.flush().await
    }
}

/// The task that makes batches. Never waits but for records and the linger: what it hands over is bounded by permits.
struct Batcher {
    options: ProducerOptions,
    session: Arc<AppendSession>,
}

/// A batch that may still grow.
#[derive(Default)]
struct Growing {
    records: Vec<Record>,
    metered_bytes: usize,
    tickets: Vec<oneshot::Sender<Result<RecordAck, Error>>>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Batcher {
    async fn run(self, mut inbox: mpsc::UnboundedReceiver<Message>) {
        let mut growing = Growing::default();
        let mut linger_end = None;
        loop {
            let next = match linger_end {
                None => inbox.recv().await.map(Some),
                Some(end) => timeout_at(end, inbox.recv())
                    .await
                    .map_or(Some(None), |next| next.map(Some)),
            };
            match next {
                Some(Some(Message::Record(produced))) => {
                    if !self.fits(&growing, &produced) {
                        self.hand_over(&mut growing);
                        linger_end = None;
                    }
                    growing.push(produced);
                    if self.is_full(&growing) {
                        self.hand_over(&mut growing);
                        linger_end = None;
                    } else {
                        linger_end = linger_end.or_else(|| Instant::now().checked_add(self.options.linger));
                    }
                }
                Some(Some(Message::Flush(done))) => {
                    self.hand_over(&mut growing);
                    linger_end = None;
                    let _ = done.send(());
                }
                Some(None) => {
                    self.hand_over(&mut growing);
                    linger_end = None;
                }
                None => return self.hand_over(&mut growing),
            }
        }
    }

    fn records_max(&self) -> usize {
        self.options.batch_records_max.clamp(1, BATCH_RECORDS_MAX)
    }

    fn bytes_max(&self) -> usize {
        self.options.batch_bytes_max.min(BATCH_METERED_BYTES_MAX)
    }

    fn fits(&self, growing: &Growing, produced: &Produced) -> bool {
        growing.records.is_empty() || growing.metered_bytes + produced.metered_bytes <= self.bytes_max()
    }

    fn is_full(&self, growing: &Growing) -> bool {
        growing.records.len() >= self.records_max() || growing.metered_bytes >= self.bytes_max()
    }

    fn hand_over(&self, growing: &mut Growing) {
        let Growing {
            records,
            tickets,
            permit,
            ..
        } = std::mem::take(growing);
        let Some(permit) = permit else { return };
        let waiter = Waiter::Records(tickets);
        match Batch::new(records) {
            Err(error) => waiter.resolve(Err(error)),
            Ok(mut batch) => {
                if let Some(token) = &self.options.fencing_token {
                    batch = batch.fencing_token(token);
                }
                // An error has gone to the tickets.
                let _ = self.session.send(&batch, waiter, Held::bytes(permit));
            }
        }
    }
}

impl Growing {
    fn push(&mut self, produced: Produced) {
        self.records.push(produced.record);
        self.metered_bytes += produced.metered_bytes;
        self.tickets.push(produced.ticket);
        match &mut self.permit {
            Some(permit) => permit.merge(produced.permit),
            None => self.permit = Some(produced.permit),
        }
    }
}
