//! This node's right to answer reads, tails and failed conditions for its channels.
//!
//! - The leader of the metadata group grants it in answer to a heartbeat; it runs from the moment the heartbeat was
//!   *sent*, so it ends here before the leader believes that it has ended.
//! - It is measured with a clock that goes on while the machine sleeps. When that clock and the wall clock step apart,
//!   one of them has hidden time: the lease is dropped until the next grant.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::Duration;

use millrace_api::bug::{Bug, planted};
use tokio::sync::Notify;

use crate::env::Ambient;

/// Clones share one lease.
#[derive(Clone)]
pub struct Lease(Option<Arc<Granted>>);

struct Granted {
    ambient: Arc<dyn Ambient>,
    /// Clocks that step apart by more than this end the lease.
    margin: Duration,
    /// On the boot clock, in nanoseconds; 0 without a lease.
    until: AtomicU64,
    /// When the last heartbeat that was granted was sent, on the boot clock, in nanoseconds.
    heard: AtomicU64,
    /// Wall clock less boot clock at the last grant, in milliseconds.
    apart_ms: AtomicI64,
    renewed: Notify,
}

impl Lease {
    /// For a node that is alone: nobody else can answer for its channels.
    pub fn always() -> Self {
        Self(None)
    }

    /// For a member of a cluster; not valid before the first grant.
    pub fn granted_by_leader(ambient: Arc<dyn Ambient>, margin: Duration) -> Self {
        let now = nanos(ambient.boot());
        Self(Some(Arc::new(Granted {
            ambient,
            margin,
            until: AtomicU64::new(0),
            heard: AtomicU64::new(now),
            apart_ms: AtomicI64::new(0),
            renewed: Notify::new(),
        })))
    }

    /// Whether this node may answer now. An answer is to be given without waiting after this was asked.
    pub fn is_valid(&self) -> bool {
        match &self.0 {
            None => true,
            Some(_) if planted(Bug::AnswerWithoutLease) => true,
            Some(granted) => granted.is_valid(),
        }
    }

    /// The leader granted what a heartbeat asked for that was sent at `sent` on the boot clock.
    pub fn grant(&self, sent: Duration, ttl: Duration) {
        let Some(granted) = &self.0 else { return };
        granted.apart_ms.store(granted.apart_now(), Ordering::Release);
        granted.until.fetch_max(nanos(sent + ttl), Ordering::AcqRel);
        granted.heard.fetch_max(nanos(sent), Ordering::AcqRel);
        granted.renewed.notify_waiters();
    }

    /// Whether a grant was asked for within this time and given, or this life has not lasted longer. A process that
    /// slept through it, and may have been replaced meanwhile, finds out here.
    pub fn heard_within(&self, horizon: Duration) -> bool {
        match &self.0 {
            None => true,
            Some(granted) => {
                let heard = Duration::from_nanos(granted.heard.load(Ordering::Acquire));
                granted.ambient.boot().saturating_sub(heard) <= horizon
            }
        }
    }

    /// Gives the right up until the next grant.
    pub fn give_up(&self) {
        if let Some(granted) = &self.0 {
            granted.until.store(0, Ordering::Release);
        }
    }

    /// Resolves when the lease is valid. Cancel safe.
    pub async fn valid(&self) {
        let Some(granted) = &self.0 else { return };
        loop {
            let renewed = granted.renewed.notified();
            tokio::pin!(renewed);
            renewed.as_mut().enable();
            if granted.is_valid() {
                return;
            }
            renewed.await;
        }
    }
}

impl Granted {
    fn is_valid(&self) -> bool {
        let until = self.until.load(Ordering::Acquire);
        if nanos(self.ambient.boot()) >= until {
            return false;
        }
        let stepped = self.apart_now().abs_diff(self.apart_ms.load(Ordering::Acquire));
        let agree = u128::from(stepped) <= self.margin.as_millis();
        if !agree {
            self.until.store(0, Ordering::Release);
        }
        agree
    }

