//! When a failed request is made again, how long after, and when enough is enough.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

use crate::error::Error;

/// Longest pause that a server's `retry_after` can impose.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// What one retry takes from the budget, in the unit that a success gives back.
const RETRY_COST: u64 = 10;

/// How failures are met.
///
/// Only what is safe is made again: reads and lists; creations, which carry a request token; replacements and changes
/// of a configuration; and whatever else failed with an error that is retryable and promises that nothing happened.
/// Deletions are not repeated when they may have happened, for the name may be somebody else's by then.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Tries of one call in all; 0 is taken as 1. Sessions go by [`patience`](Self::patience) instead.
    pub attempts_max: u32,
    /// The first pause. Each further one is twice as long, and all are prolonged at random by up to their own length.
    pub delay_min: Duration,
    /// Bound of the pause before it is prolonged.
    pub delay_max: Duration,
    /// Retries that the whole client has in store. A retry takes one, ten successes give one back, so that a server in
    /// trouble is not asked much more often than a healthy one. A call that finds none left fails with the error that
    /// it has; a session waits for `delay_max` before each try. 0 never retries a call.
    pub budget: u32,
    /// How long a session goes on trying while nothing moves: no ack, or no batch.
    pub patience: Duration,
    /// What becomes of a single append that may have happened.
    pub appends: AppendRetry,
}

/// What to do about a single append, outside of a session, that failed and may have happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum AppendRetry {
    /// Tell the caller.
    #[default]
    Never,
    /// Make it again if it carries a `match_seq_num`, which lets at most one of the tries be applied. If the condition
    /// then fails the outcome is [`Error::Unknown`]: this append, or another one, took the place.
    IfMatched,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            attempts_max: 5,
            delay_min: Duration::from_millis(50),
            delay_max: Duration::from_secs(2),
            budget: 100,
            patience: Duration::from_secs(60),
            appends: AppendRetry::default(),
        }
    }
}

/// What makes a request safe to repeat.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Safety {
    /// It changes nothing.
    Read,
    /// To apply it twice is to apply it once.
    Idempotent,
    /// Only the promise that it did not happen.
    Once,
}

impl Safety {
    pub(crate) fn allows(self, error: &Error) -> bool {
        error.retryable() && (self != Self::Once || !error.may_have_happened())
    }
}

/// Growing, jittered pauses; from the start again after each success.
#[derive(Debug)]
pub(crate) struct Backoff {
    builder: ExponentialBuilder,
    delays: ExponentialBackoff,
    delay_max: Duration,
}

impl Backoff {
    pub(crate) fn new(policy: &RetryPolicy, seed: u64) -> Self {
        let builder = ExponentialBuilder::new()
            .with_factor(2.0)
            .with_min_delay(policy.delay_min)
            .with_max_delay(policy.delay_max)
            .with_jitter()
            .with_jitter_seed(seed)
            .without_max_times();
        Self {
            builder,
            delays: builder.build(),
            delay_max: policy.delay_max,
        }
    }

    pub(crate) fn reset(&mut self) {
        self.delays = self.builder.build();
    }

    /// The pause after this error.
    pub(crate) fn next(&mut self, error: &Error) -> Duration {
        let delay = self.delays.next().unwrap_or(self.delay_max);
        let asked = error.retry_after().unwrap_or_default().min(RETRY_AFTER_MAX);
        delay.max(asked)
    }
}

/// A bucket of retries, shared by all calls of a client. It fills with successes, not with time.
#[derive(Debug)]
pub(crate) struct Budget {
    level: AtomicU64,
    level_max: u64,
}

impl Budget {
    pub(crate) fn new(retries: u32) -> Self {
        let level_max = u64::from(retries) * RETRY_COST;
        Self {
            level: AtomicU64::new(level_max),
            level_max,
        }
    }

    /// Takes one retry, if there is one.
    pub(crate) fn take(&self) -> bool {
        self.update(|level| level.checked_sub(RETRY_COST))
    }

    /// A call succeeded at its first try.
    pub(crate) fn succeeded(&self) {
        self.update(|level| (level < self.level_max).then_some(level + 1));
    }

    fn update(&self, change: impl FnMut(u64) -> Option<u64>) -> bool {
        self.level
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, change)
            .is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_outage_costs_no_more_retries_than_the_budget_holds() {
        let budget = Budget::new(3);
        assert_eq!((0..100).filter(|_| budget.take()).count(), 3);
    }

    #[test]
    fn ten_successes_give_one_retry_back_and_no_more_than_the_budget_holds() {
        let budget = Budget::new(2);
        assert!(budget.take() && budget.take() && !budget.take());
        (0..9).for_each(|_| budget.succeeded());
        assert!(!budget.take());
        budget.succeeded();
        assert!(budget.take() && !budget.take());
        (0..1000).for_each(|_| budget.succeeded());
        assert_eq!((0..100).filter(|_| budget.take()).count(), 2);
    }

    #[test]
    fn pauses_grow_within_their_bounds_and_differ_between_clients() {
        let policy = RetryPolicy::default();
        let error = Error::Broken("x".into());
        let pauses = |seed| {
            let mut backoff = Backoff::new(&policy, seed);
            (0..10).map(|_| backoff.next(&error)).collect::<Vec<_>>()
        };
        let first = pauses(1);
        assert!(first.iter().all(|pause| *pause >= policy.delay_min));
        assert!(first.iter().all(|pause| *pause <= 2 * policy.delay_max));
        assert!(first[9] >= policy.delay_max);
        assert_ne!(first, pauses(2));
        assert_eq!(first, pauses(1));
    }

    #[test]
    fn a_server_can_ask_for_a_longer_pause_but_not_for_any() {
        let mut error = crate::error::ServerError {
            code: "rate_limited".into(),
            message: String::new(),
            retryable: true,
            may_have_happened: false,
            retry_after: Some(Duration::from_secs(5)),
            blames_node: false,
        };
        let mut backoff = Backoff::new(&RetryPolicy::default(), 1);
        assert_eq!(
            backoff.next(&Error::Server(Box::new(error.clone()))),
            Duration::from_secs(5)
        );
        error.retry_after = Some(Duration::MAX);
        assert_eq!(backoff.next(&Error::Server(Box::new(error))), RETRY_AFTER_MAX);
    }

    #[test]
    fn only_what_is_safe_is_repeated() {
        let maybe = Error::Broken("x".into());
        let no = Error::Unreachable("x".into());
        let never = Error::SeqNumMismatch { next: 1 };
        for safety in [Safety::Read, Safety::Idempotent] {
            assert!(safety.allows(&maybe) && safety.allows(&no) && !safety.allows(&never));
        }
        assert!(!Safety::Once.allows(&maybe) && Safety::Once.allows(&no));
    }
}
