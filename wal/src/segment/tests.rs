use bytes::{BufMut, Bytes, BytesMut};
use millrace_api::id::{ChannelId, Epoch, FlushSeq, StreamId, StreamletId, WriterId};
use millrace_api::segment::{SegmentObjectId, SegmentOrigin};
use proptest::prelude::*;

use super::*;
use crate::format::field::u32_at;
use crate::format::{FRAME_HEADER_LEN, FormatError, Frame, FrameFlags, FrameHeader, FrameKind, FrameWriter};

const A: StreamId = StreamId(0xa << 100);
const B: StreamId = StreamId(0xb << 100);

fn id() -> SegmentObjectId {
    SegmentObjectId {
        channel: ChannelId(0x0102_0304),
        epoch: Epoch(5),
        origin: SegmentOrigin::Flush,
        seq: FlushSeq(6),
        part: 7,
    }
}

/// A batch of two records, each of a millisecond of its own.
fn batch(stream: StreamId, first_seq: u64, body: &[u8]) -> Frame {
    let mut buffer = BytesMut::new();
    let mut writer = FrameWriter::begin(&mut buffer, body.len());
    writer.body().put_slice(body);
    writer.finish(FrameHeader {
        kind: FrameKind::Records,
        flags: if first_seq == 2 {
            FrameFlags::HAS_COMMANDS
        } else {
            FrameFlags::NONE
        },
        stream,
        streamlet: StreamletId(3),
        first_seq,
        record_count: 2,
        metered_bytes: 10 + body.len() as u64,
        first_timestamp: 1000 + first_seq,
        last_timestamp: 1001 + first_seq,
        writer: WriterId(9),
        number: first_seq + 1,
        body_len: 0,
        body_crc: 0,
    })
}

fn build(batches: &[Frame]) -> SegmentObject {
    let mut builder = SegmentObjectBuilder::new(id());
    for batch in batches {
        builder.push(batch);
    }
    let expected = builder.encoded_len();
    let object = builder.finish();
    assert_eq!(object.payload.len(), expected);
    object
}

/// Two streams; the first one's batches are joined into two frames, the second one's is alone.
fn object() -> SegmentObject {
    let half = vec![b'h'; JOINED_BODY_LEN_MAX as usize / 2];
    build(&[
        batch(A, 0, &half),
        batch(A, 2, b"commands"),
        batch(A, 4, &half),
        batch(B, 10, b"of the other"),
    ])
}

/// As [`object`], in a few bytes: streamlets are not joined.
fn small_object() -> SegmentObject {
    let mut later = batch(A, 4, b"later");
    later.header.streamlet = StreamletId(4);
    build(&[
        batch(A, 0, b"first"),
        batch(A, 2, b"commands"),
        later,
        batch(B, 10, b"of the other"),
    ])
}

/// The frames of a run.
fn frames(bytes: &Bytes, run: &Run) -> Vec<Frame> {
    let mut rest = bytes.slice(run.offset as usize..run.index_offset() as usize);
    let mut frames = Vec::new();
    while !rest.is_empty() {
        let frame = Frame::decode(&rest).expect("a good frame");
        rest = rest.slice(frame.bytes.len()..);
        frames.push(frame);
    }
    frames
}

fn index(bytes: &Bytes, run: &Run) -> RunIndex {
    RunIndex::decode(&bytes[run.index_offset() as usize..run.end() as usize]).expect("a good index")
}

/// What version 1 looked like when it was released. The file never changes; a later version adds its own.
#[test]
fn version_1_still_reads_and_writes_as_it_did() {
    let kept = Bytes::from_static(include_bytes!("../../testdata/v1/segment.bin"));
    let written = small_object();
    assert_eq!(written.payload.to_bytes(), kept);
    let read = verify_object(&kept).expect("a good object");
    assert_eq!((read.id, read.len), (id(), kept.len() as u64));
    assert_eq!(read.runs, written.runs);
}

