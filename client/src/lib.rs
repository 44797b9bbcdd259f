//! The client of Millrace, a store of durable streams.
//!
//! ```no_run
//! # async fn run() -> Result<(), millrace_client::Error> {
//! use futures::StreamExt;
//! use millrace_client::{Batch, Client, ReadOptions, StreamConfig};
//!
//! let client = Client::builder().endpoints(["http://localhost:8080"]).build()?;
//! let stream = client.basin("my-basin")?.stream("orders/eu")?;
//! stream.ensure(StreamConfig::default()).await?;
//!
//! let ack = stream.append(Batch::new(["first", "second"])?).await?;
//! let mut batches = stream.read_session(ReadOptions::from_seq_num(ack.start.seq_num).count(2));
//! while let Some(batch) = batches.next().await {
//!     for record in batch? {
//!         println!("{} {:?}", record.seq_num, record.body);
//!     }
//! }
//! # Ok(())
//! # }
//! ```
//!
//! # What holds for every call
//!
//! - `Ok` of anything that appends means durable.
//! - Every [`Error`] answers [`retryable`](Error::retryable) and [`may_have_happened`](Error::may_have_happened). The
//!   client repeats what is safe to repeat, as far as its [`RetryPolicy`] goes, and nothing else.
//! - Any endpoint answers any call. One that fails rests while others are used, and where a reply names the node that
//!   serves a stream, later calls for the stream go there.
//! - No future is needed for something to be undone: dropping one stops waiting, and what was sent may be applied.
//! - Memory is bounded by the options of sessions and by flow-control windows, whatever the server does.
//! - With the feature `trace-context`, on by default, each call carries the W3C trace context of the current span; a
//!   session's calls carry that of the span it was opened in.
//!
//! Everything needs a Tokio runtime with time and I/O enabled.

#![deny(missing_docs)]

mod append;
mod basin;
mod builder;
mod call;
mod client;
mod edge;
mod endpoints;
mod error;
mod info;
mod list;
mod pace;
mod read;
mod record;
mod retry;
mod rpc;
mod stream;
mod trace;
mod transport;

pub use millrace_api::command::Command;
pub use millrace_api::config::{
    BasinConfig, BasinReconfiguration, Cipher, Patch, RetentionPolicy, StorageClass, StreamConfig,
    StreamReconfiguration, TimestampingMode,
};
pub use millrace_api::name::FencingToken;
pub use millrace_api::position::{SeqNum, StreamPosition, Timestamp};
pub use millrace_api::record::{Header, SequencedRecord};
pub use tonic::transport::Uri;

pub use self::append::{
    AppendAck, AppendSession, AppendSessionOptions, Permit, Producer, ProducerOptions, RecordAck,
    RecordTicket, Ticket,
};
pub use self::basin::Basin;
pub use self::builder::{ClientBuilder, Tls};
pub use self::client::Client;
pub use self::error::{Error, ServerError};
pub use self::info::{BasinInfo, Outcome, StreamInfo};
pub use self::list::ListOptions;
pub use self::read::{ReadBatch, ReadOptions, ReadSession};
pub use self::record::{Batch, Record};
pub use self::retry::{AppendRetry, RetryPolicy};
pub use self::stream::Stream;
pub use self::transport::{Io, Windows};
