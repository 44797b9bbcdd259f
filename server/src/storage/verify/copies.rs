//! Every copy of an object under `segments/`: there, whole, and made good by another.

use bytes::Bytes;
use millrace_api::segment::SegmentObjectId;
use millrace_wal::segment::SegmentFooter;
use millrace_wal::{ReadRange, StoreError, verify_object};
use tokio::sync::Semaphore;

use super::heal::{Healed, Wanting, heal};
use super::{Broken, Promise, VerifyError, blocking};
use crate::storage::cell::{Cell, Place, insist};

/// Bytes in memory of all objects that are read at a time; one that is larger is read alone.
pub(super) const READ_MIB_MAX: u32 = 256;

/// Which object, as metadata know it.
#[derive(Clone, Copy)]
pub(super) struct Named {
    pub id: SegmentObjectId,
    pub object_len: u64,
}

/// What came of a look at all copies.
pub(super) struct Looked<T> {
    pub bytes: u64,
    pub broken: Vec<Broken>,
    pub healed: Healed,
    /// What a good copy says; `None` if there is none.
    pub found: Option<T>,
}

impl<T> Default for Looked<T> {
    fn default() -> Self {
        Self {
            bytes: 0,
            broken: Vec::new(),
            healed: Healed::default(),
            found: None,
        }
    }
}

/// Reads each copy whole. `check` says what a good one says and why another is not. What is wanting is looked into
/// only while the object `is_named` by metadata that are newer than the look. With `repair`, good copies take the
/// place of bad and missing ones.
pub(super) async fn look_at<T, F>(
    cell: &Cell,
    named: Named,
    repair: bool,
    room: &Semaphore,
    check: impl Fn(&Bytes) -> Result<T, String> + Clone + Send + 'static,
    is_named: impl FnOnce() -> F,
) -> Result<Looked<T>, VerifyError>
where
    T: Send + 'static,
    F: Future<Output = Result<bool, VerifyError>>,
{
    let mib = u32::try_from(named.object_len >> 20)
        .unwrap_or(u32::MAX)
        .saturating_add(1);
    let (areas, quorum) = cell.segment_copies();
    let several = areas.len() > 1;
    // One copy that is good is kept while another is looked at.
    let held = mib.saturating_mul(if several { 2 } else { 1 });
    let _room = room
        .acquire_many(held.min(READ_MIB_MAX))
        .await
        .expect("it is never closed");
    let mut looked = Looked::default();
    let (mut copies, mut silent, mut wanting) = (0, 0, Vec::new());
    let mut good = None;
    for area in areas {
        let place = Place {
            area,
            key: named.id.to_string(),
        };
        match copy(cell, &place, named.object_len, check.clone()).await? {
            Copy::Whole { bytes, says } => {
                copies += 1;
                looked.bytes += named.object_len;
                good.get_or_insert(bytes);
                looked.found.get_or_insert(says);
            }
            Copy::Absent => wanting.push(Wanting { place, bad: false }),
            Copy::Bad(why) => {
                looked.broken.push(Broken::new(Promise::Whole, &place, why));
                wanting.push(Wanting { place, bad: true });
            }
            Copy::Silent(error) => {
                silent += 1;
                looked.broken.push(Broken::new(Promise::Copied, &place, error));
            }
        }
    }
    let lacking = wanting.iter().filter(|wanting| !wanting.bad);
    if copies >= quorum {
        looked.broken.extend(lacking.map(|wanting| {
            let why = "other zones have it: it is copied from there by itself";
            Broken::new(Promise::Copied, &wanting.place, why)
        }));
    } else if lacking.count() > 0 {
        let why = match several {
            false => "it is not in the store".to_owned(),
            true => format!("it is in {copies} zones, not in {quorum}"),
        };
        looked.broken.push(Broken::new(Promise::Present, named.id, why));
    }
    if (!wanting.is_empty() || good.is_none()) && !looked.broken.is_empty() && !is_named().await? {
        return Ok(Looked::default());
    }
    if let Some(good) = good.filter(|_| repair) {
        let promises = looked.broken.len() - silent;
        looked.healed = heal(cell, wanting, promises, &good).await;
    }
    Ok(looked)
}

/// What one zone has of an object.
enum Copy<T> {
    Whole {
        bytes: Bytes,
        says: T,
    },
    Absent,
    Bad(String),
    /// The zone does not answer, and the cell can do without.
    Silent(StoreError),
}

async fn copy<T: Send + 'static>(
    cell: &Cell,
    place: &Place,
    object_len: u64,
    check: impl Fn(&Bytes) -> Result<T, String> + Send + 'static,
) -> Result<Copy<T>, VerifyError> {
    // One byte more, to see that there is none.
    let range = ReadRange::Range(0..object_len.saturating_add(1));
    let found = match cell.store(place.area) {
        Ok(store) => insist(|| store.get(&place.key, range.clone())).await,
        Err(error) => Err(error),
    };
    let bytes = match found {
        Ok(Some(bytes)) => bytes,
        Ok(None) => return Ok(Copy::Absent),
        Err(StoreError::Corrupt(why)) if place.area.is_one_of_several() => return Ok(Copy::Bad(why)),
        Err(error) if place.area.is_one_of_several() => return Ok(Copy::Silent(error)),
        Err(error) => return Err(error.into()),
    };
    blocking(move || {
        let len = bytes.len() as u64;
        if len != object_len {
            let has = match len > object_len {
                true => "more".to_owned(),
                false => len.to_string(),
            };
            return Copy::Bad(format!(
                "metadata say that it has {object_len} bytes, and it has {has}"
            ));
        }
        match check(&bytes) {
            Ok(says) => Copy::Whole { bytes, says },
            Err(why) => Copy::Bad(why),
        }
    })
    .await
}

/// What the bytes of the segment object say, if they are those of this one.
pub(super) fn footer(
    id: SegmentObjectId,
) -> impl Fn(&Bytes) -> Result<SegmentFooter, String> + Clone + Send + 'static {
    move |bytes| match verify_object(bytes) {
        Ok(footer) if footer.id == id => Ok(footer),
        Ok(footer) => Err(format!("another object is under its key: {}", footer.id)),
        Err(error) => Err(error.to_string()),
    }
}
