//! The end of an epoch.
//!
//! Sealed epochs come first, oldest first; so at most the oldest unsealed epoch was ever activated or adopted
//! anything, and all that follow it are void. The numbers of a verdict must fit what the epoch is known to hold:
//! a recovery that counted otherwise is refused rather than believed.

use millrace_api::id::Epoch;

use super::Outcome;
use super::channel::{channel, epoch};
use crate::command::{EpochSealed, Response, SealEpoch};
use crate::refused::Refused;
use crate::state::record::{EpochState, Seal};
use crate::state::table::{Channels, Epochs};
use crate::state::txn::Txn;

pub fn seal(txn: &mut Txn<'_>, c: &SealEpoch, index: u64) -> Outcome<Response> {
    let mut row = channel(txn, c.channel)?;
    if c.by != row.epoch || row.owner.is_none() {
        return Err(Refused::EpochMoved {
            channel: c.channel,
            epoch: row.epoch,
        }
        .into());
    }
    if c.epoch.0 == 0 || c.epoch >= c.by {
        return Err(Refused::Invalid("an epoch is sealed by a later one".into()).into());
    }
    if c.epoch <= row.sealed_through {
        return recorded(txn, c);
    }
    let oldest = Epoch(row.sealed_through.0 + 1);
    if c.epoch != oldest {
        return Err(Refused::SealOutOfOrder {
            channel: c.channel,
            oldest,
        }
        .into());
    }
    let mut sealed = epoch(txn, c.channel, c.epoch)?;
    must_fit(&sealed, c)?;
    if c.adopted > 0 {
        let mut by = epoch(txn, c.channel, c.by)?;
        if by.adopted > 0 || by.activated {
            return Err(Refused::Invalid(format!("epoch {} has adopted already", c.by)).into());
        }
        by.adopted = c.adopted;
        txn.write::<Epochs>(&(c.channel, c.by), &by);
    }
    sealed.seal = Some(Seal {
        end: c.end,
        by: c.by,
        adopted: c.adopted,
        log_index: index,
    });
    row.sealed_through = c.epoch;
    txn.write::<Epochs>(&(c.channel, c.epoch), &sealed);
    txn.write::<Channels>(&c.channel, &row);
    Ok(Response::EpochSealed(EpochSealed {
        end: c.end,
        by: c.by,
        adopted: c.adopted,
    }))
}

/// The verdict stands. Whoever asks for the same hears it again; whoever asks for another hears what it is.
fn recorded(txn: &Txn<'_>, c: &SealEpoch) -> Outcome<Response> {
    use crate::state::table::ReadTable;
    let seal = txn
        .row::<Epochs>(&(c.channel, c.epoch))?
        .and_then(|state| state.seal);
    let Some(Seal { end, by, adopted, .. }) = seal else {
        let message = format!("epoch {} of channel {} was forgotten", c.epoch, c.channel);
        return Err(Refused::Invalid(message).into());
    };
    if (end, by, adopted) == (c.end, c.by, c.adopted) {
        return Ok(Response::EpochSealed(EpochSealed { end, by, adopted }));
    }
    Err(Refused::AlreadySealed {
        channel: c.channel,
        epoch: c.epoch,
        end,
        by,
        adopted,
    }
    .into())
}

fn must_fit(sealed: &EpochState, c: &SealEpoch) -> Outcome<()> {
    let kept = c.end.0.checked_add(c.adopted);
    let fits = match sealed.activated {
        // It holds at least what it adopted.
        true => kept.is_some_and(|kept| kept >= sealed.adopted),
        // It holds exactly what it adopted, which is nothing for a void epoch.
        false => kept == Some(sealed.adopted),
    };
    match fits {
        true => Ok(()),
        false => {
            let message = format!(
                "epoch {} holds {} adopted slots{}, which does not fit end {} with {} adopted",
                c.epoch,
                sealed.adopted,
                if sealed.activated { " and its own" } else { "" },
                c.end,
                c.adopted
            );
            Err(Refused::Invalid(message).into())
        }
    }
}
