//! One stream on its channel: cursors, conditions, and what a batch does to them.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use millrace_api::batch::AppendBatch;
use millrace_api::bug::{Bug, planted};
use millrace_api::command::Command;
use millrace_api::config::{ResolvedStreamConfig, TimestampingMode};
use millrace_api::id::{ChunkSeq, StreamId, StreamletId};
use millrace_api::position::{SeqNum, StreamPosition, Timestamp};
use millrace_raft::query::Fencing;
use millrace_wal::Frame;
use tokio::time::Instant;

use super::flush::StreamCut;
use super::index::SlotIndex;
use super::log::LogPosition;
use super::message::{Read, ReadView, Refusal, Seek, Source};
use super::writers::{Sequenced, Writers};

/// The open streamlet of a stream.
///
/// - `flushed ≤ durable ≤ assigned`, and none moves back.
/// - `recent` holds the newest durable frames, without gap up to `durable`.
pub struct Streamlet {
    pub id: StreamletId,
    config: ResolvedStreamConfig,
    /// Next to be sequenced; conditions are judged against it.
    assigned: StreamPosition,
    /// What readers and check-tail see.
    durable: StreamPosition,
    /// Behind the last record of the flush that is under way; behind the last one in segments if none is.
    cut: StreamPosition,
    /// Behind the last record that is in segments.
    flushed: StreamPosition,
    fencing: Fencing,
    fencing_durable: Fencing,
    trim_assigned: SeqNum,
    trim_durable: SeqNum,
    /// The slot of this epoch that holds the last frame sequenced.
    last_slot: Option<ChunkSeq>,
    recent: VecDeque<Frame>,
    pub index: SlotIndex,
    pub writers: Writers,
    /// Reads that wait for the next durable record.
    pub waiting: Vec<Read>,
    pub touched_at: Instant,
    /// Deletion was asked for: nothing more is sequenced.
    pub closing: bool,
}

/// Boxed: a table has room for up to twice as many as are in it, and for both while it grows.
pub type Streamlets = HashMap<StreamId, Box<Streamlet>>;

/// The state in which a streamlet is opened or recovered.
#[derive(Debug, Clone)]
pub struct StreamletStart {
    pub id: StreamletId,
    pub config: ResolvedStreamConfig,
    pub tail: StreamPosition,
    /// Behind the last record that is in segments.
    pub flushed: StreamPosition,
    pub fencing: Fencing,
    pub trim: SeqNum,
    /// Inputs of writers opened below are not known any more.
    pub forgotten: SeqNum,
}

/// The state that commands add up to, as of one of them.
pub struct Commanded {
    trim: SeqNum,
    fencing: Fencing,
}

impl Streamlet {
    /// A streamlet without a record.
    pub fn new(start: StreamletStart, now: Instant) -> Self {
        let writers = Writers::new(start.forgotten);
        Self::recovered(start, SlotIndex::default(), writers, now)
    }

    /// A streamlet with what its frames up to `start.tail` add up to.
    pub fn recovered(start: StreamletStart, index: SlotIndex, writers: Writers, now: Instant) -> Self {
        Self {
            id: start.id,
            config: start.config,
            assigned: start.tail,
            durable: start.tail,
            cut: start.flushed,
            flushed: start.flushed,
            fencing: start.fencing.clone(),
            fencing_durable: start.fencing,
            trim_assigned: start.trim,
            trim_durable: start.trim,
            last_slot: None,
            recent: VecDeque::new(),
            index,
            writers,
            waiting: Vec::new(),
            touched_at: now,
            closing: false,
        }
    }

    pub fn assigned(&self) -> StreamPosition {
        self.assigned
    }

    pub fn tail(&self) -> StreamPosition {
        match planted(Bug::TailBeforeDurable) {
            true => self.assigned,
            false => self.durable,
        }
    }

    pub fn view(&self) -> ReadView {
        ReadView {
            tail: self.durable,
            trim: self.trim_durable,
        }
    }

    pub fn last_slot(&self) -> Option<ChunkSeq> {
        self.last_slot
    }

    pub fn is_durable(&self) -> bool {
        self.durable == self.assigned
    }

    /// Everything is in segments and nobody waits: the stream may rest.
    pub fn may_rest(&self) -> bool {
        let flushed = self.flushed == self.durable || planted(Bug::RestUnflushed);
        self.is_durable() && flushed && !self.closing
    }

