//! The pieces of a message as the chunks that a connection is given.

use bytes::{Bytes, BytesMut};

/// Chunks smaller than this are joined with their neighbours: copying them costs less than a write of their own.
const JOIN_BELOW: usize = 16 * 1024;
/// Joined chunks grow up to this.
const JOINED_MAX: usize = 64 * 1024;

/// The same bytes in the same order. What is large stays where it lies.
pub fn join_small(parts: Vec<Bytes>) -> Vec<Bytes> {
    if parts.len() <= 1 {
        return parts;
    }
    let mut chunks = Vec::new();
    let mut joined = BytesMut::new();
    for part in parts {
        let small = part.len() < JOIN_BELOW;
        if !joined.is_empty() && (!small || joined.len() + part.len() > JOINED_MAX) {
            chunks.push(joined.split().freeze());
        }
        match small {
            true => joined.extend_from_slice(&part),
            false => chunks.push(part),
        }
    }
    if !joined.is_empty() {
        chunks.push(joined.freeze());
    }
    chunks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joining_keeps_every_byte_in_order() {
        let sizes = [
            0, 1, 20_000, 5, 5, 16_384, 16_383, 16_383, 16_383, 16_383, 16_383, 3,
        ];
        let parts: Vec<_> = sizes
            .iter()
            .enumerate()
            .map(|(n, len)| Bytes::from(vec![n as u8; *len]))
            .collect();
        let whole = parts.concat();
        let joined = join_small(parts);
        assert_eq!(joined.concat(), whole);
        assert!(joined.len() < sizes.len());
        assert!(joined.iter().all(|chunk| chunk.len() <= JOINED_MAX));
    }
}
