//! Records that are committed together.

use std::collections::BTreeMap;
use std::io::IoSlice;

use super::format::{BLOCK, Kind, RecordHead, block_end, record_len};
use super::index::{Index, Place};
use super::queue::{Copied, Reply, Request};
use super::scan::RecordMeta;
use crate::zone::{CreateOutcome, Payload, StoreError};

/// Where a group begins.
#[derive(Debug, Clone, Copy)]
pub(super) struct Start {
    pub file: u64,
    pub offset: u64,
    pub commit: u64,
}

/// The records of one commit, one behind the other, and what is to be done and said when they are written.
#[derive(Debug)]
pub(super) struct Group {
    start: Start,
    pub len: u64,
    /// Something in it must be durable before it is answered.
    pub synced: bool,
    /// It removes something.
    pub deletes: bool,
    records: Vec<(RecordHead, Box<str>, Payload)>,
    /// What the group changes, by key: where the object will lie, or that it will be gone.
    changed: BTreeMap<Box<str>, Option<Place>>,
    effects: Vec<Effect>,
    answers: Vec<Answer>,
}

#[derive(Debug)]
enum Effect {
    Insert { key: Box<str>, place: Place },
    Remove { key: Box<str>, target: u64 },
    MoveObject { key: Box<str>, from: u64, place: Place },
    MoveDeletion { from: u64, target: u64, len: u64 },
}

#[derive(Debug)]
enum Answer {
    Create(
        Reply<CreateOutcome>,
        CreateOutcome,
        tokio::sync::OwnedSemaphorePermit,
    ),
    Delete(Reply<()>, tokio::sync::OwnedSemaphorePermit),
    Copy(Reply<()>),
}

impl Group {
    pub(super) fn new(start: Start) -> Self {
        Self {
            start,
            len: 0,
            synced: false,
            deletes: false,
            records: Vec::new(),
            changed: BTreeMap::new(),
            effects: Vec::new(),
            answers: Vec::new(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.answers.is_empty()
    }

    pub(super) fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// Takes a request in, with the records that it needs. Their sequence numbers are counted on.
    pub(super) fn add(&mut self, request: Request, index: &Index, next_seq: &mut u64) {
        match request {
            Request::Create {
                key,
                payload,
                body_crc,
                reply,
                permit,
            } => {
                let outcome = match self.standing(&key, index) {
                    // Of this group, it is durable when the group is.
                    Some(_) => CreateOutcome::Exists,
                    None => {
                        let place = self.push(Kind::Object, &key, take(next_seq), 0, payload, body_crc);
                        self.changed.insert(key.clone(), Some(place));
                        self.effects.push(Effect::Insert { key, place });
                        self.synced = true;
                        CreateOutcome::Created
                    }
                };
                self.answers.push(Answer::Create(reply, outcome, permit));
            }
            Request::Delete { key, reply, permit } => {
                if let Some(Place { file: target, .. }) = self.standing(&key, index) {
                    self.push(Kind::Delete, &key, take(next_seq), target, nothing(), 0);
                    self.changed.insert(key.clone(), None);
                    self.effects.push(Effect::Remove { key, target });
                    self.deletes = true;
                }
                self.answers.push(Answer::Delete(reply, permit));
            }
            Request::Copy { records, reply } => {
                for copied in records {
                    self.copy(copied, index);
                }
                self.answers.push(Answer::Copy(reply));
            }
        }
    }

    fn copy(&mut self, copied: Copied, index: &Index) {
        let Copied {
            kind,
            key,
            seq,
            target,
            file: from,
            offset,
            body,
            body_crc,
        } = copied;
        match kind {
            Kind::Object => {
                let stands = |place: Place| place.file == from && place.offset == offset;
                if !self.standing(&key, index).is_some_and(stands) {
                    return;
                }
                let place = self.push(kind, &key, seq, 0, body.into(), body_crc);
                self.changed.insert(key.clone(), Some(place));
                self.effects.push(Effect::MoveObject { key, from, place });
            }
            Kind::Delete => {
                if !index.needs_deletion(from, target) {
                    return;
                }
                self.push(kind, &key, seq, target, nothing(), 0);
                let len = record_len(&key, 0);
                self.effects.push(Effect::MoveDeletion { from, target, len });
            }
            Kind::End => return,
        }
        self.synced = true;
    }

    /// Where the object under the key will lie when the group is written so far.
    fn standing(&self, key: &str, index: &Index) -> Option<Place> {
        match self.changed.get(key) {
            Some(changed) => *changed,
            None => index.objects.get(key).copied(),
        }
    }

    fn push(
        &mut self,
        kind: Kind,
        key: &str,
        seq: u64,
        target: u64,
        payload: Payload,
        body_crc: u32,
    ) -> Place {
        let (offset, body_len) = (self.start.offset + self.len, payload.len());
        let head = RecordHead {
            kind,
            last: false,
            file: self.start.file,
            offset,
            seq,
            body_len,
            target,
            commit: self.start.commit,
            body_crc,
        };
        self.len += record_len(key, body_len);
        self.records.push((head, key.into(), payload));
        Place {
            file: head.file,
            offset,
            body_len,
            seq,
        }
    }

    /// The offset behind it.
    pub(super) fn end(&self) -> u64 {
        let end = self.start.offset + self.len;
        match self.synced {
            true => block_end(end),
            false => end,
        }
    }

    /// Hands everything to `write` in one go. A group that is to be synced fills its last block.
    pub(super) fn write<T>(&mut self, write: impl FnOnce(&mut [IoSlice<'_>]) -> T) -> T {
        if let Some((head, ..)) = self.records.last_mut() {
            head.last = self.synced;
        }
        let heads: Vec<Vec<u8>> = self
            .records
            .iter()
            .map(|(head, key, _)| head.encode(key))
            .collect();
        let padding = [0; BLOCK as usize];
        let padding_len = self.end() - (self.start.offset + self.len);
        let mut slices = Vec::new();
        for (head, (_, _, payload)) in heads.iter().zip(&self.records) {
            slices.push(IoSlice::new(head));
            slices.extend(payload.parts().iter().map(|part| IoSlice::new(part)));
        }
        slices.push(IoSlice::new(&padding[..padding_len as usize]));
        write(&mut slices)
    }

    /// Makes what was written count, and gives what is to be remembered of the records.
    pub(super) fn apply(&mut self, index: &mut Index) -> Vec<RecordMeta> {
        let file = self.start.file;
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Insert { key, place } => index.insert(&key, place),
                Effect::Remove { key, target } => {
                    index.remove(&key);
                    index.add_deletion(file, target, record_len(&key, 0));
                }
                Effect::MoveObject { key, from, place } => {
                    index.insert(&key, place);
                    index.copied(from, file);
                }
                Effect::MoveDeletion { from, target, len } => {
                    index.move_deletion(from, file, target, len);
                }
            }
        }
        let meta = |(head, key, _): &(RecordHead, Box<str>, Payload)| RecordMeta::new(head, key);
        self.records.iter().map(meta).collect()
    }

    /// Tells everybody what became of it.
    pub(super) fn answer(self, result: Result<(), StoreError>) {
        for answer in self.answers {
            match answer {
                Answer::Create(reply, outcome, _permit) => drop(reply.send(result.clone().map(|()| outcome))),
                Answer::Delete(reply, _permit) => drop(reply.send(result.clone())),
                Answer::Copy(reply) => drop(reply.send(result.clone())),
            }
        }
    }
}

fn take(next: &mut u64) -> u64 {
    let taken = *next;
    *next += 1;
    taken
}

fn nothing() -> Payload {
    Payload::new(Vec::new())
}
