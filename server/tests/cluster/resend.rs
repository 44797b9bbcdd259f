//! Inputs 5, 6 and 7 of a session are sent again, and of its writer only input 7 is left to be found.
//!
//! A flush takes the chunks of inputs away from whoever recovers later, and puts a table of the writers behind them.
//! The table is one more chunk, and nothing waits for it: metadata may have the flush, input 7 which was on its way
//! then may have arrived, and the owner be gone before the table has. The next owner finds an input of a writer of
//! which it knows nothing else. What was flushed may be sent again all the same, for its acknowledgements may have been
//! on their way for as long: nobody but metadata can say that it was applied, by what they call forgotten.
//!
//! Here calls to the store and messages are held where that takes it, so that it happens each time; and what the next
//! owner has to go by is looked at before there is one. On a machine so busy that leases run out meanwhile, all is done
//! over again.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use bytesize::ByteSize;
use millrace_api::id::{ChunkSeq, Epoch};
use millrace_api::name::StreamName;
use millrace_raft::query::{ChannelRecord, ChannelStreamlet, Slot};
use millrace_server::config::Settings;
use millrace_server::error::ServiceError;
use millrace_server::frontend::service::{AppendSession, PendingAck};
use millrace_wal::fault::{Gate, Op, Rule};
use millrace_wal::format::decode_chunk;
use millrace_wal::{ChunkId, FrameKind, ReadRange};
use tokio::time::{sleep, timeout};

use crate::cell::{Cell, PATIENCE, batch, stream};

/// Records of somebody else, of which one is enough for a flush.
const LARGE: usize = 20 << 10;
/// Records that are in the stream before the session begins.
const OTHERS_BEFORE: u64 = 3;
/// Of streams, one is owned by somebody who does not lead the metadata group.
const STREAMS: usize = 30;
/// Beginnings that may be disturbed.
const ATTEMPTS: usize = 10;
const LOOK_INTERVAL: Duration = Duration::from_millis(5);

/// What of the writer the store has behind the flush when the owner is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    Nothing,
    Last,
    LastAndTable,
}

/// Which node is what, of three.
struct Parts {
    owner: usize,
    /// Where the session is.
    frontend: usize,
    /// Of the metadata group.
    leader: usize,
}

/// A stream of its own on a cell that flushes when there is enough, and never because of the time.
struct Scene {
    cell: Cell,
    name: StreamName,
    parts: Parts,
    /// Of the channel, in the beginning.
    epoch: Epoch,
    /// Where calls to the store are held.
    gates: Mutex<Vec<Gate>>,
}

fn by_bytes(settings: Settings) -> Settings {
    Settings {
        election_timeout: Some(Duration::from_secs(2)),
        flush_interval: Some(Duration::from_secs(3600)),
        flush_bytes: Some(ByteSize::kib(16)),
        ..settings
    }
}

async fn in_time<T>(what: &str, done: impl Future<Output = T>) -> T {
    let done = timeout(PATIENCE, done).await;
    done.unwrap_or_else(|_| panic!("not in time: {what}"))
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        sleep(LOOK_INTERVAL).await;
    }
}

impl Scene {
    async fn new() -> Self {
        let cell = Cell::start_with(by_bytes).await;
        let leader = in_time("a leader", async {
            until(|| leader_of(&cell, 0).is_some()).await;
            leader_of(&cell, 0).unwrap_or_default()
        });
        let leader = leader.await;
        for n in 0..STREAMS {
            let name = stream(format!("s/{n}"));
            cell.create(leader, &name).await;
            let Ok(_) = cell.append(leader, &name, "first").await else {
                continue;
            };
            let Some((channel, _)) = serving(&cell, leader, &name) else {
                continue;
            };
            let Some(owner) = channel.owner.map(|owner| owner.node.0 as usize - 1) else {
                continue;
            };
            let parts = Parts {
                owner,
                frontend: 3 - owner - leader,
                leader,
            };
            // Sessions have a connection of their own, which is there from now on.
            if owner != leader && cell.append(parts.frontend, &name, "first there").await.is_ok() {
                return Self {
                    cell,
                    name,
                    parts,
                    epoch: channel.epoch,
                    gates: Mutex::default(),
                };
            }
        }
        panic!("the leader of the group owns everything");
    }