    /// Behind the last record that is in segments.
    pub fn flushed(&self) -> StreamPosition {
        self.flushed
    }

    /// Whether the next flush has nothing of the stream.
    pub fn is_cut(&self) -> bool {
        self.cut == self.durable
    }

    /// The part of a flush of everything durable that concerns the stream.
    pub fn cut(&mut self, stream: StreamId) -> StreamCut {
        self.cut = self.durable;
        StreamCut {
            stream,
            streamlet: self.id,
            first_seq: self.flushed.seq_num,
            tail: self.durable,
            fencing: self.fencing_durable.clone(),
            trim: self.trim_durable,
            // Whoever recovers from behind the cut finds no input before it.
            forgotten: self.writers.end().min(self.durable.seq_num),
        }
    }

    /// The flush that was under way is in metadata. Its chunks, those before `released`, are not looked at any more.
    pub fn cut_is_flushed(&mut self, released: LogPosition) {
        self.flushed = self.cut;
        match self.flushed == self.durable {
            true => self.index.clear(),
            false => self.index.release(released),
        }
    }

    /// Where the stream stands, for its metadata when it rests.
    pub fn standing(&self) -> StreamletStart {
        StreamletStart {
            id: self.id,
            config: self.config,
            tail: self.durable,
            flushed: match planted(Bug::RestUnflushed) {
                true => self.durable,
                false => self.flushed,
            },
            fencing: self.fencing_durable.clone(),
            trim: self.trim_durable,
            // Whoever opens it again knows none of its writers.
            forgotten: self.durable.seq_num,
        }
    }

    pub fn reconfigure(&mut self, config: ResolvedStreamConfig) {
        self.config = config;
    }

    /// Whether the batch may be sequenced now: `None`, or what became of it if it is an input that was sequenced
    /// before.
    pub fn judge(
        &mut self,
        batch: &AppendBatch,
        source: &Source,
        now: Instant,
    ) -> Result<Option<Sequenced>, Refusal> {
        if source.has_ended() {
            return Err(Refusal::SessionEnded);
        }
        if let Some(input) = source.writer()
            && !planted(Bug::ResendSequenced)
            && let Some(again) = self.writers.judge(input, now)?
        {
            return Ok(Some(again));
        }
        self.judge_batch(batch).map(|()| None)
    }

    /// Judged against the assigned state, the fencing token first.
    fn judge_batch(&self, batch: &AppendBatch) -> Result<(), Refusal> {
        if self.closing {
            return Err(Refusal::Deleting);
        }
        let token = &self.fencing.token;
        if batch.fencing_token().is_some_and(|asked| asked != token) {
            return Err(Refusal::FencingTokenMismatch {
                actual: token.clone(),
            });
        }
        let judged = match planted(Bug::ConditionOnDurable) {
            true => self.durable.seq_num,
            false => self.assigned.seq_num,
        };
        if batch.match_seq_num().is_some_and(|expected| expected != judged) {
            return Err(Refusal::SeqNumMismatch {
                next: self.assigned.seq_num,
            });
        }
        let required = self.config.timestamping_mode == TimestampingMode::ClientRequire;
        if required && batch.timestamps().any(|timestamp| timestamp.is_none()) {
            return Err(Refusal::Invalid(
                "the stream requires a timestamp on every record".into(),
            ));
        }
        // The largest number is not assignable: the tail must stay representable.
        if self
            .assigned
            .seq_num
            .checked_add(batch.len() as u64)
            .is_none_or(|end| end == u64::MAX)
        {
            return Err(Refusal::Invalid("the stream has no sequence numbers left".into()));
        }
        Ok(())
    }

    /// The timestamp of the next record, after one with `previous`.
    pub fn timestamp(&self, asked: Option<Timestamp>, previous: Timestamp, now_ms: u64) -> Timestamp {
        let chosen = match self.config.timestamping_mode {
            TimestampingMode::Arrival => now_ms,
            TimestampingMode::ClientPrefer | TimestampingMode::ClientRequire => asked.unwrap_or(now_ms),
        };
        let capped = if self.config.timestamping_uncapped {
            chosen
        } else {
            chosen.min(now_ms)
        };
        match planted(Bug::TimestampFromClock) {
            true => capped,
            false => capped.max(previous),
        }
    }

