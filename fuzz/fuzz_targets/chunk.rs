//! Any bytes are a whole WAL object or refused, and one that is accepted is rebuilt from its frames bit by bit.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millrace_wal::format::{ChunkBuilder, decode_chunk, decode_header};

fuzz_target!(|data: &[u8]| {
    let header = decode_header(data);
    let Ok(chunk) = decode_chunk(Bytes::copy_from_slice(data)) else { return };
    assert_eq!(header, Ok(chunk.header));
    let mut builder = ChunkBuilder::new();
    for frame in chunk.frames {
        builder.push(frame);
    }
    let rebuilt = builder.finish(chunk.header.meta);
    assert_eq!(rebuilt.header, chunk.header);
    assert_eq!(rebuilt.payload.to_bytes(), data);
});
