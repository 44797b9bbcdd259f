//! From a batch that was judged to the frame that is stored.

use bytes::BytesMut;
use millrace_api::batch::AppendBatch;
use millrace_api::id::{StreamId, WriterId};
use millrace_api::position::Timestamp;
use millrace_wal::{Frame, FrameFlags, FrameHeader, FrameKind, FrameWriter};
use prost::Message;

use super::streamlet::Streamlet;
use super::writer_table::WriterTable;
use super::writers::WriterInput;

/// What a new buffer for frames holds at least, so that small frames share one. A reader that holds on to one frame
/// keeps its buffer alive, which is why it is not larger.
const BUFFER_BYTES: usize = 64 * 1024;

/// Where frames are written.
pub struct FrameBuffer(BytesMut);

impl FrameBuffer {
    pub fn new() -> Self {
        Self(BytesMut::with_capacity(BUFFER_BYTES))
    }

    /// Encodes the batch at the streamlet's assigned position, with timestamps as its configuration says. This is
    /// the only time that the records are copied; the state is not changed.
    pub fn encode(
        &mut self,
        stream: StreamId,
        streamlet: &Streamlet,
        batch: &AppendBatch,
        writer: Option<&WriterInput>,
        now_ms: u64,
    ) -> Frame {
        let mut out = FrameWriter::begin(&mut self.0, batch.encoded_len_max());
        let start = streamlet.assigned();
        let mut first_timestamp: Option<Timestamp> = None;
        let mut last_timestamp = start.timestamp;
        for (index, asked) in batch.timestamps().enumerate() {
            last_timestamp = streamlet.timestamp(asked, last_timestamp, now_ms);
            first_timestamp.get_or_insert(last_timestamp);
            batch.encode_record(index, start.seq_num + index as u64, last_timestamp, out.body());
        }
        let flags = if batch.commands().is_empty() {
            FrameFlags::NONE
        } else {
            FrameFlags::HAS_COMMANDS
        };
        out.finish(FrameHeader {
            kind: FrameKind::Records,
            flags,
            stream,
            streamlet: streamlet.id,
            first_seq: start.seq_num,
            record_count: u32::try_from(batch.len()).expect("a batch has at most 1000 records"),
            metered_bytes: batch.metered_bytes() as u64,
            first_timestamp: first_timestamp.unwrap_or(last_timestamp),
            last_timestamp,
            writer: writer.map_or(WriterId(0), |input| input.writer),
            number: writer.map_or(0, |input| input.number),
            body_len: 0,
            body_crc: 0,
        })
    }

    /// A frame without records that tells the streamlet's writers as they are at its assigned position.
    pub fn encode_writers(&mut self, stream: StreamId, streamlet: &Streamlet, table: &WriterTable) -> Frame {
        let mut out = FrameWriter::begin(&mut self.0, table.encoded_len());
        table.encode(out.body()).expect("the buffer grows");
        let at = streamlet.assigned();
        out.finish(FrameHeader {
            kind: FrameKind::Open,
            flags: FrameFlags::NONE,
            stream,
            streamlet: streamlet.id,
            first_seq: at.seq_num,
            record_count: 0,
            metered_bytes: 0,
            first_timestamp: at.timestamp,
            last_timestamp: at.timestamp,
            writer: WriterId(0),
            number: 0,
            body_len: 0,
            body_crc: 0,
        })
    }
}
