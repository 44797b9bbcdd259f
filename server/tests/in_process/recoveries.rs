//! Recoveries that die, one after the other, at every step.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use millrace_api::id::{ChannelId, Incarnation, NodeId, StreamId};
use millrace_raft::command::RegisterNode;
use millrace_raft::group::{Meta, MetaOptions};
use millrace_server::channel::flush::FlushLimits;
use millrace_server::channel::recovery::{Owner, TakenOver, take_over};
use millrace_server::channel::state::ChannelLimits;
use millrace_server::env::Env;
use millrace_server::zones::standard;
use millrace_wal::fault::{Faults, Rule};
use millrace_wal::{Wal, WalOptions};
use tokio::time::Instant;

use crate::fixture::{Running, stream};
use crate::stored::Stored;

const NODE: NodeId = NodeId(1);
const CHANNEL: ChannelId = ChannelId(1);
/// More calls than a recovery of a short history makes.
const CALLS_MAX: u64 = 60;

/// A node without anything but its metadata and its store.
struct Bare {
    env: Env,
    meta: Meta,
    wal: Wal,
    gens: Vec<millrace_api::id::ZoneGen>,
    faults: Faults,
    lives: u128,
}

impl Bare {
    async fn open(dir: &Path) -> Self {
        let faults = Faults::new(1);
        let env = Env {
            stores: Arc::new(Stored(faults.clone())),
            ..Env::system()
        };
        let meta = Meta::open(MetaOptions::new(dir.join("meta"), NODE)).await;
        let meta = meta.expect("the metadata of the node that ran here");
        let url = format!("file://{}", dir.join("store").display());
        let zone = standard::open(&url, &meta, &env).await.expect("the store");
        let gens = vec![zone.zone_gen];
        let wal = Wal::new(vec![zone], 1, WalOptions::default()).unwrap();
        Self {
            env,
            meta,
            wal,
            gens,
            faults,
            lives: 0,
        }
    }

    /// A new process takes the channel over.
    async fn take_over(&mut self) -> TakenOver {
        self.lives += 1;
        let incarnation = Incarnation(self.lives);
        let register = RegisterNode {
            node: NODE,
            incarnation,
            zone: String::new(),
            address: String::new(),
            proves_old_dead: true,
            now_ms: 0,
        };
        self.meta.propose(register).await.unwrap();
        let limits = ChannelLimits {
            chunk_bytes: 1 << 20,
            linger: Duration::from_millis(1),
            recent_bytes: 1 << 20,
            flush: FlushLimits::default(),
        };
        let owner = Owner {
            node: NODE,
            incarnation,
        };
        let gens = self.gens.clone();
        let taken = take_over(CHANNEL, owner, gens, limits, &self.env, &self.meta, &self.wal).await;
        taken.expect("nobody else owns the channel")
    }

    /// A process that dies with the call to the store that has this number, before or after it took effect. `false`
    /// if there is no such call.
    async fn die_at(&mut self, call: u64, after: bool) -> bool {
        let faults = self.faults.clone();
        let gate = faults.stall(Rule::default().skip(call).times(1), after);
        let died = tokio::select! {
            taken = self.take_over() => {
                drop(taken);
                false
            }
            () = gate.reached(1) => true,
        };
        // What it had on its way may still arrive.
        gate.open();
        faults.heal();
        died
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_recoveries_that_die_at_any_step_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let name = stream("s");
    let node = Running::start(dir.path(), |settings| settings.channels = Some(1)).await;
    node.create(&name).await.unwrap();
    for n in 0..5u8 {
        node.append(&name, &[&[n], &[n]]).await.unwrap();
    }
    node.stop().await;
    let mut bare = Bare::open(dir.path()).await;
    let id = stream_id(&bare.meta);
    let mut steps = 0;
    for first in 0..CALLS_MAX {
        // The history grows with every death: the second dies somewhere in its first, middle and last calls.
        for (second, after) in [(0, false), (first / 2, true), (first, false), (first, true)] {
            let died = bare.die_at(first, after).await;
            bare.die_at(second, !after).await;
            steps += u64::from(died);
            let mut taken = bare.take_over().await;
            let tail = taken
                .state
                .check_tail(id, Instant::now())
                .expect("it is open here");
            assert_eq!(tail.seq_num, 10, "after deaths at {first} and {second}");
        }
        if steps < first {
            break;
        }
    }
    assert!(steps > 4, "recoveries died: {steps}");
    bare.meta.shutdown().await;
    drop(bare);
    let node = Running::start(dir.path(), |settings| settings.channels = Some(1)).await;
    assert_eq!(node.count(&name).await, 10);
    let ack = node.append(&name, &[b"x"]).await.unwrap();
    assert_eq!(ack.start.seq_num, 10);
    node.stop().await;
}

fn stream_id(meta: &Meta) -> StreamId {
    let open = meta.state().open_streamlets(CHANNEL).expect("readable metadata");
    open.first().expect("one stream is open").stream
}
