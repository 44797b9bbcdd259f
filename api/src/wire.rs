//! Protobuf read in place: keys, varints and lengths over a byte slice.
//!
//! Accepts and refuses exactly what the generated decoder does, so that a record which passes here decodes there
//! and the other way round; nothing is copied and nothing is allocated.

mod record;

use std::ops::Range;

pub(crate) use record::{RecordFields, RecordKind, header_fields, record_fields};

/// How deep messages and groups may nest, counting the outermost message. Same as the generated decoder's.
pub(crate) const DEPTH_MAX: u32 = 100;

/// The bytes are not protobuf, or not this message; the text says what broke.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct WireError(pub(crate) &'static str);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum WireType {
    Varint,
    Fixed64,
    Bytes,
    GroupStart,
    GroupEnd,
    Fixed32,
}

/// A cursor over one message: `at..end` of `input` is still to be read.
#[derive(Debug, Clone)]
pub(crate) struct Reader<'a> {
    input: &'a [u8],
    at: usize,
    end: usize,
}

impl<'a> Reader<'a> {
    pub(crate) fn new(input: &'a [u8]) -> Self {
        Self {
            input,
            at: 0,
            end: input.len(),
        }
    }

    /// A cursor over a part of `input`; ranges that it returns count from the start of `input`.
    pub(crate) fn within(input: &'a [u8], range: Range<usize>) -> Self {
        debug_assert!(range.end <= input.len() && range.start <= range.end);
        Self {
            input,
            at: range.start,
            end: range.end,
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.at == self.end
    }

    pub(crate) fn position(&self) -> usize {
        self.at
    }

    #[inline]
    pub(crate) fn varint(&mut self) -> Result<u64, WireError> {
        match self.input[self.at..self.end].first() {
            Some(&byte) if byte < 0x80 => {
                self.at += 1;
                Ok(byte.into())
            }
            _ => self.long_varint(),
        }
    }

    fn long_varint(&mut self) -> Result<u64, WireError> {
        let mut value = 0u64;
        for (index, &byte) in self.input[self.at..self.end].iter().take(10).enumerate() {
            value |= u64::from(byte & 0x7f) << (7 * index);
            if byte < 0x80 {
                if index == 9 && byte > 1 {
                    return Err(WireError("varint does not fit in 64 bits"));
                }
                self.at += index + 1;
                return Ok(value);
            }
        }
        Err(WireError("varint is cut short or too long"))
    }

    /// Field number and wire type of the next field.
    #[inline]
    pub(crate) fn key(&mut self) -> Result<(u32, WireType), WireError> {
        let key = u32::try_from(self.varint()?).map_err(|_| WireError("field key is too large"))?;
        let wire = match key & 7 {
            0 => WireType::Varint,
            1 => WireType::Fixed64,
            2 => WireType::Bytes,
            3 => WireType::GroupStart,
            4 => WireType::GroupEnd,
            5 => WireType::Fixed32,
            _ => return Err(WireError("unknown wire type")),
        };
        match key >> 3 {
            0 => Err(WireError("field number 0")),
            field => Ok((field, wire)),
        }
    }

    /// The range of a length-delimited value, whose length comes next.
    #[inline]
    pub(crate) fn bytes(&mut self) -> Result<Range<usize>, WireError> {
        let len = self.varint()?;
        if len > (self.end - self.at) as u64 {
            return Err(WireError("length exceeds the message"));
        }
        let start = self.at;
        self.at += len as usize;
        Ok(start..self.at)
    }

    pub(crate) fn expect_varint(&mut self, wire: WireType) -> Result<u64, WireError> {
        match wire {
            WireType::Varint => self.varint(),
            _ => Err(WireError("field has the wrong wire type")),
        }
    }

    pub(crate) fn expect_bytes(&mut self, wire: WireType) -> Result<Range<usize>, WireError> {
        match wire {
            WireType::Bytes => self.bytes(),
            _ => Err(WireError("field has the wrong wire type")),
        }
    }

    /// Passes over the value of an unknown field. `depth` is how many more levels may open.
    pub(crate) fn skip(&mut self, field: u32, wire: WireType, depth: u32) -> Result<(), WireError> {
        if depth == 0 {
            return Err(WireError("nested too deep"));
        }
        match wire {
            WireType::Varint => self.varint().map(drop),
            WireType::Bytes => self.bytes().map(drop),
            WireType::Fixed64 => self.advance(8),
            WireType::Fixed32 => self.advance(4),
            WireType::GroupEnd => Err(WireError("end of a group that was not opened")),
            WireType::GroupStart => loop {
                match self.key()? {
                    (inner, WireType::GroupEnd) if inner == field => return Ok(()),
                    (_, WireType::GroupEnd) => return Err(WireError("end of another group")),
                    (inner, wire) => self.skip(inner, wire, depth - 1)?,
                }
            },
        }
    }

    fn advance(&mut self, len: usize) -> Result<(), WireError> {
        if self.end - self.at < len {
            return Err(WireError("value is cut short"));
        }
        self.at += len;
        Ok(())
    }
}

/// Bytes that a length-delimited field of this length takes when empty ones are left out and its number is
/// below 16.
#[inline]
pub(crate) fn bytes_field_len(len: usize) -> usize {
    match len {
        0 => 0,
        _ => 1 + varint_len(len as u64) + len,
    }
}

/// Bytes that a varint field takes when zero is left out and its number is below 16.
#[inline]
pub(crate) fn varint_field_len(value: u64) -> usize {
    match value {
        0 => 0,
        _ => 1 + varint_len(value),
    }
}

/// 1 to 10: seven bits per byte.
#[inline]
pub(crate) const fn varint_len(value: u64) -> usize {
    ((64 - (value | 1).leading_zeros() as usize) * 9 + 64) / 64
}

/// Keys, lengths and small values gathered on the stack, so that the output buffer is asked once.
#[derive(Debug)]
pub(crate) struct Prefix {
    bytes: [u8; Prefix::LEN_MAX],
    len: usize,
}

impl Prefix {
    /// Two keys with their varints, and one key with a length, at the widest.
    pub(crate) const LEN_MAX: usize = 3 * (1 + 10);

