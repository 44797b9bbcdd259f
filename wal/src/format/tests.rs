use bytes::{BufMut, Bytes, BytesMut};
use millrace_api::id::{ChannelId, ChunkSeq, Epoch, Nonce, StreamId, StreamletId, WriterId};
use proptest::prelude::*;

use super::*;

fn header(seed: u64) -> FrameHeader {
    FrameHeader {
        kind: if seed.is_multiple_of(5) {
            FrameKind::Open
        } else {
            FrameKind::Records
        },
        flags: if seed.is_multiple_of(3) {
            FrameFlags::HAS_COMMANDS
        } else {
            FrameFlags::NONE
        },
        stream: StreamId(u128::from(seed) << 64 | 7),
        streamlet: StreamletId(seed + 1),
        first_seq: seed * 1000,
        record_count: seed as u32 + 2,
        metered_bytes: seed * 17,
        first_timestamp: 1_700_000_000_000 + seed,
        last_timestamp: 1_700_000_000_500 + seed,
        writer: WriterId(seed / 2),
        number: seed * 3,
        body_len: 0,
        body_crc: 0,
    }
}

fn frame(seed: u64, body: &[u8]) -> Frame {
    let mut buffer = BytesMut::new();
    let mut writer = FrameWriter::begin(&mut buffer, body.len());
    writer.body().put_slice(body);
    assert_eq!(writer.body_len(), body.len());
    writer.finish(header(seed))
}

fn meta(kind: ChunkKind) -> ChunkMeta {
    let id = ChunkId::new(ChannelId(0x0102_0304), Epoch(5), ChunkSeq(6));
    ChunkMeta {
        id,
        kind,
        nonce: Nonce(0x1112_1314_1516_1718_191a_1b1c_1d1e_1f20),
    }
}

fn chunk(kind: ChunkKind, bodies: &[Vec<u8>]) -> Chunk {
    let mut builder = ChunkBuilder::new();
    for (seed, body) in bodies.iter().enumerate() {
        builder.push(frame(seed as u64 + 1, body));
    }
    let expected = builder.encoded_len();
    let chunk = builder.finish(meta(kind));
    assert_eq!(chunk.encoded_len(), expected);
    assert_eq!(chunk.payload.len(), expected);
    chunk
}

fn adopted() -> ChunkKind {
    ChunkKind::Adopted {
        source: ChunkId {
            epoch: Epoch(4),
            slot: ChunkSeq(99),
            ..meta(ChunkKind::Chunk).id
        },
    }
}

fn bodies() -> Vec<Vec<u8>> {
    vec![b"first body".to_vec(), Vec::new(), b"third".to_vec()]
}

/// What version 1 looked like when it was released. These files never change; a later version adds its own.
#[test]
fn version_1_still_reads_and_writes_as_it_did() {
    let vectors: [(&[u8], Chunk); 3] = [
        (
            include_bytes!("../../testdata/v1/chunk.bin"),
            chunk(ChunkKind::Chunk, &bodies()),
        ),
        (
            include_bytes!("../../testdata/v1/adopted.bin"),
            chunk(adopted(), &bodies()),
        ),
        (
            include_bytes!("../../testdata/v1/seal.bin"),
            Chunk::seal(meta(ChunkKind::Seal { by: Epoch(7) })),
        ),
    ];
    for (kept, written) in vectors {
        assert_eq!(&written.payload.to_bytes()[..], kept);
        let decoded = decode_chunk(Bytes::from_static(kept)).expect("a good chunk");
        assert_eq!(decoded.header, written.header);
        assert_eq!(decoded.index, written.index);
        assert_eq!(decoded.frames, written.frames().collect::<Vec<_>>());
    }
}

#[test]
fn a_frame_shares_the_buffer_it_was_written_into() {
    let mut buffer = BytesMut::with_capacity(4096);
    let start = buffer.as_ptr() as usize;
    let mut writer = FrameWriter::begin(&mut buffer, 100);
    writer.body().put_slice(&[1; 100]);
    let first = writer.finish(header(1));
    let mut writer = FrameWriter::begin(&mut buffer, 100);
    writer.body().put_slice(&[2; 50]);
    let second = writer.finish(header(2));
    assert_eq!(first.bytes.as_ptr() as usize, start);
    assert_eq!(second.bytes.as_ptr() as usize, start + FRAME_HEADER_LEN + 100);
    assert_eq!(second.body(), Bytes::from(vec![2; 50]));
    let mut builder = ChunkBuilder::new();
    let body = first.bytes.as_ptr();
    builder.push(first);
    assert_eq!(
        builder.finish(meta(ChunkKind::Chunk)).payload.parts()[1].as_ptr(),
        body
    );
}

