//! What a channel decides: the order of records, what a chunk holds, and what becomes visible when.
//!
//! Plain state: every method takes an event and the time, changes the state, and leaves what is to be answered in
//! [`ChannelState::take_effects`]. Nothing here waits, locks or does I/O.
//!
//! - A batch is judged and sequenced at one moment, against everything sequenced before it.
//! - Slots are given to chunks in order, and chunks are acknowledged in order.
//! - An answer that depends on sequenced state leaves only when that state is durable: acks, and failed conditions.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use millrace_api::config::ResolvedStreamConfig;
use millrace_api::id::{ChunkSeq, Epoch, StreamId, StreamletId};
use millrace_api::position::{SeqNum, StreamPosition};
use millrace_wal::{AckPrefix, ChunkBuilder, Frame};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::log::{ChunkLog, LogPosition};
use super::message::{Append, Read, ReadReply, Refusal, Seek};
use super::recent::Recent;
use super::sequence::FrameBuffer;
use super::streamlet::{Streamlet, StreamletStart};
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

/// Bounds of a channel.
#[derive(Debug, Clone)]
pub struct ChannelLimits {
    /// A chunk is closed when it has this many bytes.
    pub chunk_bytes: usize,
    /// A chunk is closed when its first record has waited this long, if others are in flight.
    pub linger: std::time::Duration,
    /// Frames kept in memory for readers near the tail.
    pub recent_bytes: usize,
}

pub struct ChannelState {
    epoch: Epoch,
    limits: ChannelLimits,
    streams: HashMap<StreamId, Streamlet>,
    open: OpenChunk,
    /// Full, waiting for a free slot.
    closed: VecDeque<OpenChunk>,
    /// Given to the writer, in slot order.
    in_flight: VecDeque<InFlight>,
    next_slot: ChunkSeq,
    prefix: AckPrefix,
    recent: Recent,
    log: Arc<ChunkLog>,
    buffer: FrameBuffer,
    effects: Vec<Effect>,
}

#[derive(Default)]
struct OpenChunk {
    builder: ChunkBuilder,
    notes: Vec<Note>,
    held: Vec<Held>,
    opened_at: Option<Instant>,
}

struct InFlight {
    slot: ChunkSeq,
    notes: Vec<Note>,
    held: Vec<Held>,
}

/// A frame that becomes visible with its chunk.
struct Note {
    stream: StreamId,
    frame: Frame,
    trim: Option<SeqNum>,
}

/// An answer that leaves when its chunk is acknowledged.
struct Held {
    reply: oneshot::Sender<Result<AppendAck, Refusal>>,
    answer: HeldAnswer,
    _permit: OwnedSemaphorePermit,
}

enum HeldAnswer {
    Ack {
        stream: StreamId,
        start: StreamPosition,
        end: StreamPosition,
    },
    Refusal(Refusal),
}

impl ChannelState {
    /// `first_slot` is the first free slot of `epoch`; `log` holds everything before.
    pub fn new(
        epoch: Epoch,
        first_slot: ChunkSeq,
        mut log: ChunkLog,
        streams: HashMap<StreamId, Streamlet>,
        limits: ChannelLimits,
    ) -> Self {
        log.advance(first_slot);
        Self {
            epoch,
            recent: Recent::new(limits.recent_bytes),
            limits,
            streams,
            open: OpenChunk::default(),
            closed: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_slot: first_slot,
            prefix: AckPrefix::new(first_slot),
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
            .or_insert_with(|| Streamlet::new(start, Default::default(), now));
    }

    pub fn take_effects(&mut self) -> std::vec::Drain<'_, Effect> {
        self.effects.drain(..)
    }

