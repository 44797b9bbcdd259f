//! The task that owns a channel: selects an event, lets [`ChannelState`] decide, carries out what it decided.
//!
//! Requests for streams that are not open here wait while the task looks them up, activates them or lets them rest;
//! they go on in the order in which they came.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use millrace_api::bug::{Bug, planted};
use millrace_api::id::{ChannelId, ChunkSeq, Epoch, StreamId, StreamletId};
use millrace_raft::command::{ActivateStream, CloseStreamlet, DeactivateStream};
use millrace_raft::error::{MetaError, StoreError};
use millrace_raft::group::Meta;
use millrace_raft::query::{OpenStreamlet, StreamRecord};
use millrace_raft::refused::Refused;
use millrace_wal::{EpochWriter, FencedBy, WriteEvent};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::flushing::{Flushing, Outcome};
use super::message::{Refusal, Request};
use super::state::{ChannelState, Effect};
use super::stats::ChannelStats;
use super::streamlet::StreamletStart;
use crate::deadline::sleep_until;
use crate::env::Env;
use crate::lease::Lease;

/// Requests taken from the queue before chunks are looked at again.
const REQUESTS_PER_TURN: usize = 256;
/// How often idle streams and writers are looked for.
const REST_INTERVAL: Duration = Duration::from_secs(5);
const RETRY_PAUSE: Duration = Duration::from_millis(200);
/// After so long without a grant the epoch is confirmed before anything more is acknowledged.
const ACK_HORIZON: Duration = Duration::from_secs(10);
/// How long the group may take to confirm it. A group without a leader cannot; then the chunks alone decide, which no
/// later owner lets be created.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(1);
/// How long this node's state may take to be as new as that of whoever asks.
const CATCH_UP_TIMEOUT: Duration = Duration::from_secs(2);

/// How a channel ended.
#[derive(Debug)]
pub enum Ended {
    /// Asked to. With `sealed_end`, the epoch's chunks are those below it, all of them durable, and nobody writes
    /// another; without it storage has not taken everything.
    Stopped { sealed_end: Option<ChunkSeq> },
    /// Another owner has taken the epoch. Nothing was acknowledged that it does not know.
    Fenced(FencedBy),
    /// Metadata have a later epoch.
    Replaced(Epoch),
    /// Storage has taken nothing for too long.
    Stuck,
    /// Metadata do not take what was flushed, or what is to be flushed is not there.
    Unflushable(String),
}

pub struct ChannelTask {
    pub id: ChannelId,
    pub epoch: Epoch,
    pub env: Env,
    pub meta: Meta,
    pub state: ChannelState,
    pub writer: EpochWriter,
    pub written: mpsc::UnboundedReceiver<WriteEvent>,
    pub requests: mpsc::Receiver<Request>,
    /// Streams of which nothing is unflushed rest when they were not used for this long.
    pub idle_timeout: Duration,
    pub stop: CancellationToken,
    pub stats: Arc<ChannelStats>,
    pub waiting: Waiting,
    pub flushing: Flushing,
    /// The right to answer reads, tails and failed conditions. Acknowledgements need none: who may write is up to the
    /// chunks.
    pub lease: Lease,
    /// The channel ends when a chunk has waited for so long.
    pub stuck_after: Option<Duration>,
    /// When the group was asked last whether the epoch is still the channel's.
    pub confirmed: Option<Instant>,
}

/// Work on metadata that is under way, and the requests that wait for it.
#[derive(Default)]
pub struct Waiting {
    parked: HashMap<StreamId, Vec<Request>>,
    jobs: JoinSet<JobDone>,
}

enum JobDone {
    /// Look the stream up again and serve what waits.
    Look {
        stream: StreamId,
    },
    Refuse {
        stream: StreamId,
        refusal: Refusal,
    },
    Nothing,
}

enum Event {
    Requests,
    Written(WriteEvent),
    Job(JobDone),
    Flushed(Outcome),
    Rest,
    Linger,
    Flush,
    /// A channel somewhere may have another owner.
    Channels,
    Stop,
}

