//! Good copies in the place of bad and missing ones.

use bytes::Bytes;
use millrace_wal::{Payload, StoreError};

use crate::storage::cell::{Cell, Place, insist};

/// A place where there should be a copy.
#[derive(Clone)]
pub(super) struct Wanting {
    pub place: Place,
    /// What is there is not what was written. Otherwise there is nothing.
    pub bad: bool,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Healed {
    pub places: Vec<Place>,
    /// That were broken and hold now.
    pub promises: u64,
}

/// Makes the places have these bytes, as far as their zones answer. `promises` hold when all of them have. The caller
/// knows that nobody takes the absence of the object for an answer: between a bad copy and a good one there is a moment
/// with none.
pub(super) async fn heal(cell: &Cell, wanting: Vec<Wanting>, promises: usize, good: &Bytes) -> Healed {
    let (mut healed, all) = (Vec::new(), wanting.len());
    for Wanting { place, bad } in wanting {
        match put(cell, &place, bad, good).await {
            Ok(()) => healed.push(place),
            Err(error) => tracing::warn!(%place, %error, "a copy could not be repaired"),
        }
    }
    Healed {
        promises: if healed.len() == all { promises as u64 } else { 0 },
        places: healed,
    }
}

async fn put(cell: &Cell, place: &Place, bad: bool, good: &Bytes) -> Result<(), StoreError> {
    let store = cell.store(place.area)?;
    if bad {
        insist(|| store.delete(&place.key)).await?;
    }
    let payload = Payload::from(good.clone());
    insist(|| store.upload(&place.key, &payload)).await
}
