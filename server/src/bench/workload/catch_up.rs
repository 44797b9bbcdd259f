//! One reading of what is there already, from the first record to a given one.

use anyhow::{Context, Result, bail};

use super::Load;
use crate::bench::chain::Chain;
use crate::bench::clock::Nanos;
use crate::bench::driver::{Batches, Lane};
use crate::bench::verify::Verifier;

/// What is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CatchUp {
    /// Records from the first on; above zero.
    pub records: u64,
    /// Over these records, if their writer is this bench's.
    pub writer: Option<Chain>,
    /// When to leave off in the middle.
    pub deadline: Option<Nanos>,
}

/// Reads stream number `stream` once. `reader` is a number among all readers.
pub async fn catch_up(load: &Load, stream: usize, reader: usize, what: CatchUp) -> Result<()> {
    let state = &load.streams[stream];
    let began = load.clock.now();
    let mut verifier = Verifier::new(load.content);
    let reading = async {
        let session = load
            .driver
            .read_session(&state.name, Some(what.records), Lane::Reader(reader));
        let mut session = load.in_time("opening a read session", session).await??;
        read(load, reader, &mut *session, &mut verifier, what, began).await
    };
    let chains = reading
        .await
        .with_context(|| format!("reader {reader} of {}", state.name.stream))?;
    load.checks.add(verifier.next(), chains);
    Ok(())
}

/// How many chains were compared: one, unless there was none to compare with or no time to the end.
async fn read(
    load: &Load,
    reader: usize,
    session: &mut dyn Batches,
    verifier: &mut Verifier,
    what: CatchUp,
    began: Nanos,
) -> Result<u64> {
    while verifier.next() < what.records {
        let progress = format!("{} of {} records", verifier.next(), what.records);
        let Some(batch) = load.in_time(&progress, session.next()).await?? else {
            bail!("the endpoint ended the session at {progress}");
        };
        let now = load.clock.now();
        if what.deadline.is_some_and(|deadline| now >= deadline) {
            return Ok(0);
        }
        let first = verifier.next() == 0;
        let delivered = verifier.delivery(&batch, |_, _| {})?;
        if delivered.records > 0 {
            let mut caught_up = load.meters.caught_up.count(reader);
            caught_up.batch(now, delivered.records, delivered.bytes);
            if first {
                caught_up.latency(now, began, 1);
            }
        }
    }
    match what.writer {
        None => Ok(0),
        Some(writer) => verifier.agrees(writer).map(|()| 1).map_err(Into::into),
    }
}
