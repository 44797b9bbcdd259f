//! How bytes stand in JSON strings.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;

use crate::batch::AppendError;

/// The `s2-format` header: how names, values and bodies of records stand in JSON and in events.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Format {
    /// As UTF-8 text. Bytes that are none are read back as U+FFFD.
    #[default]
    Raw,
    /// As standard base64 with padding.
    Base64,
}

impl Format {
    /// The format that a header value names; `None` if it names none.
    pub fn parse(value: &str) -> Option<Self> {
        match value {
            "raw" | "json" => Some(Self::Raw),
            "base64" | "json-binsafe" => Some(Self::Base64),
            _ => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Base64 => "base64",
        }
    }

    pub fn decode(self, text: String) -> Result<Bytes, AppendError> {
        match self {
            Self::Raw => Ok(text.into()),
            Self::Base64 => match STANDARD.decode(text) {
                Ok(bytes) => Ok(bytes.into()),
                Err(error) => Err(AppendError::Invalid(format!("invalid base64: {error}"))),
            },
        }
    }

    pub fn encode(self, bytes: &[u8]) -> String {
        match self {
            Self::Raw => String::from_utf8_lossy(bytes).into_owned(),
            Self::Base64 => STANDARD.encode(bytes),
        }
    }

    /// Appends `bytes` as a JSON string, quotes included.
    pub(crate) fn write(self, out: &mut Vec<u8>, bytes: &[u8]) {
        match self {
            Self::Raw => serde_json::to_writer(&mut *out, &String::from_utf8_lossy(bytes))
                .expect("text has a JSON form and memory does not fail to write"),
            Self::Base64 => {
                out.push(b'"');
                let start = out.len();
                let len =
                    base64::encoded_len(bytes.len(), true).expect("a slice is shorter than 3/4 of memory");
                out.resize(start + len, 0);
                let written = STANDARD
                    .encode_slice(bytes, &mut out[start..])
                    .expect("sized for it");
                debug_assert_eq!(written, len);
                out.push(b'"');
            }
        }
    }
}
