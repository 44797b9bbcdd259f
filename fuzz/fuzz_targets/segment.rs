//! Any bytes are a segment object, a chain index or refused, and the runs of one that is accepted account for every byte of it.

#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use millrace_wal::segment::{ChainIndex, RunIndex, SEGMENT_HEADER_LEN, SegmentFooter, verify_object};

fuzz_target!(|data: &[u8]| {
    let _ = RunIndex::decode(data);
    let _ = SegmentFooter::decode(data);
    if let Ok(index) = ChainIndex::decode(data) {
        assert_eq!(index.encode(), data, "one index, one encoding");
    }
    let Ok(footer) = verify_object(&Bytes::copy_from_slice(data)) else { return };
    let mut next = SEGMENT_HEADER_LEN as u64;
    for run in &footer.runs {
        assert_eq!(run.offset, next);
        assert!(run.first_seq < run.end_seq);
        next = run.end();
    }
    assert_eq!(next + SegmentFooter::encoded_len(footer.runs.len()) as u64, data.len() as u64);
});