    /// A batch of commands and records was sequenced from the assigned position up to `end`, into `slot`. Returns
    /// what its commands do once it is durable, if it has any.
    pub fn sequenced(
        &mut self,
        batch: &AppendBatch,
        end: StreamPosition,
        slot: ChunkSeq,
    ) -> Option<Box<Commanded>> {
        let first = self.assigned.seq_num;
        for (index, command) in batch.commands() {
            self.command(command, first + *index as u64);
        }
        self.assigned = end;
        self.last_slot = Some(slot);
        (!batch.commands().is_empty()).then(|| {
            Box::new(Commanded {
                trim: self.trim_assigned,
                fencing: self.fencing.clone(),
            })
        })
    }

    /// What the command at `seq_num` does to the assigned state.
    fn command(&mut self, command: &Command, seq_num: SeqNum) {
        match command {
            Command::Fence(token) => {
                self.fencing = Fencing {
                    token: token.clone(),
                    seq_num: Some(seq_num),
                };
            }
            Command::Trim(point) => {
                let point = (*point).min(seq_num + 1);
                self.trim_assigned = self.trim_assigned.max(point);
                if planted(Bug::TrimBeforeDurable) {
                    self.trim_durable = self.trim_durable.max(point.min(self.durable.seq_num));
                }
            }
        }
    }

    /// A frame of the stream is durable and so is everything before it.
    pub fn advance(&mut self, frame: Frame, commanded: Option<Box<Commanded>>) {
        let header = &frame.header;
        debug_assert_eq!(
            header.first_seq, self.durable.seq_num,
            "frames become durable in order"
        );
        let end = header.first_seq + u64::from(header.record_count);
        self.durable = StreamPosition::new(end, header.last_timestamp);
        if let Some(commanded) = commanded {
            self.trim_durable = commanded.trim;
            self.fencing_durable = commanded.fencing;
        }
        if self.recent.len() == self.recent.capacity() {
            // Of most streams there is one frame at a time, or two.
            self.recent.reserve_exact(self.recent.len().max(1));
        }
        self.recent.push_back(frame);
    }

    /// The oldest frame in memory is dropped; from now on it is read from its chunk.
    pub fn evict_oldest(&mut self) {
        self.recent.pop_front();
        if self.recent.is_empty() {
            self.recent.shrink_to_fit();
        }
    }

    /// Whether the record sought exists: durable and not trimmed away wholly.
    pub fn is_at_tail(&self, seek: Seek) -> bool {
        match seek {
            Seek::SeqNum(seq_num) => seq_num.max(self.trim_durable) >= self.durable.seq_num,
            Seek::Timestamp(timestamp) => {
                timestamp > self.durable.timestamp || self.trim_durable >= self.durable.seq_num
            }
        }
    }

    /// The first sequence number that is in memory.
    pub fn recent_start(&self) -> SeqNum {
        self.recent
            .front()
            .map_or(self.durable.seq_num, |frame| frame.header.first_seq)
    }

    /// The frames in memory from the record sought on, or `None` if it may be older than all of them.
    pub fn recent_from(
        &self,
        seek: Seek,
        records_max: usize,
        metered_bytes_max: usize,
    ) -> Option<Arc<[Frame]>> {
        let oldest = &self.recent.front()?.header;
        let seek = match seek {
            Seek::SeqNum(seq_num) => Seek::SeqNum(seq_num.max(self.trim_durable)),
            Seek::Timestamp(_) => seek,
        };
        let first = match seek {
            Seek::SeqNum(seq_num) if seq_num < oldest.first_seq => return None,
            Seek::SeqNum(seq_num) => self.recent.partition_point(|f| end_seq(f) <= seq_num),
            // A run of equal timestamps may begin before the oldest frame.
            Seek::Timestamp(timestamp)
                if timestamp <= oldest.first_timestamp && oldest.first_seq > self.trim_durable =>
            {
                return None;
            }
            Seek::Timestamp(timestamp) => self
                .recent
                .partition_point(|f| f.header.last_timestamp < timestamp || end_seq(f) <= self.trim_durable),
        };
        let (mut records, mut metered) = (0, 0);
        let frames = self.recent.range(first..).take_while(|frame| {
            let within = records < records_max && metered < metered_bytes_max;
            records += frame.header.record_count as usize;
            metered += frame.header.metered_bytes as usize;
            within
        });
        Some(frames.cloned().collect())
    }
}

/// Exclusive.
fn end_seq(frame: &Frame) -> SeqNum {
    frame.header.first_seq + u64::from(frame.header.record_count)
}
