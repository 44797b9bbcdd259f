//! The threads that a member runs on.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};

use crate::error::{MetaError, StoreError};
use crate::store::blocking::Blocking;

/// Threads for consensus in production: one may be busy with the disk while another keeps the heartbeat.
const THREADS: usize = 2;

/// Where consensus runs, and what answers other members: apart from requests, so that their load cannot starve
/// heartbeats. Made before the member when something is to run on it from the beginning, and ended by the member's
/// end, whoever else has a clone.
#[derive(Clone)]
pub struct GroupRuntime {
    shared: Arc<Shared>,
}

struct Shared {
    handle: Handle,
    stop: watch::Sender<bool>,
    /// `None` where the member runs on its caller's threads.
    own: Option<Own>,
}

struct Own {
    thread: Mutex<Option<JoinHandle<()>>>,
    /// Ready when every task is gone, and with them what they held.
    ended: tokio::sync::Mutex<Option<oneshot::Receiver<()>>>,
}

impl std::fmt::Debug for GroupRuntime {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupRuntime")
            .field("own", &self.shared.own.is_some())
            .finish()
    }
}

impl GroupRuntime {
    /// Threads of its own, or with [`Blocking::Inline`] those of the caller, who must be inside a runtime.
    pub fn start(blocking: Blocking) -> Result<Self, MetaError> {
        let (stop, _) = watch::channel(false);
        let (handle, own) = match blocking {
            Blocking::Inline => (Handle::current(), None),
            Blocking::Pool => {
                let (handle, own) = Own::start(stop.subscribe())?;
                (handle, Some(own))
            }
        };
        let shared = Shared { handle, stop, own };
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Runs a task until it ends or the member does.
    pub fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let mut stopped = self.shared.stop.subscribe();
        self.shared.handle.spawn(async move {
            tokio::select! {
                // An error: the runtime is gone.
                _ = stopped.wait_for(|stopped| *stopped) => {}
                () = task => {}
            }
        });
    }

    pub(crate) fn handle(&self) -> &Handle {
        &self.shared.handle
    }

    /// Ends every task and waits until they are gone.
    pub(super) async fn end(&self) {
        self.shared.stop.send_replace(true);
        if let Some(own) = &self.shared.own {
            let mut ended = own.ended.lock().await;
            if let Some(waiting) = &mut *ended {
                let _ = waiting.await;
            }
            *ended = None;
        }
    }

    /// Ends every task; blocks until they are gone, unless called by one of them. Dropping the member waits this way:
    /// a process that ended while RocksDB still closed on another thread would be aborted.
    pub(super) fn end_blocking(&self) {
        self.shared.stop.send_replace(true);
        let Some(own) = &self.shared.own else { return };
        let inside = Handle::try_current().is_ok_and(|current| current.id() == self.shared.handle.id());
        let thread = own.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread.filter(|_| !inside) {
            // Its only panic would be one of the runtime's own, and there is nobody left to tell.
            let _ = thread.join();
        }
    }
}

impl Own {
    /// A runtime that lives on a thread, so that stopping it never blocks a task of another.
    fn start(mut stopped: watch::Receiver<bool>) -> Result<(Handle, Self), MetaError> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("raft")
            .enable_all()
            .build()
            .map_err(|error| StoreError::io("start runtime", error))?;
        let handle = runtime.handle().clone();
        let (end, ended) = oneshot::channel::<()>();
        let thread = std::thread::Builder::new()
            .name("raft-runtime".into())
            .spawn(move || {
                // Ends, too, when the sender is dropped.
                let _ = runtime.block_on(async { stopped.wait_for(|stopped| *stopped).await.map(drop) });
                drop(runtime);
                let _ = end.send(());
            })
            .map_err(|error| StoreError::io("start runtime", error))?;
        let own = Self {
            thread: Mutex::new(Some(thread)),
            ended: tokio::sync::Mutex::new(Some(ended)),
        };
        Ok((handle, own))
    }
}
