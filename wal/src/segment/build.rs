//! Building a segment object out of frames, without touching their bodies.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use millrace_api::segment::SegmentObjectId;

use super::header::{self, SEGMENT_HEADER_LEN};
use super::index::{RunIndex, RunIndexEntry};
use super::joined::JoinedFrame;
use super::{Run, SEGMENT_FOOTER_LEN_MAX, SEGMENT_OBJECT_LEN_MAX, SegmentFooter};
use crate::format::{Frame, FrameKind};
use crate::zone::Payload;

/// Collects the frames of one object.
///
/// Consecutive batches of a stream are joined into frames of up to [`JOINED_BODY_LEN_MAX`](super::JOINED_BODY_LEN_MAX)
/// bytes of body: one header and one entry of the index for all of them. Bodies are shared, never copied. The same
/// frames in the same order always give the same bytes.
#[derive(Debug)]
pub struct SegmentObjectBuilder {
    id: SegmentObjectId,
    /// What is not body: headers and indexes, in order.
    own: BytesMut,
    parts: Vec<Part>,
    /// Bytes of all parts.
    len: u64,
    runs: Vec<Run>,
    open: Option<OpenRun>,
}

#[derive(Debug)]
enum Part {
    /// Of [`SegmentObjectBuilder::own`].
    Own(Range<usize>),
    Body(Bytes),
}

/// The run that may yet grow, and its last frame, which may too.
#[derive(Debug)]
struct OpenRun {
    run: Run,
    index: Vec<RunIndexEntry>,
    last: JoinedFrame,
}

/// An object ready to be uploaded.
#[derive(Debug, Clone)]
pub struct SegmentObject {
    pub id: SegmentObjectId,
    /// Its bytes, in many parts.
    pub payload: Payload,
    /// In the order in which their first frames were pushed.
    pub runs: Vec<Run>,
}

impl SegmentObjectBuilder {
    pub fn new(id: SegmentObjectId) -> Self {
        let mut builder = Self {
            id,
            own: BytesMut::new(),
            parts: Vec::new(),
            len: 0,
            runs: Vec::new(),
            open: None,
        };
        builder.write_own(|own| own.extend_from_slice(&header::encode(&id)));
        builder
    }

    /// Adds a batch behind the others. A frame of the stream that the last one was of continues its run; any other
    /// begins a run.
    ///
    /// # Panics
    /// If the frame holds no records, or does not continue its run without a gap and without going back in time:
    /// errors of the caller.
    pub fn push(&mut self, frame: &Frame) {
        let header = &frame.header;
        assert_eq!(header.kind, FrameKind::Records, "only records become segments");
        assert!(
            header.record_count > 0 && header.first_timestamp <= header.last_timestamp,
            "a batch has records, in the order of time"
        );
        match &mut self.open {
            Some(open) if open.run.stream == header.stream => {
                assert_eq!(header.first_seq, open.run.end_seq, "a run has no gap");
                assert!(
                    header.first_timestamp >= open.run.last_timestamp,
                    "timestamps never decrease along a stream"
                );
                open.run.end_seq = header.end_seq();
                open.run.last_timestamp = header.last_timestamp;
                open.run.metered_bytes = open.run.metered_bytes.saturating_add(header.metered_bytes);
                if !open.last.join(frame) {
                    let complete = std::mem::replace(&mut open.last, JoinedFrame::new(frame));
                    open.index.push(complete.entry(self.len - open.run.offset));
                    self.write(complete);
                }
            }
            _ => {
                self.close_run();
                self.open = Some(OpenRun::new(frame, self.len));
            }
        }
    }

    /// The next frame begins a run, also one of the stream that the last frame was of: there may be a gap between.
    pub fn end_run(&mut self) {
        self.close_run();
    }

    /// Bytes of the object if it were finished now.
    pub fn encoded_len(&self) -> u64 {
        let open = self.open.as_ref();
        let unwritten = open.map_or(0, |open| {
            open.last.header().frame_len() + RunIndex::encoded_len(open.index.len() + 1) as u64
        });
        let runs = self.runs.len() + usize::from(open.is_some());
        self.len + unwritten + SegmentFooter::encoded_len(runs) as u64
    }

    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.open.is_none()
    }

    /// Completes the object.
    ///
    /// # Panics
    /// If it would be longer than [`SEGMENT_OBJECT_LEN_MAX`], or its footer than [`SEGMENT_FOOTER_LEN_MAX`]: an error
    /// of the caller, who sees [`encoded_len`](Self::encoded_len) grow.
    pub fn finish(mut self) -> SegmentObject {
        let len = self.encoded_len();
        assert!(
            len <= SEGMENT_OBJECT_LEN_MAX,
            "an object is finished long before {SEGMENT_OBJECT_LEN_MAX} bytes"
        );
        assert!(
            SegmentFooter::encoded_len(self.runs.len() + 1) as u64 <= SEGMENT_FOOTER_LEN_MAX,
            "an object has fewer runs than a footer has room for"
        );
        self.close_run();
        let footer = SegmentFooter {
            id: self.id,
            len,
            runs: std::mem::take(&mut self.runs),
        };
        self.write_own(|own| footer.encode(own));
        let own = self.own.freeze();
        let parts = self.parts.into_iter().map(|part| match part {
            Part::Own(range) => own.slice(range),
            Part::Body(body) => body,
        });
        let payload = Payload::new(parts.collect::<Vec<_>>());
        debug_assert_eq!(payload.len(), len);
        SegmentObject {
            id: self.id,
            payload,
            runs: footer.runs,
        }
    }

    fn close_run(&mut self) {
        let Some(open) = self.open.take() else { return };
        let OpenRun {
            mut run,
            mut index,
            last,
        } = open;
        index.push(last.entry(self.len - run.offset));
        self.write(last);
        run.frames_len = self.len - run.offset;
        // Far below 4 GiB, as the object is.
        run.index_len = RunIndex::encoded_len(index.len()) as u32;
        self.write_own(|own| RunIndex::encode(&index, own));
        self.runs.push(run);
    }

    fn write(&mut self, frame: JoinedFrame) {
        self.write_own(|own| own.extend_from_slice(&frame.header().encode()));
        for body in frame.into_bodies().into_iter().filter(|body| !body.is_empty()) {
            self.len += body.len() as u64;
            self.parts.push(Part::Body(body));
        }
    }

    fn write_own(&mut self, write: impl FnOnce(&mut BytesMut)) {
        let start = self.own.len();
        write(&mut self.own);
        let end = self.own.len();
        self.len += (end - start) as u64;
        match self.parts.last_mut() {
            Some(Part::Own(range)) => range.end = end,
            _ => self.parts.push(Part::Own(start..end)),
        }
    }
}

impl OpenRun {
    fn new(frame: &Frame, offset: u64) -> Self {
        let header = &frame.header;
        Self {
            run: Run {
                stream: header.stream,
                first_seq: header.first_seq,
                end_seq: header.end_seq(),
                first_timestamp: header.first_timestamp,
                last_timestamp: header.last_timestamp,
                metered_bytes: header.metered_bytes,
                offset,
                frames_len: 0,
                index_len: 0,
            },
            index: Vec::new(),
            last: JoinedFrame::new(frame),
        }
    }
}

const _: () = assert!(SEGMENT_HEADER_LEN as u64 + SEGMENT_FOOTER_LEN_MAX <= SEGMENT_OBJECT_LEN_MAX);
