//! The stores of the Express zones. One that is replaced is followed by an empty one, under another URL; whoever has not
//! heard of it still uses the former.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::store::Store;

const URL: &str = "sim://zone-";

/// Clones share them.
#[derive(Clone, Default)]
pub struct Zones(Arc<Mutex<Vec<Lives>>>);

/// The stores that a zone has had: the last one is in use.
pub type Lives = Vec<Store>;

impl Zones {
    /// These, in the order of their numbers.
    pub fn new(stores: impl IntoIterator<Item = Store>) -> Self {
        let zones = stores.into_iter().map(|store| vec![store]).collect();
        Self(Arc::new(Mutex::new(zones)))
    }

    /// What nodes are to be configured with from now on; `None` if there is no Express.
    pub fn urls(&self) -> Option<String> {
        let zones = self.lock();
        let urls = zones
            .iter()
            .enumerate()
            .map(|(zone, lives)| format!("{URL}{zone}-{}", lives.len() - 1));
        match zones.is_empty() {
            true => None,
            false => Some(urls.collect::<Vec<_>>().join(",")),
        }
    }

    /// The store of this URL; `None` if it names no zone.
    pub fn at(&self, url: &str) -> Option<Store> {
        let (zone, life) = url.strip_prefix(URL)?.split_once('-')?;
        let (zone, life): (usize, usize) = (zone.parse().ok()?, life.parse().ok()?);
        self.lock().get(zone)?.get(life).cloned()
    }

    /// Puts an empty store behind those that the zone has had.
    pub fn replace(&self, zone: usize, store: Store) {
        if let Some(lives) = self.lock().get_mut(zone) {
            lives.push(store);
        }
    }

    /// All stores that the zone has had; none if there is no such zone.
    pub fn of(&self, zone: usize) -> Lives {
        self.lock().get(zone).cloned().unwrap_or_default()
    }

    /// All that all zones have had.
    pub fn all(&self) -> Vec<Lives> {
        self.lock().clone()
    }

    /// Does something with each store, whether it is in use or not.
    pub fn each(&self, f: impl FnMut(&Store)) {
        self.lock().iter().flatten().for_each(f);
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Lives>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trace::Trace;

    #[test]
    fn a_store_that_is_replaced_keeps_its_url_and_the_next_one_has_another() {
        let store = || Store::new(1, Trace::new(false));
        let zones = Zones::new([store(), store()]);
        let before = zones.urls().expect("there are zones");
        zones.replace(1, store());
        let after = zones.urls().expect("there are zones");
        let urls = |text: &str| text.split(',').map(str::to_owned).collect::<Vec<_>>();
        assert_eq!(urls(&before)[0], urls(&after)[0]);
        assert_ne!(urls(&before)[1], urls(&after)[1]);
        zones
            .at(&urls(&after)[1])
            .expect("the new one")
            .put("key".into(), "new".into());
        assert_eq!(zones.at(&urls(&before)[1]).expect("the former").objects(), 0);
        assert_eq!(zones.of(1).len(), 2);
        assert!(Zones::default().urls().is_none());
    }
}
