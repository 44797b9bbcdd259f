//! One sequential client: does one operation after the other and writes down each.

use std::time::Duration;

use millrace_client::{AppendAck, Batch, Error, FencingToken, ReadOptions, Record, Stream};
use rand::Rng;
use rand::rngs::SmallRng;
use tokio::time::{Instant, sleep};

use super::{Findings, Known, Prefix, Pulse, Setting, Track};
use crate::history::{Append, Finish, Start, record_hash};
use crate::recorder::{Client, Recorder};

/// Records of one batch, at most.
const RECORDS_MAX: usize = 8;
/// Batches of one read, at most: a stream that grows faster than it is read never ends.
const READ_BATCHES_MAX: usize = 200;
/// After an operation that failed, so that a node that refuses is not asked in a tight loop.
const AFTER_FAILURE: Duration = Duration::from_millis(50);

/// See the module.
pub struct Actor {
    number: u64,
    name: String,
    recorder: Recorder,
    client: Client,
    /// The stream through each node.
    nodes: Vec<Stream>,
    /// What it has read so far.
    prefix: Prefix,
    known: Known,
    /// Where it thinks that the stream ends.
    pub tail: u64,
    /// Decides what it does.
    pub rng: SmallRng,
    /// Reads always go on where the last one ended: what is before may be trimmed.
    pub reads_on: bool,
    written: u64,
    pulse: Pulse,
    findings: Findings,
    /// The token that was in force by what refused the last append, if one did.
    pub in_force: Option<String>,
}

/// What an append asks for besides its records.
#[derive(Debug, Clone, Default)]
pub struct Conditions {
    /// Only at this sequence number.
    pub match_seq_num: Option<u64>,
    /// Only under this token.
    pub token: Option<String>,
    /// The batch is a fence that puts this token in force.
    pub sets: Option<String>,
}

impl Actor {
    /// The actor of this number on the stream.
    pub fn new(setting: &Setting, track: &Track, number: u64) -> Result<Self, Error> {
        Ok(Self {
            number,
            name: format!("{}/{number}", track.stream),
            recorder: track.recorder.clone(),
            client: track.recorder.client(),
            nodes: setting.streams(&track.stream)?,
            prefix: Prefix::default(),
            known: track.known.clone(),
            tail: 0,
            rng: setting.rng(number),
            reads_on: false,
            written: 0,
            pulse: setting.pulse.clone(),
            findings: track.findings.clone(),
            in_force: None,
        })
    }

    /// As it was made with.
    pub fn number(&self) -> u64 {
        self.number
    }

    /// Bodies from now on are those of this life of the stream's name.
    pub fn begin_life(&mut self, life: u64) {
        let stream = self.nodes.first().map_or("", |stream| stream.name());
        self.name = format!("{stream}/{}/life-{life}", self.number);
    }

    /// The stream through a node: mostly the actor's own, so that a node that hangs does not stop everybody.
    pub fn node(&mut self) -> Stream {
        let home = self.number as usize % self.nodes.len();
        let node = match self.rng.random_ratio(1, 20) {
            true => self.rng.random_range(0..self.nodes.len()),
            false => home,
        };
        self.nodes[node].clone()
    }

    /// How much of the stream it has read.
    pub fn read_so_far(&self) -> u64 {
        self.prefix.len()
    }

    /// Bodies that nobody else writes.
    pub fn bodies(&mut self) -> Vec<String> {
        let count = self.rng.random_range(1..=RECORDS_MAX);
        (0..count).map(|_| self.body()).collect()
    }

    fn body(&mut self) -> String {
        self.written += 1;
        let padding = self.rng.random_range(0..100);
        format!("{}/{}/{}", self.name, self.written, "x".repeat(padding))
    }

    /// Appends a few records, or a fence.
    pub async fn append(&mut self, conditions: Conditions) -> Finish {
        let (bodies, records): (Vec<String>, Vec<Record>) = match &conditions.sets {
            Some(token) => {
                let fence = Record::new(token.clone()).header("", "fence");
                (vec![token.clone()], vec![fence])
            }
            None => {
                let bodies = self.bodies();
                let records = bodies.iter().map(|body| Record::new(body.clone())).collect();
                (bodies, records)
            }
        };
        self.append_records(records, &bodies, conditions).await
    }

