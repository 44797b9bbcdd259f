//! The end of an epoch, in every order of its steps, with all rules and without each.

use millrace_model::explore::{Explored, Outcome, explore};
use millrace_model::seal::{HELD_TWICE, Rule, Rules, SealModel};

/// Far more than it takes to find what goes wrong.
const STATES_MAX: usize = 6_000_000;

fn without(rules: &[Rule], what: What) -> Explored {
    let model = SealModel {
        rules: Rules::without(rules),
        progress: what != What::Safety,
        replacement: what != What::Safety,
    };
    explore(&model, STATES_MAX)
}

/// What is looked for, and where.
#[derive(Clone, Copy, PartialEq, Eq)]
enum What {
    /// Whatever must never happen, with a zone that may be dark.
    Safety,
    /// The same and progress, with a zone that may be dark or replaced.
    All,
}

fn assert_breaks(rules: &[Rule], what: What, promise: &str) {
    match without(rules, what).outcome {
        Outcome::Broken(found) => assert_eq!(found.violation.promise, promise, "{rules:?}: {found}"),
        outcome => panic!("without {rules:?} nothing was found: {outcome:?}"),
    }
}

#[test]
fn every_promise_holds_in_every_state() {
    let explored = without(&[], What::All);
    assert_eq!(explored.outcome, Outcome::Holds);
    // Fewer would mean that something cannot happen any more.
    assert!(explored.states > 1_400_000, "{} states", explored.states);
}

#[test]
fn each_rule_is_missed() {
    use Rule::*;
    let missed = [
        (ReleaseStops, What::Safety, "I1"),
        (BlankIsAnother, What::All, "I1"),
        (BlankIsSilent, What::All, "I1"),
        (RequestsNameTheGen, What::All, "P1"),
        (SilenceIsNoAnswer, What::Safety, "I1"),
        (WriteQuorum, What::Safety, "P1"),
        (AckedInOrder, What::Safety, "I1"),
        (KeyKeepsItsBytes, What::Safety, "I1"),
        (ExistsIsLookedAt, What::Safety, "P1"),
        (SealedAreReplayed, What::Safety, "I3"),
        (MissingIsWaitedFor, What::Safety, "I3"),
        // Nothing is lost, and an owner waits for ever.
        (AnyChunkBelongs, What::All, "P5"),
        (EndIsSealed, What::Safety, "I1"),
        (SealQuorum, What::Safety, "I1"),
        (UncertainIsAdopted, What::Safety, "P1"),
        (RunIsAdopted, What::Safety, "I1"),
        (AdoptedInOrder, What::Safety, "P1"),
        (AdoptedIsDurable, What::Safety, "P1"),
        // Nothing is lost, and the owner in force is driven out by one that is not.
        (SealByCurrent, What::All, "P5"),
        (VoidIsUnread, What::Safety, "P1"),
        (NamedIsKept, What::Safety, "I1"),
        (ActiveBeforeWriting, What::Safety, "I1"),
        (ActivatedByCurrent, What::Safety, "I1"),
        (SealStays, What::Safety, "I1"),
        (BegunOnce, What::Safety, "I3"),
    ];
    for (rule, what, promise) in missed {
        assert_breaks(&[rule], what, promise);
    }
    let all = Rule::ALL.iter().filter(|rule| !HELD_TWICE.contains(rule));
    assert!(
        all.eq(missed
            .map(|(rule, ..)| rule)
            .iter()
            .collect::<std::collections::BTreeSet<_>>())
    );
}

#[test]
fn a_rule_that_is_held_twice_is_missed_with_the_other() {
    use Rule::*;
    for rule in HELD_TWICE {
        assert_eq!(without(&[rule], What::Safety).outcome, Outcome::Holds, "{rule:?}");
    }
    assert_breaks(&[VerdictStands, SealByCurrent], What::Safety, "I1");
    assert_breaks(&[VerdictIsKnown, ActivatedByCurrent], What::Safety, "I1");
}
