//! What the service says, as S2S frames.

use bytes::{Bytes, BytesMut};
use millrace_api::position::StreamPosition;
use millrace_api::s2s::{self, Compression, Reconnect};
use millrace_api::scan::{self, CutLimits};

use super::failure::error_body;
use crate::error::ServiceError;
use crate::frontend::service::types::{AppendAck, ReadEvent, RecordBatch};
use crate::frontend::session::chunks::join_small;

/// The frame that ends a session which failed.
pub(super) fn terminal(error: &ServiceError) -> Bytes {
    s2s::encode_terminal(error.status(), &error_body(error)).expect("error bodies are short")
}

/// Appends the frame of an acknowledgement. Too short to be worth compressing.
pub(super) fn put_ack(ack: &AppendAck, out: &mut BytesMut) {
    s2s::put_message(&ack_message(ack), out).expect("three positions fit in a frame");
}

pub(super) fn ack_message(ack: &AppendAck) -> millrace_api::proto::AppendAck {
    millrace_api::proto::AppendAck {
        start: Some(ack.start.into()),
        end: Some(ack.end.into()),
        tail: Some(ack.tail.into()),
    }
}

/// The chunks of one event's frame, usually; of two or three where a batch is too long for one.
pub(super) fn read_event(event: ReadEvent, compression: Compression) -> Result<Vec<Bytes>, ServiceError> {
    let (records, tail) = match event {
        ReadEvent::Batch(batch) => (batch.parts, batch.tail),
        ReadEvent::Heartbeat { tail, .. } => (Vec::new(), Some(tail)),
        ReadEvent::KeepAlive => (Vec::new(), None),
    };
    Ok(join_small(frames(records, tail, compression)?))
}

/// The protobuf message of a batch, in the pieces that it is stored in.
pub(super) fn read_batch(batch: RecordBatch) -> Vec<Bytes> {
    join_small(with_tail(batch.parts, batch.tail))
}

fn with_tail(mut records: Vec<Bytes>, tail: Option<StreamPosition>) -> Vec<Bytes> {
    records.extend(tail.map(scan::encode_tail));
    records
}

fn frames(
    records: Vec<Bytes>,
    tail: Option<StreamPosition>,
    compression: Compression,
) -> Result<Vec<Bytes>, ServiceError> {
    let message = with_tail(records, tail);
    match s2s::encode_message(&message, compression, Reconnect::NotAdvised) {
        Ok(frame) => Ok(frame),
        Err(_) => split(&message, tail.is_some(), compression),
    }
}

/// A batch within the limits can still be too long for a frame, if it is made of very small headers. Goes out as
/// several messages, cut between records; the tail stays with the last.
fn split(message: &[Bytes], has_tail: bool, compression: Compression) -> Result<Vec<Bytes>, ServiceError> {
    let (records, tail) = message.split_at(message.len() - usize::from(has_tail));
    let mut rest = Bytes::from(records.concat());
    let mut chunks = Vec::new();
    while !rest.is_empty() {
        let cut = scan::cut(&rest, &CutLimits::default())?;
        assert_ne!(cut.end, 0, "a record that was accepted fits in a frame alone");
        let mut piece = vec![rest.split_to(cut.end)];
        if rest.is_empty() {
            piece.extend_from_slice(tail);
        }
        let frame = s2s::encode_message(&piece, compression, Reconnect::NotAdvised);
        chunks.extend(frame.expect("the cut leaves room for a tail"));
    }
    Ok(chunks)
}

#[cfg(test)]
mod tests {
    use millrace_api::batch::AppendBatch;
    use millrace_api::proto::{AppendInput, AppendRecord, Header, ReadBatch};
    use millrace_api::s2s::{Frame, FrameDecoder};
    use prost::Message;

    use super::*;

    fn decode(chunks: &[Bytes]) -> Vec<ReadBatch> {
        let mut input = Bytes::from(chunks.concat());
        let mut decoder = FrameDecoder::new();
        let mut batches = Vec::new();
        while let Some(frame) = decoder.decode(&mut input).unwrap() {
            let Frame::Message(message) = frame else {
                panic!("terminal")
            };
            batches.push(ReadBatch::decode(message).unwrap());
        }
        decoder.finish().unwrap();
        batches
    }

