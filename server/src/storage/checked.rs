//! Reads that are judged at once: where a store has several copies, a bad one is passed over and its store told.

use bytes::Bytes;
use millrace_wal::{FormatError, ReadRange, StoreError, ZoneStore};

use crate::zones::EXPRESS_ZONES;

/// So many copies are read before the last is believed to be no worse than the others. A store with one copy is asked
/// as often: what is bad may have become so on the way.
const COPIES_READ: usize = EXPRESS_ZONES;

/// What `check` makes of the bytes in this range of an object, of the first copy of which it makes something, or why
/// it makes nothing of any; `None` if there is no such object.
pub async fn read_checked<T>(
    store: &dyn ZoneStore,
    key: &str,
    range: ReadRange,
    check: impl Fn(Bytes) -> Result<T, FormatError>,
) -> Result<Option<Result<T, FormatError>>, StoreError> {
    let mut copies = 0;
    loop {
        let Some(bytes) = store.get(key, range.clone()).await? else {
            return Ok(None);
        };
        copies += 1;
        match check(bytes) {
            Err(_) if copies < COPIES_READ => store.doubt(key),
            checked => return Ok(Some(checked)),
        }
    }
}

#[cfg(test)]
mod tests {
    use millrace_wal::{MemoryStore, Payload};

    use super::*;

    #[tokio::test]
    async fn what_is_bad_everywhere_is_said_to_be_and_what_is_absent_is_not() {
        let store = MemoryStore::new();
        let refused = |_: Bytes| Err::<(), _>(FormatError::Mismatch { what: "test" });
        let absent = read_checked(&store, "a", ReadRange::Full, refused).await;
        assert!(absent.unwrap().is_none());
        let payload = Payload::from(Bytes::from_static(b"x"));
        store.upload("a", &payload).await.unwrap();
        let bad = read_checked(&store, "a", ReadRange::Full, refused).await;
        assert!(matches!(bad, Ok(Some(Err(FormatError::Mismatch { .. })))));
        let attempts = std::cell::Cell::new(0);
        let good_at_last = |bytes: Bytes| {
            attempts.set(attempts.get() + 1);
            match attempts.get() {
                COPIES_READ => Ok(bytes),
                _ => Err(FormatError::Mismatch { what: "test" }),
            }
        };
        let good = read_checked(&store, "a", ReadRange::Full, good_at_last).await;
        assert!(matches!(good, Ok(Some(Ok(bytes))) if bytes == "x"));
    }
}
