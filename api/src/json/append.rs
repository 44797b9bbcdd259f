//! Bodies of an append.

use std::fmt;

use serde::de::{Deserializer, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};

use super::Format;
use crate::batch::{AppendBatch, AppendError};
use crate::limits::BATCH_RECORDS_MAX;
use crate::position::StreamPosition;
use crate::proto;

/// A batch to append, its bytes still in their text form.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AppendInput {
    /// One more than a batch may have at most: whatever else was sent was checked and dropped.
    #[serde(deserialize_with = "bounded_records")]
    pub records: Vec<AppendRecord>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_seq_num: Option<u64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fencing_token: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct AppendRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub timestamp: Option<u64>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub headers: Vec<(String, String)>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body: String,
}

impl AppendInput {
    /// The batch that this is in `format`, through the same gate as a protobuf one. Bad base64 is invalid.
    pub fn into_batch(self, format: Format) -> Result<AppendBatch, AppendError> {
        let records = self
            .records
            .into_iter()
            .map(|record| record.into_proto(format))
            .collect::<Result<_, _>>()?;
        AppendBatch::from_proto(proto::AppendInput {
            records,
            match_seq_num: self.match_seq_num,
            fencing_token: self.fencing_token,
        })
    }
}

impl AppendRecord {
    fn into_proto(self, format: Format) -> Result<proto::AppendRecord, AppendError> {
        let header = |(name, value)| {
            Ok(proto::Header {
                name: format.decode(name)?,
                value: format.decode(value)?,
            })
        };
        Ok(proto::AppendRecord {
            timestamp: self.timestamp,
            headers: self
                .headers
                .into_iter()
                .map(header)
                .collect::<Result<_, AppendError>>()?,
            body: format.decode(self.body)?,
        })
    }
}

fn bounded_records<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<AppendRecord>, D::Error> {
    struct Records;

    impl<'de> Visitor<'de> for Records {
        type Value = Vec<AppendRecord>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an array of records")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Self::Value, A::Error> {
            let mut records = Vec::new();
            while let Some(record) = items.next_element()? {
                if records.len() <= BATCH_RECORDS_MAX {
                    records.push(record);
                }
            }
            Ok(records)
        }
    }

    deserializer.deserialize_seq(Records)
}

/// Reply to an append: where its records stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct AppendAck {
    /// Of the first record.
    pub start: StreamPosition,
    /// One past the last record's sequence number, with the last record's timestamp.
    pub end: StreamPosition,
    /// Of the stream; ahead of `end` when others append too.
    pub tail: StreamPosition,
}

impl From<AppendAck> for proto::AppendAck {
    fn from(ack: AppendAck) -> Self {
        Self {
            start: Some(ack.start.into()),
            end: Some(ack.end.into()),
            tail: Some(ack.tail.into()),
        }
    }
}

impl From<proto::AppendAck> for AppendAck {
    /// A position that is missing is `{0, 0}`, whose encoding it is.
    fn from(ack: proto::AppendAck) -> Self {
        let position = |p: Option<proto::StreamPosition>| p.unwrap_or_default().into();
        Self {
            start: position(ack.start),
            end: position(ack.end),
            tail: position(ack.tail),
        }
    }
}
