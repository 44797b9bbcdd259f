//! A node that dies while it flushes, merges, packs, drops or deletes loses nothing, whichever call to the store was
//! its last, and leaves nothing behind that a sweep does not find.
//!
//! `MILLRACE_FAULT_ROUNDS` says how often a node dies at each point at least; the default is 1.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use bytesize::ByteSize;
use millrace_api::name::StreamName;
use millrace_server::env::Env;
use millrace_wal::fault::{Faults, Op, Rule};
use tokio::time::{sleep, timeout};

use crate::fixture::{Running, stream};
use crate::segments::{eventually, files, hasty, read_all, settled, tail, trim};
use crate::stored::Stored;

/// Batches of one life: enough flushes for a merge.
const BATCHES: u64 = 10;
/// A life that has not met its last call by then has none.
const LIFE: Duration = Duration::from_secs(3);
/// Records of the trimmed stream that stay, at most, when a life begins: more than one of an index.
const TRIMMED_KEEPS: u64 = 24;
/// Lives for one death at most: not every one comes to every point.
const LIVES_PER_DEATH: u64 = 10;

/// A step of the work on segments, which ends with a call to the store. A node dies before the call takes effect, or
/// after it has and before metadata hear of it.
#[derive(Debug, Clone, Copy)]
enum Step {
    FlushWrites,
    MergeReads,
    MergeWrites,
    SortReads,
    SortWrites,
    PackWrites,
    UnpackReads,
    ObjectGoes,
    ChunkGoes,
}

impl Step {
    const ALL: [Step; 9] = [
        Step::FlushWrites,
        Step::MergeReads,
        Step::MergeWrites,
        Step::SortReads,
        Step::SortWrites,
        Step::PackWrites,
        Step::UnpackReads,
        Step::ObjectGoes,
        Step::ChunkGoes,
    ];

    fn rule(self) -> Rule {
        let of_origin = |op: Op, origins: &'static [&'static str]| {
            let is_one =
                |key: &str| key.starts_with("segments/") && origins.iter().any(|it| key.contains(it));
            Rule::default().op(op).key(is_one)
        };
        match self {
            Self::FlushWrites => of_origin(Op::Upload, &["/f"]),
            Self::MergeReads | Self::SortReads => of_origin(Op::Get, &["/f", "/m"]),
            Self::MergeWrites | Self::SortWrites => of_origin(Op::Upload, &["/m"]),
            Self::PackWrites => of_origin(Op::Upload, &["/i"]),
            Self::UnpackReads => of_origin(Op::Get, &["/i"]),
            Self::ObjectGoes => of_origin(Op::Delete, &["/"]),
            Self::ChunkGoes => Rule::default().op(Op::Delete).key(|key| key.starts_with("wal/")),
        }
    }

    /// Calls of one life that are somebody's last, one life after the other.
    fn calls(self) -> u64 {
        match self {
            Self::FlushWrites | Self::MergeReads | Self::ObjectGoes | Self::ChunkGoes => 8,
            // Ends of objects, ends again, and runs.
            Self::SortReads => 24,
            Self::PackWrites | Self::SortWrites => 3,
            Self::MergeWrites | Self::UnpackReads => 1,
        }
    }

    /// What is packed is not merged: for a merge, nothing is packed.
    fn chain_rows(self) -> usize {
        match self {
            Self::MergeReads | Self::MergeWrites | Self::SortReads | Self::SortWrites => 4096,
            _ => 4,
        }
    }

    /// Where objects are to be sorted, a flush of a batch of all streams is a large one.
    fn flush_bytes(self) -> Option<ByteSize> {
        matches!(self, Self::SortReads | Self::SortWrites).then_some(ByteSize::kib(8))
    }
}

fn rounds() -> u64 {
    let set = std::env::var("MILLRACE_FAULT_ROUNDS").ok();
    set.map_or(1, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Three streams, of which the last is trimmed again and again.
struct World {
    dir: tempfile::TempDir,
    names: [StreamName; 3],
    /// What each has: where it begins and ends.
    records: [(u64, u64); 3],
    lives: u64,
}

impl World {
    async fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let names = ["a", "b", "trimmed"].map(stream);
        let node = Running::start(dir.path(), hasty).await;
        for name in &names {
            node.create(name).await.unwrap();
        }
        node.stop().await;
        Self {
            dir,
            names,
            records: [(0, 0); 3],
            lives: 0,
        }
    }

    fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Lives until its call to the store with this number; whether there was one.
    async fn live(&mut self, step: Step, call: u64, after: bool) -> bool {
        self.lives += 1;
        let faults = Faults::new(call);
        let env = Env {
            stores: Arc::new(Stored(faults.clone())),
            ..Env::system()
        };
        let node = Running::start_in(self.path(), env, |settings| {
            hasty(settings);
            settings.flush_interval = Some(Duration::from_millis(20));
            settings.reader_grace = Some(Duration::ZERO);
            settings.chain_rows = Some(step.chain_rows());
            settings.flush_bytes = step.flush_bytes();
        })
        .await;
        let gate = faults.stall(step.rule().skip(call).times(1), after);
        let (name, (begin, end)) = (&self.names[2], &mut self.records[2]);
        *begin = (*begin).max(end.saturating_sub(TRIMMED_KEEPS));
        trim(&node, name, *begin).await;
        *end += 1;
        for _ in 0..BATCHES {
            for (name, (_, end)) in self.names.iter().zip(&mut self.records) {
                let body = format!("{end:08}").repeat(30);
                let bodies = [body.as_bytes(), body.as_bytes()];
                let ack = node.append(name, &bodies).await.expect("an ack");
                *end += 2;
                assert_eq!(ack.end.seq_num, *end, "{step:?} {call} {after}");
            }
            sleep(Duration::from_millis(30)).await;
        }
        let died = timeout(LIFE, gate.reached(1)).await.is_ok();
        node.stop().await;
        gate.open();
        died
    }

    async fn check(&self, node: &Running) {
        for (name, (begin, end)) in self.names.iter().zip(self.records) {
            let read = read_all(node, name).await;
            assert!(read.iter().map(|(seq_num, _)| *seq_num).eq(begin..end), "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_at_any_call_to_the_store_loses_nothing() {
    let mut world = World::new().await;
    let mut deaths = Vec::new();
    for step in Step::ALL {
        for after in [false, true] {
            let (mut times, mut lives) = (0, 0);
            while times < rounds() && lives < LIVES_PER_DEATH * rounds() {
                let call = lives % step.calls();
                times += u64::from(world.live(step, call, after).await);
                lives += 1;
            }
            println!(
                "{step:?}, {}: died {times} times in {lives} lives",
                if after { "after" } else { "before" }
            );
            deaths.push((step, after, times));
        }
    }
    println!("{} lives", world.lives);
    for (step, after, times) in deaths {
        assert!(times >= rounds(), "{step:?} {after}: {times}");
    }
    let node = Running::start(world.path(), hasty).await;
    world.check(&node).await;
    settled(world.path()).await;
    world.check(&node).await;
    node.stop().await;

    // What is named goes, and what is not is swept.
    let node = Running::start(world.path(), |settings| {
        hasty(settings);
        settings.sweep_interval = Some(Duration::from_secs(1));
    })
    .await;
    for name in &world.names {
        trim(&node, name, u64::MAX).await;
    }
    eventually("nothing is left in the store", async || {
        files(world.path(), "segments").is_empty()
    })
    .await;
    for (name, (_, end)) in world.names.iter().zip(world.records) {
        assert_eq!(tail(&node, name).await, end + 1);
    }
    node.stop().await;
}
