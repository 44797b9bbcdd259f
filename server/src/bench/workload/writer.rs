//! One append session on one stream, with a bounded number of batches in flight.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::{TryRecvError, TrySendError};

use super::Load;
use crate::bench::chain::Chain;
use crate::bench::clock::{Nanos, nanos};
use crate::bench::driver::{Ack, Acks, Inputs, Lane};

/// How long after the window batches are still sent that were due in it. What cannot be sent even then is counted
/// with the time that it has waited.
const LATE_GRACE: Duration = Duration::from_secs(1);

/// When a writer stops.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WriteUntil {
    /// At the end of the window.
    WindowEnd,
    /// After so many batches, as fast as they go.
    Batches(u64),
}

/// A batch that waits for its acknowledgement.
struct Pending {
    first: u64,
    intended: Nanos,
    /// Over the stream up to and including this batch.
    chain: Chain,
    frame: Bytes,
}

/// Buffers of acknowledged batches, to be written over.
#[derive(Default)]
struct Spares(Mutex<Vec<BytesMut>>);

impl Spares {
    fn take(&self) -> Option<BytesMut> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop()
    }

    /// Keeps the buffer unless something still reads it.
    fn put(&self, frame: Bytes) {
        if let Ok(buffer) = frame.try_into_mut() {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
        }
    }
}

/// Writes stream number `stream`. When it returns, every batch was acknowledged at its place, and readers of the
/// stream know its length.
pub async fn write(load: &Load, stream: usize, until: WriteUntil) -> Result<()> {
    let state = &load.streams[stream];
    let session = load.driver.append_session(&state.name, Lane::Writer(stream));
    let (inputs, acks) = load.in_time("opening an append session", session).await??;
    // Its capacity is what bounds the batches in flight: a place is free again when the ack has come.
    let (pending, in_flight) = mpsc::channel(load.in_flight);
    let spares = Spares::default();
    let sender = Sender {
        load,
        stream,
        until,
        pending,
        spares: &spares,
        chain: state.acked(),
    };
    tokio::try_join!(
        sender.run(inputs),
        receive(load, stream, acks, in_flight, &spares)
    )
    .with_context(|| format!("writing {}", state.name.stream))?;
    state.finish();
    Ok(())
}

struct Sender<'a> {
    load: &'a Load,
    stream: usize,
    until: WriteUntil,
    pending: mpsc::Sender<Pending>,
    spares: &'a Spares,
    chain: Chain,
}

