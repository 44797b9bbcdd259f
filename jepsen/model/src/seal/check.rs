//! What must be true in every state.

use super::rules::{Rule, Rules};
use super::state::{EPOCHS, Phase, QUORUM, SEAL_QUORUM, SLOTS, Said, State, ZONES};
use super::step::{Step, is_durable, steps, take};
use crate::explore::Violation;

/// Steps within which an owner has to come through when nobody is in its way.
const STEPS_MAX: usize = 64;

pub fn safety(rules: Rules, state: &State) -> Result<(), Violation> {
    one_is_final(rules, state)?;
    once_durable(rules, state)?;
    never_visible(state)?;
    always_found(state)
}

fn broken(promise: &'static str, what: String) -> Result<(), Violation> {
    Err(Violation { promise, what })
}

/// What an epoch's owner may have acknowledged, in order.
pub fn acknowledged(state: &State, epoch: usize) -> impl Iterator<Item = (usize, Said)> + '_ {
    (0..SLOTS).flat_map(move |slot| {
        let acked = (0..2).filter(move |version| state.acked[epoch] & 1 << (2 * slot + version) != 0);
        acked.map(move |version| (slot, state.said[epoch][slot][version]))
    })
}

/// P1: whatever was acknowledged, or is part of what a verdict says, is at a write quorum of the zones that its epoch
/// was written under. One that was replaced since has held it.
fn once_durable(rules: Rules, state: &State) -> Result<(), Violation> {
    let lost_unnoticed = usize::from(state.any_replaced() && rules.dropped(Rule::BlankIsAnother));
    let durable = |epoch: usize, slot: usize, said: Said| {
        let stores = state.stores(epoch);
        state.copies_of(epoch, slot, &stores, said) + lost_unnoticed >= QUORUM
    };
    for epoch in 0..EPOCHS {
        for (slot, said) in acknowledged(state, epoch) {
            let durable = place(state, epoch, slot).is_none_or(|(at, slot)| durable(at, slot, said));
            if !durable {
                return broken(
                    "P1",
                    format!("{} was acknowledged and is not durable", said.name()),
                );
            }
        }
        let Some(seal) = state.records[epoch].seal else {
            continue;
        };
        let kept = (0..usize::from(seal.end)).map(|slot| (epoch, slot));
        let adopted = (0..usize::from(seal.adopted)).map(|slot| (usize::from(seal.by), slot));
        for (at, slot) in kept.chain(adopted) {
            let says = state.said[at][slot];
            if !says
                .iter()
                .any(|said| *said != Said::NOTHING && durable(at, slot, *said))
            {
                return broken(
                    "P1",
                    format!("a verdict counts {}/{slot}, which is not durable", at + 1),
                );
            }
        }
    }
    Ok(())
}

/// Where verdicts say that a slot is now.
fn place(state: &State, epoch: usize, slot: usize) -> Option<(usize, usize)> {
    match state.records[epoch].seal {
        None => Some((epoch, slot)),
        Some(seal) if slot < usize::from(seal.end) => Some((epoch, slot)),
        Some(seal) if slot < usize::from(seal.end + seal.adopted) => {
            place(state, usize::from(seal.by), slot - usize::from(seal.end))
        }
        Some(_) => None,
    }
}

/// I1: per slot, at most one of chunk and seal is final, and what may be acknowledged lies before the end or was adopted.
/// A chunk behind the end may come to be at a quorum of zones; it is behind a slot that never will.
fn one_is_final(rules: Rules, state: &State) -> Result<(), Violation> {
    for epoch in 0..EPOCHS {
        let stores = state.stores(epoch);
        for slot in 0..SLOTS {
            let durable = (0..2).any(|version| is_durable(rules, state, epoch, slot, version));
            if durable && state.seals(epoch, slot, &stores) >= SEAL_QUORUM {
                return broken("I1", format!("{}/{slot} is durable and sealed", epoch + 1));
            }
        }
        if let Some((_, said)) =
            acknowledged(state, epoch).find(|(slot, _)| place(state, epoch, *slot).is_none())
        {
            return broken(
                "I1",
                format!("{} was acknowledged and is behind the end", said.name()),
            );
        }
    }
    Ok(())
}