    /// Appends these records, whose bodies are `bodies`.
    pub async fn append_records(
        &mut self,
        records: Vec<Record>,
        bodies: &[impl AsRef<[u8]>],
        conditions: Conditions,
    ) -> Finish {
        let hashes = bodies.iter().map(|body| record_hash(body.as_ref()));
        let append = Append {
            set_fencing_token: conditions.sets.clone(),
            fencing_token: conditions.token.clone(),
            match_seq_num: conditions.match_seq_num,
            ..Append::of(hashes.collect())
        };
        let batch = batch(records, &conditions);
        let stream = self.node();
        let open = self.client.start(Start::Append(append));
        // A refusal that names the next sequence number has seen the tail.
        let mut observer = conditions.match_seq_num.map(|_| {
            let mut observer = self.recorder.client();
            let open = observer.start(Start::CheckTail);
            (observer, open)
        });
        let answer = match batch {
            Ok(batch) => stream.append(batch).await,
            Err(error) => Err(error),
        };
        if let Some((mut observer, open)) = observer.take() {
            let seen = match &answer {
                Err(Error::SeqNumMismatch { next }) => Finish::CheckTailSuccess { tail: *next },
                _ => Finish::CheckTailFailure,
            };
            observer.finish(open, seen);
        }
        if let Err(Error::SeqNumMismatch { next }) = &answer {
            self.tail = *next;
        }
        self.in_force = match &answer {
            Err(Error::FencingTokenMismatch { in_force }) => Some(in_force.to_string()),
            _ => None,
        };
        let finish = appended(&answer);
        self.client.finish(open, finish);
        self.must_be_there(answer.err());
        self.settle(finish).await
    }

    /// Asks for the tail.
    pub async fn check_tail(&mut self) -> Finish {
        let stream = self.node();
        let open = self.client.start(Start::CheckTail);
        let answer = stream.check_tail().await;
        let finish = match &answer {
            Ok(tail) => Finish::CheckTailSuccess { tail: tail.seq_num },
            Err(_) => Finish::CheckTailFailure,
        };
        self.client.finish(open, finish);
        self.must_be_there(answer.err());
        self.settle(finish).await
    }

    /// Reads to the tail: on from what it has read before, or again from somewhere in it, or from the first record.
    pub async fn read(&mut self) -> Finish {
        if !self.reads_on && self.rng.random_ratio(1, 8) {
            // All of it, the last half, quarter, eighth: what is long is not always read again as a whole.
            let again = self.prefix.len() >> self.rng.random_range(0..8);
            self.prefix.truncate(self.prefix.len() - again);
        }
        let stream = self.node();
        let open = self.client.start(Start::Read);
        let answer = read_to_tail(&stream, &mut self.prefix).await;
        let finish = match &answer {
            Ok(Some(finish)) => *finish,
            Ok(None) | Err(_) => Finish::ReadFailure,
        };
        self.client.finish(open, finish);
        self.must_be_there(answer.err());
        self.known.learn(&self.prefix);
        self.settle(finish).await
    }

    /// Clients come after the stream was created, and go before it is deleted.
    fn must_be_there(&self, error: Option<Error>) {
        if let Some(error) = error.filter(|error| error.code() == Some("stream_not_found")) {
            self.findings.add(format!("the stream was not there: {error}"));
        }
    }

    /// The first record that is there; `None` if there is none, or no answer.
    pub async fn first(&mut self) -> Option<u64> {
        let stream = self.node();
        let answer = stream.read(ReadOptions::from_seq_num(0).count(1)).await;
        answer.ok()?.into_iter().next().map(|record| record.seq_num)
    }

    /// Any of the three.
    pub async fn act(&mut self) -> Finish {
        match self.rng.random_range(0..10) {
            0..5 => self.append(Conditions::default()).await,
            5..8 => self.read().await,
            _ => self.check_tail().await,
        }
    }

