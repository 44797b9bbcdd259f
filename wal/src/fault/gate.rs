//! A gate at which calls wait.

use std::sync::Arc;

use tokio::sync::watch;

/// Closed at first. Cloning shares it.
#[derive(Debug, Clone)]
pub struct Gate {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    open: watch::Sender<bool>,
    arrived: watch::Sender<usize>,
}

impl Gate {
    pub(super) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                open: watch::Sender::new(false),
                arrived: watch::Sender::new(0),
            }),
        }
    }

    /// Lets all calls go on, those that wait and those to come.
    pub fn open(&self) {
        self.shared.open.send_replace(true);
    }

    /// Calls that have come to the gate so far.
    pub fn arrived(&self) -> usize {
        *self.shared.arrived.borrow()
    }

    /// Waits until so many calls have come to the gate.
    pub async fn reached(&self, calls: usize) {
        let mut arrived = self.shared.arrived.subscribe();
        arrived
            .wait_for(|arrived| *arrived >= calls)
            .await
            .expect("the sender lives in the gate");
    }

    pub(super) async fn pass(&self) {
        self.shared.arrived.send_modify(|arrived| *arrived += 1);
        let mut open = self.shared.open.subscribe();
        open.wait_for(|open| *open)
            .await
            .expect("the sender lives in the gate");
    }
}
