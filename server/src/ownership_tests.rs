use std::sync::Arc;

use millrace_api::config::StorageClass;
use millrace_api::id::{Incarnation, NodeId, ZoneGen};
use millrace_raft::command::{AssignChannel, CreateChannel, RegisterNode, RegisterZone};
use millrace_raft::group::MetaOptions;
use millrace_wal::{MemoryStore, Wal, WalOptions, Zone};
use tempfile::TempDir;

use super::*;
use crate::cache::{PageCache, PageCacheOptions};
use crate::channel::flush::FlushLimits;

const NODE: NodeId = NodeId(1);
const LIFE: Incarnation = Incarnation(7);
const OTHER_NODE: NodeId = NodeId(2);
const STRAY: ChannelId = ChannelId(1);
const WANTED: ChannelId = ChannelId(2);
const OTHERS: ChannelId = ChannelId(3);
const GEN: ZoneGen = ZoneGen(5);
const PATIENCE: Duration = Duration::from_secs(60);

/// A group in which two nodes live, and channels without owner.
async fn group(dir: &TempDir) -> Meta {
    let meta = Meta::open(MetaOptions::new(dir.path(), NODE)).await.unwrap();
    let zone = RegisterZone {
        zone: 0,
        gen_id: GEN,
        replaces: None,
    };
    meta.propose(zone).await.unwrap();
    for node in [NODE, OTHER_NODE] {
        let born = RegisterNode {
            node,
            incarnation: LIFE,
            zone: String::new(),
            address: String::new(),
            proves_old_dead: false,
            now_ms: 1,
        };
        meta.propose(born).await.unwrap();
    }
    for channel in [STRAY, WANTED, OTHERS] {
        let class = StorageClass::Standard;
        meta.propose(CreateChannel { channel, class }).await.unwrap();
    }
    meta
}

async fn assign(meta: &Meta, channel: ChannelId, node: NodeId) {
    let gens = vec![GEN];
    let assign = AssignChannel {
        channel,
        node,
        incarnation: LIFE,
        gens,
    };
    meta.propose(assign).await.unwrap();
}

fn owner(meta: &Meta, channel: ChannelId) -> Option<NodeId> {
    let record = meta.state().channel(channel).unwrap().unwrap();
    record.owner.map(|owner| owner.node)
}

/// One that is to own nothing, and whoever could want something of it.
fn ownership(meta: &Meta, stuck_after: Option<Duration>) -> (Ownership, watch::Sender<Wanted>) {
    let store = Arc::new(MemoryStore::new());
    let zone = Zone::new(store.clone(), GEN);
    let wal = Wal::new(vec![zone], 1, WalOptions::default()).unwrap();
    let cache = PageCache::new(store.clone(), &PageCacheOptions::default());
    let wals = Wals::only(wal);
    let limits = ChannelLimits {
        chunk_bytes: 1 << 20,
        linger: Duration::ZERO,
        recent_bytes: 1 << 20,
        flush: FlushLimits::default(),
    };
    let parts = Parts {
        env: Env::system(),
        meta: meta.clone(),
        flusher: Flusher::new(
            Env::system(),
            meta.clone(),
            wals.clone(),
            crate::storage::SegmentTarget {
                store,
                object_bytes: 64 << 20,
            },
            cache,
        ),
        reaper: Reaper::new(wals.clone(), Duration::ZERO).0,
        wals,
        express: None,
        limits: ClassLimits {
            standard: limits.clone(),
            express: limits,
        },
        idle_timeout: Duration::from_secs(1),
        channels: Channels::new(NODE, meta.clone()),
        lease: Lease::always(),
        stuck_after,
    };
    let owner = Owner {
        node: NODE,
        incarnation: LIFE,
    };
    let (wanted, wants) = watch::channel(Wanted::default());
    let ownership = Ownership::new(parts, owner, wants, watch::Sender::default());
    (ownership, wanted)
}

/// Waits until the group names this owner, or nobody.
async fn wait_owner(meta: &Meta, channel: ChannelId, expected: Option<NodeId>) {
    let mut changed = meta.channels_changed();
    let named = timeout(PATIENCE, async {
        while owner(meta, channel) != expected {
            changed.changed().await.unwrap();
        }
    });
    let named = named.await;
    named.unwrap_or_else(|_| panic!("{channel:?} has the owner {:?}", owner(meta, channel)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_channel_that_was_assigned_late_is_given_back() {
    let dir = tempfile::tempdir().unwrap();
    let meta = group(&dir).await;
    let (ownership, wanted) = ownership(&meta, Some(PATIENCE));
    let stop = CancellationToken::new();
    let running = tokio::spawn(ownership.run(stop.clone()));
    wanted.send_modify(|wanted| wanted.channels = BTreeSet::from([WANTED]));
    wait_owner(&meta, WANTED, Some(NODE)).await;
    // Decided when the node was not to own the channel any more.
    assign(&meta, STRAY, NODE).await;
    wait_owner(&meta, STRAY, None).await;
    assert_eq!(owner(&meta, WANTED), Some(NODE));
    stop.cancel();
    running.await.unwrap().unwrap();
    assert_eq!(owner(&meta, WANTED), None, "it stopped");
    meta.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_what_is_this_lifes_and_not_wanted_is_a_stray() {
    let dir = tempfile::tempdir().unwrap();
    let meta = group(&dir).await;
    assign(&meta, STRAY, NODE).await;
    assign(&meta, WANTED, NODE).await;
    assign(&meta, OTHERS, OTHER_NODE).await;
    let owners = || [STRAY, WANTED, OTHERS].map(|channel| owner(&meta, channel));
    let assigned = [Some(NODE), Some(NODE), Some(OTHER_NODE)];

    let (alone, _) = ownership(&meta, None);
    alone.release_strays(&BTreeSet::new()).await;
    assert_eq!(owners(), assigned, "there is nobody to leave a channel to");

    let (mut running, _) = ownership(&meta, Some(PATIENCE));
    running.running.insert(STRAY, CancellationToken::new());
    running.release_strays(&BTreeSet::from([WANTED])).await;
    assert_eq!(owners(), assigned, "what runs is given back when it has stopped");

    running.running.clear();
    running.release_strays(&BTreeSet::from([WANTED])).await;
    assert_eq!(owners(), [None, Some(NODE), Some(OTHER_NODE)]);
    meta.shutdown().await;
}
