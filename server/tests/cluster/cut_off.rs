//! Nodes that hear nothing of each other, or of the store, for a while.

use std::time::Duration;

use futures::future::{join_all, select_ok};
use millrace_api::error::ErrorCode;
use millrace_api::name::StreamName;
use millrace_server::error::ServiceError;
use millrace_wal::fault::{Op, Rule};
use tokio::time::{Instant, sleep, timeout};

use crate::cell::{Cell, PATIENCE, batch, stream};

/// Long enough for an answer that is due at once, if it were given.
const A_WHILE: Duration = Duration::from_millis(300);
/// For an answer that takes a moment on a busy machine.
const LONG: Duration = Duration::from_secs(5);
/// Every node owns some of so many streams.
const STREAMS: usize = 12;

async fn streams(cell: &Cell) -> Vec<StreamName> {
    let names: Vec<_> = (0..STREAMS).map(|n| stream(format!("s/{n}"))).collect();
    for name in &names {
        cell.create(0, name).await;
        cell.append(0, name, "first").await.unwrap();
    }
    names
}

/// The tails that the node tells within `A_WHILE`.
async fn tails_in_a_while(cell: &Cell, node: usize, names: &[StreamName]) -> Vec<Option<u64>> {
    let told = names.iter().map(|name| async move {
        let tail = cell.node(node).check_tail(&cell.basin, name);
        let told = timeout(A_WHILE, tail).await.ok()?;
        Some(told.ok()?.seq_num)
    });
    join_all(told).await
}

fn nobody_knows(error: &ServiceError) -> bool {
    matches!(error, ServiceError::Code { code, .. } if code.may_have_happened())
}

/// Appends until one is acknowledged; what is there then. An append whose fate nobody knows is no failure of the node.
async fn append_for_sure(cell: &Cell, node: usize, name: &StreamName) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match cell.append(node, name, "meanwhile").await {
            Ok(ack) => return ack.end.seq_num,
            Err(error) if nobody_knows(&error) && Instant::now() < deadline => {}
            Err(error) => panic!("{name} through node {node}: {error}"),
        }
    }
}

/// Appends as soon as the owner takes something again.
async fn append_when_there_is_room(cell: &Cell, node: usize, name: &StreamName) {
    let deadline = Instant::now() + PATIENCE;
    while let Err(error) = cell.append(node, name, "again").await {
        let passing = is_hot(&error) || nobody_knows(&error);
        assert!(passing && Instant::now() < deadline, "{name}: {error}");
        sleep(Duration::from_millis(100)).await;
    }
}

fn is_hot(error: &ServiceError) -> bool {
    matches!(
        error,
        ServiceError::Code {
            code: ErrorCode::HotServer,
            ..
        }
    )
}