    /// Returns when owner or leader are not the same any more.
    async fn disturbed(&self) {
        until(|| {
            let (channel, _) = self.channel();
            channel.epoch != self.epoch || leader_of(&self.cell, self.parts.leader) != Some(self.parts.leader)
        })
        .await;
    }

    async fn end(self) {
        self.cell.wire.heal();
        self.open_gates();
        self.cell.stop_all().await;
    }

    /// Holds calls of the owner to the store, before or after they take effect.
    fn stall(&self, calls: Rule, after: bool) -> Gate {
        let gate = self.cell.faults(self.parts.owner).stall(calls, after);
        self.gates().push(gate.clone());
        gate
    }

    fn open_gates(&self) {
        self.gates().drain(..).for_each(|gate| gate.open());
    }

    fn gates(&self) -> std::sync::MutexGuard<'_, Vec<Gate>> {
        self.gates.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// As the leader of the metadata group knows it.
    fn channel(&self) -> (ChannelRecord, ChannelStreamlet) {
        let found = serving(&self.cell, self.parts.leader, &self.name);
        found.expect("the stream is active")
    }

    /// Somebody appends at the owner.
    async fn append_large(&self, body: &str) -> Option<()> {
        let body = body.repeat(LARGE);
        let appended = self.cell.append(self.parts.owner, &self.name, &body);
        appended.await.ok().map(drop)
    }

    async fn session(&self) -> Option<AppendSession> {
        let frontend = self.cell.node(self.parts.frontend);
        frontend.append_session(&self.cell.basin, &self.name).await.ok()
    }

