//! Reads: one reply, or a session that follows the stream.
//!
//! Both are one loop: ask the channel, which answers from memory, points to chunks, or says that this is the tail;
//! cut what comes to the request's limits; at the tail end, or wait there.

use std::collections::VecDeque;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use millrace_api::error::ErrorCode;
use millrace_api::limits::{
    BATCH_METERED_BYTES_MAX, BATCH_RECORDS_MAX, HEARTBEAT_MAX, HEARTBEAT_MIN, UNARY_WAIT_MAX,
};
use millrace_api::name::{BasinName, StreamName};
use millrace_api::position::StreamPosition;
use millrace_api::read::{ReadRequest, ReadStart};
use millrace_wal::Frame;
use tokio::time::{Instant, Sleep, sleep_until};

use super::cut::{Cutter, Remaining, Taken, Wanted};
use super::follow::Asked;
use super::owner::{OWNER_TIMEOUT, Search, is_unowned};
use super::resolve::{Dormant, Intent, Resolved};
use super::stored::{Stored, Unread};
use super::types::{ReadEvent, RecordBatch};
use super::{Frontend, refusal_error};
use crate::channel::handle::ReadBounds;
use crate::channel::message::{ReadReply, ReadView, Refusal, Seek};
use crate::chunk_reader::ChunkRange;
use crate::error::ServiceError;

impl Frontend {
    /// Durable records from the start asked for, as many as the limits allow; empty when all in range are gone, or
    /// when nothing came within the wait.
    pub async fn read(
        self: &Arc<Self>,
        basin: &BasinName,
        stream: &StreamName,
        mut request: ReadRequest,
    ) -> Result<RecordBatch, ServiceError> {
        let count = request
            .limits
            .count
            .unwrap_or(BATCH_RECORDS_MAX)
            .min(BATCH_RECORDS_MAX);
        let bytes = request
            .limits
            .bytes
            .unwrap_or(BATCH_METERED_BYTES_MAX)
            .min(BATCH_METERED_BYTES_MAX);
        request.limits.count = Some(count);
        request.limits.bytes = Some(bytes);
        request.wait = request.wait.map(|wait| wait.min(UNARY_WAIT_MAX));
        let mut session = self.read_session(basin, stream, request).await?;
        let mut drained = pin!(self.drained());
        let mut all = RecordBatch::default();
        loop {
            let event = tokio::select! {
                biased;
                event = session.next() => event,
                () = drained.as_mut() => return Err(ServiceError::draining()),
            };
            let Some(event) = event else { break };
            match event? {
                ReadEvent::Batch(batch) => {
                    all.extend(batch);
                    // More that is there already, but nothing that has to be waited for.
                    session.follow = false;
                }
                ReadEvent::Heartbeat { .. } | ReadEvent::KeepAlive => {}
            }
        }
        let next = all.last_seq_num + 1;
        all.tail = session
            .view
            .map(|view| view.tail)
            .filter(|tail| all.count == 0 || next == tail.seq_num);
        Ok(all)
    }

    /// The durable tail: everything acknowledged before the call is below it.
    pub async fn check_tail(
        &self,
        basin: &BasinName,
        stream: &StreamName,
    ) -> Result<StreamPosition, ServiceError> {
        let (_resolved, tail) = self.owner_and_tail(basin, stream, Intent::Read).await?;
        Ok(tail)
    }

    /// The channel that serves the stream and the durable tail, as one linearizable read.
    pub(super) async fn owner_and_tail(
        &self,
        basin: &BasinName,
        stream: &StreamName,
        intent: Intent,
    ) -> Result<(Resolved, StreamPosition), ServiceError> {
        let mut asking = self.asking(basin, stream, intent);
        loop {
            let resolved = asking.owner().await?;
            let tail = match resolved.dormant {
                Some(dormant) => Ok(dormant.tail),
                None => resolved.channel.check_tail(resolved.stream).await,
            };
            match tail {
                Ok(tail) => return Ok((resolved, tail)),
                Err(refused) => asking.refused(refused).await?,
            }
        }
    }

    /// Begins a session: records from the start asked for, then, unless limits forbid it, what is appended.
    pub async fn read_session(
        self: &Arc<Self>,
        basin: &BasinName,
        stream: &StreamName,
        request: ReadRequest,
    ) -> Result<ReadSession, ServiceError> {
        let mut asking = self.asking(basin, stream, Intent::Read);
        loop {
            let resolved = asking.owner().await?;
            let names = (basin.clone(), stream.clone());
            let mut session = ReadSession::new(self.clone(), names, resolved, &request);
            match session.start(&request).await {
                Ok(()) => return Ok(session),
                Err(Failed::Refused(refused)) => asking.refused(refused).await?,
                Err(Failed::Service(error)) => return Err(error),
            }
        }
    }
}

