//! Replacing a zone of a node that is alone, as its start was told to: there is nobody to ask it later.

use std::time::Duration;

use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::express::{ExpressZones, ZoneState, ZoneView};
use super::replace::{ReplaceError, unsettled};
use super::segments::lacking;
use crate::storage::cell::Cell;
use crate::storage::sweep::SweepError;

/// Between two looks at what is left to do.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// A zone that was replaced, or was to be.
pub struct Replacement {
    zones: ExpressZones,
    number: u32,
}

impl Replacement {
    /// The new life is registered when this returns `Ok`, unless there was nothing to replace.
    pub async fn begin(zones: ExpressZones, number: u32) -> Result<Self, ReplaceError> {
        match zones.replace(number).await {
            Ok(zone_gen) => tracing::info!(
                zone = number,
                %zone_gen,
                "the zone has a new store; lose no other zone before the node says that it is safe"
            ),
            Err(why @ (ReplaceError::InUse(_) | ReplaceError::NotRegistered(_))) => {
                tracing::warn!(%why, "start without --express-replace from now on");
            }
            Err(error) => return Err(error),
        }
        Ok(Self { zones, number })
    }

    /// Says when one more zone may be lost again.
    pub async fn tell_of_end(self, cell: Cell, stop: CancellationToken) {
        stop.run_until_cancelled(async {
            loop {
                match self.is_settled(&cell).await {
                    Ok(true) => break,
                    Ok(false) => {}
                    Err(error) => tracing::debug!(zone = self.number, %error, "the zone is looked at again"),
                }
                sleep(LOOK_INTERVAL).await;
            }
            tracing::warn!(
                zone = self.number,
                "the zone is replaced; it is safe to lose one zone again. Start without --express-replace from now on"
            );
        })
        .await;
    }

    async fn is_settled(&self, cell: &Cell) -> Result<bool, SweepError> {
        let state = cell.meta.state();
        let unsettled = state.at_once(|view| unsettled(&view));
        let unsettled = unsettled.map_err(millrace_raft::error::MetaError::from)?;
        let views = self.zones.views();
        let in_use = |zone: &ZoneView| zone.number == self.number && zone.state == ZoneState::Ok;
        Ok(unsettled.is_empty() && views.iter().any(in_use) && lacking(cell, self.number).await? == 0)
    }
}

#[cfg(test)]
mod tests;
