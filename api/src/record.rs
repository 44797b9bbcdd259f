//! Records as decoded values, and what they weigh. Whoever moves records in bulk stays with their encoded form:
//! see [`crate::batch`] and [`crate::scan`].

use bytes::Bytes;

use crate::position::StreamPosition;
use crate::proto;
pub use crate::proto::{AppendRecord, Header, SequencedRecord};

/// Bytes that a record is accounted for: 8, plus 2 per header, plus the lengths of its header names, header
/// values and body. Sequence number and timestamp are free; so is encryption.
pub const fn metered_bytes(header_count: usize, header_bytes: usize, body_len: usize) -> usize {
    8 + 2 * header_count + header_bytes + body_len
}

fn metered(headers: &[Header], body: &Bytes) -> usize {
    let header_bytes = headers.iter().map(|h| h.name.len() + h.value.len()).sum();
    metered_bytes(headers.len(), header_bytes, body.len())
}

impl AppendRecord {
    pub fn metered_bytes(&self) -> usize {
        metered(&self.headers, &self.body)
    }
}

impl SequencedRecord {
    pub fn metered_bytes(&self) -> usize {
        metered(&self.headers, &self.body)
    }

    pub fn position(&self) -> StreamPosition {
        StreamPosition::new(self.seq_num, self.timestamp)
    }
}

impl From<StreamPosition> for proto::StreamPosition {
    fn from(position: StreamPosition) -> Self {
        Self {
            seq_num: position.seq_num,
            timestamp: position.timestamp,
        }
    }
}

impl From<proto::StreamPosition> for StreamPosition {
    fn from(position: proto::StreamPosition) -> Self {
        Self {
            seq_num: position.seq_num,
            timestamp: position.timestamp,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metered_size_counts_headers_twice_two_bytes_and_eight_per_record() {
        let header = |name: &'static str, value: &'static str| Header {
            name: name.into(),
            value: value.into(),
        };
        let mut record = AppendRecord::default();
        assert_eq!(record.metered_bytes(), 8);
        record.headers = vec![header("ab", "c"), header("d", "")];
        record.body = "xyz".into();
        assert_eq!(record.metered_bytes(), 8 + 4 + 4 + 3);
    }
}
