//! Asking whoever serves a stream, and asking again when that changes.

use std::time::Duration;

use millrace_api::bug::{Bug, planted};
use millrace_api::error::ErrorCode;
use millrace_api::name::{BasinName, StreamName};
use tokio::time::{Instant, sleep, timeout_at};

use super::resolve::{Intent, Resolved};
use super::{Frontend, refusal_error};
use crate::channel::message::Refusal;
use crate::error::ServiceError;

/// How long a request looks for an owner before the client is told that there is none.
pub const OWNER_TIMEOUT: Duration = Duration::from_secs(30);
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(250);

/// Pauses between attempts to find a stream's owner, until a deadline.
pub struct Search {
    deadline: Instant,
    pause: Duration,
}

impl Search {
    pub fn new(timeout: Duration) -> Self {
        Self {
            deadline: Instant::now() + timeout,
            pause: PAUSE_MIN,
        }
    }

    /// Waits before the next attempt, for the state that the refusal was based on if it is newer than this node's.
    /// The refusal itself when there is no time left.
    pub async fn again(&mut self, frontend: &Frontend, refused: Refusal) -> Result<(), ServiceError> {
        if Instant::now() + self.pause >= self.deadline || frontend.draining() {
            return Err(refusal_error(refused));
        }
        if let Refusal::NotHere { applied } = refused
            && applied > frontend.meta.applied_index()
        {
            // A stopped member is found out by what is asked next.
            let _ = timeout_at(self.deadline, frontend.meta.wait_applied(applied)).await;
            return Ok(());
        }
        // A channel that begins to serve shows in this node's state.
        let mut channels = frontend.meta.channels_changed();
        channels.mark_unchanged();
        tokio::select! {
            () = sleep(self.pause) => self.pause = (self.pause * 2).min(PAUSE_MAX),
            Ok(()) = channels.changed() => self.pause = PAUSE_MIN,
        }
        Ok(())
    }
}

/// A request that asks the channel that serves a stream, and its next owner when that is not the one or there is none
/// at the moment. Nothing was applied by an attempt that is followed by another.
pub(super) struct Asking<'a> {
    frontend: &'a Frontend,
    basin: &'a BasinName,
    stream: &'a StreamName,
    intent: Intent,
    search: Search,
    /// This node's state was as new as the group's after the request had begun.
    confirmed: bool,
}

impl Asking<'_> {
    /// Whom to ask now.
    pub async fn owner(&mut self) -> Result<Resolved, ServiceError> {
        loop {
            let Self {
                frontend,
                basin,
                stream,
                intent,
                ..
            } = *self;
            match frontend.resolve_settled(basin, stream, intent).await {
                Err(error) if is_unowned(&error) => self.search.again(frontend, Refusal::Stopped).await?,
                found => return found,
            }
        }
    }

    /// The owner refused: `Ok` when it is time to ask again.
    pub async fn refused(&mut self, refused: Refusal) -> Result<(), ServiceError> {
        match refused {
            refused if refused.is_elsewhere() => self.search.again(self.frontend, refused).await,
            // The name may lead to another stream by now, and this node not know of it.
            Refusal::NotFound | Refusal::Deleting if !self.confirmed => {
                self.frontend.linearize().await?;
                self.confirmed = true;
                Ok(())
            }
            refused => Err(refusal_error(refused)),
        }
    }
}

impl Frontend {
    pub(super) fn asking<'a>(
        &'a self,
        basin: &'a BasinName,
        stream: &'a StreamName,
        intent: Intent,
    ) -> Asking<'a> {
        Asking {
            frontend: self,
            basin,
            stream,
            intent,
            search: Search::new(OWNER_TIMEOUT),
            confirmed: false,
        }
    }

    /// As [`Frontend::resolve`]; what it says of a dormant stream is as of this call or later.
    pub(super) async fn resolve_settled(
        &self,
        basin: &BasinName,
        stream: &StreamName,
        intent: Intent,
    ) -> Result<Resolved, ServiceError> {
        let resolved = self.resolve(basin, stream, intent).await?;
        if resolved.dormant.is_none() {
            return Ok(resolved);
        }
        if planted(Bug::DormantUnconfirmed) {
            return Ok(resolved);
        }
        self.linearize().await?;
        self.resolve(basin, stream, intent).await
    }
}

/// Whether the stream has no owner at the moment.
pub(super) fn is_unowned(error: &ServiceError) -> bool {
    matches!(
        error,
        ServiceError::Code {
            code: ErrorCode::HotServer,
            ..
        }
    )
}
