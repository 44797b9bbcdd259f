//! A zone store that fails on demand.
//!
//! [`FaultStore`] wraps a store, and [`Faults`] says what goes wrong, while it runs and from outside. Chance comes from
//! a seed: the same seed and the same calls in the same order give the same faults.

mod gate;
mod rule;

use std::future::Future;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;

use crate::zone::{CreateOutcome, Payload, ReadRange, StoreError, ZoneStore};

pub use gate::Gate;
pub use rule::{Fault, Op, Rule, RuleId};

/// How a store is cut off as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Cut {
    #[default]
    Off,
    /// Every call fails at once, without effect.
    Refusing,
    /// Every call hangs until the cut is changed, and then fails without effect.
    Silent,
}

/// The faults of one store. Cloning shares them.
#[derive(Debug, Clone)]
pub struct Faults {
    state: Arc<Mutex<State>>,
    cut: Arc<watch::Sender<Cut>>,
}

#[derive(Debug)]
struct State {
    rules: Vec<(RuleId, Rule)>,
    next: u64,
    rng: SmallRng,
    calls: u64,
}

/// What is to happen to one call: the sum of all rules that matched it.
#[derive(Debug, Default)]
struct Plan {
    delay: Duration,
    before: Vec<Gate>,
    fail_before: bool,
    duplicate: bool,
    damage: Option<u64>,
    after: Vec<Gate>,
    fail_after: bool,
}

impl Faults {
    /// No faults yet.
    pub fn new(seed: u64) -> Self {
        let state = State {
            rules: Vec::new(),
            next: 0,
            rng: SmallRng::seed_from_u64(seed),
            calls: 0,
        };
        Self {
            state: Arc::new(Mutex::new(state)),
            cut: Arc::new(watch::Sender::new(Cut::Off)),
        }
    }

    /// Adds a rule behind the others. All that match a call apply to it.
    pub fn add(&self, rule: Rule) -> RuleId {
        self.locked(|state| {
            let id = RuleId(state.next);
            state.next += 1;
            state.rules.push((id, rule));
            id
        })
    }

    /// Adds a rule that holds up matching calls, before or after they take effect, until the gate is opened.
    pub fn stall(&self, rule: Rule, after: bool) -> Gate {
        let gate = Gate::new();
        let fault = if after {
            Fault::StallAfter(gate.clone())
        } else {
            Fault::StallBefore(gate.clone())
        };
        self.add(rule.with(fault));
        gate
    }

    pub fn remove(&self, id: RuleId) {
        self.locked(|state| state.rules.retain(|(other, _)| *other != id));
    }

    /// Removes all rules and ends a cut. Gates stay as they are.
    pub fn heal(&self) {
        self.locked(|state| state.rules.clear());
        self.cut(Cut::Off);
    }

    pub fn cut(&self, cut: Cut) {
        self.cut.send_replace(cut);
    }

    /// Calls so far, refused ones included.
    pub fn calls(&self) -> u64 {
        self.locked(|state| state.calls)
    }

    fn plan(&self, op: Op, key: &str) -> Plan {
        self.locked(|state| {
            state.calls += 1;
            let mut plan = Plan::default();
            for (_, rule) in &mut state.rules {
                if !rule.applies(op, key, &mut state.rng) {
                    continue;
                }
                match &rule.fault {
                    Fault::None => {}
                    Fault::FailBefore => plan.fail_before = true,
                    Fault::FailAfter => plan.fail_after = true,
                    Fault::Delay { least, most } => {
                        plan.delay += state.rng.random_range(*least..=*most.max(least))
                    }
                    Fault::Duplicate => plan.duplicate = true,
                    Fault::Damage => plan.damage = Some(state.rng.random()),
                    Fault::StallBefore(gate) => plan.before.push(gate.clone()),
                    Fault::StallAfter(gate) => plan.after.push(gate.clone()),
                }
            }
            plan
        })
    }

    async fn pass_cut(&self) -> Result<(), StoreError> {
        let mut cut = self.cut.subscribe();
        let now = *cut.borrow_and_update();
        match now {
            Cut::Off => return Ok(()),
            Cut::Refusing => {}
            // The sender lives in `self`.
            Cut::Silent => drop(cut.changed().await),
        }
        Err(StoreError::Retry("cut off".into()))
    }

