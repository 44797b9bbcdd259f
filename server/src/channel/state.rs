//! What a channel decides: the order of records, what a chunk holds, and what becomes visible when.
//!
//! Plain state: every method takes an event and the time, changes the state, and leaves what is to be answered in
//! [`ChannelState::take_effects`]. Nothing here waits, locks or does I/O.
//!
//! - A batch is judged and sequenced at one moment, against everything sequenced before it.
//! - Slots are given to chunks in order, and chunks are acknowledged in order.
//! - An answer that depends on sequenced state leaves only when that state is durable: acks, and failed conditions.

use std::sync::Arc;

use millrace_api::bug::{Bug, planted};
use millrace_api::config::ResolvedStreamConfig;
use millrace_api::id::{ChunkSeq, Epoch, FlushSeq, StreamId, StreamletId};
use millrace_api::position::StreamPosition;
use millrace_wal::{ChunkBuilder, ChunkId, Frame};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::flush::{FlushLimits, FlushPlan, FlushStart, Flushed, Unflushed};
use super::log::{ChunkLog, LogPosition};
use super::message::{Append, Read, ReadReply, Refusal, Seek};
use super::pipeline::{Held, HeldAnswer, InFlight, Note, Pipeline};
use super::recent::Recent;
use super::sequence::FrameBuffer;
use super::streamlet::{Streamlet, StreamletStart, Streamlets};
use super::writers::Sequenced;
use crate::frontend::service::types::AppendAck;

/// An answer or another thing that the task has to carry out.
pub enum Effect {
    Append(
        oneshot::Sender<Result<AppendAck, Refusal>>,
        Result<AppendAck, Refusal>,
    ),
    Read(
        oneshot::Sender<Result<ReadReply, Refusal>>,
        Result<ReadReply, Refusal>,
    ),
    /// Nothing of the streamlet is in flight or will be sequenced; it is gone from the state.
    Closed {
        stream: StreamId,
        streamlet: StreamletId,
    },
}

/// What one flush writes of writers. Sessions whose writers find no room, and whose owner crashes before the next
/// flush, may have to tell their clients that they do not know.
const WRITER_TABLES_BYTES_MAX: usize = 16 << 20;

/// Bounds of a channel.
#[derive(Debug, Clone)]
pub struct ChannelLimits {
    /// A chunk is closed when it has this many bytes.
    pub chunk_bytes: usize,
    /// A chunk is closed when its first record has waited this long, if others are in flight.
    pub linger: std::time::Duration,
    /// Frames kept in memory for readers near the tail.
    pub recent_bytes: usize,
    pub flush: FlushLimits,
}

pub struct ChannelState {
    epoch: Epoch,
    limits: ChannelLimits,
    streams: Streamlets,
    pipeline: Pipeline,
    recent: Recent,
    unflushed: Unflushed,
    log: Arc<ChunkLog>,
    buffer: FrameBuffer,
    effects: Vec<Effect>,
}

impl ChannelState {
    /// `first_slot` is the first free slot of `epoch`; `log` holds everything before.
    pub fn new(
        epoch: Epoch,
        first_slot: ChunkSeq,
        mut log: ChunkLog,
        streams: Streamlets,
        flush: FlushStart,
        limits: ChannelLimits,
    ) -> Self {
        log.advance(first_slot);
        let unflushed = streams.iter().filter(|(_, streamlet)| !streamlet.is_cut());
        let unflushed = unflushed.map(|(stream, _)| *stream).collect();
        Self {
            epoch,
            recent: Recent::new(limits.recent_bytes),
            unflushed: Unflushed::new(flush, log.end(), unflushed, limits.flush.clone()),
            limits,
            streams,
            pipeline: Pipeline::new(first_slot),
            log: Arc::new(log),
            buffer: FrameBuffer::new(),
            effects: Vec::new(),
        }
    }

    pub fn contains(&self, stream: StreamId) -> bool {
        self.streams.contains_key(&stream)
    }

    pub fn stream_count(&self) -> usize {
        self.streams.len()
    }

