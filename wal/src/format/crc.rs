//! CRC32C of a frame without a second pass over its body.
//!
//! A CRC is the remainder of a polynomial over GF(2), in which bytes that follow are a multiplication by a power of x.
//! With the powers for each power of two at hand, joining two CRCs takes one multiplication for each bit that is set in
//! the second one's length.

use super::frame::{FRAME_HEADER_LEN, FrameHeader};

/// Joining two CRCs costs about as much as summing this many bytes.
const COMBINE_ABOVE: usize = 8 << 10;
/// Castagnoli's polynomial without its highest term; the bit for x^0 is the highest, as everywhere here.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// The polynomial 1.
const ONE: u32 = 1 << 31;
/// At index n what 2^n bytes multiply by.
const BYTES: [u32; usize::BITS as usize] = {
    let mut powers = [ONE >> 8; usize::BITS as usize];
    let mut n = 1;
    while n < powers.len() {
        powers[n] = multiply(powers[n - 1], powers[n - 1]);
        n += 1;
    }
    powers
};

/// Continues `crc` over a frame as stored. `header.body_crc` must be the CRC of the body that `bytes` holds.
pub(super) fn append_frame(crc: u32, header: &FrameHeader, bytes: &[u8]) -> u32 {
    let (head, body) = bytes.split_at(FRAME_HEADER_LEN);
    append_body(crc32c::crc32c_append(crc, head), header.body_crc, body)
}

/// Continues `crc` over a body, whose own CRC is `body_crc`.
pub(crate) fn append_body(crc: u32, body_crc: u32, body: &[u8]) -> u32 {
    if body.len() > COMBINE_ABOVE {
        combine(crc, body_crc, body.len())
    } else {
        crc32c::crc32c_append(crc, body)
    }
}

/// The CRC of two byte strings, one behind the other, from that of each and the second one's length.
fn combine(first: u32, second: u32, second_len: usize) -> u32 {
    let powers = BYTES.iter().enumerate();
    let set = powers.filter(|(n, _)| second_len >> n & 1 == 1);
    set.fold(first, |crc, (_, &power)| multiply(power, crc)) ^ second
}

/// The product of two polynomials, modulo Castagnoli's.
const fn multiply(a: u32, mut b: u32) -> u32 {
    let mut product = 0;
    let mut term = ONE;
    while term != 0 {
        if a & term != 0 {
            product ^= b;
        }
        b = (b >> 1) ^ (POLYNOMIAL * (b & 1));
        term >>= 1;
    }
    product
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn joined_crcs_are_those_of_the_joined_bytes(
            first in prop::collection::vec(any::<u8>(), 0..2000),
            second in prop::collection::vec(any::<u8>(), 0..100_000),
        ) {
            let crc = crc32c::crc32c(&first);
            let expected = crc32c::crc32c_append(crc, &second);
            prop_assert_eq!(combine(crc, crc32c::crc32c(&second), second.len()), expected);
        }
    }

    #[test]
    fn lengths_beyond_any_frame_are_joined_as_well() {
        for len in [1, 1 << 20, (1 << 31) + 5, 1 << 40] {
            let expected = crc32c::crc32c_combine(0x1234_5678, 0x9abc_def0, len);
            assert_eq!(combine(0x1234_5678, 0x9abc_def0, len), expected);
        }
    }
}
