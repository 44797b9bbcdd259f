//! Names as they arrive from outside, checked once and relied on afterwards.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::limits::{
    BASIN_NAME_LEN_MAX, BASIN_NAME_LEN_MIN, FENCING_TOKEN_LEN_MAX, REQUEST_TOKEN_LEN_MAX, STREAM_NAME_LEN_MAX,
};

/// Why a name was refused; the text is meant for the client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidName(String);

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $check:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(Arc<str>);

        impl $name {
            pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidName> {
                let text = text.as_ref();
                $check(text).map_err(InvalidName)?;
                Ok(Self(Arc::from(text)))
            }

            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl Deref for $name {
            type Target = str;
            fn deref(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = InvalidName;
            fn from_str(text: &str) -> Result<Self, InvalidName> {
                Self::new(text)
            }
        }
    };
}

name_type! {
    /// 8 to 48 bytes of `a-z`, `0-9` and `-`, starting and ending with a letter or digit.
    BasinName, check_basin
}
name_type! {
    /// 1 to 512 bytes of UTF-8, except `.` and `..`.
    StreamName, check_stream
}
name_type! {
    /// At most 36 bytes of UTF-8; empty means that there is no fence.
    FencingToken, check_fencing_token
}
name_type! {
    /// Idempotency token of a create request: at most 36 bytes.
    RequestToken, check_request_token
}

impl Default for FencingToken {
    fn default() -> Self {
        Self(Arc::from(""))
    }
}

fn check_basin(text: &str) -> Result<(), String> {
    if !(BASIN_NAME_LEN_MIN..=BASIN_NAME_LEN_MAX).contains(&text.len()) {
        return Err(format!(
            "a basin name has {BASIN_NAME_LEN_MIN} to {BASIN_NAME_LEN_MAX} bytes, this one has {}",
            text.len()
        ));
    }
    let alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if !text.bytes().all(|b| alphanumeric(&b) || b == b'-') {
        return Err("a basin name consists of a-z, 0-9 and '-'".into());
    }
    let ends = [text.as_bytes().first(), text.as_bytes().last()];
    if !ends.into_iter().flatten().all(alphanumeric) {
        return Err("a basin name starts and ends with a letter or a digit".into());
    }
    Ok(())
}

fn check_stream(text: &str) -> Result<(), String> {
    check_len("a stream name", text, STREAM_NAME_LEN_MAX)?;
    match text {
        "" => Err("a stream name has at least one byte".into()),
        "." | ".." => Err("'.' and '..' are not stream names".into()),
        _ => Ok(()),
    }
}

fn check_fencing_token(text: &str) -> Result<(), String> {
    check_len("a fencing token", text, FENCING_TOKEN_LEN_MAX)
}

fn check_request_token(text: &str) -> Result<(), String> {
    check_len("a request token", text, REQUEST_TOKEN_LEN_MAX)
}

fn check_len(what: &str, text: &str, max: usize) -> Result<(), String> {
    match text.len() {
        len if len > max => Err(format!("{what} has at most {max} bytes, this one has {len}")),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn api_001_basin_names() {
        for good in ["abcdefgh", "a-b-c-d-1", &"x".repeat(48), "12345678"] {
            assert!(BasinName::new(good).is_ok(), "{good}");
        }
        for bad in [
            "",
            "abcdefg",
            &"x".repeat(49),
            "Abcdefgh",
            "-abcdefgh",
            "abcdefgh-",
            "abcd_efgh",
            "abcdéfgh",
        ] {
            assert!(BasinName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn api_002_stream_names() {
        for good in ["a", "a/b c%😀", "...", &"x".repeat(512)] {
            assert!(StreamName::new(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", &"x".repeat(513), &"é".repeat(257)] {
            assert!(StreamName::new(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn tokens_have_at_most_36_bytes() {
        assert!(FencingToken::new("").is_ok());
        assert!(FencingToken::new("x".repeat(36)).is_ok());
        assert!(FencingToken::new("x".repeat(37)).is_err());
        assert!(RequestToken::new("x".repeat(37)).is_err());
    }
}