/// So often in a row records may not be where they were said to be: they were flushed, merged or dropped meanwhile.
const MOVES_MAX: u32 = 10;

/// Why a read did not begin.
enum Failed {
    Refused(Refusal),
    Service(ServiceError),
}

impl From<Refusal> for Failed {
    fn from(refused: Refusal) -> Self {
        Self::Refused(refused)
    }
}

/// A read in progress. After the end or an error nothing follows. While the stream has no owner it waits for one.
pub struct ReadSession {
    frontend: Arc<Frontend>,
    names: (BasinName, StreamName),
    resolved: Resolved,
    /// What to ask the channel for next.
    seek: Seek,
    /// The first record to deliver; a walk through chunks may start before it.
    wanted: Wanted,
    remaining: Remaining,
    follow: bool,
    wait: Option<Duration>,
    /// The session has been at the tail; batches carry it from then on.
    live: bool,
    view: Option<ReadView>,
    frames: VecDeque<Frame>,
    stored: Option<Stored>,
    /// How often records were not where they were said to be since the last that were.
    moved: u32,
    asked: Option<Asked>,
    /// Set while the stream's owner is looked for.
    search: Option<Search>,
    /// When the session began to wait for the next record; `None` while it does not.
    silent_since: Option<Instant>,
    heartbeat_at: Instant,
    /// Set for the next thing that time brings, or for something before it: it is not set anew for every batch.
    alarm: Pin<Box<Sleep>>,
    ended: bool,
}

enum Step {
    Reply(Result<ReadReply, Refusal>),
    Stored(Option<Result<Vec<Frame>, Unread>>),
    Heartbeat,
    WaitOver,
}

impl ReadSession {
    fn new(
        frontend: Arc<Frontend>,
        names: (BasinName, StreamName),
        resolved: Resolved,
        request: &ReadRequest,
    ) -> Self {
        let now = Instant::now();
        Self {
            frontend,
            names,
            resolved,
            seek: Seek::SeqNum(0),
            wanted: Wanted::default(),
            remaining: Remaining::new(&request.limits),
            follow: request.may_follow(),
            wait: request.wait,
            live: false,
            view: None,
            frames: VecDeque::new(),
            stored: None,
            moved: 0,
            asked: None,
            search: None,
            silent_since: None,
            heartbeat_at: now + HEARTBEAT_MAX,
            alarm: Box::pin(sleep_until(now + HEARTBEAT_MAX)),
            ended: false,
        }
    }

    /// Finds the start, or refuses one that the request may not have.
    async fn start(&mut self, request: &ReadRequest) -> Result<(), Failed> {
        let seek = match request.start {
            ReadStart::SeqNum(seq_num) => Seek::SeqNum(seq_num),
            ReadStart::Timestamp(timestamp) => Seek::Timestamp(timestamp),
            ReadStart::TailOffset(offset) => Seek::SeqNum(self.tail().await?.seq_num.saturating_sub(offset)),
        };
        let view = self.look(seek).await?;
        let tail = view.tail;
        let (beyond, at_tail) = match seek {
            Seek::SeqNum(seq_num) => (seq_num > tail.seq_num, seq_num == tail.seq_num),
            Seek::Timestamp(timestamp) => (timestamp > tail.timestamp, tail.seq_num == 0),
        };
        let clamped = beyond && request.clamp;
        if (beyond && !clamped) || ((at_tail || clamped) && !self.follow) {
            return Err(Failed::Service(ServiceError::ReadPastTail { tail }));
        }
        self.seek = if clamped || at_tail {
            Seek::SeqNum(tail.seq_num)
        } else {
            seek
        };
        self.wanted = match self.seek {
            Seek::SeqNum(seq_num) => Wanted {
                seq_num,
                timestamp: None,
            },
            Seek::Timestamp(timestamp) => Wanted {
                seq_num: 0,
                timestamp: Some(timestamp),
            },
        };
        self.view = Some(view);
        self.schedule_heartbeat();
        Ok(())
    }

    async fn tail(&mut self) -> Result<StreamPosition, Refusal> {
        match self.idle() {
            Some(dormant) => Ok(dormant.tail),
            None => self.resolved.channel.check_tail(self.resolved.stream).await,
        }
    }

