//! A node that dies while it flushes, merges or deletes loses nothing, whichever call to the store was its last.
//!
//! `MILLRACE_FAULT_ROUNDS` repeats it all; the default is 1.

use std::sync::Arc;
use std::time::Duration;

use millrace_api::name::StreamName;
use millrace_server::env::Env;
use millrace_wal::fault::{Faults, Op, Rule};
use tokio::time::{sleep, timeout};

use crate::fixture::{Running, stream};
use crate::segments::{hasty, read_all, settled};
use crate::stored::Stored;

/// Calls of each kind that are somebody's last.
const CALLS: u64 = 10;
/// Batches of one life: enough flushes for a merge.
const BATCHES: u64 = 10;
/// A life that has not met its last call by then has none.
const LIFE: Duration = Duration::from_secs(3);

/// Which calls are looked at.
#[derive(Debug, Clone, Copy)]
enum Kind {
    /// Objects written, read to merge them, and deleted.
    Segments,
    /// Chunks deleted.
    Chunks,
}

impl Kind {
    fn rule(self) -> Rule {
        match self {
            Self::Segments => Rule::default().key(|key| key.starts_with("segments/")),
            Self::Chunks => Rule::default().op(Op::Delete).key(|key| key.starts_with("wal/")),
        }
    }
}

fn rounds() -> u64 {
    let set = std::env::var("MILLRACE_FAULT_ROUNDS").ok();
    set.map_or(1, |rounds| rounds.parse().expect("a number of rounds"))
}

/// Lives until its call to the store with this number, before or after it took effect. Answers the records that both
/// streams have; `None` if there was no such call.
async fn live(
    dir: &std::path::Path,
    names: &[StreamName; 2],
    kind: Kind,
    call: u64,
    after: bool,
) -> (u64, bool) {
    let faults = Faults::new(call);
    let env = Env {
        stores: Arc::new(Stored(faults.clone())),
        ..Env::system()
    };
    let node = Running::start_in(dir, env, |settings| {
        hasty(settings);
        settings.flush_interval = Some(Duration::from_millis(20));
        settings.reader_grace = Some(Duration::ZERO);
    })
    .await;
    let gate = faults.stall(kind.rule().skip(call).times(1), after);
    let mut end = 0;
    for _ in 0..BATCHES {
        for name in names {
            let body = format!("{end:08}").repeat(30);
            let ack = node
                .append(name, &[body.as_bytes(), body.as_bytes()])
                .await
                .expect("an ack");
            end = ack.end.seq_num;
        }
        sleep(Duration::from_millis(30)).await;
    }
    let died = timeout(LIFE, gate.reached(1)).await.is_ok();
    node.stop().await;
    gate.open();
    (end, died)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_at_any_call_to_the_store_loses_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let names = [stream("a"), stream("b")];
    let node = Running::start(dir.path(), hasty).await;
    for name in &names {
        node.create(name).await.unwrap();
    }
    node.stop().await;
    let (mut lives, mut deaths, mut records) = (0, 0, 0);
    for _ in 0..rounds() {
        for kind in [Kind::Segments, Kind::Chunks] {
            for call in 0..CALLS {
                for after in [false, true] {
                    let (end, died) = live(dir.path(), &names, kind, call, after).await;
                    assert_eq!(end, records + 2 * BATCHES, "{kind:?} {call} {after}");
                    records = end;
                    lives += 1;
                    deaths += u64::from(died);
                }
            }
        }
    }
    assert!(
        deaths * 2 > lives,
        "{deaths} of {lives} lives met their last call"
    );
    let node = Running::start(dir.path(), hasty).await;
    for name in &names {
        let read = read_all(&node, name).await;
        assert!(read.iter().map(|(seq_num, _)| *seq_num).eq(0..records));
    }
    settled(dir.path()).await;
    for name in &names {
        assert_eq!(read_all(&node, name).await.len() as u64, records);
    }
    node.stop().await;
}
