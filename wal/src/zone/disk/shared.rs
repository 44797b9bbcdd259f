//! What callers, the writer and the background work have in common.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread::{Builder, JoinHandle};
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use super::DiskOptions;
use super::directory::Directory;
use super::file::LogFile;
use super::index::{Index, Place};
use super::queue::{Queue, Request};
use super::reclaim::reclaim;
use super::replay::Replayed;
use super::scan::RecordMeta;
use super::writer::Writer;
use crate::zone::local::explain;
use crate::zone::{Blocking, StoreError};

/// Pending bytes are counted in units of this many.
const PERMIT_BYTES: u64 = 1024;
/// After background work failed it is tried again, at the latest, after this long.
const RECLAIM_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Shared {
    pub directory: Directory,
    pub options: DiskOptions,
    pub blocking: Blocking,
    index: Mutex<Index>,
    queue: Queue,
    writer: Mutex<Writer>,
    /// Complete log files without an index beside them.
    unindexed: Mutex<Vec<(u64, Vec<RecordMeta>)>>,
    room: Arc<Semaphore>,
    room_units: u32,
    failed: OnceLock<String>,
    filling: AtomicBool,
    background: Mutex<Background>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct Background {
    due: bool,
    closing: bool,
}

impl Shared {
    pub(super) fn new(directory: Directory, options: DiskOptions, replayed: Replayed) -> Self {
        let units = options.pending_bytes_max.div_ceil(PERMIT_BYTES);
        let room_units = u32::try_from(units).unwrap_or(u32::MAX).min(1 << 28);
        Self {
            directory,
            blocking: options.blocking,
            options,
            index: Mutex::new(replayed.index),
            queue: Queue::default(),
            writer: Mutex::new(Writer::new(replayed.next_seq)),
            unindexed: Mutex::new(replayed.unindexed),
            room: Arc::new(Semaphore::new(room_units as usize)),
            room_units,
            failed: OnceLock::new(),
            filling: AtomicBool::new(false),
            background: Mutex::new(Background {
                due: true,
                closing: false,
            }),
            changed: Condvar::new(),
        }
    }

    /// An error if a sync has failed earlier.
    pub(super) fn check(&self) -> Result<(), StoreError> {
        match self.failed.get() {
            None => Ok(()),
            Some(why) => Err(StoreError::Corrupt(format!("{why}; restart to check the disk"))),
        }
    }

    /// From here on nothing is promised any more.
    pub(super) fn fail(&self, what: &str, error: &io::Error) -> StoreError {
        let why = format!("{}: {what}: {error}", self.directory.path().display());
        tracing::error!(why, "the disk store has failed");
        let why = self.failed.get_or_init(|| why);
        StoreError::Corrupt(why.clone())
    }

    /// What a failed write means for whoever asked.
    pub(super) fn no_room(&self, error: io::Error) -> StoreError {
        explain(&self.directory.path().display(), error)
    }

    pub(super) fn index(&self) -> MutexGuard<'_, Index> {
        lock(&self.index)
    }

    pub(super) fn find(&self, key: &str) -> Option<(Place, Arc<LogFile>)> {
        let index = self.index();
        let place = *index.objects.get(key)?;
        let log = index.files.get(&place.file)?.log.clone();
        Some((place, log))
    }

    /// Room for a request that carries so many bytes. One that has more than there is takes all.
    pub(super) async fn permit(&self, bytes: u64) -> Result<OwnedSemaphorePermit, StoreError> {
        let units = u32::try_from(bytes.div_ceil(PERMIT_BYTES)).unwrap_or(u32::MAX);
        let units = units.clamp(1, self.room_units);
        let permit = self.room.clone().acquire_many_owned(units).await;
        permit.map_err(|_| shutting_down())
    }

    /// Hands a request to the writer. With [`Blocking::Inline`] it is answered when this returns.
    pub(super) fn submit(&self, request: Request) -> Result<(), StoreError> {
        if let Err(request) = self.queue.push(request) {
            self.check()?;
            drop(request);
            return Err(shutting_down());
        }
        if self.blocking == Blocking::Inline {
            self.serve(self.queue.take());
        }
        Ok(())
    }

    /// Commits requests in groups as large as can be.
    pub(super) fn serve(&self, requests: VecDeque<Request>) {
        self.writer().serve(requests, self);
    }

    /// Waits for the answer to a request of the background work.
    pub(super) fn wait<T>(
        &self,
        mut answer: oneshot::Receiver<Result<T, StoreError>>,
    ) -> Result<T, StoreError> {
        let answered = match self.blocking {
            Blocking::Inline => answer.try_recv().ok(),
            Blocking::Pool => answer.blocking_recv().ok(),
        };
        answered.unwrap_or_else(|| Err(shutting_down()))
    }

    /// A log file is complete.
    pub(super) fn ended(&self, number: u64, records: Vec<RecordMeta>) {
        lock(&self.unindexed).push((number, records));
        self.filling.store(false, Ordering::Relaxed);
        self.wake_reclaim();
    }

    pub(super) fn next_unindexed(&self) -> Option<(u64, Vec<RecordMeta>)> {
        lock(&self.unindexed).pop()
    }

    /// Another log file will be needed before long.
    pub(super) fn head_fills(&self) {
        self.filling.store(true, Ordering::Relaxed);
        self.wake_reclaim();
    }

    pub(super) fn head_is_filling(&self) -> bool {
        self.filling.load(Ordering::Relaxed)
    }

    pub(super) fn wake_reclaim(&self) {
        lock(&self.background).due = true;
        self.changed.notify_one();
    }

    /// Without threads: does what is due now.
    pub(super) fn reclaim_inline(&self) {
        if self.blocking == Blocking::Inline && std::mem::take(&mut lock(&self.background).due) {
            self.reclaim();
        }
    }

    fn reclaim(&self) -> bool {
        match self.check().and_then(|()| reclaim(self)) {
            Ok(()) => true,
            Err(_) if self.closing() => true,
            Err(error) => {
                tracing::warn!(%error, "room in a disk store is not given back for now");
                false
            }
        }
    }

    pub(super) fn closing(&self) -> bool {
        lock(&self.background).closing
    }

    /// No request is taken any more, and the threads end.
    pub(super) fn close(&self) {
        lock(&self.background).closing = true;
        self.changed.notify_all();
        self.queue.close();
        if self.blocking == Blocking::Inline {
            self.writer().finish(self);
        }
    }

    fn writer(&self) -> MutexGuard<'_, Writer> {
        lock(&self.writer)
    }

    fn reclaim_until_closed(&self) {
        let mut pause = None;
        loop {
            let waiting = lock(&self.background);
            let idle = |background: &mut Background| !background.due && !background.closing;
            let mut background = match pause {
                None => {
                    let waited = self.changed.wait_while(waiting, idle);
                    waited.unwrap_or_else(PoisonError::into_inner)
                }
                Some(pause) => {
                    let waited = self.changed.wait_timeout_while(waiting, pause, idle);
                    waited.unwrap_or_else(PoisonError::into_inner).0
                }
            };
            if background.closing {
                return;
            }
            background.due = false;
            drop(background);
            pause = (!self.reclaim()).then_some(RECLAIM_PAUSE);
        }
    }

    fn write_until_closed(&self) {
        while let Some(requests) = self.queue.wait() {
            self.serve(requests);
        }
        self.writer().finish(self);
    }
}

/// Starts the writer and the background work.
pub(super) fn start(shared: &Arc<Shared>) -> io::Result<Vec<JoinHandle<()>>> {
    let writer = Ending(shared.clone());
    let writer = Builder::new().name("disk-writer".into()).spawn(move || {
        writer.0.write_until_closed();
        drop(writer);
    })?;
    let background = shared.clone();
    let background = Builder::new()
        .name("disk-reclaim".into())
        .spawn(move || background.reclaim_until_closed());
    match background {
        Ok(background) => Ok(vec![writer, background]),
        Err(error) => {
            shared.close();
            Err(error)
        }
    }
}

/// Sees to it that nobody waits for a writer that is gone.
struct Ending(Arc<Shared>);

impl Drop for Ending {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0
                .fail("the writer has ended", &io::Error::other("it panicked"));
        }
        self.0.queue.close();
        drop(self.0.queue.take());
    }
}

pub(super) fn shutting_down() -> StoreError {
    StoreError::Retry("the disk store is closed".into())
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