    /// The state of the stream; keeps the channel's answer if it is one to go on with.
    async fn look(&mut self, seek: Seek) -> Result<ReadView, Refusal> {
        if let Some(dormant) = self.idle() {
            return Ok(dormant.view());
        }
        let reply = self.ask(seek, false).await.await?;
        let view = reply.view();
        self.take(reply, seek);
        Ok(view)
    }

    /// Set when the stream stands in metadata and segments alone, and there is nobody to wait for.
    fn idle(&self) -> Option<Dormant> {
        self.resolved.dormant.filter(|_| !self.follow)
    }

    async fn ask(&mut self, seek: Seek, wait: bool) -> Asked {
        // Whoever answers serves it.
        self.resolved.dormant = None;
        let (channel, stream) = (&self.resolved.channel, self.resolved.stream);
        if let (true, Seek::SeqNum(seq_num)) = (wait, seek) {
            return self.frontend.followed.wait(channel, stream, seq_num);
        }
        let bounds = ReadBounds {
            records_max: self.remaining.records().min(BATCH_RECORDS_MAX),
            metered_bytes_max: self.remaining.metered_bytes().min(BATCH_METERED_BYTES_MAX),
            wait,
        };
        Asked::Alone(channel.read(stream, seek, bounds).await)
    }

    /// The next thing to say; `None` at a clean end.
    ///
    /// Cancel safe: what was not returned is returned by the next call.
    pub async fn next(&mut self) -> Option<Result<ReadEvent, ServiceError>> {
        let event = self.advance().await.transpose();
        if !matches!(event, Some(Ok(_))) {
            self.ended = true;
        }
        event
    }

    async fn advance(&mut self) -> Result<Option<ReadEvent>, ServiceError> {
        loop {
            if self.ended {
                return Ok(None);
            }
            if let Some(batch) = self.cut()? {
                self.silent_since = None;
                self.schedule_heartbeat();
                return Ok(Some(ReadEvent::Batch(batch)));
            }
            if self.remaining.is_exhausted() {
                return Ok(None);
            }
            match self.step().await {
                Step::Reply(reply) => {
                    self.asked = None;
                    let reply = match reply {
                        Err(refused) if refused.is_elsewhere() => {
                            self.find_owner(refused).await?;
                            continue;
                        }
                        reply => reply.map_err(refusal_error)?,
                    };
                    self.search = None;
                    self.look_at(reply.view());
                    let at_tail = matches!(reply, ReadReply::AtTail { .. });
                    self.take(reply, self.seek);
                    if at_tail && !self.follow {
                        return Ok(None);
                    }
                    if at_tail {
                        self.live = true;
                        return Ok(self.heartbeat());
                    }
                }
                Step::Stored(Some(Ok(frames))) => {
                    self.moved = 0;
                    self.frames.extend(frames);
                }
                Step::Stored(Some(Err(Unread::Failed(why)))) => return Err(storage(&why)),
                Step::Stored(Some(Err(Unread::Moved))) => {
                    self.stored = None;
                    self.moved += 1;
                    if self.moved > MOVES_MAX {
                        return Err(storage(&"records are not where the metadata say that they are"));
                    }
                    self.find_owner(Refusal::NotHere { applied: 0 }).await?;
                }
                Step::Stored(None) => {
                    if let Some(stored) = self.stored.take() {
                        self.seek = Seek::SeqNum(self.wanted.seq_num.max(stored.end));
                    }
                }
                Step::Heartbeat => return Ok(self.heartbeat()),
                Step::WaitOver => return Ok(None),
            }
        }
    }

