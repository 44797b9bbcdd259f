//! Appending: what it is answered with, the session, and the producer on top of it.

mod outbox;
mod producer;
mod session;
mod task;
mod ticket;

use millrace_api::position::StreamPosition;
use millrace_api::proto;

pub use self::producer::{Producer, ProducerOptions, RecordAck, RecordTicket};
pub use self::session::{AppendSession, AppendSessionOptions, Permit};
pub use self::ticket::Ticket;
use crate::error::Error;
use crate::info::present;

/// Where a batch is in its stream. It is durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct AppendAck {
    /// Position of the first record.
    pub start: StreamPosition,
    /// One past the last sequence number, with the last record's timestamp.
    pub end: StreamPosition,
    /// The stream's tail; ahead of `end` when others append too.
    pub tail: StreamPosition,
}

impl AppendAck {
    /// An ack that does not fit the batch is not one.
    pub(crate) fn checked(ack: proto::AppendAck, records: usize) -> Result<Self, Error> {
        let ack = Self {
            start: present(ack.start, "start")?.into(),
            end: present(ack.end, "end")?.into(),
            tail: present(ack.tail, "tail")?.into(),
        };
        let fits = ack.start.seq_num.checked_add(records as u64) == Some(ack.end.seq_num)
            && ack.tail.seq_num >= ack.end.seq_num;
        match fits {
            true => Ok(ack),
            false => Err(Error::corrupt(format!(
                "{records} records acknowledged as {}..{} below {}",
                ack.start.seq_num, ack.end.seq_num, ack.tail.seq_num
            ))),
        }
    }
}
