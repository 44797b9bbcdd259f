//! The cell, its zones and its nodes.

use millrace_api::id::{ChannelId, Incarnation};

use super::Outcome;
use super::channel::free_channels;
use crate::command::{
    ExpireNode, InitCell, NodeExpired, NodeRegistered, RegisterNode, RegisterZone, Response,
};
use crate::refused::Refused;
use crate::state::record::{NodeRecord, Owner};
use crate::state::table::{CellTable, Nodes, ReadTable, Zones};
use crate::state::txn::Txn;

/// Bytes of a node's zone and of its address.
const NODE_TEXT_MAX: usize = 256;

/// Zones of a cell.
const ZONES_MAX: usize = 64;

/// Ended incarnations that are remembered per node, to refuse a registration that comes late.
const FORMER_MAX: usize = 64;

pub fn init(txn: &mut Txn<'_>, c: &InitCell) -> Outcome<Response> {
    match txn.row::<CellTable>(&())? {
        None => txn.write::<CellTable>(&(), &c.cell_id),
        Some(cell_id) if cell_id == c.cell_id => {}
        Some(cell_id) => return Err(Refused::CellInitialized { cell_id }.into()),
    }
    Ok(Response::Done)
}

pub fn register_zone(txn: &mut Txn<'_>, c: &RegisterZone) -> Outcome<Response> {
    let zones = txn.rows::<Zones>(&[], None, ZONES_MAX)?;
    if let Some((other, _)) = zones
        .iter()
        .find(|(zone, gen_id)| *zone != c.zone && *gen_id == c.gen_id)
    {
        return Err(Refused::Invalid(format!("gen {} is that of zone {other}", c.gen_id)).into());
    }
    let registered = zones.iter().find(|(zone, _)| *zone == c.zone);
    match registered.map(|(_, gen_id)| *gen_id) {
        None if zones.len() >= ZONES_MAX => {
            return Err(Refused::Invalid(format!("a cell has at most {ZONES_MAX} zones")).into());
        }
        None => txn.write::<Zones>(&c.zone, &c.gen_id),
        Some(registered) if registered == c.gen_id => {}
        Some(registered) if c.replaces == Some(registered) => txn.write::<Zones>(&c.zone, &c.gen_id),
        Some(registered) => {
            return Err(Refused::ZoneRegistered {
                zone: c.zone,
                registered,
            }
            .into());
        }
    }
    Ok(Response::Done)
}

pub fn register_node(txn: &mut Txn<'_>, c: &RegisterNode) -> Outcome<Response> {
    if c.zone.len() > NODE_TEXT_MAX || c.address.len() > NODE_TEXT_MAX {
        return Err(Refused::Invalid(format!(
            "a node's zone and address have at most {NODE_TEXT_MAX} bytes"
        ))
        .into());
    }
    let before = txn.row::<Nodes>(&c.node)?;
    let mut former = before
        .as_ref()
        .map(|node| node.former.clone())
        .unwrap_or_default();
    let mut replaced = None;
    if let Some(before) = &before {
        let again = before.incarnation == c.incarnation;
        if former.contains(&c.incarnation) || (again && before.expired) {
            return Err(Refused::IncarnationEnded {
                node: c.node,
                incarnation: c.incarnation,
            }
            .into());
        }
        if !again {
            replaced = Some(before.incarnation);
            remember(&mut former, before.incarnation);
        }
    }
    let freed = match c.proves_old_dead {
        true => free_channels(txn, |owner| {
            owner.node == c.node && owner.incarnation != c.incarnation
        })?,
        false => Vec::new(),
    };
    let registered_at_ms = match (&before, replaced) {
        (Some(before), None) => before.registered_at_ms,
        _ => c.now_ms,
    };
    let node = NodeRecord {
        node: c.node,
        incarnation: c.incarnation,
        zone: c.zone.clone(),
        address: c.address.clone(),
        registered_at_ms,
        expired: false,
        former,
    };
    txn.write::<Nodes>(&c.node, &node);
    Ok(Response::NodeRegistered(NodeRegistered { replaced, freed }))
}

/// A leader that was replaced knows nothing of what the next one granted, and what it proposes may be passed on.
pub fn expire_node(txn: &mut Txn<'_>, c: &ExpireNode, term: u64) -> Outcome<Response> {
    if c.term != 0 && c.term != term {
        return Err(Refused::TermOver.into());
    }
    if let Some(mut node) = txn.row::<Nodes>(&c.node)?
        && node.incarnation == c.incarnation
        && !node.expired
    {
        node.expired = true;
        txn.write::<Nodes>(&c.node, &node);
    }
    let ended = Owner {
        node: c.node,
        incarnation: c.incarnation,
    };
    let freed: Vec<ChannelId> = free_channels(txn, |owner| *owner == ended)?;
    Ok(Response::NodeExpired(NodeExpired { freed }))
}

fn remember(former: &mut Vec<Incarnation>, ended: Incarnation) {
    former.push(ended);
    let excess = former.len().saturating_sub(FORMER_MAX);
    former.drain(..excess);
}
