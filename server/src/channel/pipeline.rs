//! The chunks of an epoch that are not acknowledged yet: one being filled, full ones that wait for a slot, and those
//! that storage is to confirm.
//!
//! - Slots are given to chunks in order, and chunks leave in order.

use std::collections::VecDeque;
use std::time::Duration;

use millrace_api::bug::{Bug, planted};
use millrace_api::id::{ChunkSeq, StreamId};
use millrace_api::position::StreamPosition;
use millrace_wal::{AckPrefix, ChunkBuilder, Frame};
use tokio::sync::{OwnedSemaphorePermit, oneshot};
use tokio::time::Instant;

use super::message::Refusal;
use super::streamlet::Commanded;
use crate::frontend::service::types::AppendAck;

pub struct Pipeline {
    open: OpenChunk,
    /// Full, waiting for a free slot.
    closed: VecDeque<OpenChunk>,
    /// Given to the writer, in slot order.
    in_flight: VecDeque<InFlight>,
    pub(super) next_slot: ChunkSeq,
    prefix: AckPrefix,
}

#[derive(Default)]
struct OpenChunk {
    builder: ChunkBuilder,
    notes: Vec<Note>,
    held: Vec<Held>,
    opened_at: Option<Instant>,
}

/// A chunk that storage has or is about to get.
pub struct InFlight {
    pub slot: ChunkSeq,
    pub notes: Vec<Note>,
    pub held: Vec<Held>,
}

/// A frame that becomes visible with its chunk.
pub struct Note {
    pub stream: StreamId,
    pub frame: Frame,
    /// What its commands do.
    pub commanded: Option<Box<Commanded>>,
}

/// An answer that leaves when its chunk is acknowledged.
pub struct Held {
    pub reply: oneshot::Sender<Result<AppendAck, Refusal>>,
    pub answer: HeldAnswer,
    /// Accounts for the batch until the answer leaves.
    _permit: OwnedSemaphorePermit,
}

pub enum HeldAnswer {
    Ack {
        stream: StreamId,
        start: StreamPosition,
        end: StreamPosition,
    },
    Refusal(Refusal),
}

impl Held {
    pub fn new(
        reply: oneshot::Sender<Result<AppendAck, Refusal>>,
        answer: HeldAnswer,
        permit: OwnedSemaphorePermit,
    ) -> Self {
        Self {
            reply,
            answer,
            _permit: permit,
        }
    }
}

impl Pipeline {
    pub fn new(first_slot: ChunkSeq) -> Self {
        Self {
            open: OpenChunk::default(),
            closed: VecDeque::new(),
            in_flight: VecDeque::new(),
            next_slot: first_slot,
            prefix: AckPrefix::new(first_slot),
        }
    }

    /// The slot that the open chunk will have.
    pub fn open_slot(&self) -> ChunkSeq {
        ChunkSeq(self.next_slot.0 + self.closed.len() as u64)
    }

    /// Adds a frame to the open chunk, and closes the chunk when it has at least `chunk_bytes`.
    pub fn push(&mut self, note: Note, held: Held, chunk_bytes: usize, now: Instant) {
        self.open.held.push(held);
        self.push_unheld(note, chunk_bytes, now);
    }

    /// The same without an answer that waits.
    pub fn push_unheld(&mut self, note: Note, chunk_bytes: usize, now: Instant) {
        self.open.opened_at.get_or_insert(now);
        self.open.builder.push(note.frame.clone());
        self.open.notes.push(note);
        self.close_if_full(chunk_bytes);
    }

    /// Adds a frame to the open chunk that nobody waits for.
    pub fn push_alone(&mut self, frame: Frame, chunk_bytes: usize, now: Instant) {
        self.open.opened_at.get_or_insert(now);
        self.open.builder.push(frame);
        self.close_if_full(chunk_bytes);
    }

    fn close_if_full(&mut self, chunk_bytes: usize) {
        if self.open.builder.encoded_len() >= chunk_bytes as u64 {
            self.closed.push_back(std::mem::take(&mut self.open));
        }
    }

    /// Has the answer leave with the chunk of `slot`; gives it back when that is acknowledged already.
    pub fn hold(&mut self, slot: ChunkSeq, held: Held) -> Result<(), Held> {
        match self.held_of(slot) {
            Some(list) => {
                list.push(held);
                Ok(())
            }
            None => Err(held),
        }
    }

    fn held_of(&mut self, slot: ChunkSeq) -> Option<&mut Vec<Held>> {
        if slot < self.next_slot {
            let first = self.in_flight.front()?.slot;
            let index = slot.0.checked_sub(first.0)?;
            return Some(&mut self.in_flight[index as usize].held);
        }
        let ahead = (slot.0 - self.next_slot.0) as usize;
        Some(match self.closed.get_mut(ahead) {
            Some(chunk) => &mut chunk.held,
            None => &mut self.open.held,
        })
    }

    /// When the open chunk has to be closed, if something is in flight.
    pub fn linger_deadline(&self, linger: Duration) -> Option<Instant> {
        self.open.opened_at.map(|at| at + linger)
    }

    /// The next chunk to write, if there is one whose time has come. The caller has a free slot and gives the chunk
    /// to the writer at once.
    pub fn next_chunk(&mut self, linger: Duration, now: Instant) -> Option<ChunkBuilder> {
        let chunk = match self.closed.pop_front() {
            Some(full) => full,
            None => {
                let due = self.linger_deadline(linger)?;
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

    /// A quorum holds the chunk at `slot`. Answers the end of what is acknowledged when that has moved.
    pub fn durable(&mut self, slot: ChunkSeq) -> Option<ChunkSeq> {
        if planted(Bug::AckBeyondPrefix) {
            return Some(ChunkSeq(slot.0 + 1));
        }
        self.prefix.durable(slot)
    }

    /// The oldest chunk, if its slot is below `end`.
    pub fn pop_below(&mut self, end: ChunkSeq) -> Option<InFlight> {
        self.in_flight.pop_front_if(|chunk| chunk.slot < end)
    }

    /// Whether every chunk is acknowledged and nothing waits to be written.
    pub fn is_settled(&self) -> bool {
        self.in_flight.is_empty() && self.closed.is_empty() && self.open.builder.is_empty()
    }

    pub fn in_flight_chunks(&self) -> usize {
        self.in_flight.len()
    }

    /// The epoch is over: what is owed, and whether storage was sent the chunk that it waits for.
    pub fn abandon(&mut self) -> Vec<(Held, bool)> {
        let sent = std::mem::take(&mut self.in_flight)
            .into_iter()
            .flat_map(|chunk| chunk.held)
            .map(|held| (held, true));
        let never_sent = std::mem::take(&mut self.closed)
            .into_iter()
            .chain([std::mem::take(&mut self.open)])
            .flat_map(|chunk| chunk.held)
            .map(|held| (held, false));
        sent.chain(never_sent).collect()
    }
}
