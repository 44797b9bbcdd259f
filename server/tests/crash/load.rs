//! Writers and followers that run until their server is killed, and report what they know.

use std::num::NonZeroU32;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::StreamExt;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use s2_sdk::append_session::{AppendSessionConfig, BatchSubmitTicket};
use s2_sdk::error::{AppendConditionFailed, AppendError};
use s2_sdk::types::{
    AppendAck, AppendInput, AppendRecordBatch, AppendRetryPolicy, BasinName, ReadFrom, ReadInput,
    ReadSessionConfig, ReadStart, ReadStop, RetryConfig, S2Config, S2Endpoints,
};
use s2_sdk::{S2, S2Basin, S2Stream};
use tokio::sync::mpsc;
use tokio::time::sleep;

use crate::model::{Attempt, BatchId, Outcome, digest, record};

/// What one writer sends in one round, so that a fast machine does not make the final comparison long.
const ROUND_BYTES_MAX: usize = 6 * 1024 * 1024;

/// How a writer writes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// One S2S session with up to this many batches unanswered.
    Session { unacked_max: u32 },
    /// One call after another.
    Unary,
    /// One call after another, each on condition of the tail it last heard of; others race it.
    Conditional,
}

/// One writer: the same in every round, its batch numbers go on.
#[derive(Debug, Clone, Copy)]
pub struct Writer {
    pub id: u32,
    /// Index of its stream.
    pub stream: usize,
    pub style: Style,
    /// Records per batch, at most.
    pub records_max: u32,
    /// Some records of tens of KiB.
    pub large: bool,
}

/// A client of one server whose every outcome is the outcome of exactly one try.
pub fn client(url: &str) -> Result<S2> {
    let once = RetryConfig::new()
        .with_max_attempts(NonZeroU32::MIN)
        .with_append_retry_policy(AppendRetryPolicy::NoSideEffects);
    let config = S2Config::new("ignored")
        .with_endpoints(S2Endpoints::for_endpoint(url)?)
        .with_connection_timeout(Duration::from_secs(10))
        .with_request_timeout(Duration::from_secs(30))
        .with_retry(once);
    Ok(S2::new(config)?)
}

/// The basin that all tests here use.
pub fn basin(s2: &S2) -> Result<S2Basin> {
    Ok(s2.basin(basin_name()?))
}

pub fn basin_name() -> Result<BasinName> {
    "crash-basin".parse().context("basin name")
}

/// Appends until the server is gone. Returns its attempts in the order they were sent.
pub async fn write(
    stream: S2Stream,
    seed: u64,
    writer: Writer,
    first_number: u64,
    round: u64,
) -> Result<Vec<Attempt>> {
    let source = Source {
        rng: SmallRng::seed_from_u64(seed ^ (round << 32) ^ u64::from(writer.id)),
        seed,
        writer,
        number: first_number,
        bytes: 0,
    };
    match writer.style {
        Style::Session { unacked_max } => session(stream, source, unacked_max).await,
        Style::Unary => unary(stream, source, None).await,
        Style::Conditional => {
            let tail = stream.check_tail().await.map(|tail| tail.seq_num);
            // The kill may come before the first answer.
            match tail {
                Ok(tail) => unary(stream, source, Some(tail)).await,
                Err(_) => Ok(Vec::new()),
            }
        }
    }
}

/// Follows a stream until the server is gone. Returns the digests of the records it saw, from `first_seq` on.
pub async fn follow(stream: S2Stream, first_seq: u64) -> Result<Vec<u64>> {
    let mut seen = Vec::new();
    let start = ReadStart::new()
        .with_from(ReadFrom::SeqNum(first_seq))
        .with_clamp_to_tail(true);
    let input = ReadInput::new().with_start(start).with_stop(ReadStop::new());
    let Ok(mut session) = stream.read_session(input, ReadSessionConfig::new()).await else {
        return Ok(seen);
    };
    while let Some(Ok(batch)) = session.next().await {
        for record in &batch.records {
            let due = first_seq + seen.len() as u64;
            ensure!(
                record.seq_num == due,
                "a follower got record {} where {due} was due",
                record.seq_num
            );
            seen.push(digest(record));
        }
    }
    Ok(seen)
}

