//! The leader's account of what it has granted to whom, and when a node's right to answer has provably ended.
//!
//! Plain state, for one term of leadership. Nothing is known of the grants of earlier leaders but that they ended
//! before this term began: until a lease could have run out since then, nobody is expired. A life that begins in this
//! term has as long for its first heartbeat.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use millrace_api::bug::{Bug, planted};
use millrace_api::id::{Incarnation, NodeId};
use tokio::time::Instant;

/// One life of a node.
pub type Life = (NodeId, Incarnation);

/// How long leases run, and how far clocks may be wrong.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct LeaseTiming {
    pub ttl: Duration,
    /// The most by which the clock of a node may run slower than the leader's, as a share.
    pub drift: f64,
    /// Added to every wait.
    pub margin: Duration,
}

impl LeaseTiming {
    /// After this long since its last grant a node answers nothing any more.
    pub fn expires_after(&self) -> Duration {
        if planted(Bug::ExpireEarly) {
            return self.ttl / 4;
        }
        self.ttl.mul_f64(1.0 + self.drift) + self.margin
    }
}

impl Default for LeaseTiming {
    fn default() -> Self {
        Self {
            ttl: Duration::from_secs(6),
            drift: 0.01,
            margin: Duration::from_millis(250),
        }
    }
}

/// The incarnation has been given up and is never granted anything again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condemned;

pub struct Leases {
    timing: LeaseTiming,
    /// When this term of leadership began.
    since: Instant,
    /// When each was last granted its right, or seen first if it never was.
    heard: BTreeMap<Life, Instant>,
    condemned: BTreeSet<Life>,
}

impl Leases {
    pub fn new(timing: LeaseTiming, since: Instant) -> Self {
        Self {
            timing,
            since,
            heard: BTreeMap::new(),
            condemned: BTreeSet::new(),
        }
    }

    /// Leadership was confirmed after the heartbeat arrived, and the incarnation is alive in the state that this
    /// confirmed: grants, as of `now`.
    pub fn grant(&mut self, life: Life, now: Instant) -> Result<(), Condemned> {
        if self.condemned.contains(&life) {
            return Err(Condemned);
        }
        self.heard.insert(life, now);
        Ok(())
    }

    /// How long ago the incarnation was last granted something, or was seen first, or this term began.
    pub fn silence(&self, life: Life, now: Instant) -> Duration {
        let heard = self.heard.get(&life).copied().unwrap_or(self.since);
        now.duration_since(heard)
    }

    /// Whether anything may be given to the incarnation.
    pub fn is_condemned(&self, life: Life) -> bool {
        self.condemned.contains(&life)
    }

    /// Condemns those of the living whose right to answer has ended, and answers them. They are never granted
    /// anything again in this term, whatever becomes of the proposal to expire them.
    pub fn condemn_silent(&mut self, living: impl IntoIterator<Item = Life>, now: Instant) -> Vec<Life> {
        let after = self.timing.expires_after();
        let mut silent = Vec::new();
        for life in living {
            let heard = *self.heard.entry(life).or_insert(now);
            if self.condemned.contains(&life) || now.duration_since(heard) > after {
                self.condemned.insert(life);
                silent.push(life);
            }
        }
        silent
    }

    /// Another incarnation has replaced this one: nothing is granted to it any more. `true` when what it was granted
    /// has run out, so that its channels are free.
    pub fn retire(&mut self, life: Life, now: Instant) -> bool {
        self.condemned.insert(life);
        self.silence(life, now) > self.timing.expires_after()
    }

    /// Forgets lives that metadata no longer knows as owners or nodes.
    pub fn forget(&mut self, known: &BTreeSet<Life>) {
        self.heard.retain(|life, _| known.contains(life));
        self.condemned.retain(|life| known.contains(life));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: Life = (NodeId(1), Incarnation(1));
    const B: Life = (NodeId(2), Incarnation(2));

    fn timing() -> LeaseTiming {
        LeaseTiming {
            ttl: Duration::from_secs(10),
            drift: 0.1,
            margin: Duration::from_secs(1),
        }
    }

    const AFTER: Duration = Duration::from_secs(12);

    #[tokio::test]
    async fn a_new_leader_waits_for_what_earlier_ones_may_have_granted() {
        let start = Instant::now();
        let mut leases = Leases::new(timing(), start);
        assert_eq!(leases.condemn_silent([A, B], start), []);
        assert_eq!(leases.condemn_silent([A, B], start + AFTER), []);
        let late = start + AFTER + Duration::from_millis(1);
        assert_eq!(leases.condemn_silent([A, B], late), [A, B]);
    }

    #[tokio::test]
    async fn a_life_that_has_just_begun_has_time_to_speak() {
        let start = Instant::now();
        let mut leases = Leases::new(timing(), start);
        let born = start + AFTER * 10;
        assert_eq!(leases.condemn_silent([A], born), []);
        assert_eq!(leases.condemn_silent([A], born + AFTER), []);
        let late = born + AFTER + Duration::from_millis(1);
        assert_eq!(leases.condemn_silent([A], late), [A]);
    }

    #[tokio::test]
    async fn every_grant_counts_anew() {
        let start = Instant::now();
        let mut leases = Leases::new(timing(), start);
        let granted = start + Duration::from_secs(100);
        leases.grant(A, granted).unwrap();
        assert_eq!(leases.condemn_silent([A], granted + AFTER), []);
        assert_eq!(
            leases.condemn_silent([A], granted + AFTER + Duration::from_millis(1)),
            [A]
        );
    }

    #[tokio::test]
    async fn the_condemned_are_never_granted_anything_again() {
        let start = Instant::now();
        let mut leases = Leases::new(timing(), start);
        let late = start + AFTER * 2;
        assert_eq!(leases.condemn_silent([A], start), []);
        assert_eq!(leases.condemn_silent([A], late), [A]);
        assert_eq!(leases.grant(A, late), Err(Condemned));
        assert_eq!(
            leases.condemn_silent([A], late),
            [A],
            "until the group has expired it"
        );
        leases.grant((A.0, Incarnation(9)), late).unwrap();
    }

    #[tokio::test]
    async fn a_replaced_life_keeps_its_channels_until_its_grant_has_run_out() {
        let start = Instant::now();
        let mut leases = Leases::new(timing(), start);
        let granted = start + Duration::from_secs(100);
        leases.grant(A, granted).unwrap();
        assert!(!leases.retire(A, granted + AFTER));
        assert_eq!(leases.grant(A, granted + AFTER), Err(Condemned));
        assert!(leases.retire(A, granted + AFTER + Duration::from_millis(1)));
    }

    #[tokio::test]
    async fn what_metadata_forgot_costs_no_memory() {
        let start = Instant::now();
        let mut leases = Leases::new(timing(), start);
        leases.grant(A, start).unwrap();
        leases.condemn_silent([B], start);
        assert_eq!(leases.condemn_silent([B], start + AFTER * 2), [B]);
        leases.forget(&BTreeSet::from([A]));
        assert!(leases.condemned.is_empty() && leases.heard.len() == 1);
    }
}
