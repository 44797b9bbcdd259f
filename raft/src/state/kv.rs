//! What `apply` and the queries need of a store: ordered keys, one space per family.

use crate::error::StoreError;
use crate::store::keys::Family;

/// A key and its value.
pub type Pair = (Vec<u8>, Vec<u8>);

/// Reads of one consistent state.
pub trait Read {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError>;

    /// The first `limit` pairs with `from <= key < end`, in key order; `end: None` is the end of the family.
    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError>;
}

impl<R: Read + ?Sized> Read for &R {
    fn get(&self, family: Family, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        (**self).get(family, key)
    }

    fn scan(
        &self,
        family: Family,
        from: &[u8],
        end: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<Pair>, StoreError> {
        (**self).scan(family, from, end, limit)
    }
}
