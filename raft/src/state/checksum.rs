//! One number over a whole state, to compare replicas at equal applied index.

use crate::error::StoreError;
use crate::state::kv::Read;
use crate::store::keys::{Family, key_after};

const PAGE: usize = 1024;

/// CRC32C over every family's name, keys and values, in order, each with its length.
pub fn checksum(state: &dyn Read) -> Result<u32, StoreError> {
    let mut crc = 0;
    for family in Family::ALL {
        crc = with_length(crc, family.name().as_bytes());
        let mut from = Vec::new();
        loop {
            let page = state.scan(family, &from, None, PAGE)?;
            for (key, value) in &page {
                crc = with_length(with_length(crc, key), value);
            }
            match page.last() {
                Some((key, _)) if page.len() == PAGE => from = key_after(key),
                _ => break,
            }
        }
    }
    Ok(crc)
}

fn with_length(crc: u32, bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc, &(bytes.len() as u64).to_be_bytes());
    crc32c::crc32c_append(crc, bytes)
}
