//! What the store of a zone says it is, compared with what metadata know.

use std::time::Duration;

use millrace_api::id::ZoneGen;
use millrace_raft::command::RegisterZone;
use millrace_raft::error::MetaError;
use millrace_raft::group::Meta;
use millrace_raft::query::ZoneRecord;
use millrace_raft::refused::Refused;
use millrace_wal::zone::PreflightError;
use millrace_wal::{ChunkId, Marker, StoreError, ZoneStore, create_marker, preflight, read_marker};
use tokio::time::timeout;

use super::source::Source;
use crate::env::Env;

/// A store that takes longer to show its marker counts as one that does not answer.
const LOOK_TIMEOUT: Duration = Duration::from_secs(5);

/// Where chunks are, and how many keys are asked for at a time.
const WAL_PREFIX: &str = "wal/";
const LIST_PAGE: usize = 1000;

/// How a zone is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ZoneState {
    /// Nobody has looked yet.
    Unknown,
    /// The store is the one that metadata know.
    Ok,
    /// It does not answer. What was known of it still holds.
    Dark(String),
    /// It has no marker: it was emptied, or another one is there instead.
    Blank,
    /// It is another one, for this reason.
    Foreign(String),
}

impl ZoneState {
    /// Every [`name`](Self::name).
    pub const NAMES: [&'static str; 5] = ["unknown", "ok", "dark", "blank", "foreign"];

    /// For people and programs; never given a second meaning.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Ok => "ok",
            Self::Dark(_) => "dark",
            Self::Blank => "blank",
            Self::Foreign(_) => "foreign",
        }
    }

    /// What more there is to say.
    pub fn why(&self) -> &str {
        match self {
            Self::Dark(why) | Self::Foreign(why) => why,
            Self::Unknown | Self::Ok | Self::Blank => "",
        }
    }
}

/// What looks at one zone.
pub(super) struct Looking<'a> {
    pub number: u32,
    pub source: &'a dyn Source,
    pub meta: &'a Meta,
    pub env: &'a Env,
}

impl Looking<'_> {
    /// Looks at the marker. A zone that metadata do not know yet is registered, with a marker of its own if it has none.
    /// The life that the answer is about, if there is one: metadata may have another by now.
    pub async fn look(&self) -> (Option<ZoneGen>, ZoneState) {
        match timeout(LOOK_TIMEOUT, self.look_now()).await {
            Ok(Ok(seen)) => seen,
            Ok(Err(error)) => (self.registered().ok().flatten(), ZoneState::Dark(error)),
            Err(_) => {
                let why = format!("no answer within {LOOK_TIMEOUT:?}");
                (self.registered().ok().flatten(), ZoneState::Dark(why))
            }
        }
    }

    async fn look_now(&self) -> Result<(Option<ZoneGen>, ZoneState), String> {
        let said = |error: &dyn std::fmt::Display| error.to_string();
        let registered = self.registered().map_err(|error| said(&error))?;
        let store = self.source.open(registered).await.map_err(|error| said(&error))?;
        let found = read_marker(&*store).await.map_err(|error| said(&error))?;
        let cell = super::standard::cell_id(self.meta, self.env)
            .await
            .map_err(|error| said(&error))?;
        let state = match (registered, found) {
            (_, Some(found)) if found.cell != cell => {
                ZoneState::Foreign(format!("it belongs to another cell, {:032x}", found.cell))
            }
            (Some(known), Some(found)) if found.zone_gen == known => ZoneState::Ok,
            (Some(_), Some(found)) => ZoneState::Foreign(self.other(found.zone_gen)),
            (Some(_), None) => ZoneState::Blank,
            (None, found) => return self.register(&*store, cell, found).await,
        };
        Ok((registered, state))
    }

    /// Whose marker it may be.
    fn other(&self, found: ZoneGen) -> String {
        let zones = self.meta.state().zones().unwrap_or_default();
        match zones.iter().find(|zone| zone.gen_id == found) {
            Some(ZoneRecord { zone, .. }) => format!(
                "it is the store of zone {zone}: the order of --express must be the same on every node, and each store \
                 be named once"
            ),
            None => format!("its marker names another life of it, {found}"),
        }
    }

    /// The zone is used for the first time.
    async fn register(
        &self,
        store: &dyn ZoneStore,
        cell: u128,
        found: Option<Marker>,
    ) -> Result<(Option<ZoneGen>, ZoneState), String> {
        let gen_id = match found {
            Some(found) => found.zone_gen,
            None => match self.mark(store, cell).await {
                Ok(standing) if standing.cell == cell => standing.zone_gen,
                Ok(standing) => {
                    let why = format!("it belongs to another cell, {:032x}", standing.cell);
                    return Ok((None, ZoneState::Foreign(why)));
                }
                Err(PreflightError::Store(error)) => return Err(error.to_string()),
                Err(unfit) => return Ok((None, ZoneState::Foreign(unfit.to_string()))),
            },
        };
        let command = RegisterZone {
            zone: self.number,
            gen_id,
            replaces: None,
        };
        match self.meta.propose(command).await {
            Ok(()) => {
                tracing::info!(zone = self.number, store = self.source.name(), %gen_id, "registered a zone");
                Ok((Some(gen_id), ZoneState::Ok))
            }
            Err(MetaError::Refused(Refused::ZoneRegistered { registered, .. })) => {
                Ok((Some(registered), ZoneState::Foreign(self.other(gen_id))))
            }
            Err(MetaError::Refused(refused)) => Ok((None, ZoneState::Foreign(refused.to_string()))),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Gives a blank store a marker, if it keeps the promises that a zone needs; the one that stands then.
    pub async fn mark(&self, store: &dyn ZoneStore, cell: u128) -> Result<Marker, PreflightError> {
        preflight(store, self.env.random_u128()).await?;
        let marker = Marker {
            cell,
            zone_gen: ZoneGen(self.env.random_u128()),
        };
        Ok(create_marker(store, &marker).await?)
    }

    pub fn registered(&self) -> Result<Option<ZoneGen>, millrace_raft::error::StoreError> {
        let zones = self.meta.state().zones()?;
        let own = zones.into_iter().find(|zone| zone.zone == self.number);
        Ok(own.map(|zone| zone.gen_id))
    }
}

/// A chunk in the store that an epoch to come might meet, because metadata do not know its channel or have not come to
/// its epoch. Chunks of epochs that have begun are in nobody's way: those to come have other keys.
pub(super) async fn colliding(store: &dyn ZoneStore, meta: &Meta) -> Result<Option<String>, StoreError> {
    let channels = meta.state().channels();
    let channels = channels.map_err(|error| StoreError::Retry(format!("metadata: {error}")))?;
    let begun = |id: ChunkId| {
        let channel = channels.iter().find(|channel| channel.channel == id.channel);
        channel.is_some_and(|channel| id.epoch <= channel.epoch)
    };
    let mut after: Option<String> = None;
    loop {
        let page = store.list(WAL_PREFIX, after.as_deref(), LIST_PAGE).await?;
        let Some(last) = page.last() else { return Ok(None) };
        if let Some(key) = page.iter().find(|key| !ChunkId::parse(key).is_some_and(begun)) {
            return Ok(Some(key.clone()));
        }
        after = Some(last.clone());
    }
}
