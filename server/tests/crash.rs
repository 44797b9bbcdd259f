//! Acknowledged means durable: real processes, killed with SIGKILL under load and started again on the same data.
//!
//! After each restart every stream is read: acknowledged records are there once, in order, where the ack said, byte
//! for byte; anything else is a whole batch or absent; sequence numbers are dense and timestamps never fall; and
//! what a reader saw before the kill is still there. What a kill cannot show is a missing sync (the page cache
//! outlives the process): the stores' own tests hold that.
//!
//! | variable | meaning | default |
//! |---|---|---|
//! | `MILLRACE_CRASH_ROUNDS` | kills | 3 |
//! | `MILLRACE_CRASH_STORE` | `local` or `s3` | `local` |
//! | `MILLRACE_CRASH_S3_URL` | `s3://bucket?endpoint=…`, credentials in `AWS_*` | – |
//! | `MILLRACE_BIN` | the server to test | the one built with the tests |
//! | `MILLRACE_CRASH_SEED` | repeats a run's choices (not its timing) | drawn, printed |

#[path = "crash/load.rs"]
mod load;
#[path = "crash/model.rs"]
mod model;
mod support;
#[path = "crash/two.rs"]
mod two;

use std::future::Future;
use std::path::Path;
use std::pin::pin;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use futures::StreamExt;
use futures::future::join_all;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use s2_sdk::S2Stream;
use s2_sdk::types::{
    EnsureBasinInput, EnsureStreamInput, ReadFrom, ReadInput, ReadLimits, ReadSessionConfig, ReadStart,
    ReadStop,
};
use tokio::time::{Instant, sleep, timeout};

use load::{Style, Writer};
use model::{Attempt, Outcome, StreamModel};
use support::{Node, Scratch, Server};

const STREAMS: [&str; 4] = ["shared", "alone", "large/batches", "contended"];

/// Each stream meets another mix; `contended` has two writers that condition on the tail.
const WRITERS: [Writer; 8] = [
    Writer {
        id: 1,
        stream: 0,
        style: Style::Session { unacked_max: 16 },
        records_max: 40,
        large: false,
    },
    Writer {
        id: 2,
        stream: 0,
        style: Style::Session { unacked_max: 4 },
        records_max: 200,
        large: false,
    },
    Writer {
        id: 3,
        stream: 0,
        style: Style::Unary,
        records_max: 8,
        large: false,
    },
    Writer {
        id: 4,
        stream: 1,
        style: Style::Session { unacked_max: 64 },
        records_max: 4,
        large: false,
    },
    Writer {
        id: 5,
        stream: 2,
        style: Style::Session { unacked_max: 8 },
        records_max: 10,
        large: true,
    },
    Writer {
        id: 6,
        stream: 3,
        style: Style::Conditional,
        records_max: 8,
        large: false,
    },
    Writer {
        id: 7,
        stream: 3,
        style: Style::Conditional,
        records_max: 8,
        large: false,
    },
    Writer {
        id: 8,
        stream: 3,
        style: Style::Session { unacked_max: 2 },
        records_max: 8,
        large: false,
    },
];

/// After a kill every call of a client ends within this, or the client hangs.
const CLIENTS_END_WITHIN: Duration = Duration::from_secs(60);
/// A read of what a round wrote ends within this.
const READ_WITHIN: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn acknowledged_records_survive_kill_9() {
    let rounds = number("MILLRACE_CRASH_ROUNDS").unwrap_or(3);
    let seed = number("MILLRACE_CRASH_SEED").unwrap_or_else(|| SmallRng::from_os_rng().random());
    let scratch = Scratch::new("crash").expect("a directory for the data");
    let node = node(scratch.path(), seed).expect("a store to run on");
    println!(
        "crash: {rounds} rounds on {}, MILLRACE_CRASH_SEED={seed}",
        node.store
    );

    let mut run = Run::new(node, seed);
    match run.all(rounds).await {
        Ok(()) => println!("crash: {}", run.summary()),
        Err(error) => panic!(
            "MILLRACE_CRASH_SEED={seed}, after {}: {error:#}\n{}",
            run.summary(),
            run.node.log_tail()
        ),
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
    )
}

fn node(dir: &Path, seed: u64) -> Result<Node> {
    match std::env::var("MILLRACE_CRASH_STORE").as_deref() {
        Err(_) | Ok("local") => Ok(hasty(Node::local(dir, "node"))),
        Ok("s3") => {
            let url = std::env::var("MILLRACE_CRASH_S3_URL").context("MILLRACE_CRASH_S3_URL is not set")?;
            // A prefix of its own for each run: the bucket may hold earlier ones.
            let run: u32 = SmallRng::from_os_rng().random();
            let (bucket, query) = url.split_once('?').unwrap_or((&url, ""));
            let store = format!(
                "{}/crash-{seed:016x}-{run:08x}?{query}",
                bucket.trim_end_matches('/')
            );
            Ok(hasty(Node::on_store(dir, "node", store)))
        }
        Ok(other) => bail!("MILLRACE_CRASH_STORE is local or s3, not {other}"),
    }
}

