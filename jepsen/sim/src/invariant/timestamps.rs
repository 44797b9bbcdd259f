//! Timestamps never decrease along a stream, and its sequence numbers are dense (I6, P3): seen by reading all of it.

use anyhow::{bail, ensure};
use millrace_client::{Error, ReadOptions, Stream};

/// Reads the stream from `first` to its tail.
///
/// # Errors
/// What is wrong with it, or why it could not be read.
pub async fn check(stream: &Stream, first: u64) -> anyhow::Result<()> {
    let (mut next, mut last) = (first, None);
    loop {
        let batch = match stream.read(ReadOptions::from_seq_num(next)).await {
            Ok(batch) => batch,
            Err(Error::PastTail { .. }) => return Ok(()),
            Err(error) => bail!("stream {} cannot be read: {error}", stream.name()),
        };
        let (caught_up, before) = (batch.is_caught_up(), next);
        for record in batch {
            ensure!(
                record.seq_num == next,
                "P3: stream {} goes on at {} behind {next}",
                stream.name(),
                record.seq_num
            );
            ensure!(
                last.is_none_or(|last| last <= record.timestamp),
                "I6: record {next} of stream {} is of {}, the one before of {last:?}",
                stream.name(),
                record.timestamp
            );
            (next, last) = (next + 1, Some(record.timestamp));
        }
        if caught_up || next == before {
            return Ok(());
        }
    }
}
