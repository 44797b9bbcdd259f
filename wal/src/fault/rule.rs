//! Which calls a fault hits.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rand::Rng;
use rand::rngs::SmallRng;

use super::Gate;

/// An operation of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op {
    Create,
    Upload,
    Get,
    List,
    Delete,
}

/// Names a rule, to remove it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RuleId(pub(super) u64);

/// What goes wrong.
#[derive(Debug, Clone, Default)]
pub enum Fault {
    #[default]
    None,
    /// An error, and no effect.
    FailBefore,
    /// The effect, and an error in place of the answer.
    FailAfter,
    /// A wait before the call, drawn evenly from `least` to `most`, both inclusive.
    Delay { least: Duration, most: Duration },
    /// A create or upload is made twice, and the second answer is given. Nothing for other operations.
    Duplicate,
    /// One bit of what is read is flipped. Nothing for other operations.
    Damage,
    /// The call waits at a gate before it takes effect.
    StallBefore(Gate),
    /// The call takes effect, and its answer waits at a gate.
    StallAfter(Gate),
}

type KeyIs = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// A fault and the calls it hits: all of them, unless narrowed.
#[derive(Clone, Default)]
pub struct Rule {
    op: Option<Op>,
    key: Option<KeyIs>,
    skip: u64,
    times: Option<u64>,
    chance: Option<f64>,
    pub(super) fault: Fault,
}

impl Rule {
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            ..Self::default()
        }
    }

    /// Only this operation.
    pub fn op(mut self, op: Op) -> Self {
        self.op = Some(op);
        self
    }

    /// Only keys, or for listings prefixes, that the predicate accepts.
    pub fn key(mut self, matches: impl Fn(&str) -> bool + Send + Sync + 'static) -> Self {
        self.key = Some(Arc::new(matches));
        self
    }

    /// Not the first `calls` that match otherwise.
    pub fn skip(mut self, calls: u64) -> Self {
        self.skip = calls;
        self
    }

    /// At most so many calls.
    pub fn times(mut self, calls: u64) -> Self {
        self.times = Some(calls);
        self
    }

    /// Each call with this probability, 0 to 1.
    pub fn chance(mut self, probability: f64) -> Self {
        self.chance = Some(probability.clamp(0.0, 1.0));
        self
    }

    pub(super) fn with(mut self, fault: Fault) -> Self {
        self.fault = fault;
        self
    }

    pub(super) fn applies(&mut self, op: Op, key: &str, rng: &mut SmallRng) -> bool {
        let matches =
            self.op.is_none_or(|only| only == op) && self.key.as_ref().is_none_or(|key_is| key_is(key));
        if !matches || self.times == Some(0) {
            return false;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return false;
        }
        if self.chance.is_some_and(|chance| !rng.random_bool(chance)) {
            return false;
        }
        if let Some(times) = &mut self.times {
            *times -= 1;
        }
        true
    }
}

impl fmt::Debug for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rule")
            .field("op", &self.op)
            .field("skip", &self.skip)
            .field("times", &self.times)
            .field("chance", &self.chance)
            .field("fault", &self.fault)
            .finish_non_exhaustive()
    }
}
