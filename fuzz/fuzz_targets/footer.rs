//! Any bytes end in a footer or are refused, and a footer that is accepted accounts for every byte of its object.

#![no_main]

use libfuzzer_sys::fuzz_target;
use millrace_wal::format::{CHUNK_HEADER_LEN, Footer, FooterSuffix};

fuzz_target!(|data: &[u8]| match Footer::decode(data) {
    Ok(FooterSuffix::Whole(footer)) => {
        let mut next = CHUNK_HEADER_LEN as u64;
        for entry in &footer.entries {
            assert_eq!(entry.offset, next);
            next = entry.end();
        }
        assert_eq!(next + Footer::encoded_len(footer.entries.len()) as u64, footer.len);
    }
    Ok(FooterSuffix::Longer { suffix_len }) => assert!(suffix_len > data.len() as u64),
    Err(_) => {}
});
