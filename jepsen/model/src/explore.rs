//! Visits all states of a model, breadth first.

use std::fmt::{self, Display};
use std::hash::Hash;

use indexmap::IndexMap;
use rustc_hash::FxBuildHasher;

/// Every state that was come to, in that order, and the number of the state that it was come to from.
type Known<S> = IndexMap<S, u32, FxBuildHasher>;

/// A system of states and steps. Everything that can happen next in a state is a step of it: none is taken by itself,
/// and each may be late for ever.
pub trait Model {
    type State: Copy + Eq + Hash;
    type Step: Copy + Display;

    fn initial(&self) -> Self::State;

    /// Appends the steps that may be taken in `state`.
    fn steps(&self, state: &Self::State, steps: &mut Vec<Self::Step>);

    fn take(&self, state: &Self::State, step: Self::Step) -> Self::State;

    /// The one that stands for all states that differ from this one in names only.
    fn representative(&self, state: &Self::State) -> Self::State;

    /// What is wrong in the state.
    fn check(&self, state: &Self::State) -> Result<(), Violation>;

    /// The state in words.
    fn show(&self, state: &Self::State) -> String;
}

/// A promise that does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// As it is called in the design: `P1`, `I3`, …
    pub promise: &'static str,
    pub what: String,
}

/// What came of an exploration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Explored {
    /// States that were visited; those that differ in names only count once.
    pub states: usize,
    /// Steps to the farthest of them.
    pub depth: usize,
    pub outcome: Outcome,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Outcome {
    /// Every promise holds in every state that can be reached.
    Holds,
    Broken(Counterexample),
    /// There are more states than were asked for.
    TooMany,
}

/// The shortest way to a state in which a promise does not hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Counterexample {
    pub violation: Violation,
    /// Each with the state that it leads to.
    pub steps: Vec<(String, String)>,
}

/// Visits states until all are known, one is wrong, or there are more than `states_max`.
pub fn explore<M: Model>(model: &M, states_max: usize) -> Explored {
    let mut known: Known<M::State> = Known::default();
    let initial = model.representative(&model.initial());
    known.insert(initial, 0);
    let mut steps = Vec::new();
    let (mut at, mut depth, mut level_end) = (0, 0, 1);
    while at < known.len() {
        if at == level_end {
            depth += 1;
            level_end = known.len();
        }
        let state = *known.get_index(at).expect("it is below the length").0;
        let ended = |outcome, known: &Known<_>| Explored {
            states: known.len(),
            depth,
            outcome,
        };
        if let Err(violation) = model.check(&state) {
            let steps = way_to(model, &known, at);
            return ended(Outcome::Broken(Counterexample { violation, steps }), &known);
        }
        if known.len() > states_max {
            return ended(Outcome::TooMany, &known);
        }
        model.steps(&state, &mut steps);
        for step in steps.drain(..) {
            let next = model.representative(&model.take(&state, step));
            let from = u32::try_from(at).expect("states are limited by memory long before");
            known.entry(next).or_insert(from);
        }
        at += 1;
    }
    Explored {
        states: known.len(),
        depth,
        outcome: Outcome::Holds,
    }
}

/// The steps from the initial state to the one at `end`, under names that stay the same all the way.
fn way_to<M: Model>(model: &M, known: &Known<M::State>, end: usize) -> Vec<(String, String)> {
    let mut way = Vec::new();
    let mut at = end;
    while at != 0 {
        let (state, from) = known
            .get_index(at)
            .expect("a state has been known before what it leads to");
        way.push(*state);
        at = *from as usize;
    }
    let mut named = model.initial();
    let mut told = Vec::new();
    for wanted in way.into_iter().rev() {
        let mut steps = Vec::new();
        model.steps(&named, &mut steps);
        let step = steps
            .into_iter()
            .find(|step| model.representative(&model.take(&named, *step)) == wanted)
            .expect("states that differ in names only have the same steps but for names");
        named = model.take(&named, step);
        told.push((step.to_string(), model.show(&named)));
    }
    told
}

impl Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (step, state)) in (1..).zip(&self.steps) {
            writeln!(f, "{number:>3}. {step}")?;
            writeln!(f, "     {state}")?;
        }
        write!(
            f,
            "{} does not hold: {}",
            self.violation.promise, self.violation.what
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two counters without names, up to three each.
    struct Counters {
        sum_max: u8,
    }

    impl Model for Counters {
        type State = [u8; 2];
        type Step = u8;

        fn initial(&self) -> [u8; 2] {
            [0, 0]
        }

        fn steps(&self, state: &[u8; 2], steps: &mut Vec<u8>) {
            steps.extend((0..2).filter(|at| state[usize::from(*at)] < 3));
        }

        fn take(&self, state: &[u8; 2], step: u8) -> [u8; 2] {
            let mut next = *state;
            next[usize::from(step)] += 1;
            next
        }

        fn representative(&self, state: &[u8; 2]) -> [u8; 2] {
            let mut sorted = *state;
            sorted.sort();
            sorted
        }

        fn check(&self, state: &[u8; 2]) -> Result<(), Violation> {
            match state[0] + state[1] <= self.sum_max {
                true => Ok(()),
                false => Err(Violation {
                    promise: "sum",
                    what: format!("{state:?}"),
                }),
            }
        }

        fn show(&self, state: &[u8; 2]) -> String {
            format!("{state:?}")
        }
    }

    #[test]
    fn all_states_are_visited_and_each_once() {
        let explored = explore(&Counters { sum_max: 6 }, 100);
        assert_eq!(explored.outcome, Outcome::Holds);
        // Pairs in order out of four values each.
        assert_eq!((explored.states, explored.depth), (10, 6));
    }

    #[test]
    fn a_counterexample_is_as_short_as_can_be() {
        let Outcome::Broken(found) = explore(&Counters { sum_max: 2 }, 100).outcome else {
            panic!("a sum of three can be reached");
        };
        assert_eq!(found.steps.len(), 3);
        assert!(found.to_string().contains("sum does not hold"), "{found}");
    }

    #[test]
    fn an_exploration_that_is_cut_off_does_not_say_that_all_is_well() {
        assert_eq!(explore(&Counters { sum_max: 6 }, 5).outcome, Outcome::TooMany);
    }
}
