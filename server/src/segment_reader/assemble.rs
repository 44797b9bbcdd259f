//! Frames out of pages.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use millrace_api::position::SeqNum;
use millrace_wal::{FRAME_HEADER_LEN, FormatError, Frame, FrameHeader, FrameKind};

use super::plan::{Unit, part_of};
use super::{SegmentRange, SegmentRef};

/// Cuts frames out of adjacent bytes and checks each of them: its CRCs, and that it is the one that belongs there.
pub(super) struct Assembler {
    range: SegmentRange,
    /// The segment that is being read.
    at: Option<Place>,
    /// The start of a frame that goes on in the next page. Only allocated for a length that its header's CRC confirms.
    partial: BytesMut,
    /// The pages that hold the frame in the making, as they came.
    touched: Vec<(u32, Bytes)>,
    /// Records below have been given out.
    given: SeqNum,
    done: bool,
}

/// Where the next frame begins.
struct Place {
    segment: Arc<SegmentRef>,
    /// From the start of the object.
    offset: u64,
    first_seq: SeqNum,
}

/// A frame that is not what was written, or not the one that belongs there.
#[derive(Debug)]
pub(super) struct BadFrame {
    /// From the start of the object.
    pub(super) offset: u64,
    /// The record that it should begin with.
    pub(super) first_seq: SeqNum,
    pub(super) error: FormatError,
    /// The pages that hold it, as far as its length is known.
    pub(super) pages: Vec<(u32, Bytes)>,
}

impl Assembler {
    pub(super) fn new(range: SegmentRange) -> Self {
        Self {
            range,
            at: None,
            partial: BytesMut::new(),
            touched: Vec::new(),
            given: 0,
            done: false,
        }
    }

    /// The last record of the range has come.
    pub(super) fn is_done(&self) -> bool {
        self.done
    }

    /// Takes the next unit and its pages, and gives out the frames that are wanted and complete. After an error the
    /// next unit must be one that [begins](Unit::begins) where the bad frame does.
    pub(super) fn take(
        &mut self,
        unit: &Unit,
        pages: Vec<Bytes>,
        frames: &mut Vec<Frame>,
    ) -> Result<(), BadFrame> {
        if let Some(first_seq) = unit.begins {
            self.partial.clear();
            self.touched.clear();
            self.at = Some(Place {
                segment: unit.segment.clone(),
                offset: unit.start,
                first_seq,
            });
        }
        let mut place = self.at.take().expect("the first unit of a segment begins it");
        for (number, page) in unit.pages().zip(pages) {
            let bytes = part_of(&page, u64::from(number), &(unit.start..unit.end));
            if let Err(error) = self.take_bytes(&mut place, number, &page, bytes, frames) {
                return Err(self.bad(&place, error));
            }
        }
        let run_end = unit.segment.index_offset();
        if unit.end == run_end && place.offset != run_end && !self.done {
            let (need, have) = (FRAME_HEADER_LEN as u64, run_end - place.offset);
            return Err(self.bad(&place, FormatError::Truncated { need, have }));
        }
        self.at = Some(place);
        Ok(())
    }

    fn bad(&mut self, place: &Place, error: FormatError) -> BadFrame {
        BadFrame {
            offset: place.offset,
            first_seq: place.first_seq,
            error,
            pages: std::mem::take(&mut self.touched),
        }
    }

    fn take_bytes(
        &mut self,
        place: &mut Place,
        number: u32,
        page: &Bytes,
        mut rest: Bytes,
        frames: &mut Vec<Frame>,
    ) -> Result<(), FormatError> {
        while !rest.is_empty() && !self.done {
            if self.touched.last().is_none_or(|(last, _)| *last != number) {
                self.touched.push((number, page.clone()));
            }
            let Some(bytes) = self.frame_bytes(place, &mut rest)? else {
                continue;
            };
            let frame = Frame::decode(&bytes)?;
            place.pass(&frame.header, &self.range)?;
            self.touched.clear();
            self.give(frame, frames);
        }
        Ok(())
    }

    /// The bytes of the next frame, if they end here; otherwise `rest` is kept, all or enough to see the header.
    fn frame_bytes(&mut self, place: &Place, rest: &mut Bytes) -> Result<Option<Bytes>, FormatError> {
        if self.partial.is_empty() && rest.len() >= FRAME_HEADER_LEN {
            let len = place.frame_len(rest)?;
            if len <= rest.len() {
                return Ok(Some(rest.split_to(len)));
            }
            self.partial.reserve(len);
        }
        if self.partial.len() < FRAME_HEADER_LEN {
            let missing = FRAME_HEADER_LEN - self.partial.len();
            self.keep(rest, missing);
            if self.partial.len() < FRAME_HEADER_LEN {
                return Ok(None);
            }
        }
        let len = place.frame_len(&self.partial)?;
        let missing = len - self.partial.len();
        self.partial.reserve(missing);
        self.keep(rest, missing);
        let whole = self.partial.len() == len;
        Ok(whole.then(|| std::mem::take(&mut self.partial).freeze()))
    }

    fn keep(&mut self, rest: &mut Bytes, missing: usize) {
        let taken = rest.split_to(missing.min(rest.len()));
        self.partial.extend_from_slice(&taken);
    }

    fn give(&mut self, frame: Frame, frames: &mut Vec<Frame>) {
        let header = &frame.header;
        let end = header.end_seq();
        self.done = end >= self.range.end;
        if end > self.given && self.range.wants(header) {
            self.given = end;
            frames.push(frame);
        }
    }
}

impl Place {
    /// The length of the frame whose header stands at the start of `bytes`.
    fn frame_len(&self, bytes: &[u8]) -> Result<usize, FormatError> {
        let (len, room) = (
            FrameHeader::decode(bytes)?.frame_len(),
            self.segment.index_offset() - self.offset,
        );
        if len > room {
            return Err(FormatError::Truncated {
                need: len,
                have: room,
            });
        }
        // Within an object, which fits into memory.
        Ok(len as usize)
    }

    /// Goes behind the frame, if it is the one that belongs here.
    fn pass(&mut self, header: &FrameHeader, range: &SegmentRange) -> Result<(), FormatError> {
        let (end_seq, end) = (header.end_seq(), self.offset + header.frame_len());
        let is_last = end == self.segment.index_offset();
        let belongs = header.kind == FrameKind::Records
            && header.stream == range.stream
            && header.first_seq == self.first_seq
            && header.record_count > 0
            && if is_last {
                end_seq == self.segment.end_seq
            } else {
                end_seq < self.segment.end_seq
            };
        if !belongs {
            return Err(FormatError::Mismatch { what: "frame header" });
        }
        self.first_seq = end_seq;
        self.offset = end;
        Ok(())
    }
}
