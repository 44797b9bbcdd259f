//! The node's standard store: opened, checked, and proved to be the one that metadata knows.
//!
//! A store holds a marker with the cell it belongs to and a random number of its own life. A store without the marker
//! that metadata remembers is blank, restored or somebody else's, and is never used silently: what was acknowledged
//! is not in it.
//!
//! A cell may have no standard store: then it has Express streams alone, and their segments are in the Express zones.
//! Which of the two it is is decided once, by what is registered as the zone's generation, and every node has to agree.

use millrace_api::id::ZoneGen;
use millrace_raft::command::{InitCell, RegisterZone};
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_raft::query::ZoneRecord;
use millrace_raft::refused::Refused;
use millrace_wal::{Marker, Zone, create_marker, preflight, read_marker};

use super::redacted;
use crate::env::Env;

/// The zone that a Standard WAL writes to.
pub const ZONE: u32 = 0;

/// Registered for a cell without a standard store. Random generations are another number.
const NO_STORE: ZoneGen = ZoneGen(0);

#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("store {url}: {cause}")]
    Unusable { url: String, cause: String },
    #[error(
        "store {url} belongs to another cell ({found:032x}, this is {cell:032x}): give this node a store or a prefix \
         of its own, or the data directory that belongs to the store"
    )]
    OtherCell { url: String, found: u128, cell: u128 },
    #[error(
        "store {url} is not the one that this node has written to: {what}. Acknowledged records are not in it, so it \
         is not used. Give back the former store, or start with an empty data directory"
    )]
    Replaced { url: String, what: &'static str },
    #[error(
        "this cell was founded without a store, and keeps its segments in the Express zones: store {url} cannot be added \
         to it. Start without --store"
    )]
    NotWanted { url: String },
    #[error(
        "this cell has a store, which its Standard streams and all segments are in: name it with --store"
    )]
    Missing,
    #[error("metadata: {0}")]
    Meta(#[from] MetaError),
}

/// Whether the cell has a standard store, as far as is known: none that was founded without one.
pub fn is_registered(zones: &[ZoneRecord]) -> bool {
    zones
        .iter()
        .any(|zone| zone.zone == ZONE && zone.gen_id != NO_STORE)
}

/// Makes sure that the cell has no standard store, and never gets one.
pub async fn none(meta: &Meta) -> Result<(), StoreError> {
    let command = RegisterZone {
        zone: ZONE,
        gen_id: NO_STORE,
        replaces: None,
    };
    match meta.propose(command).await {
        Ok(()) => Ok(()),
        Err(MetaError::Refused(Refused::ZoneRegistered { .. })) => Err(StoreError::Missing),
        Err(error) => Err(error.into()),
    }
}

/// The same, of a cell that is only looked at.
pub fn attach_none(meta: &Meta) -> Result<(), StoreError> {
    let zones = meta.state().zones().map_err(MetaError::from)?;
    match zones
        .iter()
        .any(|zone| zone.zone == ZONE && zone.gen_id == NO_STORE)
    {
        true => Ok(()),
        false => Err(StoreError::Missing),
    }
}

