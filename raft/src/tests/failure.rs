//! A member whose state is not what it must be stops, and says so.

use std::time::Duration;

use millrace_api::config::StorageClass;
use millrace_api::id::*;

use super::harness::*;
use crate::error::MetaError;
use crate::group::{Blocking, Meta, MetaOptions};
use crate::state::memory::MemoryState;
use crate::state::record::{ChannelRow, Owner, Slot};
use crate::state::table::Channels;
use crate::state::txn::Txn;
use crate::store::dir::MetaDir;
use crate::store::state::StateDb;

#[tokio::test(flavor = "multi_thread")]
async fn a_corrupt_state_stops_the_member() {
    for blocking in [Blocking::Pool, Blocking::Inline] {
        let temp = tempfile::tempdir().unwrap();
        // An owned channel whose epoch is nowhere.
        let row = ChannelRow {
            class: StorageClass::Standard,
            owner: Some(Owner {
                node: NodeId(1),
                incarnation: Incarnation(1),
            }),
            epoch: Epoch(5),
            sealed_through: Epoch(4),
            checkpoint: Slot {
                epoch: Epoch(5),
                slot: ChunkSeq(0),
            },
            flush_seq: FlushSeq(0),
            merge_seq: FlushSeq(0),
            pack_seq: FlushSeq(0),
        };
        let empty = MemoryState::default();
        let mut txn = Txn::new(&empty);
        txn.write::<Channels>(&CHANNEL, &row);
        let dir = MetaDir::open(temp.path(), NodeId(1)).unwrap();
        StateDb::open(&dir.current_state().unwrap())
            .unwrap()
            .commit(txn.into_changes())
            .unwrap();
        drop(dir);

        let options = MetaOptions {
            blocking,
            ..MetaOptions::new(temp.path(), NodeId(1))
        };
        let meta = Meta::open(options).await.unwrap();
        let failed = meta.failed();
        assert!(matches!(
            meta.propose(activate_channel(5)).await,
            Err(MetaError::Closed(_))
        ));
        let why = tokio::time::timeout(Duration::from_secs(10), failed)
            .await
            .expect("it says so");
        assert!(why.contains("no epoch 5"), "{why}");
        let again = tokio::time::timeout(Duration::from_secs(10), meta.failed()).await;
        assert!(again.is_ok(), "whoever asks later hears it too");
        assert!(matches!(
            meta.propose(activate_channel(5)).await,
            Err(MetaError::Closed(_))
        ));
        assert!(matches!(meta.linearize().await, Err(MetaError::Closed(_))));
        assert!(matches!(
            meta.wait_applied(u64::MAX).await,
            Err(MetaError::Closed(_))
        ));
        meta.shutdown().await;
    }
}