    /// Takes the streamlet that metadata placed here. Does nothing if it is open already.
    pub fn open(&mut self, stream: StreamId, start: StreamletStart, now: Instant) {
        self.streams
            .entry(stream)
            .or_insert_with(|| Box::new(Streamlet::new(start, now)));
    }

    pub fn take_effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.effects.drain(..)
    }

    /// Sequences a batch, or refuses it.
    pub fn append(&mut self, request: Append, now: Instant, now_ms: u64) {
        let Append {
            stream,
            batch,
            source,
            permit,
            reply,
            ..
        } = request;
        let slot = self.pipeline.open_slot();
        let Some(streamlet) = self.streams.get_mut(&stream) else {
            self.effects
                .push(Effect::Append(reply, Err(Refusal::NotHere { applied: 0 })));
            return;
        };
        streamlet.touched_at = now;
        let again = match streamlet.judge(&batch, &source, now) {
            Ok(again) => again,
            Err(refusal) => {
                source.end();
                let judged_slot = streamlet
                    .last_slot()
                    .filter(|_| !streamlet.is_durable() && !planted(Bug::RefusalBeforeDurable));
                let answer = HeldAnswer::Refusal(refusal);
                return self.answer_with(judged_slot, Held::new(reply, answer, permit));
            }
        };
        if let Some(Sequenced { start, end, slot }) = again {
            let answer = HeldAnswer::Ack { stream, start, end };
            return self.answer_with(slot, Held::new(reply, answer, permit));
        }
        // What was sequenced before has its answer above; this was not.
        if self.unflushed.is_full() {
            source.end();
            self.effects.push(Effect::Append(reply, Err(Refusal::Full)));
            return;
        }
        let start = streamlet.assigned();
        let frame = self
            .buffer
            .encode(stream, streamlet, &batch, source.writer(), now_ms);
        let end = StreamPosition::new(frame.header.end_seq(), frame.header.last_timestamp);
        let commanded = streamlet.sequenced(&batch, end, slot);
        let start = StreamPosition::new(start.seq_num, frame.header.first_timestamp);
        if let Some(input) = source.writer() {
            let done = Sequenced {
                start,
                end,
                slot: Some(slot),
            };
            streamlet.writers.sequenced(input.writer, input.number, done, now);
        }
        if planted(Bug::AckBeforeDurable) {
            let tail = end;
            let ack = AppendAck { start, end, tail };
            self.effects.push(Effect::Append(reply, Ok(ack)));
            let note = Note {
                stream,
                frame,
                commanded,
            };
            return self.pipeline.push_unheld(note, self.limits.chunk_bytes, now);
        }
        let held = Held::new(reply, HeldAnswer::Ack { stream, start, end }, permit);
        let note = Note {
            stream,
            frame,
            commanded,
        };
        self.pipeline.push(note, held, self.limits.chunk_bytes, now);
    }

    /// Answers with the chunk in `slot`, or at once without one or when it is acknowledged.
    fn answer_with(&mut self, slot: Option<ChunkSeq>, held: Held) {
        let now = match slot {
            Some(slot) => self.pipeline.hold(slot, held).err(),
            None => Some(held),
        };
        if let Some(held) = now {
            self.release(held);
        }
    }

    /// When the open chunk has to be closed, if something is in flight.
    pub fn linger_deadline(&self) -> Option<Instant> {
        self.pipeline.linger_deadline(self.limits.linger)
    }

    /// The next chunk to write, if there is one whose time has come. The caller has a free slot and gives the chunk
    /// to the writer at once.
    pub fn next_chunk(&mut self, now: Instant) -> Option<ChunkBuilder> {
        self.pipeline.next_chunk(self.limits.linger, now)
    }

    /// A quorum holds the chunk at `slot`. Everything up to the first slot that is not durable becomes visible.
    pub fn durable(&mut self, slot: ChunkSeq) {
        let Some(end) = self.pipeline.durable(slot) else {
            return;
        };
        Arc::make_mut(&mut self.log).advance(end);
        while let Some(chunk) = self.pipeline.pop_below(end) {
            self.acknowledge(chunk);
        }
        while let Some(stream) = self.recent.pop_excess() {
            if let Some(streamlet) = self.streams.get_mut(&stream) {
                streamlet.evict_oldest();
            }
        }
    }

    fn acknowledge(&mut self, chunk: InFlight) {
        let position = LogPosition {
            epoch: self.epoch,
            slot: chunk.slot,
        };
        let mut to_wake = Vec::new();
        let mut to_close = Vec::new();
        for note in chunk.notes {
            let Note {
                stream,
                frame,
                commanded,
            } = note;
            let Some(streamlet) = self.streams.get_mut(&stream) else {
                continue;
            };
            let first = StreamPosition::new(frame.header.first_seq, frame.header.first_timestamp);
            streamlet.index.note(first, position);
            self.recent.push(stream, &frame);
            self.unflushed.push(&frame, streamlet.is_cut());
            streamlet.advance(frame, commanded);
            if !streamlet.waiting.is_empty() && to_wake.last() != Some(&stream) {
                to_wake.push(stream);
            }
            if streamlet.closing && streamlet.is_durable() {
                to_close.push(stream);
            }
        }
        self.unflushed.end_of_chunk(LogPosition {
            slot: ChunkSeq(position.slot.0 + 1),
            ..position
        });
        for held in chunk.held {
            self.release(held);
        }
        for stream in to_wake {
            self.wake(stream);
        }
        for stream in to_close {
            self.finish_close(stream);
        }
    }

    fn release(&mut self, held: Held) {
        let answer = match held.answer {
            HeldAnswer::Ack { stream, start, end } => {
                let tail = self
                    .streams
                    .get(&stream)
                    .map_or(end, |streamlet| streamlet.tail());
                Ok(AppendAck { start, end, tail })
            }
            HeldAnswer::Refusal(refusal) => Err(refusal),
        };
        self.effects.push(Effect::Append(held.reply, answer));
    }

    /// Answers a read, or keeps it until there is something to answer.
    pub fn read(&mut self, read: Read, now: Instant) {
        let Some(streamlet) = self.streams.get_mut(&read.stream) else {
            self.effects
                .push(Effect::Read(read.reply, Err(Refusal::NotHere { applied: 0 })));
            return;
        };
        streamlet.touched_at = now;
        if streamlet.closing {
            self.effects
                .push(Effect::Read(read.reply, Err(Refusal::Deleting)));
        } else if read.wait && streamlet.is_at_tail(read.seek) {
            // Those whose requester went away leave room before the list grows.
            if streamlet.waiting.len() == streamlet.waiting.capacity() {
                streamlet.waiting.retain(|waiting| !waiting.reply.is_closed());
            }
            streamlet.waiting.push(read);
        } else {
            let reply = answer_read(streamlet, &self.log, self.unflushed.log_index(), &read);
            self.effects.push(Effect::Read(read.reply, Ok(reply)));
        }
    }

    fn wake(&mut self, stream: StreamId) {
        let Some(streamlet) = self.streams.get_mut(&stream) else {
            return;
        };
        let waiting = std::mem::take(&mut streamlet.waiting);
        // Followers mostly stand at the same place and ask for as much: they share one list of frames.
        let mut shared: Option<(Seek, usize, usize, Arc<[Frame]>)> = None;
        for read in waiting {
            if read.reply.is_closed() {
                continue;
            }
            if streamlet.is_at_tail(read.seek) {
                streamlet.waiting.push(read);
                continue;
            }
            let reply = match &shared {
                Some((seek, records, bytes, frames))
                    if (*seek, *records, *bytes) == (read.seek, read.records_max, read.metered_bytes_max) =>
                {
                    ReadReply::Frames {
                        frames: frames.clone(),
                        view: streamlet.view(),
                    }
                }
                _ => answer_read(streamlet, &self.log, self.unflushed.log_index(), &read),
            };
            if let ReadReply::Frames { frames, .. } = &reply {
                shared = Some((
                    read.seek,
                    read.records_max,
                    read.metered_bytes_max,
                    frames.clone(),
                ));
            }
            self.effects.push(Effect::Read(read.reply, Ok(reply)));
        }
        if streamlet.waiting.is_empty() {
            streamlet.waiting.shrink_to_fit();
        }
    }

    /// The durable tail, or a refusal.
    pub fn check_tail(&mut self, stream: StreamId, now: Instant) -> Result<StreamPosition, Refusal> {
        let streamlet = self
            .streams
            .get_mut(&stream)
            .ok_or(Refusal::NotHere { applied: 0 })?;
        streamlet.touched_at = now;
        if streamlet.closing {
            Err(Refusal::Deleting)
        } else {
            Ok(streamlet.tail())
        }
    }

    pub fn reconfigure(&mut self, stream: StreamId, config: ResolvedStreamConfig) {
        if let Some(streamlet) = self.streams.get_mut(&stream) {
            streamlet.reconfigure(config);
        }
    }

    /// Sequences and answers nothing more of the stream. [`Effect::Closed`] follows when its frames are durable.
    pub fn close(&mut self, stream: StreamId) {
        let Some(streamlet) = self.streams.get_mut(&stream) else {
            return;
        };
        streamlet.closing = true;
        for read in std::mem::take(&mut streamlet.waiting) {
            self.effects
                .push(Effect::Read(read.reply, Err(Refusal::Deleting)));
        }
        if streamlet.is_durable() {
            self.finish_close(stream);
        }
    }

    fn finish_close(&mut self, stream: StreamId) {
        if let Some(streamlet) = self.remove(stream) {
            self.effects.push(Effect::Closed {
                stream,
                streamlet: streamlet.id,
            });
        }
    }

    /// Takes a streamlet that may rest out of the state; nothing of it is answered until it is opened again.
    /// `None` when it may not rest, or was used within `idle` before `now`.
    pub fn rest(&mut self, stream: StreamId, idle_since: Instant) -> Option<StreamletStart> {
        let streamlet = self.streams.get_mut(&stream)?;
        streamlet.waiting.retain(|waiting| !waiting.reply.is_closed());
        let idle = streamlet.touched_at <= idle_since && streamlet.waiting.is_empty();
        if !idle || !streamlet.may_rest() {
            return None;
        }
        self.remove(stream).map(|streamlet| streamlet.standing())
    }

    fn remove(&mut self, stream: StreamId) -> Option<Box<Streamlet>> {
        self.streams.remove(&stream)
    }

    /// Streams that may rest if they are idle; in no order that decides anything.
    pub fn rest_candidates(&self) -> Vec<StreamId> {
        let may_rest = self.streams.iter().filter(|(_, streamlet)| streamlet.may_rest());
        may_rest.map(|(stream, _)| *stream).collect()
    }

    /// Forgets writers that have sent nothing for a while.
    pub fn forget_idle_writers(&mut self, now: Instant) {
        for streamlet in self.streams.values_mut() {
            streamlet.writers.forget_idle(now);
        }
    }

    /// When the next flush has to begin; `None` while one is under way, or when there is nothing to flush.
    pub fn flush_deadline(&mut self, now: Instant) -> Option<Instant> {
        self.unflushed.deadline(&self.log, now)
    }

    /// Begins a flush of everything durable. Only when none is under way.
    ///
    /// A replay from behind it meets none of the inputs that it takes: what is known of their writers is written anew.
    pub fn begin_flush(&mut self, now: Instant) -> FlushPlan {
        let mut cuts = Vec::new();
        let mut room = WRITER_TABLES_BYTES_MAX;
        for stream in self.unflushed.take_streams() {
            // What is being deleted is not worth a segment.
            let Some(streamlet) = self.streams.get_mut(&stream).filter(|it| !it.closing) else {
                continue;
            };
            cuts.push(streamlet.cut(stream));
            let Some(table) = streamlet.writers.table().filter(|_| room > 0) else {
                continue;
            };
            let frame = self.buffer.encode_writers(stream, streamlet, &table);
            room = room.saturating_sub(frame.bytes.len());
            self.pipeline.push_alone(frame, self.limits.chunk_bytes, now);
        }
        self.unflushed.begin(&self.log, cuts)
    }

    /// The flush that was under way is in metadata, as its commits up to `seq`, at `log_index`: its chunks are not
    /// pointed to any more. Answers which they are.
    pub fn flushed(&mut self, seq: FlushSeq, log_index: u64) -> Vec<ChunkId> {
        let Some(Flushed {
            from,
            through,
            streams,
        }) = self.unflushed.done(seq, log_index)
        else {
            return Vec::new();
        };
        for stream in streams {
            if let Some(streamlet) = self.streams.get_mut(&stream) {
                streamlet.cut_is_flushed(through);
            }
        }
        let released = self.log.chunks(from, through);
        Arc::make_mut(&mut self.log).release(through);
        released
    }

    /// Whether every chunk is acknowledged and nothing waits to be written.
    pub fn is_settled(&self) -> bool {
        self.pipeline.is_settled()
    }

    pub fn in_flight_chunks(&self) -> usize {
        self.pipeline.in_flight_chunks()
    }

    /// The epoch is over. What was given to storage has an unknown outcome; what was not, did not happen.
    pub fn stop(&mut self) {
        for (held, sent) in self.pipeline.abandon() {
            // A refusal was judged against state that may be lost: nobody knows whether it was right.
            let sent = sent || matches!(held.answer, HeldAnswer::Refusal(_));
            let sent = sent && !planted(Bug::UnknownAsRefused);
            let refusal = if sent { Refusal::Unknown } else { Refusal::Stopped };
            self.effects.push(Effect::Append(held.reply, Err(refusal)));
        }
        for (_, streamlet) in self.streams.drain() {
            for read in streamlet.waiting {
                self.effects.push(Effect::Read(read.reply, Err(Refusal::Stopped)));
            }
        }
    }
}

