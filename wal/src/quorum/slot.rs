//! One chunk on its way to all zones.

use std::sync::Arc;

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use millrace_api::bug::{Bug, planted};
use millrace_api::id::ChunkSeq;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

use super::health::Admission;
use super::metrics::count;
use super::writer::{EpochShared, FencedBy, WriteEvent};
use super::{WalOptions, ZoneState};
use crate::format::{CHUNK_HEADER_LEN, Chunk, decode_header};
use crate::zone::{CreateOutcome, ReadRange, StoreError};

/// Reads of an unreadable object before it is believed to be one.
const UNREADABLE_AFTER: u32 = 3;

/// How a zone's part of the work ended.
enum ZoneEnd {
    /// The object stands there and is ours.
    Created,
    Fenced(FencedBy),
    /// Durable without this zone; given up.
    Dropped,
}

/// What is under a key that was taken.
enum Found {
    Ours,
    /// Nothing: `Exists` was a conflict, not a fact.
    Nothing,
    Other(FencedBy),
}

/// Creates `chunk` in all zones at once, reports it durable at the quorum, and goes on with the zones that lag for as
/// long as their bounds allow. Ends at once when the writer is closed.
pub(super) async fn run_slot(shared: Arc<EpochShared>, chunk: Arc<Chunk>) {
    tokio::select! {
        biased;
        () = shared.closed() => {}
        () = drive(&shared, &chunk) => {}
    }
}

async fn drive(shared: &EpochShared, chunk: &Chunk) {
    let submitted = Instant::now();
    let slot = chunk.meta().id.slot;
    let durable = watch::Sender::new(false);
    let attempt = Attempt {
        shared,
        chunk,
        slot,
        key: chunk.meta().id.key(),
        submitted,
    };
    let mut zones: FuturesUnordered<_> = shared
        .wal
        .inner
        .zones
        .iter()
        .map(|zone| attempt.run(zone, durable.subscribe()))
        .collect();
    let mut created = 0;
    while let Some(end) = zones.next().await {
        match end {
            ZoneEnd::Created => {
                created += 1;
                let enough = match planted(Bug::DurableBelowQuorum) {
                    true => 1,
                    false => shared.wal.quorum(),
                };
                if created == enough {
                    shared.durable(chunk, submitted);
                    durable.send_replace(true);
                }
            }
            ZoneEnd::Fenced(by) => return shared.fence(slot, by),
            ZoneEnd::Dropped => {}
        }
    }
}

struct Attempt<'a> {
    shared: &'a EpochShared,
    chunk: &'a Chunk,
    slot: ChunkSeq,
    key: String,
    submitted: Instant,
}

impl Attempt<'_> {
    async fn run(&self, zone: &ZoneState, durable: watch::Receiver<bool>) -> ZoneEnd {
        tokio::select! {
            biased;
            end = self.until_answered(zone, durable.clone()) => end,
            () = self.lagged_too_long(zone, durable) => self.dropped(zone),
        }
    }

    fn dropped(&self, zone: &ZoneState) -> ZoneEnd {
        count(
            &self.shared.wal.metrics().zones[zone.index].laggards_dropped_total,
            1,
        );
        ZoneEnd::Dropped
    }

    /// Ends when the chunk is durable without this zone and the bounds for laggards are reached.
    async fn lagged_too_long(&self, zone: &ZoneState, mut durable: watch::Receiver<bool>) {
        let options = self.shared.wal.options();
        if durable.wait_for(|durable| *durable).await.is_err() {
            return;
        }
        let Some(_room) = zone
            .health
            .lag(self.chunk.encoded_len(), options.laggard_bytes_max)
        else {
            return;
        };
        sleep(options.laggard_age_max).await;
    }

    /// The same key and the same bytes, again and again, until the zone says what is.
    async fn until_answered(&self, zone: &ZoneState, mut durable: watch::Receiver<bool>) -> ZoneEnd {
        let mut attempt = 0;
        loop {
            let admission = tokio::select! {
                biased;
                admission = zone.health.admit() => admission,
                // The zone fails, and another chunk is finding out whether it still does.
                Ok(_) = durable.wait_for(|durable| *durable) => return self.dropped(zone),
            };
            let error = match self.create(zone, admission).await {
                Ok(CreateOutcome::Created) => return ZoneEnd::Created,
                Ok(CreateOutcome::Exists) if planted(Bug::ExistsIsLanded) => return ZoneEnd::Created,
                Ok(CreateOutcome::Exists) => match self.find_out(zone).await {
                    Found::Ours => return ZoneEnd::Created,
                    Found::Other(by) => return ZoneEnd::Fenced(by),
                    Found::Nothing => None,
                },
                Err(error) => Some(error),
            };
            attempt += 1;
            if let Some(error) = error {
                self.log(zone, attempt, &error);
                if !*durable.borrow() {
                    let since = self.submitted.elapsed();
                    self.shared.report(WriteEvent::Retrying {
                        slot: self.slot,
                        error,
                        since,
                    });
                }
            }
            if !zone.health.failing() {
                sleep(self.shared.backoff(attempt)).await;
            }
        }
    }

    async fn create(&self, zone: &ZoneState, admission: Admission<'_>) -> Result<CreateOutcome, StoreError> {
        let limit = WalOptions::timeout(self.shared.wal.options().create_timeout, self.chunk.encoded_len());
        let started = Instant::now();
        let result = match timeout(limit, zone.store.create(&self.key, &self.chunk.payload)).await {
            Ok(result) => result,
            Err(_) => Err(StoreError::Retry(format!("no answer within {limit:?}"))),
        };
        let metrics = &self.shared.wal.metrics().zones[zone.index];
        match &result {
            Ok(outcome) => {
                admission.answered();
                if *outcome == CreateOutcome::Created {
                    metrics.create.observe(started.elapsed());
                    count(&metrics.created_bytes, self.chunk.encoded_len());
                } else {
                    count(&metrics.exists_total, 1);
                }
            }
            Err(_) => {
                admission.failed();
                count(&metrics.create_failed_total, 1);
            }
        }
        result
    }

    /// Looks at what stands where our chunk should be, until that is known.
    async fn find_out(&self, zone: &ZoneState) -> Found {
        let mut attempt = 0;
        let mut unreadable = 0;
        loop {
            let range = ReadRange::Range(0..CHUNK_HEADER_LEN as u64);
            match self
                .shared
                .wal
                .inner
                .read(zone, &self.key, range, CHUNK_HEADER_LEN as u64)
                .await
            {
                Ok(None) => return Found::Nothing,
                Ok(Some(bytes)) => match decode_header(&bytes) {
                    Ok(header) if header == self.chunk.header => return Found::Ours,
                    Ok(header) => return Found::Other(FencedBy::Object(header)),
                    Err(error) => {
                        unreadable += 1;
                        if unreadable == UNREADABLE_AFTER {
                            return Found::Other(FencedBy::Unreadable(error.to_string()));
                        }
                    }
                },
                Err(error) => self.log(zone, attempt, &error),
            }
            attempt += 1;
            sleep(self.shared.backoff(attempt)).await;
        }
    }

    fn log(&self, zone: &ZoneState, attempt: u32, error: &StoreError) {
        tracing::debug!(
            channel = %self.shared.channel, epoch = %self.shared.epoch, slot = %self.slot,
            zone = zone.index, attempt, %error, "zone did not answer; trying again"
        );
    }
}
