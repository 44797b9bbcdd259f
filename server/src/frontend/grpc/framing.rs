//! How messages follow each other in a body: each behind a flag, which says whether it is compressed, and its length.

use bytes::{BufMut, Bytes, BytesMut};
use millrace_api::error::ErrorCode;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};

use crate::error::ServiceError;

/// The flag and the length.
pub(crate) const HEAD_LEN: usize = 5;

/// Length of the message behind this head.
pub(super) fn message_len(&[_, len @ ..]: &[u8; HEAD_LEN]) -> usize {
    u32::from_be_bytes(len) as usize
}

/// Length of the message behind this head if it is one that may be sent here.
pub(crate) fn checked_len(head: &[u8; HEAD_LEN], len_max: usize) -> Result<usize, ServiceError> {
    let refused = |message: String| Err(ServiceError::new(ErrorCode::BadProto, message));
    match (head[0], message_len(head)) {
        (0, len) if len > len_max => refused(format!(
            "the message is too large: it has {len} bytes, and {len_max} are allowed"
        )),
        (0, len) => Ok(len),
        (1, _) => refused("the message is compressed and no compression was announced".into()),
        (flag, _) => refused(format!("{flag} is no compression flag: it is 0 or 1")),
    }
}

/// Appends the head of a message of this length.
pub(crate) fn put_head(len: usize, out: &mut BytesMut) {
    out.put_u8(0);
    out.put_u32(u32::try_from(len).expect("replies have a few MiB"));
}

/// Appends a message behind its head.
pub(crate) fn put_message(message: &impl Message, out: &mut BytesMut) {
    let len = message.encoded_len();
    out.reserve(HEAD_LEN + len);
    put_head(len, out);
    message.encode(out).expect("a growing buffer takes all");
}

/// A message behind its head.
pub(crate) fn framed(message: &impl Message) -> Bytes {
    let mut framed = BytesMut::new();
    put_message(message, &mut framed);
    framed.freeze()
}

/// Appends what stands before a field of bytes or a message of this length.
pub(crate) fn put_field_head(number: u32, len: usize, out: &mut BytesMut) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(len as u64, out);
}

/// Bytes of such a field with what stands before it.
pub(crate) fn field_len(number: u32, len: usize) -> usize {
    key_len(number) + encoded_len_varint(len as u64) + len
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_messages_within_the_bound_are_taken() {
        assert_eq!(checked_len(&[0, 0, 0, 1, 2], 258).unwrap(), 258);
        assert_eq!(checked_len(&[0; HEAD_LEN], 0).unwrap(), 0);
        for (head, why) in [
            ([0, 0, 0, 1, 3], "too large: it has 259 bytes"),
            ([0, 255, 255, 255, 255], "too large: it has 4294967295 bytes"),
            ([1, 0, 0, 0, 1], "compressed"),
            ([2, 0, 0, 0, 1], "2 is no compression flag"),
        ] {
            let refused = checked_len(&head, 258).unwrap_err().to_string();
            assert!(refused.contains(why), "{refused}");
        }
    }
}
