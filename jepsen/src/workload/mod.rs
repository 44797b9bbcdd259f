//! What clients do while faults happen: one file for each kind.
//!
//! A workload runs until it is told to stop and then lets its requests come to their ends. What it does is decided by
//! its seed; when, by the system under test. It needs nothing but clients, so that it runs against real processes and
//! against simulated ones alike.

pub mod actor;
pub mod fenced;
pub mod followers;
pub mod many;
pub mod matched;
pub mod plain;
pub mod recreate;
pub mod sessions;
pub mod trims;
pub mod watched;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use millrace_client::{AppendRetry, Basin, Client, Error, RetryPolicy, Stream, StreamConfig};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use crate::history::{chain_hash, stream_hash};
use crate::recorder::Recorder;

/// The kinds of workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Workload {
    /// Appends, reads and tail checks on one stream.
    Plain,
    /// Appends that race for the next sequence number.
    Matched,
    /// Writers that fence each other off.
    Fenced,
    /// Append sessions with many batches on their way.
    Sessions,
    /// Plain, with readers that follow the tail.
    Followers,
    /// Plain, with trims.
    Trims,
    /// One name, created, used and deleted again and again.
    Recreate,
    /// Many streams on many channels.
    Many,
    /// Streams with clients that append, and others that only look.
    Watched,
}

/// Where a workload runs, and how long.
#[derive(Clone)]
pub struct Setting {
    /// One for each node, which answers for that node alone; see [`client`](client_policy).
    pub basins: Vec<Basin>,
    /// Names of streams begin with it; of another run they begin with something else.
    pub prefix: String,
    /// Decides what is done.
    pub seed: u64,
    /// Mean pause of an actor between two operations.
    pub pause: Duration,
    /// Becomes true when it is time to end.
    pub stop: watch::Receiver<bool>,
    /// Told of each success.
    pub pulse: Pulse,
}

/// One stream as its clients saw it.
#[derive(Debug, Clone)]
pub struct Track {
    /// Its name.
    pub stream: String,
    /// Who did what.
    pub recorder: Recorder,
    /// Records from the first one on, as far as somebody has read them.
    pub known: Known,
    /// Records before this may be gone: the highest trim that was asked for.
    pub trim: Arc<AtomicU64>,
    /// The stream was deleted: nobody can read it any more.
    pub deleted: bool,
    /// What the workload itself found to be wrong.
    pub findings: Findings,
}

/// Things that are wrong, for people.
#[derive(Debug, Clone, Default)]
pub struct Findings(Arc<Mutex<Vec<String>>>);

/// The longest beginning of a stream that is known.
#[derive(Debug, Clone, Default)]
pub struct Known(Arc<Mutex<Prefix>>);

/// The beginning of a stream.
#[derive(Debug, Clone, Default)]
pub struct Prefix {
    /// Of each record's body.
    pub record_hashes: Vec<u64>,
    /// The stream's hash behind each of them.
    stream_hashes: Vec<u64>,
}

/// When something last succeeded, and the longest time without.
#[derive(Debug, Clone)]
pub struct Pulse(Arc<Mutex<(Instant, Duration)>>);

impl Workload {
    /// Runs until [`Setting::stop`]; the streams that it used.
    ///
    /// # Errors
    /// What kept it from starting.
    pub async fn run(self, setting: Setting) -> Result<Vec<Track>, Error> {
        match self {
            Self::Plain => plain::run(setting).await,
            Self::Matched => matched::run(setting).await,
            Self::Fenced => fenced::run(setting).await,
            Self::Sessions => sessions::run(setting).await,
            Self::Followers => followers::run(setting).await,
            Self::Trims => trims::run(setting).await,
            Self::Recreate => recreate::run(setting).await,
            Self::Many => many::run(setting).await,
            Self::Watched => watched::run(setting).await,
        }
    }
}

/// A client's policy under which one operation is one request: nothing is made again, so that what is recorded is what
/// happened. Sessions go on, for their numbers keep what is sent twice from being applied twice.
pub fn client_policy() -> RetryPolicy {
    RetryPolicy {
        attempts_max: 1,
        delay_min: Duration::from_millis(20),
        delay_max: Duration::from_millis(500),
        budget: 1000,
        patience: Duration::from_secs(20),
        appends: AppendRetry::Never,
    }
}

impl Setting {
    /// Randomness of its own for each part.
    pub fn rng(&self, part: u64) -> SmallRng {
        SmallRng::seed_from_u64(self.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(part))
    }

    /// Whether it is time to end.
    pub fn is_over(&self) -> bool {
        *self.stop.borrow()
    }

    /// Sleeps about as long as an actor should between two operations.
    pub async fn rest(&self, rng: &mut SmallRng) {
        let pause = self.pause.mul_f64(2.0 * rng.random::<f64>());
        sleep(pause).await;
    }

