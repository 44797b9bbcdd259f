//! One reader that follows a stream while it is written.

use anyhow::{Context, Result, bail};
use tokio::sync::watch;

use super::Load;
use crate::bench::chain::Chain;
use crate::bench::driver::{Batches, Delivery, Lane};
use crate::bench::verify::Verifier;

/// Follows stream number `stream` from its first record until it has all that the writer wrote, and agrees with it.
/// `reader` is a number among all readers.
pub async fn follow(load: &Load, stream: usize, reader: usize) -> Result<()> {
    let state = &load.streams[stream];
    let session = load.driver.read_session(&state.name, None, Lane::Reader(reader));
    let mut session = load.in_time("opening a read session", session).await??;
    let mut verifier = Verifier::new(load.content);
    let writer = until_agreed(load, reader, &mut *session, state.finished(), &mut verifier)
        .await
        .with_context(|| format!("reader {reader} of {}", state.name.stream))?;
    load.checks.add(writer.records, 1);
    Ok(())
}

async fn until_agreed(
    load: &Load,
    reader: usize,
    session: &mut dyn Batches,
    mut finished: watch::Receiver<Option<Chain>>,
    verifier: &mut Verifier,
) -> Result<Chain> {
    loop {
        let end = *finished.borrow_and_update();
        let batch = match end {
            Some(writer) if verifier.next() >= writer.records => {
                verifier.agrees(writer)?;
                return Ok(writer);
            }
            Some(writer) => {
                let what = format!("{} of {} records", verifier.next(), writer.records);
                load.in_time(&what, session.next()).await?
            }
            None => tokio::select! {
                batch = session.next() => batch,
                changed = finished.changed() => match changed {
                    Ok(()) => continue,
                    Err(_) => bail!("the writer is gone"),
                },
            },
        };
        match batch? {
            None => bail!("the endpoint ended the session after {} records", verifier.next()),
            Some(batch) => deliver(load, reader, verifier, &batch)?,
        }
    }
}

fn deliver(load: &Load, reader: usize, verifier: &mut Verifier, batch: &Delivery) -> Result<()> {
    let now = load.clock.now();
    let mut followed = load.meters.followed.count(reader);
    let delivered = verifier.delivery(batch, |intended, records| {
        followed.latency(now, intended, records)
    })?;
    if delivered.records > 0 {
        followed.batch(now, delivered.records, delivered.bytes);
    }
    Ok(())
}
