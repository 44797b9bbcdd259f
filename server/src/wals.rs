//! The WALs of a node, one for each storage class, and which of them a channel is written to.
//!
//! A channel's class never changes, so it is looked up once. The Standard WAL is there from the start, unless the cell has
//! no store for it; the Express one when each of its zones is registered, and anew when one of them was replaced.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::{ArcSwap, ArcSwapOption};
use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, Epoch, ZoneGen};
use millrace_raft::error::StoreError;
use millrace_raft::group::Meta;
use millrace_wal::{EpochGens, ReadError, Wal};
use tokio::sync::watch;

/// Clones share everything.
#[derive(Clone)]
pub struct Wals {
    shared: Arc<Shared>,
}

struct Shared {
    /// Tells a channel's class; `None` where there is but one.
    meta: Option<Meta>,
    /// `None` in a cell without a standard store.
    standard: Option<Wal>,
    express: ArcSwapOption<Wal>,
    /// Of every channel that was asked for.
    classes: ArcSwap<BTreeMap<ChannelId, StorageClass>>,
    changed: watch::Sender<()>,
}

/// Why this node cannot say where a channel's chunks are. Passes when it hears of the channel, or of the zones.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoWal {
    #[error("channel {0} is not known on this node")]
    Unknown(ChannelId),
    #[error("channel {0} is written to Express zones, and this node knows none: are they in its --express?")]
    NoExpress(ChannelId),
    #[error("channel {0} is written to the standard store, and this node has none: is it in its --store?")]
    NoStandard(ChannelId),
    #[error("metadata: {0}")]
    Meta(String),
}

/// The lives of zones that epochs are written under, as metadata have them.
#[derive(Clone)]
pub struct RecordedGens(pub Meta);

impl fmt::Debug for RecordedGens {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RecordedGens")
    }
}

impl EpochGens for RecordedGens {
    fn gens(&self, channel: ChannelId, epoch: Epoch) -> Option<Vec<ZoneGen>> {
        match self.0.state().channel(channel) {
            Ok(record) => {
                let epochs = record?.epochs;
                let state = epochs.into_iter().find(|(known, _)| *known == epoch);
                state.map(|(_, state)| state.gens)
            }
            // Nothing that any zone says counts.
            Err(_) => Some(Vec::new()),
        }
    }
}

impl From<NoWal> for ReadError {
    fn from(error: NoWal) -> Self {
        Self::Retry(error.to_string())
    }
}

impl Wals {
    /// Without Express until [`set_express`](Self::set_express).
    pub fn new(meta: Meta, standard: Option<Wal>) -> Self {
        Self::with(Some(meta), standard)
    }

    /// For channels that are all of one class.
    pub fn only(wal: Wal) -> Self {
        Self::with(None, Some(wal))
    }

    fn with(meta: Option<Meta>, standard: Option<Wal>) -> Self {
        Self {
            shared: Arc::new(Shared {
                meta,
                standard,
                express: ArcSwapOption::empty(),
                classes: ArcSwap::default(),
                changed: watch::Sender::new(()),
            }),
        }
    }

    /// From now on Express channels are written to these zones. Epochs that were begun before are not.
    pub fn set_express(&self, wal: Wal) {
        self.shared.express.store(Some(Arc::new(wal)));
        self.shared.changed.send_replace(());
    }

    /// Follows which zones there are.
    pub fn changed(&self) -> watch::Receiver<()> {
        self.shared.changed.subscribe()
    }

    /// `None` while the class has none.
    pub fn of_class(&self, class: StorageClass) -> Option<Wal> {
        match class {
            StorageClass::Standard => self.shared.standard.clone(),
            StorageClass::Express => self.shared.express.load().as_deref().cloned(),
        }
    }

    /// The WAL that the channel is written to as of now.
    pub fn of_channel(&self, channel: ChannelId) -> Result<Wal, NoWal> {
        let class = self.class(channel)?;
        self.of_class(class).ok_or(match class {
            StorageClass::Standard => NoWal::NoStandard(channel),
            StorageClass::Express => NoWal::NoExpress(channel),
        })
    }

    /// Whether the cell has a standard store, where its segments are.
    pub fn has_standard(&self) -> bool {
        self.shared.standard.is_some()
    }

    pub fn class(&self, channel: ChannelId) -> Result<StorageClass, NoWal> {
        if let Some(class) = self.shared.classes.load().get(&channel) {
            return Ok(*class);
        }
        let Some(meta) = &self.shared.meta else {
            return Ok(StorageClass::Standard);
        };
        let found = meta.state().channel(channel);
        let record = found.map_err(|error: StoreError| NoWal::Meta(error.to_string()))?;
        let class = record.ok_or(NoWal::Unknown(channel))?.class;
        self.shared.classes.rcu(|classes| {
            let mut classes = BTreeMap::clone(classes);
            classes.insert(channel, class);
            classes
        });
        Ok(class)
    }

    /// Generations that the next epoch of a channel of the class is written under; empty while the class has no zones.
    pub fn gens(&self, class: StorageClass) -> Vec<ZoneGen> {
        self.of_class(class).map(|wal| wal.gens()).unwrap_or_default()
    }

    /// Those that there are.
    pub fn all(&self) -> impl Iterator<Item = (StorageClass, Wal)> + use<> {
        let of = |class| Some((class, self.of_class(class)?));
        let all = [of(StorageClass::Standard), of(StorageClass::Express)];
        all.into_iter().flatten()
    }
}