/// Flushes, merges, deletes and sweeps all the time.
fn hasty(mut node: Node) -> Node {
    let settings = [
        "--flush-bytes=1MiB",
        "--flush-interval=150ms",
        "--reader-grace=500ms",
        "--housekeeping-interval=500ms",
        "--sweep-interval=1s",
    ];
    node.args.extend(settings.map(Into::into));
    node
}

/// One node through many kills.
struct Run {
    node: Node,
    seed: u64,
    rng: SmallRng,
    streams: Vec<StreamModel>,
    next_number: [u64; WRITERS.len()],
    kills: u64,
    kills_at_start: u64,
    rounds_with_acks: u64,
    tally: Tally,
}

#[derive(Debug, Default, Clone, Copy)]
struct Tally {
    acked: u64,
    unknown: u64,
    refused: u64,
    records: u64,
}

impl Run {
    fn new(node: Node, seed: u64) -> Self {
        Self {
            node,
            seed,
            rng: SmallRng::seed_from_u64(seed),
            streams: STREAMS
                .iter()
                .map(|name| StreamModel::new((*name).to_owned(), seed))
                .collect(),
            next_number: [1; WRITERS.len()],
            kills: 0,
            kills_at_start: 0,
            rounds_with_acks: 0,
            tally: Tally::default(),
        }
    }

    async fn all(&mut self, rounds: u64) -> Result<()> {
        let mut server = self.node.start().await?;
        self.create(&server).await?;
        for round in 1..=rounds {
            server = self
                .round(server, round)
                .await
                .with_context(|| format!("round {round}"))?;
        }
        // An idle kill, then the whole of every stream once more, through the other way to read.
        server.kill().await?;
        let server = self.node.start().await?;
        self.compare_all(&server).await.context("the final comparison")?;
        let status = server.terminate().await?;
        ensure!(status.success(), "a graceful stop ended with {status}");
        self.check_store().await.context("what is stored")?;
        ensure!(
            self.rounds_with_acks * 2 >= rounds,
            "only {} of {rounds} rounds acknowledged anything: the kills come too early to show much",
            self.rounds_with_acks
        );
        Ok(())
    }

    async fn create(&self, server: &Server) -> Result<()> {
        let s2 = load::client(server.url())?;
        s2.ensure_basin(EnsureBasinInput::new(load::basin_name()?))
            .await?;
        for name in STREAMS {
            load::basin(&s2)?
                .ensure_stream(EnsureStreamInput::new(name.parse()?))
                .await?;
        }
        Ok(())
    }

    /// Load, kill, restart, read back.
    async fn round(&mut self, server: Server, round: u64) -> Result<Server> {
        let began = Instant::now();
        let (attempts, observed, killed_after) = self.load_and_kill(server, round).await?;
        let restarting = Instant::now();
        let server = self.restart().await?;
        let recovered_in = restarting.elapsed();

        let basin = load::basin(&load::client(server.url())?)?;
        let mut line = Tally::default();
        for (index, attempts) in attempts.into_iter().enumerate() {
            count(&attempts, &mut line);
            let stream = basin.stream(STREAMS[index].parse()?);
            let first = self.streams[index].next_seq();
            line.records += within(READ_WITHIN, settle(&stream, &mut self.streams[index], attempts)).await?;
            self.streams[index].check_observed(first, &observed[index])?;
        }
        self.kills += 1;
        self.rounds_with_acks += u64::from(line.acked > 0);
        self.tally.acked += line.acked;
        self.tally.unknown += line.unknown;
        self.tally.refused += line.refused;
        self.tally.records += line.records;
        println!(
            "crash: round {round}: killed after {killed_after:?}, ready again in {recovered_in:?}, batches acked {} \
             unknown {} refused {}, records {}, {:?}",
            line.acked,
            line.unknown,
            line.refused,
            line.records,
            began.elapsed()
        );
        Ok(server)
    }

    /// Returns per stream what its writers know and what its follower saw.
    async fn load_and_kill(
        &mut self,
        server: Server,
        round: u64,
    ) -> Result<(Vec<Vec<Attempt>>, Vec<Vec<u64>>, Duration)> {
        let s2 = load::client(server.url())?;
        let basin = load::basin(&s2)?;
        let followers: Vec<_> = self
            .streams
            .iter()
            .map(|model| {
                Ok(tokio::spawn(load::follow(
                    basin.stream(model.name.parse()?),
                    model.next_seq(),
                )))
            })
            .collect::<Result<_>>()?;
        let writers: Vec<_> = WRITERS
            .iter()
            .zip(self.next_number)
            .map(|(writer, number)| {
                let stream = basin.stream(STREAMS[writer.stream].parse()?);
                Ok(tokio::spawn(load::write(
                    stream, self.seed, *writer, number, round,
                )))
            })
            .collect::<Result<_>>()?;

        let load_for = Duration::from_millis(self.rng.random_range(100..1_500));
        sleep(load_for).await;
        server.kill().await?;

        let (written, seen) = within(CLIENTS_END_WITHIN, async {
            Ok((join_all(writers).await, join_all(followers).await))
        })
        .await
        .context("clients of a killed server")?;

        let mut attempts: Vec<Vec<Attempt>> = vec![Vec::new(); STREAMS.len()];
        for (index, written) in written.into_iter().enumerate() {
            let written = written.context("a writer")??;
            if let Some(last) = written.last() {
                self.next_number[index] = last.id.number + 1;
            }
            // A batch may have been made and never sent; its number is not used again either.
            self.next_number[index] += 1;
            attempts[WRITERS[index].stream].extend(written);
        }
        let observed = seen
            .into_iter()
            .map(|seen| seen.context("a follower")?)
            .collect::<Result<_>>()?;
        Ok((attempts, observed, load_for))
    }

