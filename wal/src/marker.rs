//! The marker by which a zone is known to be the one that was registered.
//!
//! A store that lost its contents, was restored from a backup or is another one altogether has no marker or another
//! one, and must not be taken for the zone: it would answer "absent" for chunks that were acknowledged.
//!
//! | offset | bytes | field |
//! |---|---|---|
//! | 0 | 8 | magic `MRZONE\0\0` |
//! | 8 | 2 | version: 1 |
//! | 10 | 2 | zero |
//! | 12 | 16 | cell id, big-endian |
//! | 28 | 16 | zone generation, big-endian |
//! | 44 | 4 | CRC32C of bytes 0 to 44 |

use bytes::Bytes;
use millrace_api::id::ZoneGen;

use crate::zone::{Payload, ReadRange, StoreError, ZoneStore};

/// The marker's key.
pub const MARKER_KEY: &str = "zone";
const MARKER_LEN: usize = 48;
const MAGIC: [u8; 8] = *b"MRZONE\0\0";
const VERSION: u16 = 1;
const CRC_AT: usize = 44;

/// Which zone of which cell a store is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// Identity of the cluster.
    pub cell: u128,
    /// Random, drawn when the store is put to use.
    pub zone_gen: ZoneGen,
}

impl Marker {
    pub fn encode(&self) -> Bytes {
        let mut out = Vec::with_capacity(MARKER_LEN);
        out.extend_from_slice(&MAGIC);
        out.extend_from_slice(&VERSION.to_le_bytes());
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.cell.to_be_bytes());
        out.extend_from_slice(&self.zone_gen.to_bytes());
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.into()
    }

    /// Anything but a whole marker of a known version is `Corrupt`.
    pub fn decode(bytes: &[u8]) -> Result<Self, StoreError> {
        let corrupt = |why| Err(StoreError::Corrupt(format!("zone marker: {why}")));
        let Ok(bytes) = <&[u8; MARKER_LEN]>::try_from(bytes) else {
            return corrupt("wrong length");
        };
        if bytes[..8] != MAGIC {
            return corrupt("bad magic");
        }
        if bytes[8..10] != VERSION.to_le_bytes() {
            return corrupt("unknown version");
        }
        if crc32c::crc32c(&bytes[..CRC_AT]).to_le_bytes() != bytes[CRC_AT..] {
            return corrupt("bad CRC");
        }
        let id = |at: usize| -> [u8; 16] { bytes[at..at + 16].try_into().expect("16 bytes") };
        Ok(Self {
            cell: u128::from_be_bytes(id(12)),
            zone_gen: ZoneGen::from_bytes(id(28)),
        })
    }
}

/// The store's marker; `None` if it is blank.
pub async fn read_marker(store: &dyn ZoneStore) -> Result<Option<Marker>, StoreError> {
    match store.get(MARKER_KEY, ReadRange::Full).await? {
        Some(bytes) => Marker::decode(&bytes).map(Some),
        None => Ok(None),
    }
}

/// Puts a marker on a blank store, and returns the one that stands there then: `marker`, or that of whoever was
/// first. On an `Err` that [may have happened](StoreError::may_have_happened) call again with the same marker.
pub async fn create_marker(store: &dyn ZoneStore, marker: &Marker) -> Result<Marker, StoreError> {
    store.create(MARKER_KEY, &Payload::from(marker.encode())).await?;
    let standing = read_marker(store).await?;
    standing.ok_or_else(|| StoreError::Retry("the marker is not there yet".into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::zone::MemoryStore;

    const MARKER: Marker = Marker {
        cell: 0x0102,
        zone_gen: ZoneGen(7),
    };

    #[tokio::test]
    async fn the_first_marker_stays() {
        let store = MemoryStore::new();
        assert_eq!(read_marker(&store).await, Ok(None));
        assert_eq!(create_marker(&store, &MARKER).await, Ok(MARKER));
        let late = Marker {
            zone_gen: ZoneGen(8),
            ..MARKER
        };
        assert_eq!(create_marker(&store, &late).await, Ok(MARKER));
        assert_eq!(read_marker(&store).await, Ok(Some(MARKER)));
    }

    #[test]
    fn a_damaged_marker_is_corrupt() {
        let good = MARKER.encode();
        assert_eq!(Marker::decode(&good), Ok(MARKER));
        for i in 0..good.len() {
            let mut bad = good.to_vec();
            bad[i] ^= 0x10;
            // Bytes 10 and 11 are covered by the CRC alone.
            assert!(
                matches!(Marker::decode(&bad), Err(StoreError::Corrupt(_))),
                "byte {i}"
            );
            assert!(Marker::decode(&good[..i]).is_err());
        }
    }
}