/// So many chunks lie between that asking again is cheaper than walking over them.
fn is_far(from: LogPosition, to: LogPosition) -> bool {
    const WALKED_CHUNKS_MAX: u64 = 16;
    from.epoch != to.epoch || to.slot.0 - from.slot.0 > WALKED_CHUNKS_MAX
}

/// `flushed_at` is a log index at which metadata have what was flushed of the channel.
fn answer_read(streamlet: &Streamlet, log: &Arc<ChunkLog>, flushed_at: u64, read: &Read) -> ReadReply {
    let view = streamlet.view();
    if streamlet.is_at_tail(read.seek) {
        return ReadReply::AtTail { view };
    }
    if let Some(frames) = streamlet.recent_from(read.seek, read.records_max, read.metered_bytes_max) {
        return ReadReply::Frames { frames, view };
    }
    let flushed = streamlet.flushed();
    let in_segments = match read.seek {
        Seek::SeqNum(seq_num) => seq_num.max(view.trim) < flushed.seq_num,
        Seek::Timestamp(timestamp) => timestamp <= flushed.timestamp && view.trim < flushed.seq_num,
    };
    if in_segments {
        return ReadReply::Segments {
            end: flushed.seq_num,
            // Of what another channel flushed, metadata knew when they opened the streamlet.
            known_at: flushed_at.max(streamlet.id.0),
            view,
        };
    }
    // What is trimmed away is not walked through.
    let sought = streamlet
        .index
        .seek(read.seek)
        .max(streamlet.index.seek(Seek::SeqNum(view.trim)));
    let start = sought.expect("a stream with records that are not in segments has a first chunk");
    // A reader that gets to the end asks again: there memory takes over, or the stream goes on in a distant chunk.
    let end = match streamlet.index.after(start) {
        Some((first, chunk)) if is_far(start, chunk) => first.seq_num.min(streamlet.recent_start()),
        _ => streamlet.recent_start(),
    };
    ReadReply::Chunks {
        start,
        streamlet: streamlet.id,
        end,
        log: log.clone(),
        view,
    }
}

#[cfg(test)]
#[path = "state_tests.rs"]
mod tests;