    fn apart_now(&self) -> i64 {
        let wall = i64::try_from(self.ambient.now_ms()).unwrap_or(i64::MAX);
        let boot = i64::try_from(self.ambient.boot().as_millis()).unwrap_or(i64::MAX);
        wall.saturating_sub(boot)
    }
}

fn nanos(at: Duration) -> u64 {
    u64::try_from(at.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Clocks that a test turns.
    #[derive(Default)]
    struct Clocks {
        wall_ms: AtomicU64,
        boot_ms: AtomicU64,
    }

    impl Clocks {
        fn advance(&self, by_ms: u64) {
            self.wall_ms.fetch_add(by_ms, Ordering::Relaxed);
            self.boot_ms.fetch_add(by_ms, Ordering::Relaxed);
        }
    }

    impl Ambient for Clocks {
        fn now_ms(&self) -> u64 {
            self.wall_ms.load(Ordering::Relaxed)
        }

        fn boot(&self) -> Duration {
            Duration::from_millis(self.boot_ms.load(Ordering::Relaxed))
        }

        fn random_u128(&self) -> u128 {
            0
        }
    }

    const TTL: Duration = Duration::from_secs(3);

    fn lease() -> (Arc<Clocks>, Lease) {
        let clocks = Arc::new(Clocks::default());
        clocks.wall_ms.store(1_000_000, Ordering::Relaxed);
        clocks.boot_ms.store(5_000, Ordering::Relaxed);
        let lease = Lease::granted_by_leader(clocks.clone(), Duration::from_millis(100));
        (clocks, lease)
    }

    #[test]
    fn runs_from_the_sending_of_the_heartbeat() {
        let (clocks, lease) = lease();
        assert!(!lease.is_valid(), "nothing was granted yet");
        let sent = clocks.boot();
        clocks.advance(1000);
        lease.grant(sent, TTL);
        clocks.advance(1999);
        assert!(lease.is_valid());
        clocks.advance(1);
        assert!(!lease.is_valid());
    }

    #[test]
    fn a_sleep_without_a_grant_is_noticed() {
        let (clocks, lease) = lease();
        assert!(lease.heard_within(TTL), "its life has just begun");
        clocks.advance(3001);
        assert!(!lease.heard_within(TTL));
        lease.grant(clocks.boot(), TTL);
        clocks.advance(3000);
        assert!(lease.heard_within(TTL) && !lease.is_valid());
        clocks.advance(1);
        assert!(!lease.heard_within(TTL));
    }

    #[test]
    fn an_answer_that_comes_late_shortens_nothing() {
        let (clocks, lease) = lease();
        let (first, second) = (clocks.boot(), clocks.boot() + Duration::from_secs(1));
        clocks.advance(1500);
        lease.grant(second, TTL);
        lease.grant(first, TTL);
        clocks.advance(2400);
        assert!(lease.is_valid());
    }

    #[test]
    fn clocks_that_step_apart_end_it_until_the_next_grant() {
        for hidden in [true, false] {
            let (clocks, lease) = lease();
            lease.grant(clocks.boot(), TTL);
            clocks.wall_ms.fetch_add(100, Ordering::Relaxed);
            assert!(lease.is_valid(), "within the margin");
            match hidden {
                true => clocks.wall_ms.fetch_add(1, Ordering::Relaxed),
                false => clocks.wall_ms.fetch_sub(201, Ordering::Relaxed),
            };
            assert!(!lease.is_valid());
            clocks.wall_ms.store(1_000_000, Ordering::Relaxed);
            assert!(!lease.is_valid(), "stepping back does not bring it back");
            lease.grant(clocks.boot(), TTL);
            assert!(lease.is_valid());
        }
    }

    #[tokio::test]
    async fn those_who_wait_go_on_with_the_grant() {
        let (clocks, lease) = lease();
        let waiting = tokio::spawn({
            let lease = lease.clone();
            async move { lease.valid().await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        lease.grant(clocks.boot(), TTL);
        waiting.await.unwrap();
        lease.give_up();
        assert!(!lease.is_valid());
    }
}