    fn records(bodies: &[Bytes]) -> Vec<Bytes> {
        let records = bodies.iter().map(|body| AppendRecord {
            body: body.clone(),
            ..Default::default()
        });
        let input = AppendInput {
            records: records.collect(),
            ..Default::default()
        };
        let batch = AppendBatch::from_proto(input).unwrap();
        (0..batch.len())
            .map(|index| {
                let mut out = BytesMut::new();
                batch.encode_record(index, index as u64, 7, &mut out);
                out.freeze()
            })
            .collect()
    }

    fn batch(parts: Vec<Bytes>, tail: Option<StreamPosition>) -> ReadEvent {
        ReadEvent::Batch(RecordBatch {
            parts,
            tail,
            ..Default::default()
        })
    }

    #[test]
    fn small_parts_leave_in_one_chunk_and_large_ones_uncopied() {
        let small = records(&[Bytes::from_static(b"a"), Bytes::from_static(b"b")]);
        let tail = StreamPosition::new(2, 7);
        let chunks = read_event(batch(small, Some(tail)), Compression::None).unwrap();
        assert_eq!(chunks.len(), 1);
        let decoded = decode(&chunks);
        assert_eq!(decoded[0].records.len(), 2);
        assert_eq!(decoded[0].tail, Some(tail.into()));

        let large = records(&[Bytes::from(vec![b'x'; 100_000])]);
        let address = large[0].as_ptr();
        let chunks = read_event(batch(large, None), Compression::None).unwrap();
        assert!(chunks.iter().any(|chunk| chunk.as_ptr() == address));
    }

    #[test]
    fn a_heartbeat_is_a_tail_without_records() {
        let tail = StreamPosition::new(u64::MAX, u64::MAX);
        let chunks = read_event(ReadEvent::Heartbeat { tail, now_ms: 1 }, Compression::Zstd).unwrap();
        let decoded = decode(&chunks);
        assert_eq!(
            decoded,
            [ReadBatch {
                records: vec![],
                tail: Some(tail.into())
            }]
        );
    }

    #[test]
    fn api_103_frames_decode_under_each_compression() {
        for compression in [Compression::None, Compression::Zstd, Compression::Gzip] {
            let parts = records(&[Bytes::from(vec![b'x'; 5000]), Bytes::from_static(b"y")]);
            let chunks = read_event(batch(parts, None), compression).unwrap();
            let len: usize = chunks.iter().map(Bytes::len).sum();
            assert_eq!(len < 5000, compression != Compression::None);
            assert_eq!(decode(&chunks)[0].records.len(), 2);
        }
    }

    #[test]
    fn a_batch_too_long_for_a_frame_goes_out_as_several() {
        // A header of one byte each in name and value takes twice its metered size.
        let header = Header {
            name: Bytes::from_static(b"n"),
            value: Bytes::from_static(b"v"),
        };
        let record = AppendRecord {
            headers: vec![header; 130_000],
            ..Default::default()
        };
        let mut parts = Vec::new();
        for index in 0..3u64 {
            let input = AppendInput {
                records: vec![record.clone()],
                ..Default::default()
            };
            let batch = AppendBatch::from_proto(input).unwrap();
            let mut out = BytesMut::new();
            batch.encode_record(0, index, 7, &mut out);
            parts.push(out.freeze());
        }
        let tail = StreamPosition::new(3, 7);
        let decoded = decode(&read_event(batch(parts, Some(tail)), Compression::None).unwrap());
        assert!(decoded.len() > 1);
        let seq_nums: Vec<_> = decoded
            .iter()
            .flat_map(|b| &b.records)
            .map(|r| r.seq_num)
            .collect();
        assert_eq!(seq_nums, [0, 1, 2]);
        let tails: Vec<_> = decoded.iter().map(|b| b.tail.is_some()).collect();
        assert_eq!(tails.iter().filter(|has| **has).count(), 1);
        assert_eq!(tails.last(), Some(&true));
    }

    #[test]
    fn a_terminal_carries_status_and_body() {
        let mut input = terminal(&ServiceError::SeqNumMismatch { next: 9 });
        let frame = FrameDecoder::new().decode(&mut input).unwrap().unwrap();
        let Frame::Terminal { status, body } = frame else {
            panic!("message")
        };
        assert_eq!(status, 412);
        assert_eq!(body, &br#"{"seq_num_mismatch":9}"#[..]);
    }
}