#[test]
fn every_truncation_is_refused() {
    let bytes = chunk(ChunkKind::Chunk, &bodies()).payload.to_bytes();
    for len in 0..bytes.len() {
        let error = decode_chunk(bytes.slice(..len)).expect_err("a truncated chunk");
        assert!(matches!(error, FormatError::Truncated { .. }), "{len}: {error}");
    }
    let mut longer = BytesMut::from(&bytes[..]);
    longer.put_u8(0);
    assert!(matches!(
        decode_chunk(longer.freeze()),
        Err(FormatError::Length { .. })
    ));
}

#[test]
fn every_flipped_bit_is_found() {
    for kind in [ChunkKind::Chunk, adopted()] {
        let bytes = chunk(kind, &bodies()).payload.to_bytes();
        for bit in 0..bytes.len() * 8 {
            let mut bad = BytesMut::from(&bytes[..]);
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_chunk(bad.freeze()).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn every_flipped_bit_of_a_footer_is_found() {
    let chunk = chunk(ChunkKind::Chunk, &bodies());
    let footer = chunk.payload.parts().last().expect("a footer").clone();
    for bit in 0..footer.len() * 8 {
        let mut bad = BytesMut::from(&footer[..]);
        bad[bit / 8] ^= 1 << (bit % 8);
        // The number of entries and the length stand before the CRC can be found.
        assert!(
            !matches!(Footer::decode(&bad), Ok(FooterSuffix::Whole(_))),
            "bit {bit}"
        );
    }
}

#[test]
fn a_footer_is_found_at_the_end_of_any_suffix() {
    let chunk = chunk(ChunkKind::Chunk, &bodies());
    let bytes = chunk.payload.to_bytes();
    let footer_len = Footer::encoded_len(3);
    for len in 0..=bytes.len() {
        match Footer::decode(&bytes[bytes.len() - len..]) {
            Err(FormatError::Truncated { .. }) => assert!(len < FOOTER_TRAILER_LEN),
            Ok(FooterSuffix::Longer { suffix_len }) => {
                assert!(len < footer_len);
                assert_eq!(suffix_len, footer_len as u64);
            }
            Ok(FooterSuffix::Whole(footer)) => {
                assert!(len >= footer_len);
                assert_eq!(footer, *chunk.index);
            }
            Err(error) => panic!("{len}: {error}"),
        }
    }
}

/// Rewrites a field of the header and the CRCs that cover it, as a later or hostile writer would.
fn with_field(bytes: &Bytes, at: usize, value: &[u8]) -> Bytes {
    let mut bytes = BytesMut::from(&bytes[..]);
    bytes[at..at + value.len()].copy_from_slice(value);
    let crc = crc32c::crc32c(&bytes[..76]);
    bytes[76..80].copy_from_slice(&crc.to_le_bytes());
    bytes.freeze()
}

#[test]
fn what_a_header_cannot_say_is_told_apart() {
    let bytes = chunk(ChunkKind::Chunk, &bodies()).payload.to_bytes();
    let cases = [
        (0, vec![b'X'], FormatError::BadMagic { what: "chunk" }),
        (8, vec![2, 0], FormatError::UnknownVersion(2)),
        (
            10,
            vec![9],
            FormatError::UnknownKind {
                what: "chunk",
                value: 9,
            },
        ),
        (
            11,
            vec![1],
            FormatError::BadField {
                what: "chunk reserved",
            },
        ),
        (48, vec![1], FormatError::BadField { what: "chunk source" }),
        (
            64,
            vec![0xff; 8],
            FormatError::TooLarge {
                len: u64::MAX,
                max: CHUNK_LEN_MAX,
            },
        ),
        (16, vec![9], FormatError::Mismatch { what: "header" }),
    ];
    for (at, value, expected) in cases {
        assert_eq!(
            decode_chunk(with_field(&bytes, at, &value)).expect_err("a bad header"),
            expected
        );
    }
    assert!(FormatError::UnknownVersion(2).is_from_later_release());
    assert!(!FormatError::BadCrc { what: "chunk" }.is_from_later_release());
}

#[test]
fn a_footer_with_an_impossible_length_costs_no_memory() {
    let mut trailer = BytesMut::new();
    trailer.put_u32_le(u32::MAX);
    trailer.put_u32_le(u32::MAX);
    trailer.put_u32_le(0);
    trailer.put_slice(b"MRWFOOT1");
    assert!(matches!(
        Footer::decode(&trailer),
        Err(FormatError::TooLarge { .. })
    ));
}

#[test]
fn a_key_parses_only_in_its_one_spelling() {
    let id = ChunkId::new(ChannelId(0xab), Epoch(u64::MAX), ChunkSeq(10));
    assert_eq!(id.key(), "wal/000000ab/ffffffffffffffff/000000000000000a");
    assert_eq!(ChunkId::parse(&id.key()), Some(id));
    assert!(id.key().starts_with(&ChunkId::epoch_prefix(id.channel, id.epoch)));
    for bad in [
        "wal/000000AB/ffffffffffffffff/000000000000000a",
        "wal/ab/ffffffffffffffff/000000000000000a",
        "wal/000000ab/ffffffffffffffff/+00000000000000a",
        "wal/000000ab/ffffffffffffffff/000000000000000a/",
        "wal/000000ab/ffffffffffffffff",
        "zone",
        "",
    ] {
        assert_eq!(ChunkId::parse(bad), None, "{bad}");
    }
}

proptest! {
    #[test]
    fn any_chunk_reads_back(bodies in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 0..20)) {
        let chunk = chunk(ChunkKind::Chunk, &bodies);
        let decoded = decode_chunk(chunk.payload.to_bytes()).expect("a good chunk");
        prop_assert_eq!(decoded.header, chunk.header);
        prop_assert_eq!(&decoded.index, &chunk.index);
        let read: Vec<Vec<u8>> = decoded.frames.iter().map(|frame| frame.body().to_vec()).collect();
        prop_assert_eq!(read, bodies);
    }

    #[test]
    fn large_bodies_have_the_same_crc_as_summed_whole(len in 16_000usize..40_000, fill: u8) {
        let chunk = chunk(ChunkKind::Chunk, &[vec![fill; len], vec![!fill; len / 2]]);
        let bytes = chunk.payload.to_bytes();
        prop_assert_eq!(crc32c::crc32c(&bytes[CHUNK_HEADER_LEN..]), chunk.header.crc);
    }

    #[test]
    fn any_frame_header_reads_back(numbers in any::<[u64; 7]>(), stream: u128, count: u32, len: u32, crc: u32) {
        let header = FrameHeader {
            stream: StreamId(stream),
            streamlet: StreamletId(numbers[0]),
            first_seq: numbers[1],
            metered_bytes: numbers[2],
            first_timestamp: numbers[3],
            last_timestamp: numbers[4],
            writer: WriterId(numbers[5]),
            number: numbers[6],
            record_count: count,
            body_len: len,
            body_crc: crc,
            ..header(0)
        };
        prop_assert_eq!(FrameHeader::decode(&header.encode()), Ok(header));
    }

    #[test]
    fn garbage_is_refused_without_a_panic(garbage in prop::collection::vec(any::<u8>(), 0..400)) {
        prop_assert!(decode_chunk(Bytes::from(garbage.clone())).is_err());
        prop_assert!(decode_header(&garbage).is_err());
        prop_assert!(Footer::decode(&garbage).is_err());
        prop_assert!(Frame::decode(&Bytes::from(garbage)).is_err());
    }

    #[test]
    fn bytes_changed_under_good_crcs_never_panic(at in 0usize..72, value: u8) {
        let bytes = chunk(ChunkKind::Chunk, &bodies()).payload.to_bytes();
        let changed = with_field(&bytes, at, &[value]);
        if changed != bytes {
            prop_assert!(decode_chunk(changed).is_err());
        }
    }

    #[test]
    fn keys_order_as_ids_do(a in any::<(u32, u64, u64)>(), b in any::<(u32, u64, u64)>()) {
        let id = |(channel, epoch, slot)| ChunkId::new(ChannelId(channel), Epoch(epoch), ChunkSeq(slot));
        prop_assert_eq!(id(a).cmp(&id(b)), id(a).key().cmp(&id(b).key()));
    }
}
