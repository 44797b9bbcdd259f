//! Checks and sweeps that an operator asks of a node, told as they go on.

use std::sync::Arc;
use std::time::Duration;

use futures::stream::{self, BoxStream, StreamExt};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::AbortOnDropHandle;
use tonic::Status;

use super::cell::Cell;
use super::sweep::run::{SweepEvent, SweepRun, Swept};
use super::verify::{Checked, Verify, VerifyEvent};
use crate::admin::pb;
use crate::zones::segments::lacking;

/// Events that wait for a slow listener.
const EVENTS: usize = 256;

/// The last one says what came of it. Dropped, what is under way ends.
pub type VerifyEvents = BoxStream<'static, Result<pb::VerifyEvent, Status>>;
pub type SweepEvents = BoxStream<'static, Result<pb::SweepEvent, Status>>;

/// Looks after what a cell stores, one thing at a time.
pub struct Caretaker {
    cell: Cell,
    grace: Duration,
    runtime: Handle,
    turn: Arc<Semaphore>,
}

impl Caretaker {
    /// Works on the runtime that it is made on. Readers have `grace` to finish what they began; zero if there are none.
    pub fn new(cell: Cell, grace: Duration) -> Self {
        Self {
            cell,
            grace,
            runtime: Handle::current(),
            turn: Arc::new(Semaphore::new(1)),
        }
    }

    pub fn verify(&self, repair: bool) -> Result<VerifyEvents, Status> {
        let verify = Verify::new(self.cell.clone());
        let verify = if repair { verify.repairing() } else { verify };
        self.told(|out| verify.run(out))
    }

    /// Live segment objects that this zone lacks, up to a page of them: none where segments are in the standard store.
    pub async fn lacking_segments(&self, zone: u32) -> Result<u64, Status> {
        let lacking = lacking(&self.cell, zone).await;
        let lacking = lacking.map_err(|error| Status::unavailable(error.to_string()))?;
        Ok(lacking as u64)
    }

    pub fn sweep(&self, dry_run: bool) -> Result<SweepEvents, Status> {
        let run = SweepRun {
            cell: self.cell.clone(),
            dry_run,
            grace: self.grace,
        };
        self.told(|out| run.run(out))
    }

    fn told<E, T, X, P, F>(
        &self,
        begin: impl FnOnce(mpsc::Sender<E>) -> F,
    ) -> Result<BoxStream<'static, Result<P, Status>>, Status>
    where
        F: Future<Output = Result<T, X>> + Send + 'static,
        E: Into<P> + Send + 'static,
        T: Into<P> + Send + 'static,
        X: std::fmt::Display + Send + 'static,
        P: Send + 'static,
    {
        let turn = self.turn.clone().try_acquire_owned();
        let turn =
            turn.map_err(|_| Status::resource_exhausted("the node does so for somebody else at the moment"))?;
        let (out, events) = mpsc::channel(EVENTS);
        let work = begin(out);
        let work = AbortOnDropHandle::new(self.runtime.spawn(async move {
            let _turn = turn;
            work.await
        }));
        let end = async move {
            match work.await {
                Ok(Ok(done)) => Ok(done.into()),
                Ok(Err(error)) => Err(Status::unavailable(error.to_string())),
                Err(_) => Err(Status::unavailable("the node is stopping")),
            }
        };
        let events = ReceiverStream::new(events).map(|event| Ok(event.into()));
        Ok(events.chain(stream::once(end)).boxed())
    }
}

impl From<VerifyEvent> for pb::VerifyEvent {
    fn from(event: VerifyEvent) -> Self {
        use pb::verify_event::Event;
        let event = match event {
            VerifyEvent::Progress(progress) => Event::Progress(pb::Progress {
                what: progress.phase.as_str().into(),
                done: progress.done,
                total: progress.total,
            }),
            VerifyEvent::Broken(broken) => Event::Broken(pb::Broken {
                promise: broken.promise.as_str().into(),
                subject: broken.subject,
                why: broken.why,
            }),
            VerifyEvent::Repaired(place) => Event::Repaired(place.to_string()),
        };
        Self { event: Some(event) }
    }
}

impl From<Checked> for pb::VerifyEvent {
    fn from(checked: Checked) -> Self {
        let checked = pb::Checked {
            objects: checked.objects,
            object_bytes: checked.object_bytes,
            runs: checked.runs,
            streams: checked.streams,
            segments: checked.segments,
            chunks: checked.chunks,
            chunk_bytes: checked.chunk_bytes,
            broken: checked.broken,
            repaired: checked.repaired,
        };
        Self {
            event: Some(pb::verify_event::Event::Checked(checked)),
        }
    }
}

impl From<SweepEvent> for pb::SweepEvent {
    fn from(event: SweepEvent) -> Self {
        use pb::sweep_event::Event;
        let event = match event {
            SweepEvent::Looked { objects, prefix } => Event::Progress(pb::Progress {
                what: format!("objects, now under {prefix}"),
                done: objects,
                total: None,
            }),
            SweepEvent::Found(found) => Event::Found(pb::FoundObject {
                key: found.place.to_string(),
                orphan: found.remark.is_orphan(),
                why: found.remark.to_string(),
            }),
            SweepEvent::Waiting(pause) => {
                Event::WaitingMs(u64::try_from(pause.as_millis()).unwrap_or(u64::MAX))
            }
            SweepEvent::Removed(place) => Event::Removed(place.to_string()),
            SweepEvent::Failed { place, why } => Event::NotRemoved(pb::NotRemoved {
                key: place.to_string(),
                why,
            }),
        };
        Self { event: Some(event) }
    }
}

impl From<Swept> for pb::SweepEvent {
    fn from(swept: Swept) -> Self {
        let swept = pb::Swept {
            objects: swept.objects,
            orphans: swept.orphans,
            unknown: swept.unknown,
            removed: swept.removed,
            failed: swept.failed,
        };
        Self {
            event: Some(pb::sweep_event::Event::Swept(swept)),
        }
    }
}
