//! Basins: created, replaced, changed, marked.

use millrace_api::config::{BasinConfig, StreamConfig};
use millrace_api::name::BasinName;

use super::Outcome;
use crate::command::{
    BasinProvisioned, CreateBasin, CreateMode, DeleteBasin, Outcome as Did, ReconfigureBasin, Response,
};
use crate::refused::Refused;
use crate::state::record::{BasinRecord, DeletingBasin};
use crate::state::table::{BasinIds, Basins, DeletingBasins, ReadTable};
use crate::state::txn::Txn;

/// Characters of a location's name.
const LOCATION_LEN_MAX: usize = 64;

pub fn create(txn: &mut Txn<'_>, c: &CreateBasin) -> Outcome<Response> {
    must_be_valid(&c.config)?;
    if c.location
        .as_ref()
        .is_some_and(|location| location.len() > LOCATION_LEN_MAX)
    {
        return Err(Refused::Invalid(format!("a location has at most {LOCATION_LEN_MAX} bytes")).into());
    }
    match txn.row::<Basins>(&c.name)? {
        Some(basin) if basin.deleted_at_ms.is_some() => {
            Err(Refused::BasinDeletionPending(c.name.clone()).into())
        }
        Some(basin) => existing(txn, c, basin),
        None => new(txn, c),
    }
}

fn new(txn: &mut Txn<'_>, c: &CreateBasin) -> Outcome<Response> {
    if txn.row::<BasinIds>(&c.id)?.is_some() {
        return Err(Refused::IdTaken.into());
    }
    let request_key = match c.mode {
        CreateMode::CreateOnly { request_key } => request_key,
        CreateMode::Ensure | CreateMode::Auto => None,
    };
    let basin = BasinRecord {
        name: c.name.clone(),
        id: c.id,
        config: c.config,
        location: c.location.clone(),
        created_at_ms: c.now_ms,
        deleted_at_ms: None,
        request_key,
    };
    txn.write::<Basins>(&c.name, &basin);
    txn.write::<BasinIds>(&c.id, &c.name);
    answer(Did::Created, basin)
}

fn existing(txn: &mut Txn<'_>, c: &CreateBasin, mut basin: BasinRecord) -> Outcome<Response> {
    match c.mode {
        // The id is random: this is the same proposal, asked again because its outcome was unknown.
        _ if basin.id == c.id => answer(Did::Created, basin),
        CreateMode::CreateOnly { request_key } => {
            match request_key.is_some() && basin.request_key == request_key {
                true => answer(Did::Noop, basin),
                false => Err(Refused::BasinExists(c.name.clone()).into()),
            }
        }
        CreateMode::Ensure => {
            if c.location.is_some() && c.location != basin.location {
                return Err(Refused::Invalid("the location of a basin cannot be changed".into()).into());
            }
            if effective(&basin.config) == effective(&c.config) {
                return answer(Did::Noop, basin);
            }
            basin.config = c.config;
            txn.write::<Basins>(&c.name, &basin);
            answer(Did::Updated, basin)
        }
        CreateMode::Auto => Err(Refused::Invalid("a basin is never created by the way".into()).into()),
    }
}

pub fn reconfigure(txn: &mut Txn<'_>, c: &ReconfigureBasin) -> Outcome<Response> {
    let mut basin = active(txn, &c.name)?;
    let config = c.change.apply(&basin.config);
    must_be_valid(&config)?;
    if config == basin.config {
        return answer(Did::Noop, basin);
    }
    basin.config = config;
    txn.write::<Basins>(&c.name, &basin);
    answer(Did::Updated, basin)
}

pub fn delete(txn: &mut Txn<'_>, c: &DeleteBasin) -> Outcome<Response> {
    let mut basin = find(txn, &c.name)?;
    if basin.deleted_at_ms.is_some() {
        return answer(Did::Noop, basin);
    }
    basin.deleted_at_ms = Some(c.now_ms);
    txn.write::<Basins>(&c.name, &basin);
    txn.write::<DeletingBasins>(&basin.id, &DeletingBasin::default());
    answer(Did::Updated, basin)
}

pub fn find(txn: &Txn<'_>, name: &BasinName) -> Outcome<BasinRecord> {
    Ok(txn
        .row::<Basins>(name)?
        .ok_or_else(|| Refused::BasinNotFound(name.clone()))?)
}

/// The basin, if it is not being deleted.
pub fn active(txn: &Txn<'_>, name: &BasinName) -> Outcome<BasinRecord> {
    let basin = find(txn, name)?;
    match basin.deleted_at_ms {
        None => Ok(basin),
        Some(_) => Err(Refused::BasinDeletionPending(name.clone()).into()),
    }
}

fn must_be_valid(config: &BasinConfig) -> Outcome<()> {
    let valid = config.default_stream_config.validate();
    Ok(valid.map_err(|error| Refused::Invalid(error.to_string()))?)
}

/// The configuration with every default in its place, so that "not chosen" and "chosen as the default" are one.
fn effective(config: &BasinConfig) -> BasinConfig {
    let resolved = config.default_stream_config.resolve(&StreamConfig::default());
    BasinConfig {
        default_stream_config: resolved.into(),
        ..*config
    }
}

fn answer(outcome: Did, basin: BasinRecord) -> Outcome<Response> {
    Ok(Response::Basin(BasinProvisioned { outcome, basin }))
}
