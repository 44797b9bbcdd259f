//! Segments of a stream tile it: from the trim point or before, up to where it was flushed.

use millrace_api::id::StreamId;
use millrace_api::position::{SeqNum, Timestamp};
use millrace_raft::error::StoreError;
use millrace_raft::query::{ChainIndexRecord, ChainLink, StateReader, StreamRecord};

use super::chains;
use super::{Broken, FAULTS_MAX, Phase, Progress, Promise, Report, Verify, VerifyError, blocking};

/// Streams, and segments of one of them, that are read in one step.
const STREAMS_PAGE: usize = 256;
const SEGMENTS_PAGE: usize = 1000;

impl Verify {
    pub(super) async fn streams(&self, report: &mut Report) -> Result<(), VerifyError> {
        let mut after = None;
        loop {
            let state = self.cell.meta.state();
            let step = blocking(move || step(&state, after));
            let Some(step) = step.await?? else { return Ok(()) };
            after = Some(step.last);
            report.checked.streams += step.streams;
            report.checked.segments += step.segments;
            report.broken(step.broken).await?;
            for index in &step.indexes {
                let seen = chains::look_at(&self.cell, index, self.repair).await?;
                report.checked.objects += seen.objects;
                report.checked.object_bytes += seen.bytes;
                report.broken(seen.broken).await?;
                for healed in seen.healed {
                    report.healed(healed).await?;
                }
            }
            let progress = Progress {
                phase: Phase::Streams,
                done: report.checked.streams,
                total: None,
            };
            report.progress(progress).await?;
        }
    }
}

#[derive(Debug)]
struct Step {
    last: StreamId,
    streams: u64,
    segments: u64,
    broken: Vec<Broken>,
    indexes: Vec<ChainIndexRecord>,
}

/// The streams after one; `None` if there is no other.
fn step(state: &StateReader, after: Option<StreamId>) -> Result<Option<Step>, StoreError> {
    let page = state.streams_after(after, STREAMS_PAGE)?;
    let Some(last) = page.last() else { return Ok(None) };
    let mut step = Step {
        last: last.id,
        streams: 0,
        segments: 0,
        broken: Vec::new(),
        indexes: Vec::new(),
    };
    for stream in page {
        let Some(mut tiling) = of_stream(state, stream.id)? else {
            continue;
        };
        step.streams += 1;
        step.segments += tiling.segments;
        step.indexes.append(&mut tiling.indexes);
        step.broken.extend(tiling.finish());
    }
    Ok(Some(step))
}

/// What a stream and its segments say at one moment; `None` if it is gone.
fn of_stream(state: &StateReader, id: StreamId) -> Result<Option<Tiling>, StoreError> {
    state.at_once(|view| {
        let Some(stream) = view.stream_by_id(id)? else {
            return Ok(None);
        };
        let mut tiling = Tiling::new(stream);
        let mut from = 0;
        loop {
            let page = match view.chain(id, from, SEGMENTS_PAGE) {
                Ok(page) => page,
                Err(error @ StoreError::Corrupt { .. }) => {
                    tiling.unreadable(&error);
                    return Ok(Some(tiling));
                }
                Err(error) => return Err(error),
            };
            for link in &page {
                tiling.push(link);
            }
            match page.last() {
                Some(last) if page.len() == SEGMENTS_PAGE => from = last.end_seq(),
                _ => return Ok(Some(tiling)),
            }
        }
    })
}

/// Takes the chain of one stream, in order, and finds what does not fit.
pub(super) struct Tiling {
    stream: StreamRecord,
    end: Option<(SeqNum, Timestamp)>,
    segments: u64,
    indexes: Vec<ChainIndexRecord>,
    readable: bool,
    broken: Vec<Broken>,
}

impl Tiling {
    pub fn new(stream: StreamRecord) -> Self {
        Self {
            stream,
            end: None,
            segments: 0,
            indexes: Vec::new(),
            readable: true,
            broken: Vec::new(),
        }
    }

    pub fn push(&mut self, link: &ChainLink) {
        let (first_seq, end_seq) = (link.first_seq(), link.end_seq());
        let (first_timestamp, last_timestamp) = (link.first_timestamp(), link.last_timestamp());
        match link {
            ChainLink::Segment(_) => self.segments += 1,
            ChainLink::Index(index) => {
                self.segments += u64::from(index.row.segments);
                self.indexes.push(*index);
            }
        }
        if first_seq >= end_seq || first_timestamp > last_timestamp {
            self.fault(format!(
                "a segment goes from {first_seq} at {first_timestamp} to {end_seq} at {last_timestamp}"
            ));
        }
        match self.end {
            // A deleting stream loses its segments without a word to its trim point.
            None if first_seq > self.stream.trim && self.stream.deletion.is_none() => {
                self.fault(format!(
                    "its first segment begins at {first_seq}, and it is kept from {} on",
                    self.stream.trim
                ));
            }
            Some((end, _)) if end != first_seq => self.fault(format!(
                "a segment ends at {end}, and the next begins at {first_seq}"
            )),
            Some((_, timestamp)) if timestamp > first_timestamp => self.fault(format!(
                "records up to {first_seq} are as late as {timestamp}, and the next is of {first_timestamp}"
            )),
            _ => {}
        }
        self.end = Some((end_seq, last_timestamp));
    }

    fn unreadable(&mut self, error: &StoreError) {
        self.readable = false;
        self.fault(error.to_string());
    }

    pub fn finish(mut self) -> Vec<Broken> {
        let (tail, trim) = (self.stream.tail, self.stream.trim);
        match self.end {
            _ if !self.readable => {}
            Some((end, timestamp)) if end != tail.seq_num || timestamp > tail.timestamp => {
                self.fault(format!(
                    "its last segment ends at {end} and {timestamp}, and it was flushed up to {} and {}",
                    tail.seq_num, tail.timestamp
                ));
            }
            None if trim != tail.seq_num && self.stream.deletion.is_none() => self.fault(format!(
                "it has no segment, and is kept from {trim} on up to {}",
                tail.seq_num
            )),
            _ => {}
        }
        self.broken
    }

    fn fault(&mut self, why: String) {
        if self.broken.len() < FAULTS_MAX {
            let subject = format!("stream {}", self.stream.id);
            let why = format!("{why} ({})", self.stream.name);
            self.broken.push(Broken::new(Promise::Tiled, subject, why));
        }
    }
}
