//! Why bytes are not what they claim to be.

/// What is wrong with stored bytes. None of these goes away by reading the same copy again, unless the read
/// itself went wrong; another zone may hold a good copy.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    #[error("truncated: {have} bytes where at least {need} are needed")]
    Truncated { need: u64, have: u64 },
    #[error("{have} bytes where the header says {expected}")]
    Length { expected: u64, have: u64 },
    #[error("the {what} magic is wrong")]
    BadMagic { what: &'static str },
    #[error("format version {0} is not known to this release")]
    UnknownVersion(u16),
    #[error("the {what} CRC does not match")]
    BadCrc { what: &'static str },
    #[error("the {what} kind {value} is not known to this release")]
    UnknownKind { what: &'static str, value: u8 },
    #[error("the {what} field has an impossible value")]
    BadField { what: &'static str },
    #[error("a length of {len} bytes is over the limit of {max}")]
    TooLarge { len: u64, max: u64 },
    #[error("the footer does not agree with the {what}")]
    Mismatch { what: &'static str },
}

impl FormatError {
    /// The bytes are sound as far as can be seen, but a later release wrote them.
    pub fn is_from_later_release(&self) -> bool {
        matches!(self, Self::UnknownVersion(_) | Self::UnknownKind { .. })
    }
}
