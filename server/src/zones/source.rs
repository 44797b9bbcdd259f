//! How the store of a zone is reached.

use std::fmt::{self, Debug};
use std::path::PathBuf;
use std::sync::{Arc, PoisonError};

use async_trait::async_trait;
use millrace_api::id::{NodeId, ZoneGen};
use millrace_wal::{DiskOptions, StoreError, ZoneStore};
use tokio::sync::Mutex;
use tokio_util::sync::CancellationToken;

use crate::env::Stores;
use crate::peer::directory::Peers;
use crate::zone_disk::disk::ZoneDisk;
use crate::zone_disk::remote::RemoteDisk;
use crate::zone_disk::serve::ZoneService;

/// Where a zone's store is, whichever life it has.
#[async_trait]
pub trait Source: Debug + Send + Sync + 'static {
    /// The store, meant to be in this life; `None`: whatever is there, to look at its marker or to give it one. Makes no
    /// request. An error passes unless it is [`StoreError::Invalid`].
    async fn open(&self, zone_gen: Option<ZoneGen>) -> Result<Arc<dyn ZoneStore>, StoreError>;

    /// The store was seen to be in this life, which is the registered one.
    fn admitted(&self, _zone_gen: ZoneGen) {}

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
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "UrlSource({})", self.name())
    }
}

#[async_trait]
impl Source for UrlSource {
    async fn open(&self, _: Option<ZoneGen>) -> Result<Arc<dyn ZoneStore>, StoreError> {
        let mut opened = self.opened.lock().await;
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

/// The disk of this node. The others are let at it under the life that it was seen to be in, until `stop`.
pub struct OwnDisk {
    node: NodeId,
    directory: PathBuf,
    service: ZoneService,
    stop: CancellationToken,
    opened: Mutex<Option<ZoneDisk>>,
    served: std::sync::Mutex<Option<ZoneGen>>,
}

impl OwnDisk {
    pub fn new(node: NodeId, directory: PathBuf, service: ZoneService, stop: CancellationToken) -> Self {
        Self {
            node,
            directory,
            service,
            stop,
            opened: Mutex::default(),
            served: std::sync::Mutex::default(),
        }
    }
}

impl Debug for OwnDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OwnDisk({})", self.directory.display())
    }
}

#[async_trait]
impl Source for OwnDisk {
    async fn open(&self, _: Option<ZoneGen>) -> Result<Arc<dyn ZoneStore>, StoreError> {
        let mut opened = self.opened.lock().await;
        if let Some(store) = &*opened {
            return Ok(Arc::new(store.clone()));
        }
        let directory = self.directory.clone();
        // What is on the disk is read then.
        let opening = tokio::task::spawn_blocking(move || ZoneDisk::open(&directory, DiskOptions::default()));
        let store = opening
            .await
            .map_err(|_| StoreError::Retry("the node is stopping".into()))??;
        *opened = Some(store.clone());
        Ok(Arc::new(store))
    }

    fn admitted(&self, zone_gen: ZoneGen) {
        let Ok(opened) = self.opened.try_lock() else {
            return;
        };
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = opened.as_ref().filter(|_| *served != Some(zone_gen)) {
            self.service
                .serve_disk(store.clone(), zone_gen, self.stop.clone());
            *served = Some(zone_gen);
        }
    }

    fn checks_gen(&self) -> bool {
        true
    }

    fn name(&self) -> String {
        format!("disk://{}", self.node)
    }
}

/// The disk of another node, which alone gives it a marker.
pub struct OthersDisk {
    peers: Peers,
    node: NodeId,
}

impl OthersDisk {
    pub fn new(peers: Peers, node: NodeId) -> Self {
        Self { peers, node }
    }
}

impl Debug for OthersDisk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name())
    }
}

#[async_trait]
impl Source for OthersDisk {
    async fn open(&self, zone_gen: Option<ZoneGen>) -> Result<Arc<dyn ZoneStore>, StoreError> {
        match zone_gen {
            Some(zone_gen) => Ok(RemoteDisk::new(self.peers.clone(), self.node, zone_gen)),
            None => Err(StoreError::Retry(format!(
                "only node {} itself may mark its disk",
                self.node
            ))),
        }
    }

    fn checks_gen(&self) -> bool {
        true
    }

    fn name(&self) -> String {
        format!("disk://{}", self.node)
    }
}
