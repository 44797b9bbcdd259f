//! How the store of a zone is reached.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use millrace_api::id::ZoneGen;
use millrace_wal::{StoreError, ZoneStore};

use crate::env::Stores;

/// Where a zone's store is, whichever life it has.
pub trait Source: Debug + Send + Sync + 'static {
    /// The store, meant to be in this life; `None`: whatever is there, to look at its marker or to give it one. Makes no
    /// request. An error passes unless it is [`StoreError::Invalid`].
    fn open(&self, zone_gen: Option<ZoneGen>) -> Result<Arc<dyn ZoneStore>, StoreError>;

    /// Whether the store itself refuses requests that mean another life of it.
    fn checks_gen(&self) -> bool;

    /// For people; nothing secret.
    fn name(&self) -> String;
}

/// A store that a URL names. Knows nothing of lives.
pub struct UrlSource {
    url: String,
    stores: Arc<dyn Stores>,
    /// Once it could be opened.
    opened: Mutex<Option<Arc<dyn ZoneStore>>>,
}

impl UrlSource {
    pub fn new(url: String, stores: Arc<dyn Stores>) -> Self {
        Self {
            url,
            stores,
            opened: Mutex::default(),
        }
    }
}

impl Debug for UrlSource {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "UrlSource({})", self.name())
    }
}

impl Source for UrlSource {
    fn open(&self, _: Option<ZoneGen>) -> Result<Arc<dyn ZoneStore>, StoreError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = &*opened {
            return Ok(store.clone());
        }
        let store = self.stores.open(&self.url)?;
        *opened = Some(store.clone());
        Ok(store)
    }

    fn checks_gen(&self) -> bool {
        false
    }

    fn name(&self) -> String {
        super::redacted(&self.url)
    }
}