#[test]
fn small_batches_become_one_frame_and_large_ones_stay_alone() {
    let object = object();
    let bytes = object.payload.to_bytes();
    let [a, b] = object.runs[..] else {
        panic!("two runs: {:?}", object.runs)
    };
    assert_eq!((a.stream, a.first_seq, a.end_seq), (A, 0, 6));
    assert_eq!((a.first_timestamp, a.last_timestamp), (1000, 1005));
    assert_eq!((b.stream, b.first_seq, b.end_seq), (B, 10, 12));
    let [joined, alone] = &frames(&bytes, &a)[..] else {
        panic!("two frames")
    };
    let header = &joined.header;
    assert_eq!((header.first_seq, header.record_count), (0, 4));
    assert_eq!((header.first_timestamp, header.last_timestamp), (1000, 1003));
    assert_eq!(header.metered_bytes, 20 + u64::from(header.body_len));
    assert!(header.flags.has_commands(), "as one of its batches has");
    assert_eq!((header.writer, header.number), (WriterId(0), 0));
    assert!(joined.body().ends_with(b"hhcommands"));
    assert_eq!((alone.header.first_seq, alone.header.writer), (4, WriterId(0)));
    let offsets: Vec<u64> = index(&bytes, &a).entries().iter().map(|e| e.offset).collect();
    assert_eq!(offsets, [0, joined.bytes.len() as u64]);
}

#[test]
fn a_batch_over_the_limit_is_a_frame_of_its_own() {
    let large = vec![1; JOINED_BODY_LEN_MAX as usize + 1];
    let object = build(&[batch(A, 0, b"x"), batch(A, 2, &large), batch(A, 4, b"y")]);
    let bytes = object.payload.to_bytes();
    let counts = frames(&bytes, &object.runs[0]);
    let counts: Vec<u32> = counts.iter().map(|frame| frame.header.record_count).collect();
    assert_eq!(counts, [2, 2, 2]);
}

#[test]
fn bodies_are_shared_and_never_copied() {
    let batches = [
        batch(A, 0, &[1; 5000]),
        batch(A, 2, &[2; 5000]),
        batch(B, 0, &[3; 5000]),
    ];
    let object = build(&batches);
    let shared = |batch: &Frame| {
        let body = batch.body();
        let parts = object.payload.parts();
        parts.iter().any(|part| part.as_ptr() == body.as_ptr())
    };
    assert!(batches.iter().all(shared));
}

#[test]
fn an_object_without_runs_is_whole() {
    let builder = SegmentObjectBuilder::new(id());
    assert!(builder.is_empty());
    let object = builder.finish();
    let footer = verify_object(&object.payload.to_bytes()).expect("a good object");
    assert!(footer.runs.is_empty());
}

#[test]
fn a_stream_that_comes_again_has_a_second_run() {
    let object = build(&[batch(A, 0, b"a"), batch(B, 0, b"b"), batch(A, 8, b"c")]);
    let footer = verify_object(&object.payload.to_bytes()).expect("a good object");
    let runs: Vec<_> = footer
        .runs
        .iter()
        .map(|run| (run.stream, run.first_seq))
        .collect();
    assert_eq!(runs, [(A, 0), (B, 0), (A, 8)]);
}

#[test]
fn what_lies_apart_has_runs_of_its_own() {
    let mut builder = SegmentObjectBuilder::new(id());
    for first_seq in [0, 4, 6] {
        builder.end_run();
        builder.push(&batch(A, first_seq, b"a"));
    }
    builder.end_run();
    let bytes = builder.finish().payload.to_bytes();
    let footer = verify_object(&bytes).expect("a good object");
    let ends = |run: &Run| (run.first_seq, run.end_seq, frames(&bytes, run).len());
    assert!(footer.runs.iter().map(ends).eq([(0, 2, 1), (4, 6, 1), (6, 8, 1)]));
}

#[test]
#[should_panic(expected = "a run has no gap")]
fn a_gap_is_an_error_of_the_caller() {
    build(&[batch(A, 0, b"a"), batch(A, 4, b"b")]);
}

#[test]
fn every_truncation_is_refused() {
    let bytes = small_object().payload.to_bytes();
    for len in 0..bytes.len() {
        assert!(verify_object(&bytes.slice(..len)).is_err(), "{len}");
    }
    let mut longer = BytesMut::from(&bytes[..]);
    longer.put_u8(0);
    assert!(verify_object(&longer.freeze()).is_err());
}

#[test]
fn every_flipped_bit_is_found() {
    let bytes = small_object().payload.to_bytes();
    for bit in 0..bytes.len() * 8 {
        let mut bad = BytesMut::from(&bytes[..]);
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(verify_object(&bad.freeze()).is_err(), "bit {bit}");
    }
}