    /// The stream of this name through each node.
    pub fn streams(&self, name: &str) -> Result<Vec<Stream>, Error> {
        self.basins.iter().map(|basin| basin.stream(name)).collect()
    }

    /// A new stream; it exists when this returns.
    pub async fn track(&self, name: &str) -> Result<Track, Error> {
        let stream = format!("{}{name}", self.prefix);
        let nodes = self.streams(&stream)?;
        let patience = Instant::now() + Duration::from_secs(30);
        for turn in 0.. {
            match nodes[turn % nodes.len()].ensure(StreamConfig::default()).await {
                Ok(_) => break,
                Err(error) if Instant::now() < patience && error.retryable() => {
                    sleep(Duration::from_millis(100)).await;
                }
                Err(error) => return Err(error),
            }
        }
        Ok(Track::new(stream))
    }

    /// So many new streams, named after their number; they exist when this returns.
    pub async fn tracks(&self, name: &str, count: usize) -> Result<Vec<Track>, Error> {
        let tracks = (0..count).map(async |number| self.track(&format!("{name}-{number}")).await);
        join_all(tracks).await.into_iter().collect()
    }
}

impl Track {
    /// A stream that is empty.
    pub fn new(stream: String) -> Self {
        Self {
            stream,
            recorder: Recorder::new(),
            known: Known::default(),
            trim: Arc::default(),
            deleted: false,
            findings: Findings::default(),
        }
    }

    /// The first sequence number that must be there.
    pub fn first(&self) -> u64 {
        self.trim.load(Ordering::SeqCst)
    }
}

impl Findings {
    /// Adds one.
    pub fn add(&self, text: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    }

    /// All.
    pub fn list(&self) -> Vec<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Known {
    /// What is known now.
    pub fn get(&self) -> Prefix {
        self.lock().clone()
    }

    /// Takes over what is longer than what is known.
    pub fn learn(&self, prefix: &Prefix) {
        let mut known = self.lock();
        if prefix.len() > known.len() {
            known.become_as(prefix);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Prefix> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prefix {
    /// How many records.
    pub fn len(&self) -> u64 {
        self.record_hashes.len() as u64
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.record_hashes.is_empty()
    }

    /// The next record.
    pub fn push(&mut self, record_hash: u64) {
        self.stream_hashes.push(chain_hash(self.hash(), record_hash));
        self.record_hashes.push(record_hash);
    }

    /// The stream's hash behind all of it.
    pub fn hash(&self) -> u64 {
        self.stream_hashes
            .last()
            .copied()
            .unwrap_or_else(|| stream_hash([]))
    }

    /// The stream's hash behind so many records; `None` if that many are not known.
    pub fn hash_at(&self, records: u64) -> Option<u64> {
        match records {
            0 => Some(stream_hash([])),
            records => self
                .stream_hashes
                .get(usize::try_from(records - 1).ok()?)
                .copied(),
        }
    }

    /// Becomes the same as a longer one, of which it mostly is the beginning already.
    fn become_as(&mut self, longer: &Self) {
        let own = self.record_hashes.len();
        match longer.hash_at(self.len()) == Some(self.hash()) {
            true => {
                self.record_hashes.extend_from_slice(&longer.record_hashes[own..]);
                self.stream_hashes.extend_from_slice(&longer.stream_hashes[own..]);
            }
            false => *self = longer.clone(),
        }
    }

    /// Forgets all but so many records.
    pub fn truncate(&mut self, records: u64) {
        let records = usize::try_from(records).unwrap_or(usize::MAX);
        self.record_hashes.truncate(records);
        self.stream_hashes.truncate(records);
    }
}

impl Default for Pulse {
    fn default() -> Self {
        Self(Arc::new(Mutex::new((Instant::now(), Duration::ZERO))))
    }
}

impl Pulse {
    /// Something succeeded.
    pub fn beat(&self) {
        let mut it = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        it.1 = it.1.max(it.0.elapsed());
        it.0 = Instant::now();
    }

    /// Waits for the next success, at most so long.
    pub async fn beats_again(&self, within: Duration) {
        let now = Instant::now();
        let last = || self.0.lock().unwrap_or_else(PoisonError::into_inner).0;
        while last() < now && now.elapsed() < within {
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// The longest time without a success since the last call of this.
    pub fn longest_silence(&self) -> Duration {
        let mut it = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let longest = it.1.max(it.0.elapsed());
        *it = (Instant::now(), Duration::ZERO);
        longest
    }
}

/// A client as workloads use it: see [`client_policy`].
pub fn client(
    builder: millrace_client::ClientBuilder,
    request_timeout: Duration,
    seed: u64,
) -> Result<Client, Error> {
    builder
        .retry(client_policy())
        .request_timeout(request_timeout)
        .connect_timeout(Duration::from_secs(1))
        .seed(seed)
        .build()
}