    /// Another look for who serves the stream; the session goes on there where it stands. Cancel safe: what was not
    /// found is looked for by the next call.
    async fn find_owner(&mut self, refused: Refusal) -> Result<(), ServiceError> {
        let search = self.search.get_or_insert_with(|| Search::new(OWNER_TIMEOUT));
        search.again(&self.frontend, refused).await?;
        let (basin, stream) = &self.names;
        let found = self.frontend.resolve_settled(basin, stream, Intent::Read).await;
        match found {
            Ok(resolved) if resolved.stream == self.resolved.stream => self.resolved = resolved,
            Ok(_) => return Err(refusal_error(Refusal::NotFound)),
            // Asked again through the former owner, who will refuse again.
            Err(error) if is_unowned(&error) => {}
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Waits for the next thing that happens to a session with nothing buffered.
    async fn step(&mut self) -> Step {
        if self.stored.is_none()
            && self.asked.is_none()
            && let Some(dormant) = self.idle()
        {
            return Step::Reply(Ok(dormant.answer(self.seek)));
        }
        if self.stored.is_none() && self.asked.is_none() {
            self.asked = Some(self.ask(self.seek, self.live && self.follow).await);
        }
        let wait_over = self
            .wait
            .filter(|_| self.live && self.stored.is_none())
            .map(|wait| *self.silent_since.get_or_insert_with(Instant::now) + wait);
        let alarm_at = wait_over.map_or(self.heartbeat_at, |over| over.min(self.heartbeat_at));
        let progress = async {
            match (&mut self.stored, &mut self.asked) {
                (Some(stored), _) => Step::Stored(stored.frames.next().await),
                (None, Some(asked)) => Step::Reply(asked.await),
                (None, None) => unreachable!("asked above"),
            }
        };
        tokio::select! {
            biased;
            step = progress => step,
            () = sounded(self.alarm.as_mut(), alarm_at) => match wait_over {
                Some(over) if over <= alarm_at => Step::WaitOver,
                _ => Step::Heartbeat,
            },
        }
    }

    /// An answer that others got too may be from before this session saw a trim.
    fn look_at(&mut self, mut view: ReadView) {
        view.trim = view.trim.max(self.view.map_or(0, |before| before.trim));
        self.view = Some(view);
    }

    fn take(&mut self, reply: ReadReply, seek: Seek) {
        match reply {
            ReadReply::Frames { frames, .. } => self.frames.extend(frames.iter().cloned()),
            ReadReply::Chunks {
                start,
                streamlet,
                end,
                log,
                view,
            } => {
                self.stored = Some(self.frontend.in_chunks(ChunkRange {
                    stream: self.resolved.stream,
                    streamlet,
                    start,
                    seek,
                    floor: view.trim,
                    end,
                    log,
                }));
            }
            ReadReply::Segments { end, known_at, view } => {
                let stream = self.resolved.stream;
                let stored = self.frontend.in_segments(stream, seek, view.trim, end, known_at);
                self.stored = Some(stored);
            }
            ReadReply::AtTail { .. } => {}
        }
    }

    /// A batch from what is buffered, or `None` if nothing of it is wanted.
    fn cut(&mut self) -> Result<Option<RecordBatch>, ServiceError> {
        let trim = self.view.map_or(0, |view| view.trim);
        self.wanted.seq_num = self.wanted.seq_num.max(trim);
        let mut cutter = Cutter::new(self.wanted, &mut self.remaining);
        while let Some(frame) = self.frames.front() {
            match cutter.take(frame).map_err(|error| storage(&error))? {
                Taken::Whole => drop(self.frames.pop_front()),
                Taken::InPart => break,
            }
        }
        let mut batch = cutter.finish();
        if batch.count == 0 {
            return Ok(None);
        }
        self.wanted = Wanted {
            seq_num: batch.last_seq_num + 1,
            timestamp: None,
        };
        self.seek = Seek::SeqNum(self.wanted.seq_num);
        batch.tail = self
            .view
            .filter(|_| self.live && self.stored.is_none())
            .map(|view| view.tail);
        Ok(Some(batch))
    }

    fn heartbeat(&mut self) -> Option<ReadEvent> {
        self.schedule_heartbeat();
        let ReadView { tail, trim } = self.view?;
        if self.wanted.seq_num.max(trim) < tail.seq_num {
            return Some(ReadEvent::KeepAlive);
        }
        let now_ms = self.frontend.env.now_ms();
        Some(ReadEvent::Heartbeat { tail, now_ms })
    }

    /// At random, so that the sessions of a node do not all speak at once.
    fn schedule_heartbeat(&mut self) {
        let spread_ms = (HEARTBEAT_MAX - HEARTBEAT_MIN).as_millis();
        let after_ms = (self.frontend.env.random_u128() % spread_ms) as u64;
        self.heartbeat_at = Instant::now() + HEARTBEAT_MIN + Duration::from_millis(after_ms);
    }
}

/// Waits for the time. The alarm may be set for an earlier one: it is set anew when it has sounded.
async fn sounded(mut alarm: Pin<&mut Sleep>, at: Instant) {
    if alarm.deadline() > at {
        alarm.as_mut().reset(at);
    }
    loop {
        alarm.as_mut().await;
        if alarm.deadline() >= at || Instant::now() >= at {
            return;
        }
        alarm.as_mut().reset(at);
    }
}

fn storage(error: &dyn std::fmt::Display) -> ServiceError {
    ServiceError::new(ErrorCode::Storage, error.to_string())
}