impl ChannelTask {
    /// Serves until told to stop or fenced. Never returns with an answer owed.
    pub async fn run(mut self) -> Ended {
        let mut batch = Vec::with_capacity(REQUESTS_PER_TURN);
        let mut rest_at = Instant::now() + REST_INTERVAL;
        let mut channels = self.meta.channels_changed();
        loop {
            let event = self.next_event(&mut batch, rest_at, &mut channels).await;
            let now = Instant::now();
            match event {
                Event::Requests => {
                    let now_ms = self.env.now_ms();
                    for request in batch.drain(..) {
                        self.request(request, now, now_ms);
                    }
                }
                Event::Written(WriteEvent::Durable { slot, .. }) => {
                    if let Some(later) = self.durable(slot).await {
                        return self.end(Ended::Replaced(later));
                    }
                }
                Event::Written(WriteEvent::Fenced { by, slot }) => {
                    tracing::error!(channel = %self.id, epoch = %self.epoch, %slot, ?by,
                        "fenced: another owner has taken the channel; nothing more is acknowledged here");
                    return self.end(Ended::Fenced(by));
                }
                Event::Written(WriteEvent::Retrying { slot, error, since }) => {
                    self.stats.chunk_retried();
                    tracing::warn!(channel = %self.id, epoch = %self.epoch, %slot, %error, waiting = ?since,
                        "a chunk could not be written yet; the same chunk is tried again");
                    if self.stuck_after.is_some_and(|bound| since > bound) {
                        return self.end(Ended::Stuck);
                    }
                }
                Event::Job(done) => self.job_done(done, now),
                Event::Flushed(outcome) => {
                    if let Some(ended) = self.flushed(outcome) {
                        return self.end(ended);
                    }
                }
                Event::Rest => {
                    rest_at = now + REST_INTERVAL;
                    self.state.forget_idle_writers(now);
                    self.rest_idle(now);
                }
                Event::Linger | Event::Flush => {}
                Event::Channels => {
                    if let Some(later) = self.later_epoch() {
                        return self.end(Ended::Replaced(later));
                    }
                }
                Event::Stop => return self.stop().await,
            }
            self.write_chunks(now);
            self.flush_if_due(now);
            self.carry_out();
        }
    }

    async fn next_event(
        &mut self,
        batch: &mut Vec<Request>,
        rest_at: Instant,
        channels: &mut watch::Receiver<u64>,
    ) -> Event {
        let linger = self
            .state
            .linger_deadline()
            .filter(|_| self.writer.free_slots() > 0);
        let flush = self.state.flush_deadline(Instant::now());
        tokio::select! {
            biased;
            Some(written) = self.written.recv() => Event::Written(written),
            Some(done) = self.waiting.jobs.join_next() => Event::Job(done.unwrap_or(JobDone::Nothing)),
            Some(outcome) = self.flushing.next() => Event::Flushed(outcome),
            Ok(()) = channels.changed() => Event::Channels,
            () = self.stop.cancelled() => Event::Stop,
            () = tokio::time::sleep_until(rest_at) => Event::Rest,
            () = sleep_until(flush), if flush.is_some() => Event::Flush,
            // Behind everything that is rare, so that a flood of requests delays none of it.
            received = self.requests.recv_many(batch, REQUESTS_PER_TURN) => match received {
                0 => Event::Stop,
                _ => Event::Requests,
            },
            () = tokio::time::sleep_until(linger.unwrap_or(rest_at)), if linger.is_some() => Event::Linger,
        }
    }

    /// The channel's epoch in this node's metadata, if it is later than this owner's.
    pub(super) fn later_epoch(&self) -> Option<Epoch> {
        match self.meta.state().channel(self.id) {
            Ok(record) => record
                .map(|record| record.epoch)
                .filter(|epoch| *epoch > self.epoch),
            Err(error) => {
                tracing::error!(channel = %self.id, %error, "metadata of the channel cannot be read");
                None
            }
        }
    }

    /// The chunk in this slot is durable: what is in it can be acknowledged, unless metadata have a later epoch, which
    /// this returns. Then nothing is.
    async fn durable(&mut self, slot: ChunkSeq) -> Option<Epoch> {
        let later = self.confirm_epoch().await;
        if later.is_none() {
            self.state.durable(slot);
        }
        later
    }

