//! Segment objects out of the records of a flush.

use std::collections::HashMap;

use millrace_api::id::StreamId;
use millrace_api::position::StreamPosition;
use millrace_api::segment::SegmentObjectId;
use millrace_raft::command::{FlushedRun, FlushedStream};
use millrace_raft::query::Fencing;
use millrace_wal::segment::{Run, SegmentObject, SegmentObjectBuilder};

use super::gather::StreamRecords;
use crate::channel::flush::StreamCut;

/// A stream with at least so many bytes of records has objects of its own, which go when its records go.
const OWN_OBJECT_BYTES: u64 = 8 << 20;

/// Objects, and what of which stream is in them.
pub struct Built {
    pub objects: Vec<SegmentObject>,
    pub streams: Vec<FlushedStream>,
}

/// Puts the records of small streams together, in the order given. `id` names the objects by their part. An object is
/// closed when it has `object_bytes`.
pub fn objects(share: Vec<StreamRecords>, object_bytes: u64, id: impl Fn(u32) -> SegmentObjectId) -> Built {
    let mut objects = Objects {
        object_bytes,
        id,
        open: None,
        closed: Vec::new(),
    };
    let (large, small): (Vec<_>, Vec<_>) = share
        .iter()
        .partition(|records| records.bytes() >= OWN_OBJECT_BYTES);
    for records in small {
        objects.push(records);
    }
    for records in large {
        objects.close();
        objects.push(records);
    }
    objects.close();
    let cuts: HashMap<StreamId, &StreamCut> = share.iter().map(|it| (it.cut.stream, &it.cut)).collect();
    let runs = objects
        .closed
        .iter()
        .flat_map(|object| object.runs.iter().map(|run| (object.id.part, run)));
    let streams = runs
        .map(|(part, run)| flushed(cuts[&run.stream], part, run))
        .collect();
    Built {
        objects: objects.closed,
        streams,
    }
}

struct Objects<I> {
    object_bytes: u64,
    id: I,
    open: Option<SegmentObjectBuilder>,
    closed: Vec<SegmentObject>,
}

impl<I: Fn(u32) -> SegmentObjectId> Objects<I> {
    fn push(&mut self, records: &StreamRecords) {
        for frame in &records.frames {
            let next = (self.id)(self.closed.len() as u32);
            let open = self.open.get_or_insert_with(|| SegmentObjectBuilder::new(next));
            open.push(frame);
            if open.encoded_len() >= self.object_bytes {
                self.close();
            }
        }
    }

    fn close(&mut self) {
        if let Some(open) = self.open.take() {
            self.closed.push(open.finish());
        }
    }
}

/// What metadata learn of a run. Only the last of a stream brings the state at the cut.
fn flushed(cut: &StreamCut, part: u32, run: &Run) -> FlushedStream {
    let last = run.end_seq == cut.tail.seq_num;
    FlushedStream {
        stream: cut.stream,
        streamlet: cut.streamlet,
        tail: StreamPosition::new(run.end_seq, run.last_timestamp),
        fencing: if last {
            cut.fencing.clone()
        } else {
            Fencing::default()
        },
        trim: if last { cut.trim } else { 0 },
        forgotten: cut.forgotten.min(run.end_seq),
        run: Some(FlushedRun {
            part,
            offset: run.offset,
            frames_len: run.frames_len,
            index_len: run.index_len,
            first_seq: run.first_seq,
            first_timestamp: run.first_timestamp,
            metered_bytes: run.metered_bytes,
        }),
    }
}