/// I5: nobody shows what is behind the recorded end of its epoch.
fn never_visible(state: &State) -> Result<(), Violation> {
    for owner in &state.owners {
        for said in owner.shows() {
            let (epoch, slot) = said.origin();
            if state.owners[epoch].phase != Phase::Nobody && place(state, epoch, slot).is_none() {
                return broken("I5", format!("{} is shown and behind the end", said.name()));
            }
        }
    }
    Ok(())
}

/// I3: what one owner shows and what it acknowledged is what every later owner shows first, in the same order, once.
fn always_found(state: &State) -> Result<(), Violation> {
    for later in 1..EPOCHS {
        if state.owners[later].phase != Phase::Active && state.owners[later].shows().next().is_none() {
            continue;
        }
        let shown: Vec<Said> = state.owners[later].shows().collect();
        if let Some(twice) = (1..shown.len()).find(|at| shown[..*at].contains(&shown[*at])) {
            return broken(
                "I3",
                format!("owner {} shows {} twice", later + 1, shown[twice].name()),
            );
        }
        for earlier in 0..later {
            let before: Vec<Said> = state.owners[earlier].shows().collect();
            let base = usize::from(state.owners[earlier].adopted);
            let own = acknowledged(state, earlier).map(|(slot, said)| (before.len() + slot - base, said));
            for (at, said) in before.iter().copied().enumerate().chain(own) {
                if shown.get(at) != Some(&said) {
                    return broken(
                        "I3",
                        format!(
                            "owner {} does not show {} of owner {} as number {at}",
                            later + 1,
                            said.name(),
                            earlier + 1
                        ),
                    );
                }
            }
        }
    }
    Ok(())
}

/// P5: with any one zone dark from now on, or with the blank one and the other two, the newest owner comes through by
/// itself.
pub fn progress(rules: Rules, state: &State) -> Result<(), Violation> {
    let newest = usize::from(state.current);
    if !matches!(
        state.owners[newest].phase,
        Phase::Walks | Phase::Proposes | Phase::Ready
    ) {
        return Ok(());
    }
    let dark = match state.any_replaced() {
        true => usize::from(state.replaced)..usize::from(state.replaced) + 1,
        false => 0..ZONES,
    };
    for dark in dark {
        if !comes_through(rules, state, newest, dark) {
            let zone = ["A", "B", "C"][dark];
            return broken(
                "P5",
                format!("owner {} waits for zone {zone} for ever", newest + 1),
            );
        }
    }
    Ok(())
}

/// Plays the owner to its end, without the dark store. What comes first in the order of usefulness is done first.
fn comes_through(rules: Rules, state: &State, newest: usize, dark: usize) -> bool {
    let mut state = *state;
    for cells in state.cells.as_flattened_mut() {
        cells.set(dark, super::state::Cell::Empty);
    }
    let mut possible = Vec::new();
    for _ in 0..STEPS_MAX {
        if state.owners[newest].phase == Phase::Active {
            return true;
        }
        let deciding = usize::from(state.owners[newest].deciding);
        steps(rules, &state, &mut possible);
        let useful = |step: &Step| match *step {
            Step::Activate { owner, .. } if owner == newest => Some(0),
            Step::Verdict { owner } if owner == newest => Some(1),
            Step::Found { owner, .. } if owner == newest => Some(2),
            Step::End { owner } if owner == newest => Some(3),
            Step::Land {
                epoch,
                store,
                version: 0,
                ..
            } if epoch == newest && store != dark => Some(4),
            Step::Seal { epoch, store, .. } if epoch == deciding && store != dark => Some(5),
            _ => None,
        };
        let best = possible
            .drain(..)
            .filter_map(|step| useful(&step).map(|rank| (rank, step)));
        let Some((_, step)) = best.min_by_key(|(rank, _)| *rank) else {
            return false;
        };
        state = take(rules, &state, step);
    }
    false
}
