//! Accepting an empty store as the next life of a zone.
//!
//! From the registration on, what was written to the former life counts as gone: every Express channel ends its epoch,
//! begins one under the new lives, and flushes what is older. Until that is done, one more zone that is lost may take
//! records with it.

use millrace_api::config::StorageClass;
use millrace_api::id::{ChannelId, Epoch, ZoneGen};
use millrace_raft::command::RegisterZone;
use millrace_raft::error::{MetaError, StoreError};
use millrace_raft::query::{EpochState, View};
use millrace_wal::read_marker;

use super::express::{ExpressZones, ZoneState};
use super::look::colliding;
use super::zone_numbers;

/// Why a store is not accepted.
#[derive(Debug, thiserror::Error)]
pub enum ReplaceError {
    #[error("there is no Express zone {0}: they are numbered 1 to 3, in the order of --express")]
    NoZone(u32),
    #[error("the store of zone {0} is the one that was written to: there is nothing to replace")]
    InUse(u32),
    #[error(
        "zone {0} was never in use: it is registered by itself when its store is reached. Nothing is to be replaced"
    )]
    NotRegistered(u32),
    #[error("the store of zone {zone} is not empty: {why}. Configure an empty one on every node")]
    NotBlank { zone: u32, why: String },
    #[error("the store of zone {zone} cannot be used: {why}")]
    Unusable { zone: u32, why: String },
    #[error("metadata: {0}")]
    Meta(#[from] MetaError),
}

impl ExpressZones {
    /// Puts the store that this node has for the zone in the place of the one that was written to, if it is empty. The
    /// new life is registered when this returns `Ok`. Asked again, it goes on where it was interrupted.
    pub async fn replace(&self, number: u32) -> Result<ZoneGen, ReplaceError> {
        let looking = self.looking_at(number).ok_or(ReplaceError::NoZone(number))?;
        let unusable = |why: &dyn std::fmt::Display| ReplaceError::Unusable {
            zone: number,
            why: why.to_string(),
        };
        self.shared.meta.linearize().await?;
        let (registered, state) = looking.look().await;
        let registered = registered.ok_or(ReplaceError::NotRegistered(number))?;
        match &state {
            ZoneState::Ok => return Err(ReplaceError::InUse(number)),
            ZoneState::Dark(why) => return Err(unusable(why)),
            ZoneState::Unknown | ZoneState::Blank | ZoneState::Foreign(_) => {}
        }
        let cell = super::standard::cell_id(&self.shared.meta, &self.shared.env)
            .await
            .map_err(|error| unusable(&error))?;
        let store = looking
            .source
            .open(None)
            .await
            .map_err(|error| unusable(&error))?;
        let found = read_marker(&*store).await.map_err(|error| unusable(&error))?;
        let not_blank = |why: &str| ReplaceError::NotBlank {
            zone: number,
            why: why.into(),
        };
        let in_the_way = colliding(&*store, &self.shared.meta).await;
        if let Some(key) = in_the_way.map_err(|error| unusable(&error))? {
            return Err(not_blank(&format!("it holds {key}")));
        }
        let zone_gen = match found {
            Some(found) if found.cell != cell => return Err(not_blank("it belongs to another cell")),
            Some(found) if self.is_registered(found.zone_gen).map_err(MetaError::from)? => {
                return Err(not_blank("it is the store of another zone"));
            }
            // A former attempt ended behind its marker.
            Some(found) => found.zone_gen,
            None => {
                let standing = looking.mark(&*store, cell).await;
                standing.map_err(|error| unusable(&error))?.zone_gen
            }
        };
        let command = RegisterZone {
            zone: number,
            gen_id: zone_gen,
            replaces: Some(registered),
        };
        self.shared.meta.propose(command).await?;
        tracing::warn!(zone = number, %registered, %zone_gen, "an operator has replaced the store of a zone");
        Ok(zone_gen)
    }

    fn is_registered(&self, zone_gen: ZoneGen) -> Result<bool, StoreError> {
        let zones = self.shared.meta.state().zones()?;
        Ok(zones.iter().any(|zone| zone.gen_id == zone_gen))
    }
}

/// Express channels of which something is still in a zone that was replaced, or may be.
pub fn unsettled(view: &View<'_>) -> Result<Vec<ChannelId>, StoreError> {
    let zones = view.zones()?;
    let wanted: Vec<ZoneGen> = zone_numbers(StorageClass::Express)
        .filter_map(|number| zones.iter().find(|zone| zone.zone == number))
        .map(|zone| zone.gen_id)
        .collect();
    let channels = view.channels()?.into_iter();
    let unsettled = channels.filter(|channel| {
        // An epoch that ends where a recovery begins has nothing that anybody needs.
        let is_read = |epoch: Epoch, state: &EpochState| match state.seal {
            Some(seal) if epoch == channel.checkpoint.epoch => channel.checkpoint.slot < seal.end,
            Some(seal) => seal.end.0 > 0,
            None => true,
        };
        let mut epochs = channel.epochs.iter();
        channel.class == StorageClass::Express
            && epochs.any(|(epoch, state)| state.gens != wanted && is_read(*epoch, state))
    });
    Ok(unsettled.map(|channel| channel.channel).collect())
}