#[test]
fn every_flipped_bit_of_an_index_is_found() {
    let object = small_object();
    let bytes = object.payload.to_bytes();
    let run = object.runs[0];
    let index = &bytes[run.index_offset() as usize..run.end() as usize];
    for bit in 0..index.len() * 8 {
        let mut bad = index.to_vec();
        bad[bit / 8] ^= 1 << (bit % 8);
        assert!(RunIndex::decode(&bad).is_err(), "bit {bit}");
    }
    for len in 0..index.len() {
        assert!(RunIndex::decode(&index[..len]).is_err(), "{len}");
    }
}

/// Rewrites bytes and the footer's CRC over them, as a hostile writer would.
fn with_footer_bytes(bytes: &Bytes, from_end: usize, value: &[u8]) -> Bytes {
    let mut bytes = BytesMut::from(&bytes[..]);
    let at = bytes.len() - from_end;
    bytes[at..at + value.len()].copy_from_slice(value);
    let end = bytes.len();
    let footer_len = u32_at(&bytes, end - 16) as usize;
    let crc = crc32c::crc32c(&bytes[end - footer_len..end - 12]);
    bytes[end - 12..end - 8].copy_from_slice(&crc.to_le_bytes());
    bytes.freeze()
}

#[test]
fn runs_that_do_not_tile_the_object_are_refused_under_a_good_crc() {
    let bytes = small_object().payload.to_bytes();
    let footer_len = SegmentFooter::encoded_len(2);
    assert_eq!(
        with_footer_bytes(&bytes, 1, b"1"),
        bytes,
        "nothing changes by itself"
    );
    // The second run's offset, length of frames, length of index, sequence numbers, timestamps, metered bytes.
    for field in [56, 64, 72, 16, 24, 32, 40, 48] {
        let at = footer_len - 76 - field;
        for value in [0u64, u64::MAX / 2, u64::MAX] {
            let width = if field == 72 { 4 } else { 8 };
            let bad = with_footer_bytes(&bytes, at, &value.to_le_bytes()[..width]);
            assert!(verify_object(&bad).is_err(), "{value} at {field}");
        }
    }
}

#[test]
fn a_footer_is_found_at_the_end_of_any_suffix() {
    let object = small_object();
    let bytes = object.payload.to_bytes();
    let footer_len = SegmentFooter::encoded_len(2);
    for len in 0..=bytes.len() {
        match SegmentFooter::decode(&bytes[bytes.len() - len..]) {
            Err(FormatError::Truncated { .. }) => assert!(len < 20),
            Ok(SegmentSuffix::Longer { suffix_len }) => {
                assert!((20..footer_len).contains(&len));
                assert_eq!(suffix_len, footer_len as u64);
            }
            Ok(SegmentSuffix::Whole(footer)) => {
                assert!(len >= footer_len);
                assert_eq!(footer.runs, object.runs);
            }
            Err(error) => panic!("{len}: {error}"),
        }
    }
}

#[test]
fn impossible_lengths_cost_no_memory() {
    let mut trailer = BytesMut::new();
    trailer.put_u32_le(u32::MAX);
    trailer.put_u32_le(u32::MAX);
    trailer.put_u32_le(0);
    trailer.put_slice(b"MRWSEGF1");
    assert!(matches!(
        SegmentFooter::decode(&trailer),
        Err(FormatError::TooLarge { .. })
    ));
    assert!(matches!(
        RunIndex::decode(&[0xff; 8]),
        Err(FormatError::Length { .. })
    ));
}

#[test]
fn another_version_is_reported_as_such() {
    let mut bytes = BytesMut::from(&small_object().payload.to_bytes()[..]);
    bytes[8] = 2;
    let error = verify_object(&bytes.freeze()).expect_err("a later version");
    assert!(error.is_from_later_release(), "{error}");
}

#[test]
fn seeking_finds_the_frame_before_equal_timestamps() {
    let entries: Vec<RunIndexEntry> = [(0, 10, 100), (50, 20, 200), (90, 30, 200), (120, 40, 300)]
        .map(|(offset, first_seq, first_timestamp)| RunIndexEntry {
            offset,
            first_seq,
            first_timestamp,
        })
        .into();
    let mut encoded = BytesMut::new();
    RunIndex::encode(&entries, &mut encoded);
    let index = RunIndex::decode(&encoded).expect("a good index");
    assert_eq!(index.entries(), entries);
    for (seq_num, offset) in [
        (0, 0),
        (10, 0),
        (19, 0),
        (20, 50),
        (39, 90),
        (40, 120),
        (999, 120),
    ] {
        assert_eq!(index.seek_seq_num(seq_num).offset, offset, "{seq_num}");
    }
    for (timestamp, offset) in [
        (0, 0),
        (100, 0),
        (101, 0),
        (200, 0),
        (201, 90),
        (300, 90),
        (301, 120),
    ] {
        assert_eq!(index.seek_timestamp(timestamp).offset, offset, "{timestamp}");
    }
}