    /// Starts the node again; now and then it is killed once more while it still recovers.
    async fn restart(&mut self) -> Result<Server> {
        while self.rng.random_range(0..5) == 0 {
            let process = self.node.spawn()?;
            sleep(Duration::from_millis(self.rng.random_range(0..400))).await;
            process.kill().await?;
            self.kills += 1;
            self.kills_at_start += 1;
        }
        self.node.start().await
    }

    async fn compare_all(&self, server: &Server) -> Result<()> {
        let basin = load::basin(&load::client(server.url())?)?;
        for model in &self.streams {
            let stream = basin.stream(model.name.parse()?);
            let tail = stream.check_tail().await?;
            ensure!(
                tail.seq_num == model.next_seq(),
                "{}: tail {tail:?}, records {}",
                model.name,
                model.next_seq()
            );
            let mut next = 0;
            while next < model.next_seq() {
                let start = ReadStart::new().with_from(ReadFrom::SeqNum(next));
                let batch = within(READ_WITHIN, async {
                    Ok(stream.read(ReadInput::new().with_start(start)).await?)
                })
                .await
                .with_context(|| format!("{} from {next}", model.name))?;
                ensure!(
                    !batch.records.is_empty(),
                    "{}: nothing at {next}, before the tail",
                    model.name
                );
                for record in &batch.records {
                    model.check_settled(record, next)?;
                    next += 1;
                }
            }
        }
        Ok(())
    }

    /// Everything that metadata name is there, and one sweep leaves nothing else.
    async fn check_store(&self) -> Result<()> {
        for command in [&["verify"][..], &["sweep"], &["verify"]] {
            let done = self.node.storage(command).await?;
            ensure!(done.status.success(), "{command:?}: {done:?}");
        }
        let left = self.node.storage(&["sweep", "--dry-run"]).await?;
        let said = String::from_utf8_lossy(&left.stdout);
        ensure!(said.contains(": 0 orphans"), "after a sweep: {said}");
        Ok(())
    }

    fn summary(&self) -> String {
        let Tally {
            acked,
            unknown,
            refused,
            records,
        } = self.tally;
        format!(
            "{} kills ({} while starting), {acked} batches acknowledged and found, {unknown} unknown, {refused} \
             refused, {records} records verified",
            self.kills, self.kills_at_start
        )
    }
}

fn count(attempts: &[Attempt], tally: &mut Tally) {
    for attempt in attempts {
        match attempt.outcome {
            Outcome::Acked { .. } => tally.acked += 1,
            Outcome::Unknown => tally.unknown += 1,
            Outcome::Refused => tally.refused += 1,
        }
    }
}

/// Reads what the last round left on a stream and holds it against what its clients know.
async fn settle(stream: &S2Stream, model: &mut StreamModel, attempts: Vec<Attempt>) -> Result<u64> {
    let tail = stream.check_tail().await?;
    let first = model.next_seq();
    ensure!(
        tail.seq_num >= first,
        "{}: the tail fell from {first} to {}",
        model.name,
        tail.seq_num
    );
    let mut settling = model.settle(attempts);
    if tail.seq_num > first {
        let limits = ReadLimits::new().with_count(usize::try_from(tail.seq_num - first)?);
        let input = ReadInput::new()
            .with_start(ReadStart::new().with_from(ReadFrom::SeqNum(first)))
            .with_stop(ReadStop::new().with_limits(limits));
        let mut session = stream.read_session(input, ReadSessionConfig::new()).await?;
        while let Some(batch) = session.next().await {
            for record in &batch?.records {
                settling.push(record)?;
            }
        }
    }
    let taken = settling.finish()?;
    ensure!(
        model.next_seq() == tail.seq_num,
        "{}: the tail is {}, reading ended at {}",
        model.name,
        tail.seq_num,
        model.next_seq()
    );
    ensure!(
        tail.timestamp == model.last_timestamp(),
        "{}: the tail's timestamp is {}, the last record's {}",
        model.name,
        tail.timestamp,
        model.last_timestamp()
    );
    Ok(taken)
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    timeout(limit, pin!(work))
        .await
        .with_context(|| format!("not done after {limit:?}"))?
}