    fn locked<T>(&self, f: impl FnOnce(&mut State) -> T) -> T {
        f(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Plan {
    async fn before(&self) -> Result<(), StoreError> {
        if !self.delay.is_zero() {
            tokio::time::sleep(self.delay).await;
        }
        for gate in &self.before {
            gate.pass().await;
        }
        if self.fail_before {
            Err(StoreError::Retry("failed before it took effect".into()))
        } else {
            Ok(())
        }
    }

    async fn after<T>(&self, result: Result<T, StoreError>) -> Result<T, StoreError> {
        for gate in &self.after {
            gate.pass().await;
        }
        if self.fail_after {
            Err(StoreError::Retry("the answer was lost".into()))
        } else {
            result
        }
    }

    fn damaged(&self, bytes: Bytes) -> Bytes {
        match self.damage {
            Some(draw) if !bytes.is_empty() => {
                let mut copy = BytesMut::from(&bytes[..]);
                let bit = draw % (bytes.len() as u64 * 8);
                copy[(bit / 8) as usize] ^= 1 << (bit % 8);
                copy.freeze()
            }
            _ => bytes,
        }
    }
}

/// A store with faults. Every call runs in a task of its own: when the caller gives up, a create or delete that was
/// delayed may still take effect later, as with a store behind a network.
#[derive(Debug)]
pub struct FaultStore<S: ?Sized> {
    inner: Arc<S>,
    faults: Faults,
}

impl<S: ZoneStore + ?Sized> FaultStore<S> {
    pub fn new(inner: Arc<S>, faults: Faults) -> Self {
        Self { inner, faults }
    }

    pub fn faults(&self) -> &Faults {
        &self.faults
    }

    async fn run<T, F>(
        &self,
        op: Op,
        key: &str,
        work: impl FnOnce(Arc<S>, Plan, String) -> F,
    ) -> Result<T, StoreError>
    where
        T: Send + 'static,
        F: Future<Output = Result<T, StoreError>> + Send + 'static,
    {
        let plan = self.faults.plan(op, key);
        self.faults.pass_cut().await?;
        let task = tokio::spawn(work(Arc::clone(&self.inner), plan, key.to_owned()));
        match task.await {
            Ok(result) => result,
            Err(error) => match error.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => Err(StoreError::Retry("shutting down".into())),
            },
        }
    }
}

#[async_trait]
impl<S: ZoneStore + ?Sized> ZoneStore for FaultStore<S> {
    async fn create(&self, key: &str, payload: &Payload) -> Result<CreateOutcome, StoreError> {
        let payload = payload.clone();
        self.run(Op::Create, key, |inner, plan, key| async move {
            plan.before().await?;
            let mut result = inner.create(&key, &payload).await;
            if plan.duplicate {
                // As a client library does that repeats a request whose answer it missed.
                result = inner.create(&key, &payload).await;
            }
            plan.after(result).await
        })
        .await
    }

    async fn upload(&self, key: &str, payload: &Payload) -> Result<(), StoreError> {
        let payload = payload.clone();
        self.run(Op::Upload, key, |inner, plan, key| async move {
            plan.before().await?;
            let mut result = inner.upload(&key, &payload).await;
            if plan.duplicate {
                result = inner.upload(&key, &payload).await;
            }
            plan.after(result).await
        })
        .await
    }

    async fn get(&self, key: &str, range: ReadRange) -> Result<Option<Bytes>, StoreError> {
        self.run(Op::Get, key, |inner, plan, key| async move {
            plan.before().await?;
            let result = inner.get(&key, range).await;
            plan.after(result.map(|bytes| bytes.map(|bytes| plan.damaged(bytes))))
                .await
        })
        .await
    }

    async fn get_pieces(
        &self,
        key: &str,
        range: Range<u64>,
        piece_len: usize,
    ) -> Result<Option<Vec<Bytes>>, StoreError> {
        self.run(Op::Get, key, |inner, plan, key| async move {
            plan.before().await?;
            let result = inner.get_pieces(&key, range, piece_len).await;
            let damaged = result.map(|found| {
                found.map(|mut pieces| {
                    if let Some(first) = pieces.first_mut() {
                        *first = plan.damaged(std::mem::take(first));
                    }
                    pieces
                })
            });
            plan.after(damaged).await
        })
        .await
    }

    async fn list(&self, prefix: &str, after: Option<&str>, limit: usize) -> Result<Vec<String>, StoreError> {
        let from = after.map(str::to_owned);
        self.run(Op::List, prefix, |inner, plan, prefix| async move {
            plan.before().await?;
            let result = inner.list(&prefix, from.as_deref(), limit).await;
            plan.after(result).await
        })
        .await
    }

    async fn delete(&self, key: &str) -> Result<(), StoreError> {
        self.run(Op::Delete, key, |inner, plan, key| async move {
            plan.before().await?;
            let result = inner.delete(&key).await;
            plan.after(result).await
        })
        .await
    }

    fn doubt(&self, key: &str) {
        self.inner.doubt(key);
    }
}

#[cfg(test)]
mod tests;
