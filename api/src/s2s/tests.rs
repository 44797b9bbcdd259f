use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;

use super::*;
use crate::limits::{S2S_BODY_DECOMPRESSED_MAX, S2S_COMPRESS_MIN, S2S_FRAME_LEN_MAX};

fn frame(flags: u8, body: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_uint(body.len() as u64 + 1, LENGTH_LEN);
    out.put_u8(flags);
    out.put_slice(body);
    out.freeze()
}

fn decode_all(mut input: Bytes) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = FrameDecoder::new();
    let mut frames = Vec::new();
    while let Some(frame) = decoder.decode(&mut input)? {
        frames.push(frame);
    }
    assert!(input.is_empty());
    decoder.finish()?;
    Ok(frames)
}

fn message(body: &[u8], compression: Compression) -> Bytes {
    let body = Bytes::copy_from_slice(body);
    encode_message(&[body], compression, Reconnect::NotAdvised)
        .unwrap()
        .concat()
        .into()
}

#[test]
fn api_104_bad_lengths_and_bits_are_errors() {
    assert_eq!(decode_all(Bytes::from_static(&[0, 0, 0])), Err(FrameError::Empty));
    assert_eq!(
        decode_all(Bytes::from_static(&[0x20, 0, 1])),
        Err(FrameError::TooLong(S2S_FRAME_LEN_MAX + 1))
    );
    assert_eq!(
        decode_all(frame(0x60, b"")),
        Err(FrameError::UnknownCompression(0x60))
    );
    assert_eq!(decode_all(frame(0x80, b"1")), Err(FrameError::BadTerminal));
    assert_eq!(decode_all(frame(0xa0, b"12{}")), Err(FrameError::BadTerminal));
    assert_eq!(
        decode_all(Bytes::from_static(&[0, 0])),
        Err(FrameError::Truncated)
    );
    assert_eq!(FrameError::Empty.code(), crate::error::ErrorCode::BadFrame);
}

#[test]
fn largest_frame_is_accepted() {
    let body = vec![7; S2S_FRAME_LEN_MAX - 1];
    assert_eq!(decode_all(frame(0, &body)), Ok(vec![Frame::Message(body.into())]));
}

#[test]
fn reserved_bits_are_ignored_and_the_advice_is_remembered() {
    let mut decoder = FrameDecoder::new();
    let mut input = frame(0x0f, b"a");
    assert_eq!(
        decoder.decode(&mut input),
        Ok(Some(Frame::Message(Bytes::from_static(b"a"))))
    );
    assert!(!decoder.reconnect_advised());
    let advised = encode_message(&[Bytes::from_static(b"b")], Compression::Zstd, Reconnect::Advised).unwrap();
    let mut input = advised.concat().into();
    assert_eq!(input, frame(0x10, b"b"));
    assert_eq!(
        decoder.decode(&mut input),
        Ok(Some(Frame::Message(Bytes::from_static(b"b"))))
    );
    assert!(decoder.reconnect_advised());
}

#[test]
fn terminal_is_flag_status_and_json() {
    let bytes = encode_terminal(412, b"{\"seq_num_mismatch\":3}").unwrap();
    assert_eq!(bytes[..6], [0, 0, 25, 0x80, 0x01, 0x9c]);
    let terminal = Frame::Terminal {
        status: 412,
        body: Bytes::from_static(b"{\"seq_num_mismatch\":3}"),
    };
    assert_eq!(decode_all(bytes), Ok(vec![terminal]));
}

#[test]
fn only_bodies_of_1_kib_are_compressed_and_only_if_it_helps() {
    for (compression, flags) in [(Compression::Zstd, 0x20), (Compression::Gzip, 0x40)] {
        let small = vec![7; S2S_COMPRESS_MIN - 1];
        assert_eq!(message(&small, compression), frame(0, &small));
        let large = vec![7; S2S_COMPRESS_MIN];
        let encoded = message(&large, compression);
        assert_eq!(encoded[3], flags);
        assert!(encoded.len() < large.len());
        assert_eq!(decode_all(encoded), Ok(vec![Frame::Message(large.into())]));
        // A counter stretched by multiplication has no repetition to find.
        let random: Vec<u8> = (0..2048u64)
            .map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as u8)
            .collect();
        assert!(message(&random, compression).len() <= random.len() + 4);
        assert_eq!(
            decode_all(message(&random, compression)),
            Ok(vec![Frame::Message(random.into())])
        );
    }
}