    /// Sequences a batch, or refuses it.
    pub fn append(&mut self, request: Append, now: Instant, now_ms: u64) {
        let Append {
            stream,
            batch,
            session,
            permit,
            reply,
        } = request;
        let slot = self.open_slot();
        let Some(streamlet) = self.streams.get_mut(&stream) else {
            self.effects.push(Effect::Append(reply, Err(Refusal::NotHere)));
            return;
        };
        streamlet.touched_at = now;
        let verdict = match &session {
            Some(gate) if gate.is_closed() => Err(Refusal::SessionEnded),
            _ => streamlet.judge(&batch),
        };
        if let Err(refusal) = verdict {
            if let Some(gate) = &session {
                gate.close();
            }
            let judged_slot = streamlet.last_slot().filter(|_| !streamlet.is_durable());
            self.refuse(
                Held {
                    reply,
                    answer: HeldAnswer::Refusal(refusal),
                    _permit: permit,
                },
                judged_slot,
            );
            return;
        }
        let start = streamlet.assigned();
        let frame = self.buffer.encode(stream, streamlet, &batch, now_ms);
        let end = StreamPosition::new(frame.header.end_seq(), frame.header.last_timestamp);
        let trim = streamlet.sequenced(&batch, end, slot);
        let start = StreamPosition::new(start.seq_num, frame.header.first_timestamp);
        self.open.opened_at.get_or_insert(now);
        self.open.builder.push(frame.clone());
        self.open.notes.push(Note { stream, frame, trim });
        self.open.held.push(Held {
            reply,
            answer: HeldAnswer::Ack { stream, start, end },
            _permit: permit,
        });
        if self.open.builder.encoded_len() >= self.limits.chunk_bytes as u64 {
            self.closed.push_back(std::mem::take(&mut self.open));
        }
    }

    /// Answers a refusal once the state it was judged against is durable: with the chunk in `judged_slot`.
    fn refuse(&mut self, held: Held, judged_slot: Option<ChunkSeq>) {
        let chunk_held = judged_slot.and_then(|slot| self.held_of(slot));
        match chunk_held {
            Some(list) => list.push(held),
            None => self.release(held, StreamPosition::default()),
        }
    }

    /// The answers that wait for `slot`; `None` when it is acknowledged already.
    fn held_of(&mut self, slot: ChunkSeq) -> Option<&mut Vec<Held>> {
        if let Some(first) = self.in_flight.front().map(|chunk| chunk.slot)
            && slot < self.next_slot
        {
            return slot
                .0
                .checked_sub(first.0)
                .map(|index| &mut self.in_flight[index as usize].held);
        }
        let ahead = slot.0.checked_sub(self.next_slot.0)? as usize;
        match self.closed.get_mut(ahead) {
            Some(chunk) => Some(&mut chunk.held),
            None => Some(&mut self.open.held),
        }
    }

    /// The slot that the open chunk will have.
    fn open_slot(&self) -> ChunkSeq {
        ChunkSeq(self.next_slot.0 + self.closed.len() as u64)
    }

    /// When the open chunk has to be closed, if something is in flight.
    pub fn linger_deadline(&self) -> Option<Instant> {
        self.open.opened_at.map(|at| at + self.limits.linger)
    }

    /// The next chunk to write, if there is one whose time has come. The caller has a free slot and gives the chunk
    /// to the writer at once.
    pub fn next_chunk(&mut self, now: Instant) -> Option<ChunkBuilder> {
        let chunk = match self.closed.pop_front() {
            Some(full) => full,
            None => {
                let due = self.linger_deadline()?;
                if !self.in_flight.is_empty() && now < due {
                    return None;
                }
                std::mem::take(&mut self.open)
            }
        };
        self.in_flight.push_back(InFlight {
            slot: self.next_slot,
            notes: chunk.notes,
            held: chunk.held,
        });
        self.next_slot.0 += 1;
        Some(chunk.builder)
    }

