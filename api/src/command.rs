//! Command records: what a client tells the stream itself, in line with its data.
//!
//! A command is a record with exactly one header, whose name is empty and whose value names the operation. It
//! takes a sequence number, is metered and is read back like any other record, and is never encrypted.

use bytes::Bytes;

use crate::limits::FENCING_TOKEN_LEN_MAX;
use crate::name::FencingToken;
use crate::position::SeqNum;
use crate::proto;

const FENCE: &[u8] = b"fence";
const TRIM: &[u8] = b"trim";

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Command {
    /// Appends that carry a token must carry this one from now on. An empty token lifts the fence.
    Fence(FencingToken),
    /// Records before this sequence number may go. Bounded by the command's own place when it is applied.
    Trim(SeqNum),
}

/// A record that starts like a command and is none; the text is meant for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid command record: {0}")]
pub struct InvalidCommand(String);

impl Command {
    /// The command in a record with these headers, in order; `None` is a data record.
    ///
    /// An empty header name anywhere but in a lone header is an error, and so is an unknown operation.
    pub fn of<'a>(
        headers: impl IntoIterator<Item = (&'a [u8], &'a [u8])>,
        body: &[u8],
    ) -> Result<Option<Self>, InvalidCommand> {
        let mut operation = None;
        let mut count = 0usize;
        for (name, value) in headers {
            count += 1;
            if name.is_empty() {
                operation = Some(value);
            }
        }
        match operation {
            None => Ok(None),
            Some(operation) if count == 1 => Self::parse(operation, body).map(Some),
            Some(_) => Err(Self::not_alone()),
        }
    }

    /// The command that `operation`, the value of the lone header, makes of `body`.
    ///
    /// - `fence`: the body is the token, UTF-8, at most 36 bytes.
    /// - `trim`: the body is the sequence number, 8 bytes, big-endian.
    pub fn parse(operation: &[u8], body: &[u8]) -> Result<Self, InvalidCommand> {
        match operation {
            FENCE => Self::parse_fence(body),
            TRIM => match body.try_into() {
                Ok(seq_num) => Ok(Self::Trim(u64::from_be_bytes(seq_num))),
                Err(_) => Err(InvalidCommand(format!(
                    "trim takes a body of 8 bytes, not {}",
                    body.len()
                ))),
            },
            _ => Err(InvalidCommand("unknown operation".into())),
        }
    }

    pub(crate) fn not_alone() -> InvalidCommand {
        InvalidCommand("an empty header name beside other headers".into())
    }

    fn parse_fence(body: &[u8]) -> Result<Self, InvalidCommand> {
        if body.len() > FENCING_TOKEN_LEN_MAX {
            return Err(InvalidCommand(format!(
                "a fencing token has at most {FENCING_TOKEN_LEN_MAX} bytes, this one has {}",
                body.len()
            )));
        }
        let token = str::from_utf8(body).map_err(|_| InvalidCommand("fencing token is not UTF-8".into()))?;
        let token = FencingToken::new(token).map_err(|error| InvalidCommand(error.to_string()))?;
        Ok(Self::Fence(token))
    }

    /// The record that says this, without a timestamp.
    pub fn to_record(&self) -> proto::AppendRecord {
        let (operation, body) = match self {
            Self::Fence(token) => (FENCE, Bytes::copy_from_slice(token.as_bytes())),
            Self::Trim(seq_num) => (TRIM, Bytes::copy_from_slice(&seq_num.to_be_bytes())),
        };
        proto::AppendRecord {
            timestamp: None,
            headers: vec![proto::Header {
                name: Bytes::new(),
                value: Bytes::from_static(operation),
            }],
            body,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(record: &proto::AppendRecord) -> Result<Option<Command>, InvalidCommand> {
        Command::of(
            record.headers.iter().map(|h| (&h.name[..], &h.value[..])),
            &record.body,
        )
    }

    #[test]
    fn commands_survive_their_record_and_weigh_what_they_should() {
        let fence = Command::Fence(FencingToken::new("token").unwrap());
        assert_eq!(of(&fence.to_record()), Ok(Some(fence.clone())));
        assert_eq!(fence.to_record().metered_bytes(), 15 + 5);
        let trim = Command::Trim(u64::MAX - 1);
        assert_eq!(of(&trim.to_record()), Ok(Some(trim.clone())));
        assert_eq!(trim.to_record().metered_bytes(), 22);
    }

    #[test]
    fn api_069_fence_with_empty_body_clears() {
        assert_eq!(
            Command::parse(b"fence", b""),
            Ok(Command::Fence(FencingToken::default()))
        );
    }

    #[test]
    fn api_070_fence_body_is_utf8_of_at_most_36_bytes() {
        assert!(Command::parse(b"fence", &[b'x'; 36]).is_ok());
        assert!(Command::parse(b"fence", &[b'x'; 37]).is_err());
        assert!(Command::parse(b"fence", &[0xff]).is_err());
    }

    #[test]
    fn api_072_unknown_operation_or_company_is_refused() {
        assert!(Command::parse(b"Fence", b"").is_err());
        assert!(Command::parse(b"", b"").is_err());
        let pair: [(&[u8], &[u8]); 2] = [(b"a", b"b"), (b"", b"fence")];
        assert!(Command::of(pair, b"").is_err());
        assert_eq!(Command::of([(&b"a"[..], &b"fence"[..])], b""), Ok(None));
        assert_eq!(Command::of([], b""), Ok(None));
    }

    #[test]
    fn api_073_trim_body_is_8_bytes_big_endian() {
        assert_eq!(
            Command::parse(b"trim", &[0, 0, 0, 0, 0, 0, 1, 2]),
            Ok(Command::Trim(258))
        );
        for len in [0, 7, 9] {
            assert!(Command::parse(b"trim", &vec![0; len]).is_err());
        }
    }
}
