//! The end of an epoch over three zones, while its owner lives on.
//!
//! Three owners of one channel follow each other, at any time and whatever the others are doing: the first writes, the
//! second recovers and writes, the third recovers. An epoch has two slots that are ever written. One zone fails: it is
//! dark, which is to say that nothing needs to happen there, or a blank one takes its place under another generation,
//! and then the old one may still be reached by who knows it. The metadata group decides one thing at a time.
//!
//! A create that was sent may take effect at any later time, once, whether or not its sender lives; so an owner that
//! dies is one that takes no step any more, and needs none to do so. A recovery may seal a slot without having asked
//! for it first, which is more than the product does: what asking finds out only spares it a seal. Owners acknowledge
//! as soon as they may, and hear of a seal as late as they like: both promise the most and know the least.
//!
//! What is not here: records within chunks, checkpoints, and the deletion of what was flushed. The barrier is here as
//! seals that may come to any slot of an epoch that is walked; that it ends the walk is not, for the walk is short.

mod check;
mod rules;
mod state;
mod step;

use std::fmt::Write;

pub use rules::{HELD_TWICE, Rule, Rules};
pub use state::State;
pub use step::Step;

use crate::explore::{Model, Violation};
use state::{Cell, EPOCHS, REPLACEMENT, SLOTS};

/// The protocol with the rules that are kept.
#[derive(Debug, Clone, Copy)]
pub struct SealModel {
    pub rules: Rules,
    /// Also asks of every state whether the newest owner comes through from there with one zone dark.
    pub progress: bool,
    /// A blank zone may take the place of one of the three. Without, one may still be dark.
    pub replacement: bool,
}

impl Model for SealModel {
    type State = State;
    type Step = Step;

    fn initial(&self) -> State {
        State::initial()
    }

    fn steps(&self, state: &State, steps: &mut Vec<Step>) {
        step::steps(self.rules, state, steps);
        if !self.replacement {
            steps.retain(|step| !matches!(step, Step::Replace { .. }));
        }
    }

    fn take(&self, state: &State, step: Step) -> State {
        step::take(self.rules, state, step)
    }

    fn representative(&self, state: &State) -> State {
        state.with_zones_in_order()
    }

    fn check(&self, state: &State) -> Result<(), Violation> {
        check::safety(self.rules, state)?;
        match self.progress {
            true => check::progress(self.rules, state),
            false => Ok(()),
        }
    }

    /// Zones by what they hold, `S` for a seal; then what metadata say, what was acknowledged, and what is shown.
    fn show(&self, state: &State) -> String {
        let mut text = String::new();
        for (store, name) in ["A", "B", "C", "blank"].iter().enumerate() {
            if store == REPLACEMENT && !state.any_replaced() {
                continue;
            }
            let gone = if store == usize::from(state.replaced) {
                "former "
            } else {
                ""
            };
            let _ = write!(text, "{gone}{name}[");
            for epoch in 0..EPOCHS {
                for slot in 0..SLOTS {
                    match state.cell(epoch, slot, store) {
                        Cell::Empty => continue,
                        Cell::Seal => {
                            let _ = write!(text, " {}/{slot}=S", epoch + 1);
                        }
                        Cell::Chunk(version) => {
                            let said = state.said[epoch][slot][version].name();
                            let _ = match said == format!("{}/{slot}", epoch + 1) {
                                true => write!(text, " {said}"),
                                false => write!(text, " {}/{slot}={said}", epoch + 1),
                            };
                        }
                    }
                }
            }
            text.push_str(" ] ");
        }
        for (epoch, record) in state.records.iter().enumerate() {
            if let Some(seal) = record.seal {
                let _ = write!(text, "epoch {} ends at {}", epoch + 1, seal.end);
                if seal.adopted > 0 {
                    let _ = write!(text, ", and in {} of epoch {}", seal.adopted, seal.by + 1);
                }
                text.push_str("; ");
            }
        }
        for epoch in 0..EPOCHS {
            let acked: Vec<String> = check::acknowledged(state, epoch)
                .map(|(_, said)| said.name())
                .collect();
            if !acked.is_empty() {
                let _ = write!(text, "{} acknowledged {}; ", epoch + 1, acked.join(" "));
            }
            let shown: Vec<String> = state.owners[epoch].shows().map(|said| said.name()).collect();
            if !shown.is_empty() {
                let _ = write!(text, "{} shows {}; ", epoch + 1, shown.join(" "));
            }
        }
        text.trim_end_matches([' ', ';']).to_owned()
    }
}
