//! Replaying a channel and ending its earlier epochs, by the owner of the current one.
//!
//! The history of a channel, from its checkpoint: the sealed epochs in order, each up to its recorded end, then the
//! unsealed ones, oldest first. An unsealed epoch that was active is decided like this:
//!
//! 1. *Barrier*: seals well beyond the highest slot in sight, so that an owner that still lives is not chased for ever.
//! 2. *Walk*: slot by slot. A chunk that any zone has belongs to the epoch, because it may have been acknowledged. A
//!    slot that no zone has is sealed, and when `Z - q + 1` seals stand, the epoch ends there.
//! 3. *Adoption*: everything from the first slot that is not known to be at `q` zones is written again, in order, as
//!    the first slots of the current epoch.
//! 4. *Verdict*: the [`Judge`] records the end. Only what it recorded counts, and nothing was shown before.
//!
//! An epoch that was never active holds unproven copies at most, and is closed unread; one that a verdict names as
//! having adopted `m` slots has exactly these.

mod adopt;
mod history;
mod judge;
mod replay;
mod run;
mod walk;

#[cfg(test)]
mod tests;

pub use history::{ChannelHistory, SealedEpoch, UnsealedEpoch};
pub use judge::{Judge, JudgeError};
pub use run::{Recovered, RecoveryError, recover};
