//! Checks that a cell's stores hold what its metadata say: every object that it refers to is there and whole, is the
//! one that is meant, and together they are what was appended, without gap.
//!
//! - [`objects`]: live segment objects, byte by byte; every run that metadata name is as they say; the counts of live
//!   runs and bytes.
//! - [`streams`]: the segments of each stream follow each other up to where it was flushed.
//! - [`chains`]: indexes over segments of long streams, and what only they name.
//! - [`wal`]: chunks from each channel's checkpoint on.
//! - [`copies`] and [`heal`]: where there are several of an object, all are looked at, and good ones take the place of
//!   others.
//!
//! A cell may be in use meanwhile. What is missing is looked for once more in metadata that are as new as the look at
//! the store: what was let go of between is no fault. Memory is bounded by what is read at a time.

mod chains;
mod copies;
mod heal;
mod objects;
mod streams;
#[cfg(test)]
mod tests;
mod wal;

use std::fmt;
use std::time::Duration;

use millrace_raft::error::MetaError;
use millrace_wal::StoreError;
use tokio::sync::mpsc;
use tokio::time::Instant;

use self::heal::Healed;
use super::cell::{Cell, Place};

/// Between two words on how far it is.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);
/// Faults of one object or stream that are told.
const FAULTS_MAX: usize = 8;

/// A check of everything. Reads only, unless it is to repair.
pub struct Verify {
    cell: Cell,
    repair: bool,
}

/// What happens on the way.
#[derive(Debug)]
pub enum VerifyEvent {
    Progress(Progress),
    Broken(Broken),
    /// What was broken just before is not any more.
    Repaired(Place),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    pub phase: Phase,
    pub done: u64,
    /// As far as it was known when the phase began.
    pub total: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Objects,
    Streams,
    Chunks,
}

/// A promise that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broken {
    pub promise: Promise,
    /// The key of an object, or a stream's id.
    pub subject: String,
    /// For a person.
    pub why: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Promise {
    /// What metadata refer to is there.
    Present,
    /// Its bytes are those that were written.
    Whole,
    /// It is what metadata say that it is.
    Agreed,
    /// Metadata count what is alive in it.
    Counted,
    /// Segments of a stream follow each other without gap or overlap.
    Tiled,
    /// Each zone of several has a copy. Enough of them have one, or it is another promise that does not hold.
    Copied,
}

/// What was checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Checked {
    pub objects: u64,
    pub object_bytes: u64,
    /// Live ones.
    pub runs: u64,
    pub streams: u64,
    pub segments: u64,
    pub chunks: u64,
    pub chunk_bytes: u64,
    /// Promises that did not hold when they were looked at.
    pub broken: u64,
    /// Of these, those that hold now.
    pub repaired: u64,
}

/// Why the check was not finished.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    #[error("metadata: {0}")]
    Meta(#[from] MetaError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the node is stopping")]
    Closed,
    #[error("nobody wants to know any more")]
    Stopped,
}

impl From<millrace_raft::error::StoreError> for VerifyError {
    fn from(error: millrace_raft::error::StoreError) -> Self {
        Self::Meta(error.into())
    }
}

impl Verify {
    pub fn new(cell: Cell) -> Self {
        Self { cell, repair: false }
    }

    /// Also puts a good copy into each zone of several that has none or a bad one, where another zone has it.
    pub fn repairing(self) -> Self {
        Self { repair: true, ..self }
    }

    /// Tells `out` what happens, what is broken among it as soon as it is found. `Ok` says what was checked, not that
    /// all of it is as it should be. Ends early when nobody listens.
    pub async fn run(self, out: mpsc::Sender<VerifyEvent>) -> Result<Checked, VerifyError> {
        self.cell.linearize().await?;
        let mut report = Report {
            out,
            checked: Checked::default(),
            said_at: None,
        };
        self.objects(&mut report).await?;
        self.streams(&mut report).await?;
        self.chunks(&mut report).await?;
        Ok(report.checked)
    }
}

/// What is told, and to whom.
struct Report {
    out: mpsc::Sender<VerifyEvent>,
    checked: Checked,
    said_at: Option<(Phase, Instant)>,
}

impl Report {
    async fn broken(&mut self, broken: impl IntoIterator<Item = Broken>) -> Result<(), VerifyError> {
        for broken in broken {
            self.checked.broken += 1;
            self.say(VerifyEvent::Broken(broken)).await?;
        }
        Ok(())
    }

    async fn healed(&mut self, healed: Healed) -> Result<(), VerifyError> {
        self.checked.repaired += healed.promises;
        for place in healed.places {
            self.say(VerifyEvent::Repaired(place)).await?;
        }
        Ok(())
    }

    /// Not each time.
    async fn progress(&mut self, progress: Progress) -> Result<(), VerifyError> {
        let now = Instant::now();
        let said = self
            .said_at
            .is_some_and(|(phase, at)| phase == progress.phase && now < at + PROGRESS_INTERVAL);
        if said && progress.total != Some(progress.done) {
            return Ok(());
        }
        self.said_at = Some((progress.phase, now));
        self.say(VerifyEvent::Progress(progress)).await
    }

    async fn say(&mut self, event: VerifyEvent) -> Result<(), VerifyError> {
        self.out.send(event).await.map_err(|_| VerifyError::Stopped)
    }
}

/// Work on memory or metadata that takes a while, away from the threads that serve.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, VerifyError> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|_| VerifyError::Closed)
}

impl Broken {
    fn new(promise: Promise, subject: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self {
            promise,
            subject: subject.to_string(),
            why: why.to_string(),
        }
    }
}

impl Phase {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Objects => "segment objects",
            Self::Streams => "streams",
            Self::Chunks => "chunks",
        }
    }
}

impl Promise {
    /// For programs, too: never given a second meaning.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Whole => "whole",
            Self::Agreed => "agreed",
            Self::Counted => "counted",
            Self::Tiled => "tiled",
            Self::Copied => "copied",
        }
    }
}