/// The batches of one writer in one round.
struct Source {
    rng: SmallRng,
    seed: u64,
    writer: Writer,
    number: u64,
    bytes: usize,
}

impl Source {
    /// The next batch, or `None` when this round's share is sent.
    fn next(&mut self) -> Result<Option<(Attempt, AppendInput)>> {
        if self.bytes >= ROUND_BYTES_MAX {
            return Ok(None);
        }
        let id = BatchId {
            writer: self.writer.id,
            number: self.number,
        };
        self.number += 1;
        // Mostly a few records, now and then as many as this writer may.
        let count = match self.rng.random_range(0..4) {
            0 => self.rng.random_range(1..=self.writer.records_max),
            _ => self.rng.random_range(1..=self.writer.records_max.min(8)),
        };
        let records: Vec<_> = (0..count)
            .map(|index| record(self.seed, id, index, count, self.writer.large))
            .collect();
        self.bytes += records.iter().map(|record| record.body().len()).sum::<usize>();
        let input = AppendInput::new(AppendRecordBatch::try_from_iter(records)?);
        Ok(Some((
            Attempt {
                id,
                count,
                outcome: Outcome::Unknown,
            },
            input,
        )))
    }

    /// Now and then nothing is in flight: an idle writer's next batch takes another path than a busy one's.
    async fn pause(&mut self) {
        match self.rng.random_range(0..40) {
            0 => sleep(Duration::from_millis(self.rng.random_range(1..40))).await,
            _ => tokio::task::yield_now().await,
        }
    }
}

fn acked(ack: &AppendAck) -> Outcome {
    Outcome::Acked {
        start: ack.start.seq_num,
        end: ack.end.seq_num,
    }
}

async fn session(stream: S2Stream, mut source: Source, unacked_max: u32) -> Result<Vec<Attempt>> {
    let unacked = NonZeroU32::new(unacked_max).context("a session needs room for a batch")?;
    let session = stream.append_session(AppendSessionConfig::new().with_max_unacked_batches(unacked));
    let (sent, mut tickets) = mpsc::unbounded_channel::<(Attempt, BatchSubmitTicket)>();
    let collector = tokio::spawn(async move {
        let mut attempts: Vec<Attempt> = Vec::new();
        let mut failed = false;
        while let Some((mut attempt, ticket)) = tickets.recv().await {
            match ticket.await {
                Ok(ack) => {
                    ensure!(
                        !failed,
                        "a session acknowledged a batch after it had failed an earlier one"
                    );
                    attempt.outcome = acked(&ack);
                }
                Err(_) => failed = true,
            }
            attempts.push(attempt);
        }
        Ok(attempts)
    });
    while let Some((attempt, input)) = source.next()? {
        let Ok(ticket) = session.submit(input).await else {
            break;
        };
        if sent.send((attempt, ticket)).is_err() {
            break;
        }
        source.pause().await;
    }
    drop(sent);
    let attempts = collector.await.context("the collector of acks")??;
    drop(session);
    Ok(attempts)
}

async fn unary(stream: S2Stream, mut source: Source, mut condition: Option<u64>) -> Result<Vec<Attempt>> {
    let mut attempts = Vec::new();
    while let Some((mut attempt, mut input)) = source.next()? {
        if let Some(tail) = condition {
            input = input.with_match_seq_num(tail);
        }
        let answer = stream.append(input).await;
        attempt.outcome = match &answer {
            Ok(ack) => acked(ack),
            Err(error) if error.has_no_side_effects() => Outcome::Refused,
            Err(_) => Outcome::Unknown,
        };
        attempts.push(attempt);
        match answer {
            Ok(ack) => condition = condition.map(|_| ack.tail.seq_num),
            Err(AppendError::ConditionFailed(AppendConditionFailed::SeqNumMismatch(tail)))
                if condition.is_some() =>
            {
                condition = Some(tail);
            }
            Err(_) => break,
        }
        source.pause().await;
    }
    Ok(attempts)
}