#[test]
fn parts_are_passed_on_without_copying() {
    let part = Bytes::from(vec![1; 5000]);
    let parts = encode_message(
        &[part.clone(), Bytes::new(), part.clone()],
        Compression::None,
        Reconnect::NotAdvised,
    );
    let parts = parts.unwrap();
    assert_eq!(parts.len(), 3);
    assert_eq!(parts[1].as_ptr(), part.as_ptr());
    assert_eq!(
        decode_all(parts.concat().into()),
        Ok(vec![Frame::Message(vec![1; 10_000].into())])
    );
}

#[test]
fn frame_inside_one_chunk_shares_its_memory() {
    let input = frame(0, &[9; 100]);
    let body = input.slice(4..);
    let Ok(Some(Frame::Message(message))) = FrameDecoder::new().decode(&mut input.clone()) else {
        panic!("one frame");
    };
    assert_eq!(message.as_ptr(), body.as_ptr());
}

#[test]
fn body_too_long_for_a_frame_is_refused_by_the_encoder() {
    let body = |len| [Bytes::from(vec![0; len])];
    let most = S2S_FRAME_LEN_MAX - 1;
    assert!(encode_message(&body(most), Compression::Zstd, Reconnect::NotAdvised).is_ok());
    let too_long = encode_message(&body(most + 1), Compression::Zstd, Reconnect::NotAdvised);
    assert_eq!(too_long, Err(FrameTooLong(most + 1)));
    assert!(encode_terminal(500, &vec![b' '; most - 1]).is_err());
}

#[test]
fn api_011_bombs_are_errors() {
    let len = S2S_BODY_DECOMPRESSED_MAX;
    let zstd = |len: usize| zstd::bulk::compress(&vec![0; len], 3).unwrap();
    let gzip = |len: usize| {
        use std::io::Write;
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(&vec![0; len]).unwrap();
        encoder.finish().unwrap()
    };
    assert_eq!(
        decode_all(frame(0x20, &zstd(len))),
        Ok(vec![Frame::Message(vec![0; len].into())])
    );
    assert_eq!(
        decode_all(frame(0x20, &zstd(len + 1))),
        Err(FrameError::BodyTooLong)
    );
    assert_eq!(
        decode_all(frame(0x20, &zstd(100 * len))),
        Err(FrameError::BodyTooLong)
    );
    assert_eq!(
        decode_all(frame(0x40, &gzip(len))),
        Ok(vec![Frame::Message(vec![0; len].into())])
    );
    assert_eq!(
        decode_all(frame(0x40, &gzip(len + 1))),
        Err(FrameError::BodyTooLong)
    );
    assert_eq!(
        decode_all(frame(0x40, &gzip(100 * len))),
        Err(FrameError::BodyTooLong)
    );
    // Without a length in its header, and in two frames.
    let streamed = zstd::stream::encode_all(&vec![0; len + 1][..], 3).unwrap();
    assert!(decode_all(frame(0x20, &streamed)).is_err());
    assert!(decode_all(frame(0x20, &[zstd(len), zstd(1)].concat())).is_err());
}

#[test]
fn decompressed_messages_do_not_keep_the_scratch_buffer() {
    let Frame::Message(body) = decode_all(message(&[3; 2000], Compression::Zstd))
        .unwrap()
        .remove(0)
    else {
        panic!("a message");
    };
    let body = body.try_into_mut().expect("the only handle");
    assert!(body.capacity() < 4096, "{}", body.capacity());
}

#[test]
fn decoder_stays_failed() {
    let mut decoder = FrameDecoder::new();
    assert!(decoder.decode(&mut Bytes::from_static(&[0, 0, 0])).is_err());
    assert_eq!(decoder.decode(&mut frame(0, b"good")), Err(FrameError::Empty));
    assert_eq!(decoder.finish(), Err(FrameError::Empty));
}

#[test]
fn announced_length_alone_takes_little_memory() {
    let mut decoder = FrameDecoder::new();
    assert_eq!(
        decoder.decode(&mut Bytes::from_static(&[0x20, 0, 0, 0])),
        Ok(None)
    );
    assert!(decoder.partial.capacity() <= 128 * 1024);
}