    async fn settle(&mut self, finish: Finish) -> Finish {
        match finish {
            Finish::AppendSuccess { tail } => {
                self.pulse.beat();
                self.tail = tail;
            }
            Finish::ReadSuccess { tail, .. } | Finish::CheckTailSuccess { tail } => self.tail = tail,
            Finish::AppendIndefiniteFailure | Finish::ReadFailure | Finish::CheckTailFailure => {
                sleep(AFTER_FAILURE).await;
            }
            Finish::AppendDefiniteFailure => sleep(AFTER_FAILURE / 10).await,
        }
        finish
    }
}

fn batch(records: Vec<Record>, conditions: &Conditions) -> Result<Batch, Error> {
    let mut batch = Batch::new(records)?;
    if let Some(seq_num) = conditions.match_seq_num {
        batch = batch.match_seq_num(seq_num);
    }
    if let Some(token) = &conditions.token {
        let token = FencingToken::new(token).map_err(|error| Error::Invalid(error.to_string().into()))?;
        batch = batch.fencing_token(&token);
    }
    Ok(batch)
}

/// What the answer to an append says, no more and no less.
pub fn appended(answer: &Result<AppendAck, Error>) -> Finish {
    match answer {
        Ok(ack) => Finish::AppendSuccess {
            tail: ack.end.seq_num,
        },
        Err(error) if error.may_have_happened() => Finish::AppendIndefiniteFailure,
        Err(_) => Finish::AppendDefiniteFailure,
    }
}

/// Reads on from `prefix` until there is nothing behind; what that says of the stream, `None` if it grows too fast.
///
/// A tail before the end of `prefix` is a stale one; the answer says so as it is.
///
/// # Errors
/// The first failure. What was read until then is in `prefix`.
pub async fn read_to_tail(stream: &Stream, prefix: &mut Prefix) -> Result<Option<Finish>, Error> {
    let mut timestamp = 0;
    for _ in 0..READ_BATCHES_MAX {
        let batch = match stream.read(ReadOptions::from_seq_num(prefix.len())).await {
            Ok(batch) => batch,
            Err(Error::PastTail { tail }) => return Ok(Some(seen(prefix, tail.seq_num))),
            Err(error) => return Err(error),
        };
        let (caught_up, tail) = (batch.is_caught_up(), batch.tail());
        for record in batch {
            if record.seq_num != prefix.len() {
                // A record is missing: nothing that comes has the hash of a whole stream.
                return Ok(None);
            }
            if record.timestamp < timestamp {
                let falls = format!("the timestamp of record {} falls", record.seq_num);
                return Err(Error::Corrupt(falls.into()));
            }
            timestamp = record.timestamp;
            prefix.push(record_hash(&record.body));
        }
        if let (true, Some(tail)) = (caught_up, tail) {
            return Ok(Some(seen(prefix, tail.seq_num)));
        }
    }
    Ok(None)
}

fn seen(prefix: &Prefix, tail: u64) -> Finish {
    Finish::ReadSuccess {
        tail,
        stream_hash: prefix.hash_at(tail).unwrap_or_else(|| prefix.hash()),
    }
}

/// Runs actors 0 to `count` on the stream, each with `step` again and again, until it is time to end.
pub async fn run_all(
    setting: &Setting,
    track: &Track,
    count: u64,
    step: impl AsyncFn(&mut Actor) + Clone,
) -> Result<(), Error> {
    let actors = (0..count)
        .map(|number| Actor::new(setting, track, number))
        .collect::<Result<Vec<_>, _>>()?;
    let running = actors.into_iter().map(|mut actor| {
        let step = step.clone();
        async move {
            while !setting.is_over() {
                step(&mut actor).await;
                let mut rng = actor.rng.clone();
                setting.rest(&mut rng).await;
                actor.rng = rng;
            }
        }
    });
    futures::future::join_all(running).await;
    Ok(())
}

/// Waits until the stop, or so long.
pub async fn wait(setting: &Setting, time: Duration) {
    let until = Instant::now() + time;
    while !setting.is_over() && Instant::now() < until {
        sleep(Duration::from_millis(20).min(time)).await;
    }
}
