//! S2S frames: `length (3 bytes, big-endian) · flags (1 byte) · body`. The length counts flags and body.
//!
//! Flags: bit 7 terminal, bits 6 and 5 compression, bit 4 the advice to reconnect; the others are reserved, sent
//! as zero and ignored. A terminal body is a status (2 bytes, big-endian) and the JSON of a unary error.
//!
//! [`decode`] reads frames however the transport cut them; [`encode`] writes them without joining their parts.

pub mod decode;
pub mod encode;

pub use decode::{Frame, FrameDecoder, FrameError};
pub use encode::{FrameTooLong, Reconnect, encode_message, encode_terminal, put_message};

pub(crate) const LENGTH_LEN: usize = 3;
pub(crate) const FLAGS_LEN: usize = 1;
pub(crate) const TERMINAL: u8 = 0x80;
pub(crate) const COMPRESSION: u8 = 0x60;
pub(crate) const COMPRESSION_SHIFT: u32 = 5;
pub(crate) const RECONNECT: u8 = 0x10;

/// How a frame's body is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Compression {
    #[default]
    None,
    Zstd,
    Gzip,
}

impl Compression {
    /// What to answer with under this `Accept-Encoding`: zstd if it is offered, else gzip, else nothing. Several
    /// header lines are given as one, with commas. An offer with `q=0` is none; what does not parse is passed over.
    pub fn from_accept_encoding(value: &str) -> Self {
        let (mut zstd, mut gzip) = (false, false);
        for offer in value.split(',') {
            let mut parts = offer.split(';').map(str::trim);
            let coding = parts.next().unwrap_or_default();
            let refused = parts
                .filter_map(|part| part.strip_prefix("q=").or_else(|| part.strip_prefix("Q=")))
                .any(|q| q.trim().parse::<f32>().is_ok_and(|q| q <= 0.0));
            zstd |= !refused && coding.eq_ignore_ascii_case("zstd");
            gzip |= !refused && coding.eq_ignore_ascii_case("gzip");
        }
        match (zstd, gzip) {
            (true, _) => Self::Zstd,
            (false, true) => Self::Gzip,
            (false, false) => Self::None,
        }
    }

    fn to_bits(self) -> u8 {
        let number: u8 = match self {
            Self::None => 0,
            Self::Zstd => 1,
            Self::Gzip => 2,
        };
        number << COMPRESSION_SHIFT
    }

    fn from_bits(flags: u8) -> Option<Self> {
        match (flags & COMPRESSION) >> COMPRESSION_SHIFT {
            0 => Some(Self::None),
            1 => Some(Self::Zstd),
            2 => Some(Self::Gzip),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests;
