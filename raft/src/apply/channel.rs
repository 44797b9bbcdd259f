//! Channels: who owns them, and in which epoch.

use millrace_api::bug::{Bug, planted};
use millrace_api::id::{ChannelId, ChunkSeq, Epoch, FlushSeq};

use super::Outcome;
use crate::command::{
    ActivateChannel, AssignChannel, ChannelsReleased, CreateChannel, ReleaseChannels, ReleasedChannel,
    Response,
};
use crate::error::StoreError;
use crate::refused::Refused;
use crate::state::record::{ChannelRow, EpochState, Owner, Seal, Slot};
use crate::state::table::{Channels, Epochs, Nodes, ReadTable, Table, Zones};
use crate::state::txn::Txn;

/// Zones of one epoch.
const GENS_MAX: usize = 16;

/// Rows that one step of a walk over channels and zones reads.
const STEP: usize = 1024;

pub fn create(txn: &mut Txn<'_>, c: &CreateChannel) -> Outcome<Response> {
    match txn.row::<Channels>(&c.channel)? {
        Some(row) if row.class == c.class => {}
        Some(_) => return Err(Refused::ChannelClass(c.channel).into()),
        None => {
            let row = ChannelRow {
                class: c.class,
                owner: None,
                epoch: Epoch(0),
                sealed_through: Epoch(0),
                checkpoint: Slot {
                    epoch: Epoch(1),
                    slot: ChunkSeq(0),
                },
                flush_seq: FlushSeq(0),
                merge_seq: FlushSeq(0),
                pack_seq: FlushSeq(0),
            };
            txn.write::<Channels>(&c.channel, &row);
        }
    }
    Ok(Response::Done)
}

pub fn assign(txn: &mut Txn<'_>, c: &AssignChannel) -> Outcome<Response> {
    let mut row = channel(txn, c.channel)?;
    let owner = Owner {
        node: c.node,
        incarnation: c.incarnation,
    };
    must_be_alive(txn, owner)?;
    must_be_registered(txn, c)?;
    if let Some(other) = row.owner.filter(|other| *other != owner)
        && !planted(Bug::OwnerReplaced)
    {
        return Err(Refused::ChannelOwned {
            channel: c.channel,
            node: other.node,
            incarnation: other.incarnation,
            epoch: row.epoch,
        }
        .into());
    }
    row.owner = Some(owner);
    row.epoch = Epoch(row.epoch.0 + 1);
    let begun = EpochState {
        owner,
        gens: c.gens.clone(),
        activated: false,
        adopted: 0,
        seal: None,
    };
    txn.write::<Epochs>(&(c.channel, row.epoch), &begun);
    txn.write::<Channels>(&c.channel, &row);
    Ok(Response::Assigned(row.epoch))
}

pub fn release(txn: &mut Txn<'_>, c: &ReleaseChannels, index: u64) -> Outcome<Response> {
    let owner = Owner {
        node: c.node,
        incarnation: c.incarnation,
    };
    let mut released = Vec::new();
    for item in &c.channels {
        let Some(mut row) = txn.row::<Channels>(&item.channel)? else {
            continue;
        };
        if row.owner != Some(owner) || row.epoch != item.epoch {
            continue;
        }
        row.owner = None;
        seal_own(txn, &mut row, item, index)?;
        txn.write::<Channels>(&item.channel, &row);
        released.push(item.channel);
    }
    Ok(Response::ChannelsReleased(ChannelsReleased { released }))
}

/// An owner on its way out may seal its own epoch, as the last of the channel's.
fn seal_own(txn: &mut Txn<'_>, row: &mut ChannelRow, item: &ReleasedChannel, index: u64) -> Outcome<()> {
    let Some(end) = item.sealed_end else {
        return Ok(());
    };
    let mut state = epoch(txn, item.channel, item.epoch)?;
    if !state.activated || state.seal.is_some() || end.0 < state.adopted {
        return Ok(());
    }
    state.seal = Some(Seal {
        end,
        by: item.epoch,
        adopted: 0,
        log_index: index,
    });
    row.sealed_through = item.epoch;
    txn.write::<Epochs>(&(item.channel, item.epoch), &state);
    Ok(())
}