/// Opens the store and registers it with the cell if both are new.
pub async fn open(url: &str, meta: &Meta, env: &Env) -> Result<Zone, StoreError> {
    let unusable = |cause: &dyn std::fmt::Display| StoreError::Unusable {
        url: redacted(url),
        cause: cause.to_string(),
    };
    let store = env.stores.open(url).map_err(|error| unusable(&error))?;
    preflight(store.as_ref(), env.random_u128())
        .await
        .map_err(|error| unusable(&error))?;
    let cell = cell_id(meta, env).await?;
    let found = read_marker(store.as_ref())
        .await
        .map_err(|error| unusable(&error))?;
    let known = meta
        .state()
        .zones()
        .map_err(MetaError::from)?
        .into_iter()
        .find(|zone| zone.zone == ZONE);
    let zone_gen = match (known, found) {
        (Some(known), _) if known.gen_id == NO_STORE => return Err(not_wanted(url)),
        (_, Some(found)) if found.cell != cell => {
            return Err(StoreError::OtherCell {
                url: redacted(url),
                found: found.cell,
                cell,
            });
        }
        (Some(known), Some(found)) if known.gen_id == found.zone_gen => known.gen_id,
        (Some(_), Some(_)) => return Err(replaced(url, "its marker names another life of it")),
        (Some(_), None) => return Err(replaced(url, "it has no marker")),
        (None, Some(found)) => register(url, meta, found.zone_gen).await?,
        (None, None) => {
            let marker = Marker {
                cell,
                zone_gen: ZoneGen(env.random_u128()),
            };
            let standing = create_marker(store.as_ref(), &marker)
                .await
                .map_err(|error| unusable(&error))?;
            if standing.cell != cell {
                return Err(StoreError::OtherCell {
                    url: redacted(url),
                    found: standing.cell,
                    cell,
                });
            }
            register(url, meta, standing.zone_gen).await?
        }
    };
    Ok(Zone { store, zone_gen })
}

/// The store that a cell has used, to be looked at: nothing is written to it.
pub async fn attach(url: &str, meta: &Meta, env: &Env) -> Result<Zone, StoreError> {
    let unusable = |cause: &dyn std::fmt::Display| StoreError::Unusable {
        url: redacted(url),
        cause: cause.to_string(),
    };
    let store = env.stores.open(url).map_err(|error| unusable(&error))?;
    let found = read_marker(store.as_ref())
        .await
        .map_err(|error| unusable(&error))?
        .ok_or_else(|| unusable(&"no node has used it: it has no marker"))?;
    let (cell, zones) = meta
        .state()
        .at_once(|view| Ok((view.cell_id()?, view.zones()?)))
        .map_err(|error: millrace_raft::error::StoreError| MetaError::from(error))?;
    let cell = cell.ok_or_else(|| unusable(&"the metadata belong to no cell yet"))?;
    if found.cell != cell {
        return Err(StoreError::OtherCell {
            url: redacted(url),
            found: found.cell,
            cell,
        });
    }
    match zones.into_iter().find(|zone| zone.zone == ZONE) {
        Some(known) if known.gen_id == NO_STORE => Err(not_wanted(url)),
        Some(known) if known.gen_id == found.zone_gen => Ok(Zone {
            store,
            zone_gen: found.zone_gen,
        }),
        _ => Err(replaced(url, "its marker names another life of it")),
    }
}

pub(super) async fn cell_id(meta: &Meta, env: &Env) -> Result<u128, StoreError> {
    if let Some(cell) = meta.state().cell_id().map_err(MetaError::from)? {
        return Ok(cell);
    }
    let cell_id = env.random_u128();
    match meta.propose(InitCell { cell_id }).await {
        Ok(()) => Ok(cell_id),
        // Another node of the cell was quicker.
        Err(MetaError::Refused(Refused::CellInitialized { cell_id })) => Ok(cell_id),
        Err(error) => Err(error.into()),
    }
}

async fn register(url: &str, meta: &Meta, gen_id: ZoneGen) -> Result<ZoneGen, StoreError> {
    let command = RegisterZone {
        zone: ZONE,
        gen_id,
        replaces: None,
    };
    match meta.propose(command).await {
        Ok(()) => Ok(gen_id),
        // Another node of the cell was quicker, and has none.
        Err(MetaError::Refused(Refused::ZoneRegistered { registered, .. })) if registered == NO_STORE => {
            Err(not_wanted(url))
        }
        Err(error) => Err(error.into()),
    }
}

fn not_wanted(url: &str) -> StoreError {
    StoreError::NotWanted { url: redacted(url) }
}

fn replaced(url: &str, what: &'static str) -> StoreError {
    StoreError::Replaced {
        url: redacted(url),
        what,
    }
}
