//! The stores that a node has outside tests, failing on demand.

use std::sync::Arc;

use millrace_server::env::{Env, Stores};
use millrace_wal::fault::{FaultStore, Faults};
use millrace_wal::{StoreError, ZoneStore};

/// Every store that is opened through it has these faults.
pub struct Stored(pub Faults);

impl Stores for Stored {
    fn open(&self, url: &str) -> Result<Arc<dyn ZoneStore>, StoreError> {
        let store = Env::system().stores.open(url)?;
        Ok(Arc::new(FaultStore::new(store, self.0.clone())))
    }
}