    /// Waits until so many records are durable.
    async fn tail(&self, records: u64) {
        let leader = self.cell.node(self.parts.leader);
        let tail = async || leader.check_tail(&self.cell.basin, &self.name).await;
        while tail().await.is_ok_and(|tail| tail.seq_num < records) {
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// The keys of the channel's chunks, in order.
    async fn chunks(&self) -> Vec<String> {
        let prefix = ChunkId::channel_prefix(self.channel().0.channel);
        let listed = self.cell.store().list(&prefix, None, usize::MAX).await;
        listed.expect("a store that answers")
    }

    /// What frames the channel's chunks hold, from the checkpoint on, by their kind and their number in a session.
    async fn replayed(&self) -> Vec<(FrameKind, u64)> {
        let store = self.cell.store();
        let (channel, _) = self.channel();
        let Slot { epoch, slot } = channel.checkpoint;
        let first = ChunkId::new(channel.channel, epoch, slot).key();
        let mut frames = Vec::new();
        for key in self.chunks().await {
            if key < first {
                continue;
            }
            // One that was flushed a moment ago may be on its way out, but none from the checkpoint on.
            let bytes = store.get(&key, ReadRange::Full).await.unwrap();
            let chunk = decode_chunk(bytes.expect("it is there")).expect("a chunk");
            let headers = chunk.frames.iter().map(|frame| &frame.header);
            frames.extend(headers.map(|header| (header.kind, header.number)));
        }
        frames
    }

    /// The session's records as they stand in the stream, and where each does.
    async fn numbers(&self, node: usize) -> Vec<(u64, u64)> {
        let tail = self
            .cell
            .node(node)
            .check_tail(&self.cell.basin, &self.name)
            .await;
        let (tail, mut bodies) = (tail.expect("an owner").seq_num, Vec::new());
        while (bodies.len() as u64) < tail {
            let more = self.cell.bodies_from(node, &self.name, bodies.len() as u64).await;
            assert!(!more.is_empty(), "the stream ends before its tail");
            bodies.extend(more);
        }
        let numbered = (0..).zip(bodies);
        let numbered = numbered.filter_map(|(at, body)| Some((at, body.parse().ok()?)));
        numbered.collect()
    }

    /// A session has `acked` inputs acknowledged, and sent three more of which it hears nothing. Two of them are flushed,
    /// and the last is where a recovery begins, or on its way there. `None` if somebody else owned the channel before
    /// that was done.
    async fn flush_all_but_the_last(
        &self,
        acked: u64,
        found: Found,
    ) -> Option<(AppendSession, Vec<PendingAck>)> {
        let (flushed, last) = (acked + 2, acked + 3);
        // A flush that takes its time. The next one, of which more will be there by then, waits for it.
        let uploads = Rule::default()
            .op(Op::Upload)
            .key(|key| key.starts_with("segments/"));
        let flush = self.stall(uploads, false);
        self.append_large("a").await?;
        flush.reached(1).await;
        let session = self.session().await?;
        for number in 1..=acked {
            let ack = submit(&session, number).await.wait().await.ok()?;
            assert_eq!(ack.start.seq_num, place(flushed, number));
        }

        // What is acknowledged from now on the session does not hear of.
        self.cell.wire.cut(self.parts.owner, self.parts.frontend);
        let mut unacknowledged = Vec::new();
        for number in acked + 1..=flushed {
            unacknowledged.push(submit(&session, number).await);
        }
        self.tail(place(flushed, flushed) + 1).await;
        self.append_large("b").await?;

        // The next flush takes what is before the last input, of which the owner does not hear that the store has it, and
        // tells of the writers behind it.
        let newest = ChunkId::parse(&self.chunks().await.pop()?).expect("a chunk");
        let [slot_of_last, slot_of_table] = [1, 2].map(|behind| ChunkSeq(newest.slot.0 + behind));
        let written = self.stall(chunks_from(newest, slot_of_last), found != Found::Nothing);
        unacknowledged.push(submit(&session, last).await);
        written.reached(1).await;
        let table = match found {
            Found::Last => Some(self.stall(chunks_from(newest, slot_of_table), false)),
            Found::Nothing | Found::LastAndTable => None,
        };
        flush.open();
        match table {
            Some(table) => table.reached(1).await,
            None => written.reached(2).await,
        }
        until(|| self.channel().0.checkpoint.slot >= slot_of_last).await;

        // That is what is left of the writer.
        let (channel, streamlet) = self.channel();
        let left = self.replayed().await;
        if self.channel().0.epoch != self.epoch {
            return None;
        }
        assert_eq!(channel.checkpoint.slot, slot_of_last);
        let expected: &[_] = match found {
            Found::Nothing => &[],
            Found::Last => &[(FrameKind::Records, last)],
            Found::LastAndTable => &[(FrameKind::Records, last), (FrameKind::Open, 0)],
        };
        assert_eq!(left, expected);
        // Metadata cannot tell whose records they are: they forget all that were flushed.
        assert_eq!(streamlet.flushed.seq_num, place(flushed, last));
        assert_eq!(streamlet.forgotten, streamlet.flushed.seq_num);
        Some((session, unacknowledged))
    }
}

fn leader_of(cell: &Cell, node: usize) -> Option<usize> {
    let leader = cell.meta(node).metrics().leader?;
    Some(leader as usize - 1)
}

/// The channel that serves the stream, and the stream on it, as a node knows them.
fn serving(cell: &Cell, node: usize, name: &StreamName) -> Option<(ChannelRecord, ChannelStreamlet)> {
    let state = cell.meta(node).state();
    state.at_once(|view| {
        let basin = view.basin(&cell.basin).unwrap()?;
        let stream = view.stream(basin.id, name).unwrap()?;
        let channels = view.channels().unwrap().into_iter();
        let mut serving = channels.filter_map(|channel| {
            let open = view.open_streamlets(channel.channel).unwrap();
            let streamlet = open.into_iter().find(|open| open.stream == stream.id)?;
            Some((channel, streamlet))
        });
        serving.next()
    })
}

/// Chunks of the epoch of this one, from a slot on.
fn chunks_from(one: ChunkId, slot: ChunkSeq) -> Rule {
    let first = ChunkId { slot, ..one }.key();
    let is_behind = move |key: &str| key.starts_with("wal/") && key >= first.as_str();
    Rule::default().op(Op::Create).key(is_behind)
}

async fn submit(session: &AppendSession, number: u64) -> PendingAck {
    let submitted = session.submit(batch(&number.to_string())).await;
    submitted.expect("there is room")
}

/// Where the session's input of this number is in the stream if all before it are, of which so many were flushed: what
/// others have appended is before its first and before its last.
fn place(flushed: u64, number: u64) -> u64 {
    let others = OTHERS_BEFORE + u64::from(number > flushed);
    others + number - 1
}

/// The owner is heard of no more when it has flushed two inputs behind the first `acked`, and sent a third to the store.
async fn session_after_a_flush(acked: u64, found: Found) {
    for _ in 0..ATTEMPTS {
        let scene = Scene::new().await;
        let flushed = tokio::select! {
            flushed = timeout(PATIENCE, scene.flush_all_but_the_last(acked, found)) => flushed.ok().flatten(),
            () = scene.disturbed() => None,
        };
        match flushed {
            Some((session, pending)) => return next_owner(scene, session, pending, acked, found).await,
            None => scene.end().await,
        }
    }
    panic!("{ATTEMPTS} times somebody else owned the channel, or led the group, before its time");
}

/// The session turns to the next owner, and sends all again that it has no acknowledgement of.
async fn next_owner(
    scene: Scene,
    session: AppendSession,
    pending: Vec<PendingAck>,
    acked: u64,
    found: Found,
) {
    let [flushed, last] = [acked + 2, acked + 3];
    let Scene { cell, parts, .. } = &scene;
    cell.wire.isolate(parts.owner, 3);
    let mut became = Vec::new();
    for ack in pending {
        became.push(in_time("an answer", ack.wait()).await);
    }
    assert!(scene.channel().0.epoch > scene.epoch, "nobody took over");
    let session = match found {
        Found::LastAndTable => {
            for (number, ack) in (acked + 1..).zip(&became) {
                let start = ack.as_ref().map(|ack| ack.start.seq_num);
                assert_eq!(start, Ok(place(flushed, number)), "the first answer to {number}");
            }
            session
        }
        Found::Nothing | Found::Last => {
            assert_eq!(became[0], Err(ServiceError::WriterUnknown));
            for unknown in &became[1..] {
                let error = unknown.as_ref().expect_err("nobody knows of it");
                assert!(
                    matches!(error, ServiceError::Code { code, .. } if code.may_have_happened()),
                    "it was applied, and is said not to be: {error}"
                );
            }
            scene.session().await.expect("another session")
        }
    };
    let ack = in_time("one more input", submit(&session, last + 1).await.wait()).await;
    let ack = ack.expect("it goes on");

    // Once each, and where it was at first; also when the former owner wakes and its chunks arrive.
    let numbers = (1..=last + 1).filter(|number| found != Found::Nothing || *number != last);
    let places = (1..).map(|place_of| place(flushed, place_of));
    let expected: Vec<_> = places.zip(numbers).collect();
    assert_eq!(expected.last(), Some(&(ack.start.seq_num, last + 1)));
    assert_eq!(scene.numbers(parts.frontend).await, expected);
    cell.wire.heal();
    scene.open_gates();
    for node in 0..3 {
        assert_eq!(scene.numbers(node).await, expected, "through node {node}");
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_5_6_and_7_sent_again_nothing_is_told_or_doubled_where_only_7_was_found() {
    session_after_a_flush(4, Found::Last).await;
}

/// A writer of which nothing is known may send its number 1, if it was opened since.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_1_2_and_3_sent_again_nothing_is_told_or_doubled_where_only_3_was_found() {
    session_after_a_flush(0, Found::Last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_after_a_flush_is_not_told_or_doubled_where_nothing_was_found() {
    session_after_a_flush(4, Found::Nothing).await;
    session_after_a_flush(0, Found::Nothing).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_sent_again_after_a_flush_gets_its_first_answer_where_the_table_was_found() {
    session_after_a_flush(4, Found::LastAndTable).await;
    session_after_a_flush(0, Found::LastAndTable).await;
}