/// Lengths of batches on both sides of what is joined, streams in turns.
fn batches() -> impl Strategy<Value = Vec<Frame>> {
    let len = prop_oneof![0usize..100, 8000usize..30_000, 60_000usize..70_000];
    let runs = prop::collection::vec((any::<bool>(), prop::collection::vec(len, 1..6)), 0..5);
    runs.prop_map(|runs| {
        let mut next = [0, 0];
        let mut batches = Vec::new();
        for (second, lens) in runs {
            for len in lens {
                let (stream, next) = if second {
                    (B, &mut next[1])
                } else {
                    (A, &mut next[0])
                };
                batches.push(batch(stream, *next, &vec![*next as u8; len]));
                *next += 2;
            }
        }
        batches
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn any_object_reads_back(batches in batches()) {
        let object = build(&batches);
        let bytes = object.payload.to_bytes();
        let footer = verify_object(&bytes).expect("a good object");
        prop_assert_eq!(&footer.runs, &object.runs);
        let mut wanted = batches.iter();
        for run in &footer.runs {
            for frame in frames(&bytes, run) {
                prop_assert!(frame.header.body_len <= JOINED_BODY_LEN_MAX || frame.header.record_count == 2);
                let (mut body, mut count) = (Vec::new(), 0);
                while count < frame.header.record_count {
                    let batch = wanted.next().expect("no more records than were put in");
                    prop_assert_eq!(batch.header.stream, frame.header.stream);
                    prop_assert_eq!(batch.header.first_seq, frame.header.first_seq + u64::from(count));
                    count += batch.header.record_count;
                    body.extend_from_slice(&batch.body());
                }
                prop_assert_eq!(frame.body(), body);
            }
        }
        prop_assert!(wanted.next().is_none());
    }

    #[test]
    fn garbage_is_refused_without_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(verify_object(&Bytes::from(garbage.clone())).is_err());
        prop_assert!(SegmentFooter::decode(&garbage).is_err());
        prop_assert!(RunIndex::decode(&garbage).is_err());
    }

    #[test]
    fn garbage_under_good_crcs_never_panics(garbage in prop::collection::vec(any::<u8>(), 0..200), entries in 0u32..9) {
        let mut index = garbage.clone();
        index.resize(entries as usize * 24, 7);
        index.extend_from_slice(&entries.to_le_bytes());
        let crc = crc32c::crc32c(&index);
        index.extend_from_slice(&crc.to_le_bytes());
        let _ = RunIndex::decode(&index);
        let mut footer = garbage;
        footer.resize(SegmentFooter::encoded_len(entries as usize) - 20, 7);
        footer.extend_from_slice(&entries.to_le_bytes());
        footer.extend_from_slice(&(footer.len() as u32 + 16).to_le_bytes());
        let crc = crc32c::crc32c(&footer);
        footer.extend_from_slice(&crc.to_le_bytes());
        footer.extend_from_slice(b"MRWSEGF1");
        prop_assert!(SegmentFooter::decode(&footer).is_err());
        let mut object = small_object().payload.to_bytes()[..SEGMENT_HEADER_LEN].to_vec();
        object.extend_from_slice(&footer);
        prop_assert!(verify_object(&Bytes::from(object)).is_err());
    }

    #[test]
    fn footer_bytes_changed_under_a_good_crc_are_found_out(at in 21usize..216, value: u8) {
        let bytes = small_object().payload.to_bytes();
        let changed = with_footer_bytes(&bytes, at, &[value]);
        if changed != bytes {
            prop_assert!(verify_object(&changed).is_err());
        }
    }
}

#[test]
fn the_layout_has_the_widths_that_its_tables_say() {
    assert_eq!(SEGMENT_HEADER_LEN, 40);
    assert_eq!(RunIndex::encoded_len(3), 3 * 24 + 8);
    assert_eq!(SegmentFooter::encoded_len(2), 2 * 76 + 64);
    let object = small_object();
    assert_eq!(object.runs[0].offset, SEGMENT_HEADER_LEN as u64);
    let joined = FRAME_HEADER_LEN + "firstcommands".len();
    let later = FRAME_HEADER_LEN + "later".len();
    assert_eq!(object.runs[0].frames_len, (joined + later) as u64);
}
