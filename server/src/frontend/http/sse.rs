//! A read session as server-sent events, for browsers.

use std::sync::Arc;

use bytes::Bytes;
use millrace_api::json::Format;
use millrace_api::sse::{self, LastEventId, Ping};

use super::failure::error_body;
use super::read::{json_capacity, parts};
use crate::error::ServiceError;
use crate::frontend::service::types::ReadEvent;
use crate::frontend::service::{Frontend, ReadSession};
use crate::frontend::session::output::{Broken, Output};
use crate::frontend::session::read;

/// Writes events. Remembers what was sent since the client's first request, over its reconnections.
pub(super) struct Events {
    format: Format,
    count: u64,
    bytes: u64,
}

impl Events {
    pub fn new(format: Format, seen: Option<LastEventId>) -> Self {
        Self {
            format,
            count: seen.map_or(0, |seen| seen.count),
            bytes: seen.map_or(0, |seen| seen.bytes),
        }
    }

    fn encode(&mut self, event: ReadEvent) -> Result<Bytes, ServiceError> {
        let mut out = Vec::new();
        match event {
            ReadEvent::Batch(batch) => {
                self.count = self.count.saturating_add(batch.count as u64);
                self.bytes = self.bytes.saturating_add(batch.metered_bytes as u64);
                let id = LastEventId {
                    seq_num: batch.last_seq_num,
                    count: self.count,
                    bytes: self.bytes,
                };
                out.reserve(json_capacity(&batch));
                sse::write_batch(&mut out, id, parts(&batch), batch.tail, self.format)?;
            }
            // A comment: proxies see life, clients see nothing.
            ReadEvent::KeepAlive => out.extend_from_slice(b":\n\n"),
            ReadEvent::Heartbeat { tail, now_ms } => {
                sse::write_ping(
                    &mut out,
                    &Ping {
                        timestamp: now_ms,
                        tail,
                    },
                );
            }
        }
        Ok(out.into())
    }
}

/// Writes what the session gives, then the mark of a clean end. A failure is an event of its own, without the mark.
pub(super) async fn run(
    frontend: Arc<Frontend>,
    session: ReadSession,
    mut events: Events,
    output: Output,
) -> Result<(), Broken> {
    let encode = |event| Ok(vec![events.encode(event)?]);
    match read::run(frontend, session, &output, encode).await? {
        None => output.send(done()).await,
        Some(error) => output.send(failed(&error)).await,
    }
}

/// The whole answer to a client that comes back after the last event.
pub(super) async fn nothing_left(output: Output) -> Result<(), Broken> {
    output.send(done()).await
}

fn done() -> Bytes {
    let mut out = Vec::new();
    sse::write_done(&mut out);
    out.into()
}

fn failed(error: &ServiceError) -> Bytes {
    let mut out = Vec::new();
    sse::write_error(&mut out, &error_body(error));
    out.into()
}