pub fn activate(txn: &mut Txn<'_>, c: &ActivateChannel) -> Outcome<Response> {
    let row = channel(txn, c.channel)?;
    if row.epoch != c.epoch || row.owner.is_none() {
        return Err(Refused::EpochMoved {
            channel: c.channel,
            epoch: row.epoch,
        }
        .into());
    }
    let oldest = Epoch(row.sealed_through.0 + 1);
    if oldest < c.epoch {
        return Err(Refused::EarlierEpochUnsealed {
            channel: c.channel,
            oldest,
        }
        .into());
    }
    let mut state = epoch(txn, c.channel, c.epoch)?;
    if state.seal.is_some() {
        return Err(Refused::EpochMoved {
            channel: c.channel,
            epoch: row.epoch,
        }
        .into());
    }
    if !state.activated {
        state.activated = true;
        txn.write::<Epochs>(&(c.channel, c.epoch), &state);
    }
    Ok(Response::Done)
}

/// Takes the owner away from every channel whose owner matches. Channels are few: all are looked at.
pub fn free_channels(
    txn: &mut Txn<'_>,
    ended: impl Fn(&Owner) -> bool,
) -> Result<Vec<ChannelId>, StoreError> {
    let mut freed = Vec::new();
    let mut after: Option<Vec<u8>> = None;
    loop {
        let step = txn.rows::<Channels>(&[], after.as_deref(), STEP)?;
        let Some((last, _)) = step.last() else {
            return Ok(freed);
        };
        after = Some(Channels::key(last));
        for (id, mut row) in step {
            if row.owner.as_ref().is_some_and(&ended) {
                row.owner = None;
                txn.write::<Channels>(&id, &row);
                freed.push(id);
            }
        }
    }
}

pub fn channel(txn: &Txn<'_>, id: ChannelId) -> Outcome<ChannelRow> {
    Ok(txn.row::<Channels>(&id)?.ok_or(Refused::ChannelUnknown(id))?)
}

/// An epoch that the channel's row says exists.
pub fn epoch(txn: &Txn<'_>, channel: ChannelId, epoch: Epoch) -> Result<EpochState, StoreError> {
    txn.row::<Epochs>(&(channel, epoch))?
        .ok_or_else(|| StoreError::corrupt("epochs", format_args!("channel {channel} has no epoch {epoch}")))
}

/// The channel, if its current epoch takes streams.
pub fn active(txn: &Txn<'_>, id: ChannelId) -> Outcome<ChannelRow> {
    let row = channel(txn, id)?;
    match is_active(txn, id, &row)? {
        true => Ok(row),
        false => Err(Refused::ChannelInactive(id).into()),
    }
}

/// The channel, if this is its current epoch, and its owner may change what it owns.
pub fn current(txn: &Txn<'_>, id: ChannelId, epoch: Epoch) -> Outcome<ChannelRow> {
    let row = channel(txn, id)?;
    match row.epoch == epoch && is_active(txn, id, &row)? {
        true => Ok(row),
        false => Err(Refused::EpochMoved {
            channel: id,
            epoch: row.epoch,
        }
        .into()),
    }
}

/// The current epoch has an owner, is activated, and not sealed.
fn is_active(txn: &Txn<'_>, id: ChannelId, row: &ChannelRow) -> Result<bool, StoreError> {
    if row.owner.is_none() {
        return Ok(false);
    }
    let state = epoch(txn, id, row.epoch)?;
    Ok(state.activated && state.seal.is_none())
}

fn must_be_alive(txn: &Txn<'_>, owner: Owner) -> Outcome<()> {
    let node = txn
        .row::<Nodes>(&owner.node)?
        .ok_or(Refused::NodeUnknown(owner.node))?;
    if node.incarnation != owner.incarnation || node.expired {
        return Err(Refused::IncarnationEnded {
            node: owner.node,
            incarnation: owner.incarnation,
        }
        .into());
    }
    Ok(())
}

fn must_be_registered(txn: &Txn<'_>, c: &AssignChannel) -> Outcome<()> {
    if c.gens.is_empty() || c.gens.len() > GENS_MAX {
        return Err(Refused::Invalid(format!("an epoch is written to 1 to {GENS_MAX} zones")).into());
    }
    let registered = txn.rows::<Zones>(&[], None, STEP)?;
    for (at, wanted) in c.gens.iter().enumerate() {
        if c.gens[..at].contains(wanted) {
            return Err(Refused::Invalid(format!("zone gen {wanted} is named twice")).into());
        }
        if !registered.iter().any(|(_, gen_id)| gen_id == wanted) {
            return Err(Refused::Invalid(format!("zone gen {wanted} is not registered")).into());
        }
    }
    Ok(())
}
