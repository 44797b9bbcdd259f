//! One sweep over everything, as an operator asks for it.
//!
//! Orphans are collected first and removed when readers that may have begun with them are done. When more are found
//! than are remembered, that happens several times on the way.

use std::time::Duration;

use futures::StreamExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, sleep_until};

use super::{Found, Remark, Scope, Sweep, SweepError, remove};
use crate::storage::cell::{Cell, Place};

/// Orphans remembered until they are removed.
const ORPHANS_MAX: usize = 100_000;
/// Between pages, so that nobody is disturbed.
const STEP_PAUSE: Duration = Duration::from_millis(5);

/// What a sweep is to do.
pub struct SweepRun {
    pub cell: Cell,
    /// Say only what would be removed.
    pub dry_run: bool,
    /// How long readers of a chunk that was released a moment ago may go on; zero if nobody reads.
    pub grace: Duration,
}

/// What happens on the way.
#[derive(Debug)]
pub enum SweepEvent {
    /// So many objects were looked at so far, the last of them under this key space.
    Looked {
        objects: u64,
        prefix: &'static str,
    },
    Found(Found),
    /// Removing begins after so long.
    Waiting(Duration),
    Removed(Place),
    Failed {
        place: Place,
        why: String,
    },
}

/// What a sweep came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    pub objects: u64,
    pub orphans: u64,
    pub unknown: u64,
    pub removed: u64,
    /// Orphans that could not be removed, and zones that did not answer.
    pub failed: u64,
}

impl SweepRun {
    /// Tells `out` what happens. Ends early when nobody listens; dropping it at any point leaves nothing half done.
    pub async fn run(self, out: mpsc::Sender<SweepEvent>) -> Result<Swept, SweepError> {
        let mut run = Running {
            out,
            swept: Swept::default(),
            orphans: Vec::new(),
        };
        let mut sweep = Sweep::new(self.cell.clone(), Scope::All);
        while let Some(looked) = sweep.step().await? {
            run.swept.objects += looked.objects;
            run.say(SweepEvent::Looked {
                objects: run.swept.objects,
                prefix: looked.area.prefix(),
            })
            .await?;
            if let Some(error) = looked.passed_over {
                run.swept.failed += 1;
                let key = looked.area.prefix().into();
                let place = Place {
                    area: looked.area,
                    key,
                };
                let why = format!("the rest of the zone was not looked at: {error}");
                run.say(SweepEvent::Failed { place, why }).await?;
            }
            for found in looked.found {
                run.take(found, self.dry_run).await?;
            }
            if run.orphans.len() >= ORPHANS_MAX {
                run.remove(&self.cell, self.grace).await?;
            }
            sleep(STEP_PAUSE).await;
        }
        run.remove(&self.cell, self.grace).await?;
        Ok(run.swept)
    }
}

struct Running {
    out: mpsc::Sender<SweepEvent>,
    swept: Swept,
    /// To be removed.
    orphans: Vec<Place>,
}

impl Running {
    async fn say(&self, event: SweepEvent) -> Result<(), SweepError> {
        self.out.send(event).await.map_err(|_| SweepError::Stopped)
    }

    async fn take(&mut self, found: Found, dry_run: bool) -> Result<(), SweepError> {
        match found.remark {
            Remark::Orphan(_) => self.swept.orphans += 1,
            Remark::Unknown(_) => self.swept.unknown += 1,
        }
        if found.remark.is_orphan() && !dry_run {
            self.orphans.push(found.place.clone());
        }
        self.say(SweepEvent::Found(found)).await
    }

    async fn remove(&mut self, cell: &Cell, grace: Duration) -> Result<(), SweepError> {
        if self.orphans.is_empty() {
            return Ok(());
        }
        let due = Instant::now() + grace;
        if !grace.is_zero() {
            self.say(SweepEvent::Waiting(grace)).await?;
            tokio::select! {
                () = sleep_until(due) => {}
                () = self.out.closed() => return Err(SweepError::Stopped),
            }
        }
        let removing = remove(cell, std::mem::take(&mut self.orphans));
        futures::pin_mut!(removing);
        while let Some((place, removed)) = removing.next().await {
            let event = match removed {
                Ok(()) => {
                    self.swept.removed += 1;
                    tracing::info!(%place, "removed an orphan");
                    SweepEvent::Removed(place)
                }
                Err(error) => {
                    self.swept.failed += 1;
                    let why = error.to_string();
                    SweepEvent::Failed { place, why }
                }
            };
            self.say(event).await?;
        }
        Ok(())
    }
}
