//! Whether the node takes requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use tokio_util::sync::CancellationToken;

/// From start to stop: starting, ready, draining. Clones share one state.
#[derive(Clone, Default)]
pub struct Lifecycle {
    ready: CancellationToken,
    draining: CancellationToken,
    aside: Arc<AtomicBool>,
}

impl Lifecycle {
    /// Every channel of the node serves.
    pub fn set_ready(&self) {
        self.ready.cancel();
    }

    /// From now on new requests are refused and sessions end when what they have accepted is acknowledged.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    pub fn is_ready(&self) -> bool {
        self.ready.is_cancelled() && !self.is_draining()
    }

    pub fn is_draining(&self) -> bool {
        self.draining.is_cancelled()
    }

    /// Whether the node is to own no channels. It serves requests all the same, through other nodes.
    pub fn set_aside(&self, aside: bool) {
        self.aside.store(aside, Relaxed);
    }

    pub fn is_aside(&self) -> bool {
        self.aside.load(Relaxed)
    }

    /// Resolves when every channel serves. Cancel safe.
    pub async fn readied(&self) {
        self.ready.cancelled().await;
    }

    /// Resolves when draining begins. Cancel safe.
    pub async fn drained(&self) {
        self.draining.cancelled().await;
    }
}
