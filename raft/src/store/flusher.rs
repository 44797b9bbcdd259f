//! One sync for all that wait.
//!
//! Appended entries are readable at once and reported as stored after a sync. Whatever was appended while a sync ran
//! shares the next one. A failed sync is final: the kernel may have dropped the pages, so a second one that succeeds
//! would prove nothing.

use std::sync::{Arc, mpsc};
use std::thread::JoinHandle;

use millrace_api::bug::{Bug, planted};
use openraft::storage::IOFlushed;
use rocksdb::DB;

use crate::error::StoreError;
use crate::store::blocking::Blocking;
use crate::types::TypeConfig;

type Waiting = IOFlushed<TypeConfig>;

pub enum Flusher {
    Thread {
        queue: Option<mpsc::Sender<Waiting>>,
        thread: Option<JoinHandle<()>>,
    },
    Inline(Arc<DB>),
}

impl Flusher {
    pub fn start(db: Arc<DB>, blocking: Blocking) -> Result<Self, StoreError> {
        if blocking == Blocking::Inline {
            return Ok(Flusher::Inline(db));
        }
        // Unbounded here, bounded by the consensus core: it waits for what it appended.
        let (queue, waiting) = mpsc::channel();
        let thread = std::thread::Builder::new()
            .name("raft-flush".into())
            .spawn(move || run(&db, &waiting))
            .map_err(|error| StoreError::io("start flusher", error))?;
        Ok(Flusher::Thread {
            queue: Some(queue),
            thread: Some(thread),
        })
    }

    /// Reports to `waiting` when everything written so far is on disk.
    pub fn flush(&self, waiting: Waiting) {
        match self {
            Flusher::Inline(_) if planted(Bug::LogNotSynced) => waiting.io_completed(Ok(())),
            Flusher::Inline(db) => waiting.io_completed(sync(db).map_err(Into::into)),
            Flusher::Thread { queue, .. } => {
                let sent = queue.as_ref().map(|queue| queue.send(waiting));
                if let Some(Err(mpsc::SendError(waiting))) = sent {
                    waiting.io_completed(Err(std::io::Error::other("the flusher has stopped")));
                }
            }
        }
    }
}

fn run(db: &DB, waiting: &mpsc::Receiver<Waiting>) {
    let mut failed: Option<StoreError> = None;
    while let Ok(first) = waiting.recv() {
        let all: Vec<_> = std::iter::once(first).chain(waiting.try_iter()).collect();
        if failed.is_none() {
            failed = sync(db).err();
        }
        for one in all {
            one.io_completed(failed.clone().map_or(Ok(()), |error| Err(error.into())));
        }
    }
}

fn sync(db: &DB) -> Result<(), StoreError> {
    db.flush_wal(true)
        .map_err(|error| StoreError::io("sync log", error))
}

impl Drop for Flusher {
    fn drop(&mut self) {
        if let Flusher::Thread { queue, thread } = self {
            queue.take();
            if let Some(thread) = thread.take()
                && thread.join().is_err()
            {
                tracing::error!("the flusher panicked");
            }
        }
    }
}
