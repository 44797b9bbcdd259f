//! The consensus library's own tests of a store.

use millrace_api::id::NodeId;
use openraft::StorageError;
use openraft::testing::log::{StoreBuilder, Suite};

use crate::store::blocking::Blocking;
use crate::store::dir::MetaDir;
use crate::store::log::LogStore;
use crate::store::machine::{Machine, StateMachine};
use crate::types::TypeConfig;

struct Builder(Blocking);

impl StoreBuilder<TypeConfig, LogStore, StateMachine, tempfile::TempDir> for Builder {
    async fn build(&self) -> Result<(tempfile::TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let temp = tempfile::tempdir().expect("a temporary directory");
        let dir = MetaDir::open(temp.path(), NodeId(1)).expect("a fresh directory");
        let log = LogStore::open(&dir.log(), self.0).expect("a fresh log");
        let machine = Machine::open(dir, self.0).expect("a fresh state");
        Ok((temp, log, StateMachine(machine)))
    }
}

#[tokio::test]
async fn the_suite_passes_with_a_flusher_thread() {
    Suite::test_all(Builder(Blocking::Pool)).await.unwrap();
}

#[tokio::test]
async fn the_suite_passes_inline() {
    Suite::test_all(Builder(Blocking::Inline)).await.unwrap();
}
