//! How fast and how long a session goes on trying.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::call::Shared;
use crate::error::Error;
use crate::retry::Backoff;

/// Pauses between the tries of a session. Progress starts them anew; without it they end with the policy's patience.
pub(crate) struct Pace {
    shared: Arc<Shared>,
    backoff: Backoff,
    /// The last progress, or the start of what is waited for.
    since: Instant,
    /// The last try did not follow progress.
    waiting: bool,
}

impl Pace {
    pub(crate) fn new(shared: &Arc<Shared>) -> Self {
        Self {
            backoff: shared.backoff(),
            shared: shared.clone(),
            since: Instant::now(),
            waiting: false,
        }
    }

    pub(crate) fn progressed(&mut self) {
        self.since = Instant::now();
        if self.waiting {
            self.waiting = false;
            self.backoff.reset();
        }
    }

    /// How long to wait before the next try.
    ///
    /// # Errors
    /// The error itself, when patience is at its end.
    pub(crate) fn pause(&mut self, error: &Error) -> Result<Duration, Error> {
        let policy = &self.shared.policy;
        if self.since.elapsed() >= policy.patience {
            return Err(error.clone());
        }
        self.waiting = true;
        let pause = self.backoff.next(error);
        match self.shared.budget.take() {
            true => Ok(pause),
            false => Ok(pause.max(policy.delay_max)),
        }
    }
}
