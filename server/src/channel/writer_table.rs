//! The writers of a stream as a frame in the WAL, for an owner that finds none of their inputs: those were flushed.
//!
//! A table holds everything that was known of the stream's writers where it stands in the WAL, so a replay that meets
//! one needs nothing before it.

use bytes::Bytes;
use millrace_api::id::WriterId;
use millrace_api::position::{SeqNum, StreamPosition};
use prost::Message;

use super::writers::Sequenced;

/// What is known of a stream's writers.
#[derive(Clone, PartialEq, Message)]
pub struct WriterTable {
    /// As [`Writers::forgotten`](super::writers::Writers::forgotten).
    #[prost(uint64, tag = "1")]
    pub forgotten: SeqNum,
    #[prost(message, repeated, tag = "2")]
    pub writers: Vec<KnownWriter>,
}

#[derive(Clone, PartialEq, Message)]
pub struct KnownWriter {
    #[prost(fixed64, tag = "1")]
    writer: u64,
    /// The number of its last input; those before it that are remembered follow each other without gap.
    #[prost(uint64, tag = "2")]
    pub last: u64,
    /// Behind its last record.
    #[prost(uint64, tag = "3")]
    pub end: SeqNum,
    #[prost(message, repeated, tag = "4")]
    acks: Vec<KnownAck>,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct KnownAck {
    #[prost(uint64, tag = "1")]
    start_seq: u64,
    #[prost(uint64, tag = "2")]
    start_timestamp: u64,
    #[prost(uint64, tag = "3")]
    end_seq: u64,
    #[prost(uint64, tag = "4")]
    end_timestamp: u64,
}

/// The body of a frame is no table.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("not a table of writers: {0}")]
pub struct NotATable(String);

impl WriterTable {
    /// Refuses what no release wrote.
    pub fn parse(body: Bytes) -> Result<Self, NotATable> {
        let table = Self::decode(body).map_err(|error| NotATable(error.to_string()))?;
        match table.writers.iter().all(|it| it.acks.len() as u64 <= it.last) {
            true => Ok(table),
            false => Err(NotATable("a writer has more acks than inputs".into())),
        }
    }
}

impl KnownWriter {
    pub fn new<'a>(
        writer: WriterId,
        last: u64,
        end: SeqNum,
        acks: impl Iterator<Item = &'a Sequenced>,
    ) -> Self {
        let acks = acks.map(|done| KnownAck {
            start_seq: done.start.seq_num,
            start_timestamp: done.start.timestamp,
            end_seq: done.end.seq_num,
            end_timestamp: done.end.timestamp,
        });
        Self {
            writer: writer.0,
            last,
            end,
            acks: acks.collect(),
        }
    }

    pub fn writer(&self) -> WriterId {
        WriterId(self.writer)
    }

    /// Oldest first; all of them are durable by now.
    pub fn acks(&self) -> impl Iterator<Item = Sequenced> {
        self.acks.iter().map(|ack| Sequenced {
            start: StreamPosition::new(ack.start_seq, ack.start_timestamp),
            end: StreamPosition::new(ack.end_seq, ack.end_timestamp),
            slot: None,
        })
    }
}