    /// To be called before anything is acknowledged: the later epoch, if metadata have one. Asks the group first when
    /// the leader has not been heard for long: this process may have slept.
    async fn confirm_epoch(&mut self) -> Option<Epoch> {
        if self.lease.heard_within(ACK_HORIZON) || self.confirmed.is_some_and(|at| at.elapsed() < ACK_HORIZON)
        {
            return None;
        }
        let asked = tokio::time::timeout(CONFIRM_TIMEOUT, self.meta.linearize()).await;
        if !matches!(asked, Ok(Ok(_))) {
            tracing::warn!(channel = %self.id, epoch = %self.epoch, "no leader confirms the epoch; chunks alone decide");
        }
        self.confirmed = Some(Instant::now());
        self.later_epoch()
    }

    fn request(&mut self, request: Request, now: Instant, now_ms: u64) {
        let stream = request.stream();
        if let Some(parked) = self.waiting.parked.get_mut(&stream) {
            parked.push(request);
        } else if self.state.contains(stream) {
            self.serve(request, now, now_ms);
        } else {
            self.look_up(stream, vec![request], now);
        }
    }

    /// Serves a request for a stream that is open.
    fn serve(&mut self, request: Request, now: Instant, now_ms: u64) {
        match request {
            Request::Append(append) => {
                self.stats
                    .append_received(append.batch.len(), append.batch.metered_bytes());
                self.state.append(append, now, now_ms);
            }
            Request::Read(read) => self.state.read(read, now),
            Request::CheckTail { stream, reply, .. } => {
                let tail = self.state.check_tail(stream, now);
                let leased = tail.and_then(|tail| match self.lease.is_valid() {
                    true => Ok(tail),
                    false => Err(Refusal::NoLease),
                });
                let _ = reply.send(leased);
            }
            Request::Refresh { stream, reply, .. } => {
                match self.record(stream) {
                    Ok(Some(record)) if record.deletion.is_none() => {
                        self.state.reconfigure(stream, record.config);
                    }
                    Ok(_) if planted(Bug::DeletedStaysOpen) => {}
                    Ok(_) => self.state.close(stream),
                    Err(error) => {
                        tracing::error!(%stream, %error, "metadata of an open stream cannot be read")
                    }
                }
                let _ = reply.send(Ok(()));
            }
        }
    }

    /// The stream is not open: finds out from this node's metadata what becomes of the requests.
    fn look_up(&mut self, stream: StreamId, requests: Vec<Request>, now: Instant) {
        let known_at = requests.iter().map(Request::known_at).max().unwrap_or(0);
        if known_at > self.meta.applied_index() {
            self.waiting.parked.insert(stream, requests);
            let meta = self.meta.clone();
            self.waiting
                .jobs
                .spawn(async move { catch_up(&meta, stream, known_at).await });
            return;
        }
        let record = match self.record(stream) {
            Ok(Some(record)) => record,
            Ok(None) => return refuse_all(requests, &Refusal::NotFound),
            Err(error) => return refuse_all(requests, &Refusal::Metadata(error.to_string())),
        };
        if record.deletion.is_some() {
            return self.refuse_deleting(stream, &record, requests);
        }
        match &record.open {
            Some(open) if open.channel == self.id => {
                self.state.open(stream, streamlet_start(&record, open), now);
                let now_ms = self.env.now_ms();
                for request in requests {
                    self.request(request, now, now_ms);
                }
            }
            Some(_) => refuse_all(requests, &Refusal::NotHere { applied: 0 }),
            None if requests.iter().all(|r| matches!(r, Request::Refresh { .. })) => {
                refuse_all(requests, &Refusal::NotHere { applied: 0 });
            }
            None => {
                self.waiting.parked.insert(stream, requests);
                let (meta, channel) = (self.meta.clone(), self.id);
                self.waiting
                    .jobs
                    .spawn(async move { activate(&meta, stream, channel).await });
            }
        }
    }

    /// A stream that is being deleted and not open here has nothing in flight: if its streamlet is still this
    /// channel's, nobody else will close it.
    fn refuse_deleting(&mut self, stream: StreamId, record: &StreamRecord, requests: Vec<Request>) {
        let Some(open) = record.open.filter(|open| open.channel == self.id) else {
            return refuse_all(requests, &Refusal::Deleting);
        };
        self.waiting.parked.insert(stream, requests);
        let (meta, channel, epoch) = (self.meta.clone(), self.id, self.epoch);
        let command = CloseStreamlet {
            stream,
            streamlet: open.streamlet,
            channel,
            epoch,
        };
        self.waiting.jobs.spawn(async move {
            close_streamlet(meta, command).await;
            JobDone::Refuse {
                stream,
                refusal: Refusal::Deleting,
            }
        });
    }