#[test]
fn api_103_zstd_is_preferred_over_gzip_over_nothing() {
    for (value, expected) in [
        ("", Compression::None),
        ("identity, br", Compression::None),
        ("gzip", Compression::Gzip),
        ("gzip, ZSTD", Compression::Zstd),
        ("zstd;q=0, gzip;q=0.5", Compression::Gzip),
        ("zstd ; q=0.000 , gzip; q=0", Compression::None),
        ("zstd;q=0.001", Compression::Zstd),
        ("zstdx, xgzip", Compression::None),
    ] {
        assert_eq!(Compression::from_accept_encoding(value), expected, "{value}");
    }
}

fn any_frame() -> impl Strategy<Value = (Frame, Bytes)> {
    let body = prop_oneof![
        3 => vec(any::<u8>(), 0..40),
        1 => (any::<u8>(), 900..5000usize).prop_map(|(byte, len)| vec![byte; len]),
    ];
    let compression = prop::sample::select(vec![Compression::None, Compression::Zstd, Compression::Gzip]);
    let message_frame = (body, compression).prop_map(|(body, compression)| {
        let bytes = message(&body, compression);
        (Frame::Message(body.into()), bytes)
    });
    let terminal = (any::<u16>(), vec(any::<u8>(), 0..40)).prop_map(|(status, body)| {
        let bytes = encode_terminal(status, &body).unwrap();
        (
            Frame::Terminal {
                status,
                body: body.into(),
            },
            bytes,
        )
    });
    prop_oneof![4 => message_frame, 1 => terminal]
}

proptest! {
    #[test]
    fn api_102_105_frames_decode_at_any_split(
        frames in vec(any_frame(), 0..6),
        splits in vec(1usize..2000, 1..6),
    ) {
        let (expected, encoded): (Vec<_>, Vec<_>) = frames.into_iter().unzip();
        let mut bytes = Bytes::from(encoded.concat());
        let mut decoder = FrameDecoder::new();
        let mut decoded = Vec::new();
        for split in splits.iter().cycle() {
            let mut chunk = bytes.split_to((*split).min(bytes.len()));
            while let Some(frame) = decoder.decode(&mut chunk).unwrap() {
                decoded.push(frame);
            }
            prop_assert!(chunk.is_empty());
            if bytes.is_empty() {
                break;
            }
        }
        prop_assert_eq!(decoder.finish(), Ok(()));
        prop_assert_eq!(decoded, expected);
    }

    #[test]
    fn truncated_frames_are_not_clean(frames in vec(any_frame(), 1..3)) {
        let ends: Vec<usize> = frames
            .iter()
            .scan(0, |end, (_, bytes)| {
                *end += bytes.len();
                Some(*end)
            })
            .collect();
        let bytes = Bytes::from(frames.iter().map(|(_, bytes)| &bytes[..]).collect::<Vec<_>>().concat());
        for len in (1..bytes.len()).step_by(1 + bytes.len() / 64) {
            prop_assert_eq!(decode_all(bytes.slice(..len)).is_ok(), ends.contains(&len));
        }
    }

    #[test]
    fn damaged_frames_give_frames_or_an_error(
        frames in vec(any_frame(), 1..3),
        index in any::<prop::sample::Index>(),
        bit in 0..8u8,
        split in 1usize..50,
    ) {
        let mut bytes = frames.iter().map(|(_, bytes)| &bytes[..]).collect::<Vec<_>>().concat();
        let index = index.index(bytes.len());
        bytes[index] ^= 1 << bit;
        let whole = decode_all(bytes.clone().into());
        let mut decoder = FrameDecoder::new();
        let mut split_frames = Vec::new();
        let in_parts = bytes.chunks(split).try_for_each(|chunk| {
            let mut chunk = Bytes::copy_from_slice(chunk);
            while let Some(frame) = decoder.decode(&mut chunk)? {
                split_frames.push(frame);
            }
            Ok(())
        });
        prop_assert_eq!(in_parts.and_then(|()| decoder.finish()).map(|()| split_frames), whole);
    }

    #[test]
    fn any_accept_encoding_is_read(value in "\\PC{0,40}") {
        let _ = Compression::from_accept_encoding(&value);
    }
}

#[test]
fn a_message_that_is_put_is_the_message_encoded() {
    let position = |seq_num| {
        Some(crate::proto::StreamPosition {
            seq_num,
            timestamp: 7,
        })
    };
    let ack = crate::proto::AppendAck {
        start: position(3),
        end: position(1 << 40),
        tail: None,
    };
    let mut out = BytesMut::from(&b"before"[..]);
    put_message(&ack, &mut out).unwrap();
    let body = prost::Message::encode_to_vec(&ack);
    assert_eq!(out, [&b"before"[..], &message(&body, Compression::None)].concat());
}