impl Sender<'_> {
    async fn run(mut self, inputs: Box<dyn Inputs>) -> Result<()> {
        match (&self.load.open_loop, self.until) {
            (Some(_), WriteUntil::WindowEnd) => self.open_loop(inputs).await,
            _ => self.closed_loop(inputs).await,
        }
    }

    /// Sends whenever a place is free.
    async fn closed_loop(&mut self, mut inputs: Box<dyn Inputs>) -> Result<()> {
        let mut sent = 0;
        loop {
            match self.until {
                WriteUntil::Batches(batches) if sent == batches => return Ok(()),
                _ => {}
            }
            // Where the other half has failed, the failure is its to tell.
            let Ok(place) = self.pending.reserve().await else {
                return Ok(());
            };
            let now = self.load.clock.now();
            if self.until == WriteUntil::WindowEnd && now >= self.load.window.end {
                return Ok(());
            }
            let first = self.chain.records;
            let batch = self
                .load
                .template
                .make(first, now, &mut self.chain, self.spares.take());
            place.send(Pending {
                first,
                intended: now,
                chain: self.chain,
                frame: batch.frame.clone(),
            });
            inputs.send(&batch).await?;
            sent += 1;
        }
    }

    /// Sends what is due, when it is due or as soon as there is a place.
    async fn open_loop(&mut self, mut inputs: Box<dyn Inputs>) -> Result<()> {
        let (schedule, pacer) = self.load.open_loop.as_ref().expect("asked by the caller");
        let give_up = schedule.end().saturating_add(nanos(LATE_GRACE));
        let mut n = 0;
        // Since when this writer could have sent the next batch.
        let mut free_since = self.load.clock.now();
        while let Some(due) = schedule.due(self.stream, n) {
            pacer.due(self.stream, n).await;
            let pending = self.pending.clone();
            let place = match pending.try_reserve() {
                Ok(place) => {
                    let now = self.load.clock.now();
                    let mut lateness = self.load.meters.lateness.count(self.stream);
                    lateness.latency(now, due.max(free_since), 1);
                    Some(place)
                }
                Err(TrySendError::Closed(())) => return Ok(()),
                Err(TrySendError::Full(())) => tokio::select! {
                    place = pending.reserve() => match place {
                        Ok(place) => Some(place),
                        Err(_) => return Ok(()),
                    },
                    () = self.load.sleep_until(give_up) => None,
                },
            };
            let Some(place) = place else {
                self.count_unsent(n);
                return Ok(());
            };
            let first = self.chain.records;
            let batch = self
                .load
                .template
                .make(first, due, &mut self.chain, self.spares.take());
            place.send(Pending {
                first,
                intended: due,
                chain: self.chain,
                frame: batch.frame.clone(),
            });
            inputs.send(&batch).await?;
            n += 1;
            free_since = self.load.clock.now();
            if free_since >= give_up {
                self.count_unsent(n);
                return Ok(());
            }
        }
        Ok(())
    }

    /// What was due and never sent took at least as long as it has waited by now.
    fn count_unsent(&self, from: u64) {
        let (schedule, _) = self
            .load
            .open_loop
            .as_ref()
            .expect("only where there is a schedule");
        let now = self.load.clock.now();
        let mut unsent = 0;
        let mut acked = self.load.meters.acked.count(self.stream);
        while let Some(due) = schedule.due(self.stream, from + unsent) {
            acked.latency(now, due, self.load.shape.records as u64);
            unsent += 1;
        }
        let total = &self.load.meters.unsent_batches;
        total.fetch_add(unsent, Ordering::Relaxed);
    }
}

async fn receive(
    load: &Load,
    stream: usize,
    mut acks: Box<dyn Acks>,
    mut in_flight: mpsc::Receiver<Pending>,
    spares: &Spares,
) -> Result<()> {
    let records = load.shape.records as u64;
    let bytes = load.shape.bytes() as u64;
    loop {
        let ack = match tokio::time::timeout(load.patience, acks.next()).await {
            Ok(ack) => ack?,
            // Nothing is owed while nothing was due.
            Err(_) if in_flight.is_empty() && !in_flight.is_closed() => continue,
            Err(_) => bail!("no acknowledgement for {:?}", load.patience),
        };
        let pending = match (ack, in_flight.try_recv()) {
            (Some(ack), Ok(pending)) => {
                check(ack, &pending, records)?;
                pending
            }
            (None, Err(TryRecvError::Disconnected)) => return Ok(()),
            (Some(_), Err(_)) => bail!("an acknowledgement of nothing"),
            (None, Ok(pending)) => bail!("the session ended without acknowledging record {}", pending.first),
            (None, Err(TryRecvError::Empty)) => bail!("the endpoint ended the session"),
        };
        let now = load.clock.now();
        {
            let mut acked = load.meters.acked.count(stream);
            acked.batch(now, records, bytes);
            acked.latency(now, pending.intended, records);
        }
        load.streams[stream].advance(pending.chain);
        spares.put(pending.frame);
    }
}

fn check(ack: Ack, pending: &Pending, records: u64) -> Result<()> {
    let expected = Ack {
        start: pending.first,
        end: pending.first + records,
    };
    ensure!(
        ack == expected,
        "records {}..{} were acknowledged as {}..{}",
        expected.start,
        expected.end,
        ack.start,
        ack.end
    );
    Ok(())
}