    /// A quorum holds the chunk at `slot`. Everything up to the first slot that is not durable becomes visible.
    pub fn durable(&mut self, slot: ChunkSeq) {
        let Some(end) = self.prefix.durable(slot) else {
            return;
        };
        Arc::make_mut(&mut self.log).advance(end);
        while self.in_flight.front().is_some_and(|chunk| chunk.slot < end) {
            let chunk = self.in_flight.pop_front().expect("looked at just now");
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
        for Note { stream, frame, trim } in chunk.notes {
            let Some(streamlet) = self.streams.get_mut(&stream) else {
                continue;
            };
            let first = StreamPosition::new(frame.header.first_seq, frame.header.first_timestamp);
            streamlet.index.note(first, position);
            self.recent.push(stream, &frame);
            streamlet.advance(frame, trim);
            if !streamlet.waiting.is_empty() && to_wake.last() != Some(&stream) {
                to_wake.push(stream);
            }
            if streamlet.closing && streamlet.is_durable() {
                to_close.push(stream);
            }
        }
        for held in chunk.held {
            let tail = match &held.answer {
                HeldAnswer::Ack { stream, end, .. } => self.streams.get(stream).map_or(*end, Streamlet::tail),
                HeldAnswer::Refusal(_) => StreamPosition::default(),
            };
            self.release(held, tail);
        }
        for stream in to_wake {
            self.wake(stream);
        }
        for stream in to_close {
            self.finish_close(stream);
        }
    }

    fn release(&mut self, held: Held, tail: StreamPosition) {
        let answer = match held.answer {
            HeldAnswer::Ack { start, end, .. } => Ok(AppendAck { start, end, tail }),
            HeldAnswer::Refusal(refusal) => Err(refusal),
        };
        self.effects.push(Effect::Append(held.reply, answer));
    }

    /// Answers a read, or keeps it until there is something to answer.
    pub fn read(&mut self, read: Read, now: Instant) {
        let Some(streamlet) = self.streams.get_mut(&read.stream) else {
            self.effects.push(Effect::Read(read.reply, Err(Refusal::NotHere)));
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
            let reply = answer_read(streamlet, &self.log, &read);
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
                _ => answer_read(streamlet, &self.log, &read),
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
        let streamlet = self.streams.get_mut(&stream).ok_or(Refusal::NotHere)?;
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

    fn remove(&mut self, stream: StreamId) -> Option<Streamlet> {
        self.streams.remove(&stream)
    }

    /// Streams that may rest if they are idle; in no order that decides anything.
    pub fn rest_candidates(&self) -> Vec<StreamId> {
        let may_rest = self.streams.iter().filter(|(_, streamlet)| streamlet.may_rest());
        may_rest.map(|(stream, _)| *stream).collect()
    }

    /// Whether every chunk is acknowledged and nothing waits to be written.
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_empty() && self.closed.is_empty() && self.open.notes.is_empty()
    }

    pub fn in_flight_chunks(&self) -> usize {
        self.in_flight.len()
    }

    /// The epoch is over. What was given to storage has an unknown outcome; what was not, did not happen.
    pub fn stop(&mut self) {
        let in_flight = std::mem::take(&mut self.in_flight)
            .into_iter()
            .flat_map(|chunk| chunk.held);
        let unknown: Vec<_> = in_flight.map(|held| (held, true)).collect();
        let never_sent: Vec<_> = std::mem::take(&mut self.closed)
            .into_iter()
            .chain([std::mem::take(&mut self.open)])
            .flat_map(|chunk| chunk.held)
            .map(|held| (held, false))
            .collect();
        for (held, sent) in unknown.into_iter().chain(never_sent) {
            // A refusal was judged against state that may be lost: nobody knows whether it was right.
            let sent = sent || matches!(held.answer, HeldAnswer::Refusal(_));
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

fn answer_read(streamlet: &Streamlet, log: &Arc<ChunkLog>, read: &Read) -> ReadReply {
    let view = streamlet.view();
    if streamlet.is_at_tail(read.seek) {
        return ReadReply::AtTail { view };
    }
    if let Some(frames) = streamlet.recent_from(read.seek, read.records_max, read.metered_bytes_max) {
        return ReadReply::Frames { frames, view };
    }
    // What is trimmed away is not walked through.
    let sought = streamlet
        .index
        .seek(read.seek)
        .max(streamlet.index.seek(Seek::SeqNum(view.trim)));
    let start = sought.expect("a stream with durable records has a first chunk");
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