    fn job_done(&mut self, done: JobDone, now: Instant) {
        match done {
            JobDone::Look { stream } => {
                if let Some(requests) = self.waiting.parked.remove(&stream)
                    && !requests.is_empty()
                {
                    self.look_up(stream, requests, now);
                }
            }
            JobDone::Refuse { stream, refusal } => {
                refuse_all(self.waiting.parked.remove(&stream).unwrap_or_default(), &refusal);
            }
            JobDone::Nothing => {}
        }
    }

    fn write_chunks(&mut self, now: Instant) {
        while self.writer.free_slots() > 0
            && let Some(builder) = self.state.next_chunk(now)
        {
            let chunk = self.writer.submit(builder);
            self.stats.chunk_submitted(chunk.encoded_len());
        }
    }

    fn carry_out(&mut self) {
        for effect in self.state.take_effects() {
            match effect {
                // A requester that went away has no use for the answer.
                Effect::Append(reply, Err(refusal)) if refusal.is_condition() => {
                    drop(reply.send(Err(leased(&self.lease, refusal))));
                }
                Effect::Append(reply, answer) => drop(reply.send(answer)),
                Effect::Read(reply, Ok(answer)) => {
                    let valid = self.lease.is_valid();
                    drop(reply.send(if valid { Ok(answer) } else { Err(Refusal::NoLease) }));
                }
                Effect::Read(reply, answer) => drop(reply.send(answer)),
                Effect::Closed { stream, streamlet } => {
                    let (meta, channel, epoch) = (self.meta.clone(), self.id, self.epoch);
                    let command = CloseStreamlet {
                        stream,
                        streamlet,
                        channel,
                        epoch,
                    };
                    self.waiting.jobs.spawn(close_streamlet(meta, command));
                }
            }
        }
    }

    /// Lets streams rest that nobody used for a while and that have nothing outside segments.
    fn rest_idle(&mut self, now: Instant) {
        let Some(idle_since) = now.checked_sub(self.idle_timeout) else {
            return;
        };
        for stream in self.state.rest_candidates() {
            let Some(standing) = self.state.rest(stream, idle_since) else {
                continue;
            };
            self.waiting.parked.insert(stream, Vec::new());
            let command = deactivation(stream, standing, self.id, self.epoch, self.env.now_ms());
            let meta = self.meta.clone();
            self.waiting.jobs.spawn(async move { rest(&meta, command).await });
        }
    }

    /// Writes out what was sequenced, waits for it, and ends.
    async fn stop(mut self) -> Ended {
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            request.refuse(Refusal::Stopped);
        }
        while !self.state.is_settled() {
            self.write_all();
            match self.written.recv().await {
                Some(WriteEvent::Durable { slot, .. }) => {
                    if let Some(later) = self.durable(slot).await {
                        return self.end(Ended::Replaced(later));
                    }
                }
                Some(WriteEvent::Fenced { by, .. }) => return self.end(Ended::Fenced(by)),
                Some(WriteEvent::Retrying { .. }) => {}
                None => return self.end(Ended::Stopped { sealed_end: None }),
            }
            self.carry_out();
        }
        let mut sealed_end = Some(self.writer.next_slot());
        if planted(Bug::ReleasedOneEarly) {
            sealed_end = sealed_end.map(|end| ChunkSeq(end.0.saturating_sub(1)));
        }
        self.end(Ended::Stopped { sealed_end })
    }

    fn write_all(&mut self) {
        if let Some(due) = self.state.linger_deadline() {
            self.write_chunks(due);
        }
        self.write_chunks(Instant::now());
    }

    fn end(mut self, ended: Ended) -> Ended {
        self.writer.close();
        self.state.stop();
        for effect in self.state.take_effects() {
            match effect {
                Effect::Append(reply, answer) => drop(reply.send(answer)),
                Effect::Read(reply, answer) => drop(reply.send(answer)),
                // The next owner finds the mark in metadata and closes it.
                Effect::Closed { .. } => {}
            }
        }
        for requests in std::mem::take(&mut self.waiting.parked).into_values() {
            refuse_all(requests, &Refusal::Stopped);
        }
        self.requests.close();
        while let Ok(request) = self.requests.try_recv() {
            request.refuse(Refusal::Stopped);
        }
        ended
    }

    fn record(&self, stream: StreamId) -> Result<Option<StreamRecord>, StoreError> {
        self.meta.state().stream_by_id(stream)
    }

    /// Streamlets that metadata marks as deleting need no owner any more: says so.
    pub fn close_leftovers(&mut self, leftovers: Vec<(StreamId, StreamletId)>) {
        for (stream, streamlet) in leftovers {
            let command = CloseStreamlet {
                stream,
                streamlet,
                channel: self.id,
                epoch: self.epoch,
            };
            self.waiting
                .jobs
                .spawn(close_streamlet(self.meta.clone(), command));
        }
    }
}