/// A stream, and the node that acknowledges its appends by itself.
async fn owner_without_a_leader<'a>(cell: &Cell, names: &'a [StreamName]) -> (usize, &'a StreamName) {
    for name in names {
        for node in 0..3 {
            if let Ok(Ok(_)) = timeout(LONG, cell.append(node, name, "whose?")).await {
                return (node, name);
            }
        }
    }
    panic!("nobody acknowledges anything");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_is_cut_off_tells_nothing_stale_and_hears_of_its_end() {
    let cell = Cell::start().await;
    let names = streams(&cell).await;
    for lonely in 0..3 {
        let other = (lonely + 1) % 3;
        cell.wire.isolate(lonely, 3);
        // What was the lonely node's is taken over.
        let mut tails = Vec::new();
        for name in &names {
            tails.push(append_for_sure(&cell, other, name).await);
        }
        let told = tails_in_a_while(&cell, lonely, &names).await;
        assert_eq!(told, [None; STREAMS], "all are served elsewhere by now");
        // Heartbeats that were on their way arrive after the node was expired.
        cell.wire.heal();
        let healed = Instant::now();
        while healed.elapsed() < A_WHILE {
            let told = tails_in_a_while(&cell, lonely, &names).await;
            for (name, (told, tail)) in names.iter().zip(told.iter().zip(&tails)) {
                assert!(
                    told.is_none_or(|told| told >= *tail),
                    "{name}: {told:?} of {tail}"
                );
            }
        }
        for (name, tail) in names.iter().zip(&tails) {
            let told = cell.node(lonely).check_tail(&cell.basin, name).await;
            assert!(told.unwrap().seq_num >= *tail, "{name}");
            let bodies = cell.bodies(lonely, name).await;
            assert_eq!(bodies[*tail as usize - 1], "meanwhile", "{name}: {bodies:?}");
        }
    }
    cell.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_a_quorum_owners_acknowledge_until_they_hold_too_much_and_tails_wait_for_it() {
    let cell = Cell::start().await;
    let names = streams(&cell).await;
    for node in 0..3 {
        cell.wire.isolate(node, 3);
    }
    // Until no lease can be valid any more.
    tokio::time::sleep(Duration::from_secs(3)).await;
    let told = join_all((0..3).map(|node| tails_in_a_while(&cell, node, &names))).await;
    assert_eq!(told, [[None; STREAMS]; 3], "tails without a leader");
    // The owner of each stream acknowledges, whoever that is.
    for name in &names {
        let appends = (0..3).map(|node| Box::pin(cell.append(node, name, "alone")));
        let acked = select_ok(appends).await;
        acked.unwrap_or_else(|error| panic!("{name}: owners go on without a leader: {error}"));
    }
    // Nothing can be flushed, so that what the owners hold only grows.
    let (owner, name) = owner_without_a_leader(&cell, &names).await;
    let mut acked = 0;
    let refusal = loop {
        assert!(acked < 100, "nothing bounds what the owner holds");
        match cell.append(owner, name, &"x".repeat(60_000)).await {
            Ok(_) => acked += 1,
            Err(refusal) => break refusal,
        }
    };
    assert!(is_hot(&refusal), "{refusal}");
    assert!(acked > 0, "it took some");
    cell.wire.heal();
    for name in &names {
        let bodies = cell.bodies(0, name).await;
        // More than these: appends that nobody waited for any more.
        assert!(bodies.len() >= 2, "{name}: {bodies:?}");
        let told = cell.node(1).check_tail(&cell.basin, name).await.unwrap();
        assert!(told.seq_num >= bodies.len() as u64);
        append_when_there_is_room(&cell, 2, name).await;
    }
    cell.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_owner_that_wakes_before_a_create_acknowledges_nothing_any_more() {
    let cell = Cell::start().await;
    let names = streams(&cell).await;
    // Appends through node 0: those for its own streams get no further than the store.
    let creates = Rule::default().op(Op::Create).key(|key| key.starts_with("wal/"));
    let gate = cell.faults(0).stall(creates, false);
    let mut held = Vec::new();
    for name in &names {
        let (node, basin, name) = (cell.node(0).clone(), cell.basin.clone(), name.clone());
        let append = async move { node.append(&basin, &name, batch("held")).await };
        held.push(tokio::spawn(append));
    }
    gate.reached(1).await;
    tokio::time::sleep(A_WHILE).await;
    cell.wire.isolate(0, 3);
    let mut owned_by_0 = Vec::new();
    for (name, append) in names.iter().zip(held) {
        let tail = append_for_sure(&cell, 1, name).await;
        match append.is_finished() {
            true => drop(
                append
                    .await
                    .unwrap()
                    .expect("an owner that is served by its store"),
            ),
            false => owned_by_0.push((name, append, tail)),
        }
    }
    assert!(!owned_by_0.is_empty(), "node 0 owned something");
    // It wakes: the slot is sealed by now.
    gate.open();
    cell.wire.heal();
    for (name, append, tail) in owned_by_0 {
        let answer = timeout(PATIENCE, append).await.expect("an answer").unwrap();
        let bodies = cell.bodies(0, name).await;
        match answer {
            Ok(ack) => assert_eq!(bodies[ack.start.seq_num as usize], "held", "{name}: {bodies:?}"),
            Err(error) => assert!(nobody_knows(&error), "{name}: {error}"),
        }
        assert_eq!(bodies[tail as usize - 1], "meanwhile", "{name}: {bodies:?}");
        assert!(
            bodies.iter().filter(|body| *body == "held").count() <= 1,
            "{name}: {bodies:?}"
        );
    }
    cell.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_release_whose_answer_is_lost_frees_the_channels() {
    let mut cell = Cell::start().await;
    let names = streams(&cell).await;
    for leaving in 0..2 {
        // It hears nothing, and is heard.
        for other in (0..3).filter(|other| *other != leaving) {
            cell.wire.cut(other, leaving);
        }
        let others = (leaving + 1) % 3;
        let stopped = timeout(PATIENCE, cell.stop(leaving)).await;
        stopped.expect("it ends without an answer");
        let mut tails = Vec::new();
        for name in &names {
            tails.push(append_for_sure(&cell, others, name).await);
        }
        cell.wire.heal();
        cell.restart(leaving).await;
        for (name, tail) in names.iter().zip(tails) {
            let told = cell.node(leaving).check_tail(&cell.basin, name).await.unwrap();
            assert!(told.seq_num >= tail, "{name}");
        }
    }
    cell.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_whose_machine_slept_answers_only_after_another_grant() {
    let cell = Cell::start().await;
    let names = streams(&cell).await;
    let mut tails = [1; STREAMS];
    for node in 0..3 {
        // Nothing has reached the others of it meanwhile, and its own timers have not noticed.
        cell.wire.isolate(node, 3);
        cell.world(node).sleep(Duration::from_secs(60));
        let told = tails_in_a_while(&cell, node, &names).await;
        assert_eq!(told, [None; STREAMS], "told without a lease");
        cell.wire.heal();
        for (name, tail) in names.iter().zip(&mut tails) {
            let told = cell.node(node).check_tail(&cell.basin, name).await.unwrap();
            assert!(told.seq_num >= *tail, "{name}");
            *tail = append_for_sure(&cell, node, name).await;
        }
    }
    cell.stop_all().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_on_an_owner_that_is_not_heard_any_more_goes_on_with_the_next() {
    let cell = Cell::start().await;
    let names = streams(&cell).await;
    for mute in 0..3 {
        let through = (mute + 1) % 3;
        let mut sessions = Vec::new();
        for name in &names {
            let session = cell
                .node(through)
                .append_session(&cell.basin, name)
                .await
                .unwrap();
            session
                .submit(batch("before"))
                .await
                .unwrap()
                .wait()
                .await
                .unwrap();
            sessions.push(session);
        }
        // It hears everything, and nothing of what it says arrives.
        for other in (0..3).filter(|other| *other != mute) {
            cell.wire.cut(mute, other);
        }
        let acks = sessions.iter().map(|session| async {
            let pending = session
                .submit(batch(&format!("while {mute} is mute")))
                .await
                .unwrap();
            pending.wait().await.expect("the next owner knows the writer")
        });
        let acks = timeout(PATIENCE, join_all(acks)).await;
        acks.expect("the sessions go on");
        cell.wire.heal();
        for name in &names {
            let bodies = cell.bodies(mute, name).await;
            let said = format!("while {mute} is mute");
            assert_eq!(
                bodies.iter().filter(|body| **body == said).count(),
                1,
                "{name}: {bodies:?}"
            );
        }
    }
    cell.stop_all().await;
}

#[test]
fn an_unknown_outcome_is_told_apart() {
    let unknown = ServiceError::new(ErrorCode::Other, "x");
    let refused = ServiceError::new(ErrorCode::HotServer, "x");
    assert!(nobody_knows(&unknown) && !nobody_knows(&refused));
}
