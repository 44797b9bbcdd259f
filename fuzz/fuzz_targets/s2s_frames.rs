//! Any bytes are frames, or refused, and it does not matter how the transport cut them. The first byte says how.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millrace_api::s2s::{Frame, FrameDecoder, FrameError};

fn decode<'a>(chunks: impl Iterator<Item = &'a [u8]>) -> Result<Vec<Frame>, FrameError> {
    let mut decoder = FrameDecoder::new();
    let mut frames = Vec::new();
    for chunk in chunks {
        let mut chunk = Bytes::copy_from_slice(chunk);
        while let Some(frame) = decoder.decode(&mut chunk)? {
            frames.push(frame);
        }
        assert!(chunk.is_empty());
    }
    decoder.finish().map(|()| frames)
}

fuzz_target!(|data: &[u8]| {
    let Some((&split, data)) = data.split_first() else {
        return;
    };
    let split = usize::from(split).max(1);
    assert_eq!(decode(std::iter::once(data)), decode(data.chunks(split)));
});