/// A refusal that tells of the stream's state, if the node may tell of it.
fn leased(lease: &Lease, refusal: Refusal) -> Refusal {
    match lease.is_valid() {
        true => refusal,
        false => Refusal::NoLease,
    }
}

fn refuse_all(requests: Vec<Request>, refusal: &Refusal) {
    for request in requests {
        request.refuse(refusal.clone());
    }
}

fn streamlet_start(record: &StreamRecord, open: &OpenStreamlet) -> StreamletStart {
    StreamletStart {
        id: open.streamlet,
        config: record.config,
        tail: record.tail,
        flushed: record.tail,
        fencing: record.fencing.clone(),
        trim: record.trim,
        forgotten: record.forgotten,
    }
}

fn deactivation(
    stream: StreamId,
    at: StreamletStart,
    channel: ChannelId,
    epoch: Epoch,
    now_ms: u64,
) -> DeactivateStream {
    DeactivateStream {
        stream,
        streamlet: at.id,
        channel,
        epoch,
        tail: at.tail,
        flushed: at.flushed.seq_num,
        fencing: at.fencing,
        trim: at.trim,
        forgotten: at.forgotten,
        now_ms,
    }
}

/// Whoever asks for the stream has a newer state than this node: waits for that.
async fn catch_up(meta: &Meta, stream: StreamId, known_at: u64) -> JobDone {
    match tokio::time::timeout(CATCH_UP_TIMEOUT, meta.wait_applied(known_at)).await {
        Ok(Ok(())) => JobDone::Look { stream },
        Ok(Err(error)) => JobDone::Refuse {
            stream,
            refusal: Refusal::Metadata(error.to_string()),
        },
        Err(_) => JobDone::Refuse {
            stream,
            refusal: Refusal::NotHere { applied: 0 },
        },
    }
}

async fn activate(meta: &Meta, stream: StreamId, channel: ChannelId) -> JobDone {
    match meta.propose(ActivateStream { stream, channel }).await {
        // Placed here, placed elsewhere meanwhile, deleted or gone: the record says which.
        Ok(_) => JobDone::Look { stream },
        Err(MetaError::Refused(Refused::ChannelInactive(_))) => JobDone::Refuse {
            stream,
            refusal: Refusal::Stopped,
        },
        Err(MetaError::Refused(_)) => JobDone::Look { stream },
        Err(error) => JobDone::Refuse {
            stream,
            refusal: Refusal::Metadata(error.to_string()),
        },
    }
}

/// Answers for the stream go on, here or elsewhere, only when it is known whether it rests.
async fn rest(meta: &Meta, command: DeactivateStream) -> JobDone {
    let stream = command.stream;
    loop {
        match meta.propose(command.clone()).await {
            Ok(()) | Err(MetaError::Refused(_)) => return JobDone::Look { stream },
            Err(error) if error.retryable() => tokio::time::sleep(RETRY_PAUSE).await,
            Err(error) => {
                return JobDone::Refuse {
                    stream,
                    refusal: Refusal::Metadata(error.to_string()),
                };
            }
        }
    }
}

async fn close_streamlet(meta: Meta, command: CloseStreamlet) -> JobDone {
    loop {
        match meta.propose(command.clone()).await {
            Ok(()) => return JobDone::Nothing,
            Err(error) if error.retryable() => tokio::time::sleep(RETRY_PAUSE).await,
            Err(error) => {
                tracing::warn!(stream = %command.stream, %error, "a deleted stream could not be closed");
                return JobDone::Nothing;
            }
        }
    }
}
