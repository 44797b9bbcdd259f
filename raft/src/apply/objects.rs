//! The objects that hold segments: what a command brings, what lets go of them, and when they are dead.

use std::collections::BTreeMap;

use millrace_api::segment::SegmentObjectId;

use super::Outcome;
use crate::command::{FLUSH_OBJECTS_MAX, FlushedObject, ForgetObjects, Response};
use crate::error::StoreError;
use crate::refused::Refused;
use crate::state::segment::{Death, SegmentObjectRow};
use crate::state::table::{DeadObjects, ReadTable, SegmentObjects};
use crate::state::txn::Txn;

/// When something happened: by the clock of whoever proposed it, and in the log.
#[derive(Clone, Copy)]
pub struct At {
    pub now_ms: u64,
    pub index: u64,
}

/// The objects that a command brings, while its runs are taken.
pub struct NewObjects {
    /// The name of part 0.
    name: SegmentObjectId,
    parts: BTreeMap<u32, NewObject>,
}

struct NewObject {
    len: u64,
    live_runs: u64,
    live_bytes: u64,
}

impl NewObjects {
    pub fn new(name: SegmentObjectId, objects: &[FlushedObject]) -> Outcome<Self> {
        if objects.len() > FLUSH_OBJECTS_MAX {
            return invalid(format!("{} objects; at most {FLUSH_OBJECTS_MAX}", objects.len()));
        }
        let mut parts = BTreeMap::new();
        for object in objects {
            if object.len == 0 {
                return invalid(format!("part {} is empty", object.part));
            }
            let new = NewObject {
                len: object.len,
                live_runs: 0,
                live_bytes: 0,
            };
            if parts.insert(object.part, new).is_some() {
                return invalid(format!("part {} is named twice", object.part));
            }
        }
        Ok(Self { name, parts })
    }

    /// Whether only the command that brings these may name it, be it there or not.
    pub fn would_name(&self, object: &SegmentObjectId) -> bool {
        SegmentObjectId {
            part: self.name.part,
            ..*object
        } == self.name
    }

    /// Refuses a run of which a part does not lie in the object that it names.
    pub fn must_hold(&self, part: u32, offset: u64, frames_len: u64, index_len: u32) -> Outcome<()> {
        let Some(object) = self.parts.get(&part) else {
            return invalid(format!("a run is in part {part}, which is not named"));
        };
        let end = offset
            .checked_add(frames_len)
            .and_then(|end| end.checked_add(index_len.into()));
        match frames_len > 0 && end.is_some_and(|end| end <= object.len) {
            true => Ok(()),
            false => invalid(format!("a run does not fit part {part}")),
        }
    }

    /// Counts a run that [`NewObjects::must_hold`] has seen; answers the object that has it.
    pub fn take(&mut self, part: u32, bytes: u64) -> SegmentObjectId {
        if let Some(object) = self.parts.get_mut(&part) {
            object.live_runs += 1;
            object.live_bytes = object.live_bytes.saturating_add(bytes);
        }
        SegmentObjectId { part, ..self.name }
    }

    /// Writes their rows. One of which nothing was taken is dead from the start.
    pub fn write(self, txn: &mut Txn<'_>, at: At) {
        for (part, object) in self.parts {
            let id = SegmentObjectId { part, ..self.name };
            let mut row = SegmentObjectRow {
                len: object.len,
                live_runs: object.live_runs,
                live_bytes: object.live_bytes,
                packed_runs: 0,
                packed_bytes: 0,
                committed_at_ms: at.now_ms,
                death: None,
            };
            settle(txn, id, &mut row, at);
        }
    }
}

/// A row that names so many bytes of an object is gone from the state: the object counts one less.
pub fn release(txn: &mut Txn<'_>, id: SegmentObjectId, bytes: u64, at: At) -> Result<(), StoreError> {
    let counted = txn.row::<SegmentObjects>(&id)?.and_then(|row| {
        Some(SegmentObjectRow {
            live_runs: row.live_runs.checked_sub(1)?,
            live_bytes: row.live_bytes.checked_sub(bytes)?,
            ..row
        })
    });
    let mut row = counted.ok_or_else(|| {
        StoreError::corrupt(
            "segment_objects",
            format_args!("{id} does not count a segment that names it"),
        )
    })?;
    settle(txn, id, &mut row, at);
    Ok(())
}

/// Something names an object that is not there.
pub fn no_row(id: &SegmentObjectId) -> StoreError {
    StoreError::corrupt("segment_objects", format_args!("no object {id}"))
}

/// Writes a row, and queues the object if nothing names it any more.
fn settle(txn: &mut Txn<'_>, id: SegmentObjectId, row: &mut SegmentObjectRow, at: At) {
    if row.live_runs == 0 {
        row.death = Some(Death {
            at_ms: at.now_ms,
            log_index: at.index,
        });
        txn.write::<DeadObjects>(&(at.index, id), &());
    }
    txn.write::<SegmentObjects>(&id, row);
}

pub fn forget(txn: &mut Txn<'_>, c: &ForgetObjects) -> Outcome<Response> {
    if c.objects.len() > FLUSH_OBJECTS_MAX {
        return invalid(format!(
            "{} objects; at most {FLUSH_OBJECTS_MAX}",
            c.objects.len()
        ));
    }
    for id in &c.objects {
        let Some(row) = txn.row::<SegmentObjects>(id)? else {
            continue;
        };
        let Some(death) = row.death else {
            return Err(Refused::ObjectLive(*id).into());
        };
        txn.remove::<SegmentObjects>(id);
        txn.remove::<DeadObjects>(&(death.log_index, *id));
    }
    Ok(Response::Done)
}

pub fn invalid<T>(why: String) -> Outcome<T> {
    Err(Refused::Invalid(why).into())
}
