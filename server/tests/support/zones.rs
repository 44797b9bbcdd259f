//! Three Express zones in memory that outlive the node, each failing on demand.

use std::sync::Arc;

use millrace_server::env::{Env, Stores};
use millrace_wal::fault::{FaultStore, Faults};
use millrace_wal::{MemoryStore, StoreError, ZoneStore};

/// What `--express` says of them.
pub const ZONES: &str = "test://zone-1,test://zone-2,test://zone-3";

/// Clones share the stores.
#[derive(Clone)]
pub struct Zones(Arc<Vec<Zone>>);

pub struct Zone {
    pub store: Arc<MemoryStore>,
    pub faults: Faults,
}

impl Zones {
    pub fn new() -> Self {
        let zone = |seed| Zone {
            store: Arc::new(MemoryStore::new()),
            faults: Faults::new(seed),
        };
        Self(Arc::new((1..=3).map(zone).collect()))
    }

    /// By its number, from 1.
    pub fn zone(&self, number: usize) -> &Zone {
        &self.0[number - 1]
    }

    /// The real world, with these zones.
    pub fn env(&self) -> Env {
        Env {
            stores: Arc::new(self.clone()),
            ..Env::system()
        }
    }
}

impl Zone {
    /// Keys under `wal/`.
    pub async fn chunks(&self) -> Vec<String> {
        self.keys("wal/").await
    }

    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        self.store
            .list(prefix, None, usize::MAX)
            .await
            .expect("memory answers")
    }
}

impl Stores for Zones {
    fn open(&self, url: &str) -> Result<Arc<dyn ZoneStore>, StoreError> {
        let number = url.strip_prefix("test://zone-").map(str::parse::<usize>);
        match number {
            Some(Ok(number)) => {
                let zone = self.zone(number);
                Ok(Arc::new(FaultStore::new(zone.store.clone(), zone.faults.clone())))
            }
            _ => Env::system().stores.open(url),
        }
    }
}