    #[inline]
    pub(crate) fn new() -> Self {
        Self {
            bytes: [0; Self::LEN_MAX],
            len: 0,
        }
    }

    #[inline]
    pub(crate) fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    #[inline]
    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    #[inline]
    pub(crate) fn varint_field(&mut self, key: u8, value: u64) {
        if value != 0 {
            self.byte(key);
            self.varint(value);
        }
    }

    #[inline]
    pub(crate) fn as_slice(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn lengths_of_varints_change_where_seven_bits_are_full() {
        for bits in 1..=64u32 {
            let value = u64::MAX >> (64 - bits);
            assert_eq!(varint_len(value), bits.div_ceil(7) as usize, "{bits}");
        }
        assert_eq!(varint_len(0), 1);
    }

    #[test]
    fn varints_of_more_than_64_bits_are_refused() {
        let mut bytes = [0xff; 11];
        bytes[9] = 1;
        assert_eq!(Reader::new(&bytes).varint(), Ok(u64::MAX));
        bytes[9] = 2;
        assert!(Reader::new(&bytes).varint().is_err());
        bytes[9] = 0x80;
        assert!(Reader::new(&bytes).varint().is_err());
        assert!(Reader::new(&bytes[..3]).varint().is_err());
    }

    proptest! {
        #[test]
        fn varints_are_the_generated_ones(value in crate::test_data::number()) {
            let mut generated = Vec::new();
            prost::encoding::encode_varint(value, &mut generated);
            let mut prefix = Prefix::new();
            prefix.varint(value);
            prop_assert_eq!(prefix.as_slice(), &generated[..]);
            prop_assert_eq!(varint_len(value), generated.len());
            prop_assert_eq!(Reader::new(&generated).varint(), Ok(value));
        }
    }
}
